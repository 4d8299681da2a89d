// How much memory this process uses.
#pragma once

#include <cstdint>

namespace rillkv {

/// Resident set size now and at its peak, bytes; 0 where the system does not tell.
int64_t current_rss_bytes();
int64_t peak_rss_bytes();

/// Gives pages that were freed, but that the allocator keeps, back to the system where it can.
void release_freed_memory();

}  // namespace rillkv
