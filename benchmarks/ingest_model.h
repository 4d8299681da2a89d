// What taking a chunk into the cache should cost on a GPU, policy "adaptive", preset balanced,
// bf16: rillkv_ingest_* and rillkv_pack_* (kernels/cuda/ingest.h), one launch each. Nothing is run
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

struct IngestEstimate {
  double ingest_issue_s = 0, ingest_bytes_s = 0, ingest_chain_s = 0;
  double pack_issue_s = 0, pack_bytes_s = 0, pack_chain_s = 0;
  double launches_s = 0;
  double ingest_s() const { return std::max({ingest_issue_s, ingest_bytes_s, ingest_chain_s}); }
  double pack_s() const { return std::max({pack_issue_s, pack_bytes_s, pack_chain_s}); }
  double expected_s() const { return ingest_s() + pack_s() + launches_s; }
};

/// Of one layer and chunk. Every CTA is resident at once at these sizes
/// (tests/cuda/resource_budget.txt: four of ingest an SM, one of pack).
inline IngestEstimate estimate_ingest(const Gpu& gpu, const IngestShape& s) {
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
