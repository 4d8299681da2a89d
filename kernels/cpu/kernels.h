// CPU kernels: one table of functions an instruction set, chosen at run time. Every function is
// single-threaded and works on one task; src/core distributes tasks over threads.
//
// Byte identity: all packers compute in fp32 with IEEE subtraction, division and
// round-to-nearest-even, and without contraction, so that every ISA (and CUDA) writes the same
// bytes for the same input.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/params.h"
#include "kernels/feedback.h"

namespace rillkv::kernels::cpu {

struct AttentionKernels {
  /// Bytes of scratch that `attend` needs; depends on head_dim, block_size and the task's queries,
  /// never on the context's length. The scratch is 64-byte aligned.
  size_t (*attention_workspace_bytes)(const AttentionParams&, int32_t query_tokens);
  void (*attend)(const AttentionParams&, const AttentionTask&, void* workspace);
  int32_t task_rows = kTaskRows;  // most that a prefill task should have: see AttentionPlan
};

struct StatisticsKernels {
  /// absmax[c] = max over tokens of |x[t, kv_head, c]|; NaN if any is NaN. out: [head_dim]
  void (*absmax)(const PackParams&, float* out);
  /// Exact minimum and maximum over tokens of each channel. lo, hi: [head_dim]. Input is finite.
  void (*min_max)(const PackParams&, float* lo, float* hi);
  /// sums[c] += q[t, h, c]^2 in fp32, tokens in ascending order, no contraction. `input` holds
  /// queries [tokens, heads, D] before RoPE, `kv_head` is the query head here. sums: [head_dim]
  void (*add_squares)(const PackParams&, float* sums);
};

/// Formats: kernels/packed_format.h.
struct PackKernels {
  /// Affine channel block (policy "adaptive"): the stored lo is fp16(lo + 0) towards minus
  /// infinity, the stored step fp16((hi - stored lo) / (2^w - 1)) towards plus infinity, code =
  /// clamp(rint((x - stored lo) / stored step), 0, 2^w - 1); lo, hi as min_max gives them; widths:
  /// [head_dim / 2] as the format stores them. Where hi is the stored lo (a constant channel that
  /// fp16 represents) step and codes are 0; any other constant is kept to the precision of a step.
  void (*pack_channels_affine)(const PackParams&, const float* lo, const float* hi,
                               const uint8_t* widths, uint8_t* out);
  /// Symmetric channel block (policy "ema"): step = fp16(absmax / (2^(w-1) - 1)), code =
  /// clamp(rint(x / step), -2^(w-1), 2^(w-1)-1) + 2^(w-1); where step is 0 every code is 2^(w-1).
  /// w >= 2. Returns how many codes were clipped.
  int64_t (*pack_channels_symmetric)(const PackParams&, const float* absmax, const uint8_t* widths,
                                     uint8_t* out);
  /// Affine token block (values): per token and group, lo, step and codes as for channels. At 2
  /// bits the range is shrunk about its middle by the factor f of 1, .95, .9, .85, .8, .75, .7 that
  /// has the least squared error, the wider range on a tie: lo' = m - r f, hi' = m + r f with m =
  /// (lo + hi) * 0.5, r = (hi - lo) * 0.5 (f = 1: lo and hi themselves); then lo', hi' as above.
  /// Error of element i of the group: x - (stored lo + stored step * code), squared and added in
  /// fp32 to accumulator i % 16, ascending; then accumulator l takes l + 8, l + 4, l + 2, l + 1.
  /// Returns how many codes were clipped (only the search can clip).
  int64_t (*pack_tokens_affine)(const PackParams&, int32_t groups, int32_t bits, uint8_t* out);
  /// Sinks: tokens go to rows first_row ... of a block of params.block_size rows; other rows are
  /// left alone. 2..8 bits: a symmetric token block with one group. format::kRowBits: sink rows,
  /// fp16 to nearest even.
  void (*pack_sinks)(const PackParams&, int32_t first_row, int32_t bits, uint8_t* out);

  /// y = H x / sqrt(D) for every token of one head, D a power of two; butterflies in order 1, 2, 4,
  /// ..., fp32, one multiply by 1/sqrt(D) at the end. In place allowed.
  void (*hadamard)(const PackParams&, MutableActivation out);
};

/// Error feedback for the keys of policy "adaptive"; feedback.h is the definition of every step.
/// workspace: feedback_workspace_bytes, 64-byte aligned, of this thread's own.
struct FeedbackKernels {
  /// Step 1. `input` holds queries [tokens, heads, D] before RoPE, `kv_head` is the kv head: its
  /// query heads are kv_head * group + g, g < group. moment: moment_floats(D) (moment_layout.h),
  /// zero at the beginning; the sums do not depend on how the tokens are split into calls.
  void (*add_moment)(const PackParams& queries, int32_t group, float* moment);
  /// Steps 2 to 5. distances: [D/2, D/2, 4].
  void (*plan_feedback)(const float* moment, const float* distances, int32_t head_dim,
                        void* workspace, const FeedbackPlan& out);
  /// Variance of each channel: mean = (sum over tokens ascending of x) / tokens, then (sum of
  /// fma(x - mean, x - mean, sum)) / tokens. out: [head_dim]
  void (*variance)(const PackParams&, float* out);
  /// Steps 7 and the block's bytes, as pack_channels_affine lays them out: with weights of 0 they
  /// are its bytes for the minimum and maximum of each channel.
  void (*pack_channels_feedback)(const PackParams&, const FeedbackPlan&, const uint8_t* widths,
                                 void* workspace, uint8_t* out);
};

/// Policy "trellis"; trellis.h is the definition of every step.
struct TrellisKernels {
  /// Trellis key blocks with error feedback (step 7 of feedback.h, each channel coded by the
  /// trellis) of 1 .. kHeadsTogether kv heads of the same shape and dtype: together they are faster
  /// than one after the other.
  void (*pack_trellis_keys)(const TrellisKeys* heads, int32_t count);
  /// A trellis value block of values that have been rotated: `width` bits, and one more for the
  /// channel pairs below wide_pairs.
  void (*pack_trellis_values)(const PackParams&, int32_t width, int32_t wide_pairs, uint8_t* out);
};

/// Between the linear layers; rows [begin, end).
struct ElementwiseKernels {
  void (*rms_norm)(const NormParams&, int64_t begin, int64_t end);
  void (*gate)(const GateParams&, int64_t begin, int64_t end);
  /// Tokens [begin, end).
  void (*rope)(const RopeParams&, int64_t begin, int64_t end);
};

/// Linear layers in bf16; all null where the instruction set has no bf16 dot product.
struct LinearKernels {
  /// W [out_features, in_features] bf16 into panels [begin, end).
  void (*pack_linear)(const void* weight, int64_t out_features, int64_t in_features, int64_t begin,
                      int64_t end, void* packed) = nullptr;
  /// Output panels [panel_begin, panel_end) of rows [row_begin, row_end), both of which are
  /// multiples of kLinearRowUnit or params.rows. workspace: linear_workspace_bytes(params) bytes,
  /// 64-byte aligned, of this thread's own.
  void (*linear)(const LinearParams&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                 int64_t row_end, void* workspace) = nullptr;
  /// May be 0; a few hundred KB for many rows of many inputs, and never above 1 MB.
  size_t (*linear_workspace_bytes)(const LinearParams&) = nullptr;
  /// `linear` reads the rows from this one on from params.tiles: all (0), none (params.rows), or
  /// the last few.
  int64_t (*first_tiled_row)(const LinearParams&) = nullptr;
  /// Copies the rows [row_begin, row_end) of x to params.tiles. row_begin: first_tiled_row plus a
  /// multiple of 16; row_end likewise or params.rows.
  void (*tile_rows)(const LinearParams&, int64_t row_begin, int64_t row_end) = nullptr;
};

/// The arithmetic of a table's kernels for bfloat16 models, to be reported: "fp32", "bf16", "int16"
/// (words of 16 bits into sums of 32) or "amx-bf16".
struct ArithmeticNames {
  const char* tiles;    // attention of many query rows
  const char* decode;   // of a few, over sealed blocks
  const char* linear;   // linear layers of many rows; null without LinearKernels
  const char* one_row;  // and of one
  bool by_profile;      // chip_profile() (profile.h) chose between "fp32" and "bf16"
};

/// What one instruction set runs.
struct KernelTable : AttentionKernels,
                     StatisticsKernels,
                     PackKernels,
                     FeedbackKernels,
                     TrellisKernels,
                     ElementwiseKernels,
                     LinearKernels {
  const char* name;  // "scalar", "avx2", "avx512", "amx", or one of the names for tests
  ArithmeticNames arithmetic;
};

/// The table in use: the best the machine has, or the one RILLKV_ISA names.
/// Throws std::invalid_argument for a name that is unknown or that this machine lacks, and for a
/// RILLKV_ARITHMETIC (profile.h) that is nothing or that the table does not have.
const KernelTable& kernels();
/// One table by name, for tests and benchmarks; null if this machine lacks it or the name is
/// unknown. Besides the instruction sets: "amx_plain" (tiles in plain C++), "avx512_bf16" and
/// "avx512_fp32" (that arithmetic whatever the chip's profile says). Throws for a RILLKV_ARITHMETIC
/// that is nothing.
const KernelTable* find_kernels(const char* name);
/// One table by name whether or not this machine can run it, for tests that emulate what it lacks;
/// null if the name is unknown.
const KernelTable* kernels_unchecked(const char* name);

// Back-end independent helpers, in portable C++.

/// Unpack to fp32 [tokens, head_dim], contiguous (utility and test oracle's counterpart).
void unpack_channels(const uint8_t* block, int tokens, int block_size, int head_dim, bool symmetric,
                     float* out);
void unpack_tokens(const uint8_t* block, int tokens, int block_size, int head_dim, int groups,
                   bool symmetric, int bits, float* out);
void unpack_sinks(const uint8_t* block, int tokens, int capacity, int head_dim, int bits,
                  float* out);
void unpack_trellis_keys(const uint8_t* block, int tokens, int block_size, int head_dim,
                         float* out);
void unpack_trellis_values(const uint8_t* block, int tokens, int block_size, int head_dim,
                           int width, int wide_pairs, float* out);

/// Greedy reverse water-filling of one kv head (policy "adaptive"): widths for D/2 channel pairs.
/// spread: [D] squares, of hi - lo or of the standard deviation; energy: [D]; classes: the allowed
/// widths, ascending; increments: how many steps to the next class the head may spend; widths:
/// [D/2] out, as the format stores them.
/// The `increments` largest gains win, gain = score * fp32(1/(2^a-1)^2 - 1/(2^b-1)^2) for the step
/// from class a to b, score = (spread_c + spread_c') * (energy_c + energy_c') in fp32. Ties: lower
/// class, then lower pair.
void allocate_widths(const float* spread, const float* energy, int head_dim, const int* classes,
                     int class_count, int increments, uint8_t* widths);

/// The same of policy "trellis": widths 1 .. kMaxTrellisWidth, gain = score *
/// fp32(trellis_error(w) - trellis_error(w + 1)) for the step from w bits to w + 1.
void allocate_trellis_widths(const float* spread, const float* energy, int head_dim, int increments,
                             uint8_t* widths);

/// Merge `parts` partial results of AttentionTask by log-sum-exp and write params.out for the
/// queries [query_begin, query_end) of one kv head. partials: parts blocks of rows * (head_dim + 2)
/// floats.
void merge_partials(const AttentionParams&, int32_t kv_head, int32_t query_begin, int32_t query_end,
                    const float* partials, int32_t parts);

}  // namespace rillkv::kernels::cpu
