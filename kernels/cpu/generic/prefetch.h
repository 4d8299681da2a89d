// Memory that will be read soon.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/plane_registers.h"

namespace rillkv::kernels::cpu {
namespace {

/// Memory to come, fetched a few cache lines at a time beside the work on a block:
/// evenly, because memory that is asked for faster than it answers stalls the work, and while it is
/// not asked at all it idles.
class Prefetch {
 public:
  Prefetch() = default;
  /// `bytes` from `begin` on, in `steps` steps.
  Prefetch(const uint8_t* begin, size_t bytes, int steps)
      : at_(begin),
        due_(begin),
        end_(begin == nullptr ? nullptr : begin + bytes),
        bytes_a_step_(bytes / static_cast<size_t>(steps) + 1) {}

  template <class S>
  RILLKV_INLINE void step() {
    fetch<S>(bytes_a_step_);
  }
  /// The next `bytes`; returns how many of them lie beyond the end.
  template <class S>
  RILLKV_INLINE size_t fetch(size_t bytes) {
    const size_t room = static_cast<size_t>(end_ - due_), here = bytes < room ? bytes : room;
    due_ += here;
    for (; at_ < due_; at_ += 64) S::prefetch(at_);
    return bytes - here;
  }

 private:
  const uint8_t *at_ = nullptr, *due_ = nullptr, *end_ = nullptr;
  size_t bytes_a_step_ = 0;
};

}  // namespace
}  // namespace rillkv::kernels::cpu
