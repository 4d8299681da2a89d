// What prefill attention by slices (kernels/cuda/slices.h) should take on a GPU, beside
// attention_model.h's fused kernel. Nothing here was measured on one: a library's rate is given,
// the rest is instructions as the executor counts them (CudaSliceProfile checks them), bytes
// through the L2 cache, and gaps between dependent launches.
//
//   a slice   expand_slice   packed bytes in, fp16 out; instructions_a_block a block and kv head
//             library        4 rows tokens D a kv head / rate, by the share of CTAs that are busy
//             fold_slice     parts' results in, accumulator in and out
//   the rest  slice_queries, the fused kernel over what is no slice, merge
#pragma once

#include "benchmarks/attention_model.h"
#include "kernels/cuda/slices.h"

namespace rillkv::bench {

/// Warp instructions of rillkv_expand_slice_* for a block of one kv head, keys and values, presets
/// balanced and balanced-trellis.
inline double instructions_a_block(int head_dim, bool trellis = false) {
  if (trellis) return head_dim == 64 ? 7021 : 11317;
  return head_dim == 64 ? 5364 : 8578;
}
/// Of rillkv_slice_queries for a row, with two parts.
inline double instructions_a_query_row(int head_dim) { return 36.6 * head_dim / 64; }
/// Of rillkv_fold_slice for a row.
inline double instructions_a_folded_row(int head_dim, int parts) {
  return (22.2 + 9.65 * parts) * head_dim / 64;
}

inline constexpr double kFlashFlops = 400e12;      // FlashAttention-2 on an H100, a second
inline constexpr double kCudnnFlops = 600e12;      // cuDNN's attention there
inline constexpr double kSliceIssueRate = 0.65;    // of 4 warp instructions an SM and cycle
inline constexpr double kL2BytesASecond = 5.5e12;  // an H100's, of what hits
inline constexpr double kLaunchGap = 2e-6;  // between dependent launches, with filling and draining
inline constexpr double kMemoryWaits = 1e-6;  // expansion's two dependent ones, once a wave

struct SlicePrediction {
  int slices = 0, parts = 1;
  double expand_s = 0, library_s = 0, fold_s = 0;
  double rest_s = 0;      // the fused kernel's, as attention_model.h expects it
  double launches_s = 0;  // gaps
  double expected_s() const { return expand_s + library_s + fold_s + rest_s + launches_s; }
};

/// Of one sequence; `p` as for predict, with first_query_index. No slices: rest_s is everything.
inline SlicePrediction predict_slices(const Gpu& gpu, const kernels::cuda::AttentionParams& p,
                                      double library_flops) {
  namespace cuda = kernels::cuda;
  const PlanningQueue queue(gpu);
  const cuda::SlicePlan plan = cuda::plan_slices(queue, p);
  const cuda::AttentionParams rest = cuda::without_blocks(p, plan.blocks);
  SlicePrediction result;
  result.rest_s = predict(gpu, rest, model_cache_bytes(rest)).expected_s();
  if (plan.blocks == 0) return result;
  result.parts = plan.parts;
  const double issue = kSliceIssueRate * 4 * gpu.clock * gpu.multiprocessors;
  const double D = p.head_dim, kv_heads = p.kv_heads, rows = plan.rows;
  const int row_tiles = (plan.rows + 127) / 128;
  const int ctas = p.kv_heads * row_tiles * plan.parts;
  const int slots = (ctas + gpu.multiprocessors - 1) / gpu.multiprocessors * gpu.multiprocessors;
  const double rate = library_flops * ctas / slots * (rows / (128.0 * row_tiles));
  for (int first = 0, blocks = 0; first < plan.blocks; first += blocks) {
    blocks = plan.slice_at(first);
    ++result.slices;
    const double block_heads = blocks * kv_heads, tokens = 128.0 * blocks;
    const double packed = model_cache_bytes(p) / p.prefix.block_count * blocks;
    const double written = block_heads * 128 * D * 2 * 2;
    result.expand_s +=
        kMemoryWaits +
        std::max({block_heads * instructions_a_block(p.head_dim, p.prefix.trellis) / issue,
                  (packed + written) / kL2BytesASecond, packed / gpu.bandwidth});
    result.library_s += 4 * rows * tokens * D * kv_heads / rate;
    const double folded = kv_heads * rows * D * (2 * plan.parts + 2 * 4);
    result.fold_s +=
        std::max(kv_heads * rows * instructions_a_folded_row(p.head_dim, plan.parts) / issue,
                 folded / kL2BytesASecond);
    result.launches_s += 3 * kLaunchGap;
  }
  result.rest_s += kv_heads * rows * instructions_a_query_row(p.head_dim) / issue;
  result.launches_s += kLaunchGap;
  return result;
}

/// model_params with the index of the first query, which decides what every query sees.
inline kernels::cuda::AttentionParams slice_model_params(int heads, int kv_heads, int head_dim,
                                                         int queries, int cached) {
  kernels::cuda::AttentionParams p = model_params(heads, kv_heads, head_dim, queries, cached);
  p.prefix.sink_capacity = p.prefix.sink_count;
  p.first_query_index = cached;
  p.tail.first_index = cached - p.tail.count;
  p.chunk.first_index = cached;
  return p;
}

}  // namespace rillkv::bench
