// Sleeping on a 32-bit word. std::atomic::wait yields the core before it sleeps, which beside a
// busy program costs a whole time slice.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace rillkv {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

/// Sleeps until woken if `word` is `value`. May return without reason: check again.
inline void futex_wait(std::atomic<uint32_t>& word, uint32_t value) {
  constexpr int kWaitPrivate = 128;  // FUTEX_WAIT | FUTEX_PRIVATE_FLAG of linux/futex.h
  syscall(SYS_futex, &word, kWaitPrivate, value, nullptr, nullptr, 0);
}

/// Wakes one thread that sleeps on `word`.
inline void futex_wake(std::atomic<uint32_t>& word) {
  constexpr int kWakePrivate = 129;  // FUTEX_WAKE | FUTEX_PRIVATE_FLAG
  syscall(SYS_futex, &word, kWakePrivate, 1, nullptr, nullptr, 0);
}

}  // namespace rillkv
