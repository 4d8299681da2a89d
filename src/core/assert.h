// Broken invariants: what cannot happen unless the library itself is wrong.
#pragma once

namespace rillkv {

/// Prints one line that names the condition and where it stands, and aborts.
[[noreturn]] void broken_invariant(const char* file, int line, const char* condition);

}  // namespace rillkv

/// Ends the process unless `condition` holds. For what core relies on, never for what a caller
/// gives (that is RILLKV_CHECK's). It aborts, for an exception would look like a caller's mistake
/// that may be caught and survived. In every build: the conditions compare a few numbers a call,
/// and in a release build a wrong pointer or count would be packed into a cache in silence.
#define RILLKV_ASSERT(condition)                       \
  (static_cast<bool>(condition) ? static_cast<void>(0) \
                                : ::rillkv::broken_invariant(__FILE__, __LINE__, #condition))
