// Memory for what decoding streams from end to end for every token: packed weights, sealed blocks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

namespace rillkv {

/// Hands out consecutive pieces of large regions, zeros, that ask the kernel for huge pages: fewer
/// TLB misses, and streams that the hardware prefetcher need not restart every 4 KB. A region lives
/// as long as the arena or a tensor in it. What has not been handed out is not resident, but for
/// the rest of the huge page at hand (2 MB). Not thread-safe.
class HugePageArena {
 public:
  /// A tensor of zeros on the CPU, 64-byte aligned. Throws Error where there is no memory.
  at::Tensor take(at::IntArrayRef sizes, at::ScalarType dtype);
  /// Lets go of the region at hand.
  void clear() { region_ = at::Tensor(); }

 private:
  at::Tensor region_;  // u8; undefined: none yet
  size_t used_ = 0;
};

}  // namespace rillkv
