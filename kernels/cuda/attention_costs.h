// What the fast attention kernels cost in cycles of an SM, for choose_splits (attention_plan.cpp)
// and the performance model (benchmarks/attention_model.h). Counted, not measured: instructions by
// the PTX executor (CudaProfileTest compares), latencies from published microbenchmarks of A100 and
// H100 (an L2 hit 290 cycles, memory 600, shared memory 25, a shuffle 25, at 1.8 GHz).
#pragma once

#include <algorithm>

#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {

/// Warp instructions a CTA issues for a packed tile of 128 tokens, without what ptxas makes part of
/// others (copies of registers, signs); decode's for 8 query rows. Of presets balanced and
/// balanced-trellis.
constexpr int instructions_a_tile(int head_dim, bool prefill, bool trellis = false) {
  if (prefill && trellis) return head_dim == 64 ? 10477 : 15389;
  if (trellis) return head_dim == 64 ? 4388 : 6830;
  if (prefill) return head_dim == 64 ? 9398 : 13642;
  return head_dim == 64 ? 3159 : 5314;
}
/// Cycles of an SM's shared memory for the same: 128 bytes each.
constexpr int wavefronts_a_tile(int head_dim, bool prefill, bool trellis = false) {
  if (prefill && trellis) return head_dim == 64 ? 3021 : 5840;
  if (trellis) return head_dim == 64 ? 1016 : 1710;
  if (prefill) return head_dim == 64 ? 2752 : 5358;
  return head_dim == 64 ? 709 : 1378;
}

/// Warp instructions an SM issues a cycle, of 4, with so many warps, which wait for memory, for
/// their own results and for one another.
inline constexpr double kIssueRate = 4 * 0.6, kIssueRateAWarp = 4 * 0.05;
constexpr double issue_rate(int warps) { return std::min(kIssueRate, kIssueRateAWarp * warps); }
/// Cycles between a CTA's start and its first tile, and after its last: pointers (L2), blocks
/// (memory), scales to a table (shuffles), parts on their way out.
inline constexpr double kStartCycles = 290 + 600 + 400 + 200;
/// Between the end of one kernel and the start of the next of the same stream, about a microsecond.
inline constexpr double kLaunchCycles = 1800;
/// Of the merge: sequence and parts (two loads that wait for each other in steps mode), 10 + 5
/// shuffles for maximum, sum and weights, the warps' sums through shared memory, 5 x 2 shuffles of
/// the transform, about 350 instructions of each of two warps a scheduler.
inline constexpr double kMergeCycles = 2 * 290 + 15 * 25 + 2 * 25 + 10 * 25 + 2 * 350;
/// Bytes an SM moves to or from L2 in a cycle while others do too.
inline constexpr double kPartBytesACycle = 32;

constexpr int attention_warps(bool prefill) { return prefill ? kFastWarps : kDecodeWarps; }
/// Cycles that a CTA takes for a tile when `resident` of them share an SM.
constexpr double tile_cycles(int head_dim, bool prefill, int resident, bool trellis = false) {
  return resident * std::max(instructions_a_tile(head_dim, prefill, trellis) /
                                 issue_rate(resident * attention_warps(prefill)),
                             1.0 * wavefronts_a_tile(head_dim, prefill, trellis));
}

/// Cycles that parts cost: written by the attention kernel, launched for, read by the merge.
/// `rows` of all heads and sequences.
constexpr double merge_cycles(int head_dim, int rows, int splits, int multiprocessors) {
  const int rows_a_cta = kMergeWarps / merge_warps(splits);
  const int busy = std::min(multiprocessors, (rows + rows_a_cta - 1) / rows_a_cta);
  const double bytes = 4.0 * (head_dim + 2) * rows * splits;
  return kLaunchCycles + kMergeCycles + 2 * bytes / (kPartBytesACycle * std::max(busy, 1));
}

}  // namespace rillkv::kernels::cuda
