// Arguments of rillkv_expand_slice_*, rillkv_slice_queries and rillkv_fold_slice: attention of a
// chunk over the sealed blocks, a slice at a time (slices.h).
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"

namespace rillkv::kernels::cuda {

inline constexpr int kExpandThreads = 256;      // fill_channel_block's and fill_token_block's
inline constexpr int kFoldThreads = 128;        // four channels of each half of a row
inline constexpr int kSliceQueryThreads = 128;  // the same
inline constexpr int kMaxSliceParts = 8;

/// rillkv_expand_slice_d{64,128}: blocks first_block .. first_block + blocks - 1, each as the fused
/// kernels have it in a tile, bit for bit: fp16, keys halved (kKeyUnit) and rotated, values as
/// stored. Tokens in their natural order. Grid (blocks, kv_heads, 2: keys, values).
struct ExpandSliceParams {
  AttentionParams sequence;  // heads, prefix and in_block_half are read
  int32_t first_block = 0;
  int32_t blocks = 0;
  uint16_t* keys = nullptr;    // [kv_heads, blocks * 128, D]
  uint16_t* values = nullptr;  // [kv_heads, blocks * 128, D]
};
static_assert(sizeof(ExpandSliceParams) <= 4096, "the limit of a kernel's parameters");

/// rillkv_slice_queries: rotated queries in fp16, rows r = t * G + g, the same for every part of
/// the slice, so that a part is a head to the library. Grid (rows / (8 * 128 / D), kv_heads).
struct SliceQueriesParams {
  AttentionParams sequence;
  int32_t parts = 1;
  uint16_t* out = nullptr;  // [kv_heads, parts, rows, D]
};

/// rillkv_fold_slice: what a slice's parts gave is added to an accumulator of the form that
/// rillkv_merge_* reads. Grid (rows / (8 * 128 / D), kv_heads).
struct FoldSliceParams {
  const uint16_t* out = nullptr;        // [kv_heads * parts, rows, D] fp16, normalised
  int64_t out_head_stride = 0;          // elements
  int64_t out_row_stride = 0;           // elements, a multiple of 8
  const float* log_sum_exp = nullptr;   // [kv_heads * parts, rows], natural
  int64_t log_sum_exp_head_stride = 0;  // elements
  int64_t log_sum_exp_row_stride = 0;   // elements
  int32_t parts = 1;                    // 1, 2, 4 or 8
  int32_t rows = 0;
  int32_t head_dim = 0;           // 64 or 128
  float* part_out = nullptr;      // [kv_heads, part_stride, D], in and out: of row r, r
  float* part_max_sum = nullptr;  // [kv_heads, part_stride, 2]: max * log2(e), sum
  int64_t part_stride = 0;        // rows from one kv head to the next
};

}  // namespace rillkv::kernels::cuda
