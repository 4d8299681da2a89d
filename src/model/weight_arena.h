// Memory for packed weights, which decoding streams from end to end for every token.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace rillkv {

/// Hands out consecutive pieces of large regions that ask the kernel for huge pages: fewer TLB
/// misses and a stream that the hardware prefetcher need not restart every 4 KB. A region lives as
/// long as the arena or a tensor in it; what has not been handed out is never touched.
class WeightArena {
 public:
  /// An uninitialised tensor on the CPU, 64-byte aligned. Throws std::bad_alloc.
  at::Tensor take(at::IntArrayRef sizes, at::ScalarType dtype);

 private:
  struct Region;
  std::shared_ptr<Region> region_;
  size_t used_ = 0;
};

}  // namespace rillkv
