// What taking a chunk into the cache should cost on a GPU, policy "adaptive", preset balanced (and
// of packing what error feedback and policy "trellis" take instead), bf16: rillkv_ingest_* and
// rillkv_pack_* (kernels/cuda/ingest.h), one launch each. Nothing is run
// or measured: instructions are counted by the PTX executor (CudaIngestModelTest compares; it
// counts PTX, of which ptxas folds negations and moves), latencies are those of
// kernels/cuda/attention_costs.h.
//
//   issue  warp instructions of all CTAs at the rate that an SM reaches
//   bytes  what is read and written, through the L2 cache
//   chain  the longest CTA: loads, barriers and dependent steps one after the other, and for
//          rillkv_pack_*, whose CTAs have an SM each at these sizes, its own instructions
//
// Expected is the largest of them, and the gap before a launch. Nothing is taken to run beside
// anything else.
#pragma once

#include <algorithm>

#include "benchmarks/attention_model.h"
#include "kernels/cuda/attention_costs.h"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::bench {

struct IngestShape {
  int heads, kv_heads, head_dim;
  int tokens = 256;  // a chunk without sinks that begins at an empty tail
  int block_size = 128;
  int group() const { return heads / kv_heads; }
  int blocks() const { return tokens / block_size; }
};

// ---- warp instructions of one CTA, by role ----
inline constexpr double kQueryInstructions = 9.72;  // a token, of a warp
inline double instructions_of_query_cta(const IngestShape& s) {
  return 670 +
         kQueryInstructions * s.tokens * s.group() * kernels::cuda::ingest_slice(s.group()) / 32;
}
/// kIngestRows tokens of a kv head.
inline double instructions_of_key_cta(const IngestShape& s) { return 572 + 4.25 * s.head_dim; }
inline double instructions_of_value_cta(const IngestShape& s) { return 892 + 27.3 * s.head_dim; }
/// A block of keys of a kv head.
inline double instructions_of_key_block(const IngestShape& s) { return 3564 + 76.7 * s.head_dim; }
/// Of it, what the other warps do while one searches (pack_key_tile.cuh).
inline double hidden_instructions_of_key_block(const IngestShape& s) { return 16 * s.head_dim; }
/// kPackBlockRows rows of a block of values.
inline double instructions_of_value_rows(const IngestShape& s) { return 3428 + 17.25 * s.head_dim; }

// ---- cycles ----
inline constexpr double kL2Cycles = 290, kSharedCycles = 25, kShuffleCycles = 25, kAddCycles = 4;
inline constexpr double kBarrierCycles = 40;
inline constexpr double kReduceCycles = 30;  // __reduce_add_sync
inline constexpr double kDivideCycles = 40;
inline constexpr double kL2BytesACycle = 64;     // into one SM
inline constexpr double kL2BytesOfAll = 5.5e12;  // an H100's, a second

/// A query CTA: kQueryLoads a thread under way, each of whose addresses is a sum with the one
/// before (5 cycles), while the squares of those before are added, one chain; each of its four
/// warps has a scheduler and issues an instruction a cycle at most. Nothing is added before the
/// first loads of a block arrive. At its end the group's sums, a division, the average, and two
/// barriers.
inline constexpr int kQueryLoads = 32;
inline double query_chain_cycles(const IngestShape& s) {
  const double round =
      std::max(kL2Cycles, kQueryLoads * std::max<double>(5 + kAddCycles, kQueryInstructions));
  const double block_end =
      2 * kBarrierCycles + s.group() * (kSharedCycles + kAddCycles) + kDivideCycles + kL2Cycles;
  return 2 * kL2Cycles +  // parameters, the sums so far
         static_cast<double>(s.tokens) / kQueryLoads * round + s.blocks() * (kL2Cycles + block_end);
}

/// The search for a block's widths (choose_widths.cuh) by one warp, an instruction a cycle: scores
/// and gains; the exponent's bits, each two instructions a gain of a lane, ten that use the sum,
/// and that sum; what the greater exponents give each pair; the keys of those that decide; their
/// places among all.
inline double search_cycles(const IngestShape& s) {
  const double pairs = s.head_dim / 2.0, own = pairs / 32, gains = 7 * own;
  return 100 + 8 * (2 * gains + 10 + kReduceCycles) + (3 * gains + kReduceCycles) + 5 * gains +
         2 * kSharedCycles + 2 * own * pairs;
}
/// A key CTA of rillkv_pack_*: its tile, ranges by two shuffles, the search with what hides behind
/// it, a division, where planes begin (two sums of a warp and three shuffles), crumbs and bits by
/// three shuffles, barriers, and what all of its warps issue: at the rate of attention's, since an
/// SM has as many. That is an assumption: at the rate of eight warps it takes 1.4 us more at
/// head_dim 128.
inline double key_block_chain_cycles(const IngestShape& s) {
  const double tile = kL2Cycles + 2.0 * s.block_size * s.head_dim / kL2BytesACycle;
  const double hidden = hidden_instructions_of_key_block(s);
  const double search = std::max(search_cycles(s), hidden / kernels::cuda::kIssueRate);
  const double planes = 2 * kReduceCycles + kSharedCycles + kDivideCycles;
  return kL2Cycles + tile + search + planes + 8 * (kShuffleCycles + kAddCycles) +
         3 * kBarrierCycles + (instructions_of_key_block(s) - hidden) / kernels::cuda::kIssueRate;
}
/// A value CTA of rillkv_pack_*: rows, ranges by four shuffles, a division, and its instructions.
inline double value_rows_chain_cycles(const IngestShape& s) {
  return 2 * kL2Cycles + 4 * (kShuffleCycles + kAddCycles) + kDivideCycles +
         instructions_of_value_rows(s) / kernels::cuda::kIssueRate;
}

// ---- keys with error feedback: positions wait for one another (feedback_tile.cuh) ----

/// Everything before the rounding: the tile; variances, two sums of the block's tokens; the order,
/// M, from moments in the L2 cache; its factors, eight pivots a panel, each a division that waits
/// for the one before (60 cycles) and its multiply-adds, two barriers and what the next panel
/// takes; the search for widths.
inline double feedback_plan_cycles(const IngestShape& s) {
  const double tile = 2 * kL2Cycles + 2.0 * s.block_size * s.head_dim / kL2BytesACycle;
  const double variances = 2 * kAddCycles * s.block_size + 2 * kDivideCycles;
  const double order = 2 * kL2Cycles + (kAddCycles + 3) * s.head_dim / 2.0;
  const double matrix = 5 * kL2Cycles;
  const double panel = 8 * (60 + 2 * kAddCycles) + 2 * kBarrierCycles + 100;
  return tile + variances + order + matrix + s.head_dim / 8.0 * panel + search_cycles(s);
}
/// Errors of four positions to the next warp's eight, and the barrier between four positions.
inline constexpr double kHandOnCycles =
    (kBarrierCycles + 4 * kSharedCycles / 2 + 4 * 8 * 4 / 2) / 4.0;
/// A position of affine codes: its extremes, its scale (a quotient, two roundings to fp16 and a
/// reciprocal), eight dependent steps from a key to its error, and what the next position takes.
inline constexpr double kAffinePositionCycles =
    4 * kAddCycles + kReduceCycles + 10 + 75 + 8 * kAddCycles + 12 + 2 * kAddCycles + kHandOnCycles;

/// A position of trellis codes (kernels/cuda/trellis_coder.cuh) of up to 128 tokens and 4 bits or
/// more, by one warp: extremes and two ranges, whose errors add up 16 at a time and four shuffles;
/// a token's four distances, 38 instructions and four tokens a lane; three tokens of the walk in
/// turn (three additions and minima, and a shuffle), of which nothing is shorter; choices, 46
/// instructions a token; maps, 16 a token; 32 maps followed, two instructions each; codes.
inline constexpr double kWalkCycles = 3 * (kAddCycles + 5) + kShuffleCycles + 3;  // three tokens
inline double trellis_position_cycles(const IngestShape& s) {
  const double tokens = s.block_size, own = tokens / 32;
  const double search = 2 * kReduceCycles + 60 + tokens / 16 * (8 + kAddCycles) +
                        5 * (kShuffleCycles + kAddCycles) + 60;
  const double choices = own * 46 + kReduceCycles + kSharedCycles;
  return search + own * 38 + kSharedCycles + tokens / 3 * kWalkCycles + choices + own * 16 +
         kSharedCycles + tokens / 4 * 10 + own * 15 + kHandOnCycles;
}
/// Values of policy "trellis" (kernels/cuda/trellis_values.cuh): a half warp finds the scales of a
/// 32nd of the tokens, four warps a scheduler; a thread walks along a channel, 85 instructions a
/// token, and back, a chain of 30 cycles a token.
inline double trellis_values_cycles(const IngestShape& s) {
  return s.block_size / 32.0 * 4 * (9 * s.head_dim / 16.0 * 9 + 150) + s.block_size * (85 + 30);
}

/// How a block's keys are rounded (and its values coded).
enum class Coder { kNearest, kFeedback, kTrellis };

struct IngestEstimate {
  double ingest_issue_s = 0, ingest_bytes_s = 0, ingest_chain_s = 0;
  double pack_issue_s = 0, pack_bytes_s = 0, pack_chain_s = 0;
  double launches_s = 0;
  double ingest_s() const { return std::max({ingest_issue_s, ingest_bytes_s, ingest_chain_s}); }
  double pack_s() const { return std::max({pack_issue_s, pack_bytes_s, pack_chain_s}); }
  double expected_s() const { return ingest_s() + pack_s() + launches_s; }
};

/// Of one layer and chunk. Every CTA is resident at once at these sizes
/// (tests/cuda/resource_budget.txt: four of ingest an SM, one of pack). What error feedback adds to
/// ingest is not counted: it hides behind query CTAs' loads, as the squares do.
inline IngestEstimate estimate_ingest(const Gpu& gpu, const IngestShape& s,
                                      Coder coder = Coder::kNearest) {
  namespace cuda = kernels::cuda;
  cuda::IngestParams p;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.head_dim = s.head_dim;
  p.tokens = s.tokens;
  float nothing = 0;
  p.energy_sums = &nothing;  // there are query CTAs
  const cuda::IngestGrid grid(p);
  const double rate = cuda::kIssueRate * gpu.clock * gpu.multiprocessors;
  IngestEstimate e;
  e.ingest_issue_s = (grid.query_ctas * instructions_of_query_cta(s) +
                      grid.row_ctas * (instructions_of_key_cta(s) + instructions_of_value_cta(s))) /
                     rate;
  e.ingest_chain_s = query_chain_cycles(s) / gpu.clock;
  const double row = 2.0 * s.head_dim * s.tokens;  // of one head
  e.ingest_bytes_s = row * (s.heads + 3 * s.kv_heads) / kL2BytesOfAll;
  const double blocks = s.blocks() * s.kv_heads;
  e.pack_issue_s = blocks *
                   (instructions_of_key_block(s) +
                    1.0 * s.block_size / cuda::kPackBlockRows * instructions_of_value_rows(s)) /
                   rate;
  e.pack_chain_s = std::max(key_block_chain_cycles(s), value_rows_chain_cycles(s)) / gpu.clock;
  if (coder != Coder::kNearest) {
    const double position =
        coder == Coder::kTrellis ? trellis_position_cycles(s) : kAffinePositionCycles;
    const double values =
        coder == Coder::kTrellis ? trellis_values_cycles(s) : value_rows_chain_cycles(s);
    const double keys = feedback_plan_cycles(s) + s.head_dim * position;
    e.pack_chain_s = std::max(keys, values) / gpu.clock;
  }
  e.pack_bytes_s = row * s.kv_heads * 2 * (1 + 4.5 / 16) / kL2BytesOfAll;
  e.launches_s = 2 * cuda::kLaunchCycles / gpu.clock;
  return e;
}

/// What the linear layers of attention and a gated MLP take beside it, by compute alone, at
/// 600 TFLOP/s (what cuBLAS reaches on an H100).
inline double linear_seconds(const IngestShape& s, int hidden, int intermediate) {
  const double weights = 1.0 * hidden * (s.heads + 2 * s.kv_heads) * s.head_dim +
                         1.0 * s.heads * s.head_dim * hidden + 3.0 * hidden * intermediate;
  return 2.0 * s.tokens * weights / 600e12;
}

}  // namespace rillkv::bench
