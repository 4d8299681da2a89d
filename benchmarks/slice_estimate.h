// What prefill by slices should take on a Hopper GPU: sealed blocks dequantised and rotated once
// into scratch of bounded size, attention to it by a library, parts folded together. An estimate of
// three terms, none of which overlap; none is measured.
#pragma once

#include "benchmarks/attention_model.h"
#include "benchmarks/launch_model.h"

namespace rillkv::bench {

inline constexpr int kSliceTokens = 4096;  // of 8 kv heads of 128: 16 MB of scratch
/// Expand, the library's, fold.
inline constexpr int kLaunchesASlice = 3;
/// Of the tensor cores' peak; 0.75 is the best reported.
inline constexpr double kLibraryShare = 0.6;

struct SliceEstimate {
  int launches = 0;
  double expand_s = 0, library_s = 0, launches_s = 0;
  double expected_s() const { return expand_s + library_s + launches_s; }
};

/// `cached` tokens in sealed blocks. A block is expanded once, for at most what decode spends on
/// it; the fused kernel does that once for every 128 rows of queries.
inline SliceEstimate estimate_slices(const Gpu& gpu, int heads, int kv_heads, int head_dim,
                                     int queries, int cached) {
  SliceEstimate result;
  const double blocks = static_cast<double>(cached) / 128 * kv_heads;
  result.expand_s = blocks * kernels::cuda::instructions_a_tile(head_dim, false) /
                    (kernels::cuda::kIssueRate * gpu.clock * gpu.multiprocessors);
  result.library_s = 4.0 * heads * head_dim * queries * cached / (kLibraryShare * gpu.tensor_flops);
  const int slices = (cached + kSliceTokens - 1) / kSliceTokens;
  result.launches = slices * kLaunchesASlice;
  result.launches_s = result.launches * kKernelGapSeconds;
  return result;
}

}  // namespace rillkv::bench
