#pragma once

/// For what is inlined into every caller whatever the compiler thinks: inner loops, and functions
/// with external linkage, of which a copy compiled for AVX-512 could otherwise be the one that the
/// linker keeps for the portable files.
#define RILLKV_INLINE inline __attribute__((always_inline))
