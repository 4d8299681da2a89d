// What the CUDA attention kernels should take on a GPU, from the machine's figures, the kernels'
// resources and the launches themselves: benchmarks/performance_model.md explains and tabulates it.
//
//   memory  bytes of the packed cache / bandwidth (each byte once; row tiles meet in the L2 cache)
//   mma     products of both matrix multiplications, padded to the tiles / rate of mma.sync
//   issue   warp instructions / 4 an SM and clock: what unpacking, rotation and softmax cost
//   merge   parts of splits written and read, and one more launch (kernels/cuda/attention_costs.h)
//
// A CTA fills a tile, then multiplies it, with a barrier between: with one CTA an SM the two do not
// overlap, with two they may. Lower bound: the largest of the first three, and the merge. Expected:
// memory, or the sum of mma and issue at the rate that is expected of it, and the merge.
#pragma once

#include <algorithm>
#include <string>

#include "kernels/cuda/attention_costs.h"
#include "kernels/cuda/launch.h"
#include "kernels/packed_format.h"

namespace rillkv::bench {

/// A GPU as its data sheet has it. mma_flops: dense bf16 with fp32 accumulation, an SM and clock,
/// by mma.sync; tensor_flops: the peak the sheet advertises (wgmma, tcgen05), a second.
struct Gpu {
  std::string name;
  int multiprocessors;
  double clock;      // Hz, boost
  double bandwidth;  // bytes a second
  double mma_flops;
  double tensor_flops;
  int shared_limit;  // bytes a block may have
};

/// NVIDIA A100 80 GB SXM, and H100 80 GB SXM, whose mma.sync reaches about 62 % of wgmma (see the
/// page).
inline Gpu a100() { return {"A100", 108, 1.41e9, 2.039e12, 2048, 312e12, 163 * 1024}; }
inline Gpu h100() { return {"H100", 132, 1.83e9, 3.35e12, 0.62 * 4096, 989e12, 227 * 1024}; }

struct Prediction {
  std::string entry;
  int ctas = 0;
  int splits = 1;
  int ctas_an_sm = 1;
  double memory_s = 0, mma_s = 0, issue_s = 0;
  double issue_rate = 1;  // share of its slots that is expected to be filled
  double merge_s = 0;     // of the parts, with its launch; 0 where there are none
  double bound_s() const { return std::max({memory_s, mma_s, issue_s}) + merge_s; }
  double attention_s() const { return std::max(memory_s, mma_s + issue_s / issue_rate); }
  double expected_s() const { return attention_s() + merge_s; }
};

/// Records the launch of the attention kernel instead of running it.
class PlanningQueue final : public kernels::cuda::Queue {
 public:
  explicit PlanningQueue(const Gpu& gpu) : gpu_(gpu) {}
  void launch(const kernels::cuda::Launch& launch) override {
    if (!entry.empty()) {
      merges = true;
      return;
    }
    entry = launch.entry;
    ctas = static_cast<int>(launch.grid[0] * launch.grid[1] * launch.grid[2]);
    shared_bytes = static_cast<int>(launch.shared_bytes);
    splits = static_cast<const kernels::cuda::AttentionLaunchParams*>(launch.params)->splits;
  }
  int multiprocessors() const override { return gpu_.multiprocessors; }
  int shared_memory_limit() const override { return gpu_.shared_limit; }

  std::string entry;
  int ctas = 0, splits = 1, shared_bytes = 0;
  bool merges = false;

 private:
  const Gpu& gpu_;
};

/// Of one sequence in a fast path. `p` as for attend: only shapes and alignment of pointers matter.
/// `cache_bytes`: of the packed blocks and sinks.
inline Prediction predict(const Gpu& gpu, const kernels::cuda::AttentionParams& p,
                          double cache_bytes) {
  PlanningQueue queue(gpu);
  const size_t workspace = kernels::cuda::attention_workspace_bytes(queue, &p, 1);
  alignas(16) static char nowhere[16];  // nothing is launched
  kernels::cuda::attend(queue, &p, 1, nowhere, workspace);
  Prediction result;
  result.entry = queue.entry;
  result.ctas = queue.ctas;
  result.splits = queue.splits;
  const bool prefill = queue.entry.find("prefill") != std::string::npos;
  // Registers allow one CTA of the prefill kernels and four of decode
  // (tests/cuda/resource_budget.txt).
  const int by_shared = (gpu.shared_limit + 1024) / (queue.shared_bytes + 1024);
  result.ctas_an_sm = prefill ? 1 : std::min(4, by_shared);
  const int tiles = p.prefix.block_count + (p.prefix.sink_count > 0) + (p.tail.count + 127) / 128 +
                    (p.chunk.count + 127) / 128;
  const int tiles_a_cta = (tiles + queue.splits - 1) / queue.splits;
  // The busiest SM.
  const int slots = gpu.multiprocessors * result.ctas_an_sm;
  const int waves = (queue.ctas + slots - 1) / slots;
  const int ctas_of_sm = waves > 1 ? waves * result.ctas_an_sm
                                   : (queue.ctas + gpu.multiprocessors - 1) / gpu.multiprocessors;
  // Decode multiplies keys by cosines and by sines, and both by offsets: three products of scores.
  const double rows = prefill ? kernels::cuda::kPrefillRows : 2 * kernels::cuda::kDecodeRows;
  const double work = static_cast<double>(ctas_of_sm) * tiles_a_cta;
  result.mma_s = work * 4 * rows * 128 * p.head_dim / (gpu.mma_flops * gpu.clock);
  result.issue_s = work *
                   kernels::cuda::instructions_a_tile(p.head_dim, prefill, p.prefix.trellis) /
                   (4 * gpu.clock);
  result.issue_rate = kernels::cuda::issue_rate(std::min(ctas_of_sm, result.ctas_an_sm) *
                                                kernels::cuda::attention_warps(prefill)) /
                      4;
  result.memory_s = cache_bytes / gpu.bandwidth;
  if (queue.merges) {
    result.merge_s = kernels::cuda::merge_cycles(p.head_dim, p.query_count * p.heads, queue.splits,
                                                 gpu.multiprocessors) /
                     gpu.clock;
  }
  return result;
}

/// Parameters with the shapes of a prefix of `cached` tokens of preset balanced and a chunk.
inline kernels::cuda::AttentionParams model_params(int heads, int kv_heads, int head_dim,
                                                   int queries, int cached) {
  kernels::cuda::AttentionParams p;
  p.heads = heads;
  p.kv_heads = kv_heads;
  p.head_dim = head_dim;
  p.dtype = kernels::Dtype::kBFloat16;
  p.query_count = queries;
  p.prefix.sink_count = 8;
  p.prefix.block_count = (cached - 8) / 128;
  p.prefix.value_groups = format::value_groups(head_dim, 64);
  p.key_block_bytes =
      static_cast<int32_t>(format::channel_block_bytes(head_dim, 128, false, head_dim * 17 / 4));
  p.tail.count = (cached - 8) % 128;
  p.chunk.count = queries;
  return p;
}
inline double model_cache_bytes(const kernels::cuda::AttentionParams& p) {
  const double block = p.key_block_bytes + static_cast<double>(format::token_block_bytes(
                                               128, p.head_dim, p.prefix.value_groups, false, 4));
  return block * p.prefix.block_count * p.kv_heads;
}

}  // namespace rillkv::bench
