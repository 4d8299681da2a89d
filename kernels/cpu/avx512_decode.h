// Decode attention of a few query rows over sealed blocks, without tiles. See avx512_decode.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/params.h"

namespace rillkv::kernels::cpu::avx512 {

constexpr int kMaxStreamedRows = 8;

/// Rows of the online softmax between blocks.
struct Rows {
  int count;             // 1 .. kMaxStreamedRows
  const float* queries;  // [count, stride], rotated, times scale log2(e)
  float* max;            // [count], log2 units
  float* sum;            // [count], sum of p
  float* sums;           // [count, stride], sum of p v
  size_t stride;
  void* scratch;  // streaming_bytes(), 64-byte aligned, after start_streaming
};

/// Whether add_block_streaming has a version for these blocks.
bool streams_blocks(const AttentionParams& params);

/// Scratch of a task; 0 if nothing streams.
size_t streaming_bytes(const AttentionParams& params);

/// Before the first block of a task of so many rows.
void start_streaming(const AttentionParams& params, int rows, void* scratch);

/// Adds block `entry` of the prefix's tables (block `n`), all of whose tokens all rows see; `ahead`
/// is the entry to prefetch, or -1. Returns false, with nothing done, for a block whose pairs mix
/// widths.
bool add_block_streaming(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
                         const Rows& rows);

}  // namespace rillkv::kernels::cpu::avx512
