// Arguments of rillkv_prefill_*, rillkv_decode_*, rillkv_attention_generic and rillkv_merge_*.
#pragma once

#include <cstdint>

#include "kernels/cuda/sequence_step.h"
#include "kernels/params.h"

namespace rillkv::kernels::cuda {

struct AttentionParams : kernels::AttentionParams {
  /// Blocks of 128: R(j) in fp16 (tile_order.h).
  const uint16_t* in_block_half = nullptr;
  /// Bytes of the largest key block, 0 if nobody knows: a hint. Where keys are not symmetric
  /// (policy "adaptive") every block has exactly this size.
  int32_t key_block_bytes = 0;
};

inline constexpr int kMaxSequencesPerLaunch = 6;

/// rillkv_attention_*: grid (row tiles * splits, kv_heads, sequences), rows r = t * G + g. With
/// splits > 1 a split writes an unnormalised part and rillkv_attention_merge combines them.
struct AttentionLaunchParams {
  AttentionParams sequences[kMaxSequencesPerLaunch];
  /// Decode alone, device memory [sequences] or null. If given, sequences[0] stands for every
  /// sequence (its activations hold one row a sequence: query_count is 1, and query and output of
  /// sequence i are row i), and what changes comes from steps[i] and steps[i].layers[layer]: the
  /// blocks and their rotations, the sinks (all sink_capacity of them), and the tail, which already
  /// holds the new token as row tail_count. chunk is empty; query_cos and query_sin are that row of
  /// the tail's rotations.
  const SequenceStep* steps = nullptr;
  int32_t layer = 0;
  int32_t row_tiles = 1;  // of the longest sequence
  int32_t splits = 1;
  int32_t row_stride = 0;     // rows of the longest sequence: stride of the parts
  float* part_out = nullptr;  // [sequences, kv_heads, splits, row_stride, head_dim]
  float* part_max_sum =
      nullptr;  // [sequences, kv_heads, splits, row_stride, 2]: max * log2(e), sum
};
static_assert(sizeof(AttentionLaunchParams) <= 4096, "the limit of a kernel's parameters");

}  // namespace rillkv::kernels::cuda
