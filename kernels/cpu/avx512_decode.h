// Decode attention of one query row over sealed blocks, without tiles. See avx512_decode.cpp.
#pragma once

#include <cstdint>

#include "kernels/params.h"

namespace rillkv::kernels::cpu::avx512 {

/// A row of the online softmax between blocks.
struct RowState {
  const float* query;    // [D], rotated, times scale log2(e)
  float* max;            // log2 units
  float* sum;            // sum of p
  float* sums;           // [D], sum of p v
  const float* scratch;  // [D], what start_streaming left there
};

/// Whether add_block_streaming has a version for these blocks.
bool streams_blocks(const AttentionParams& params);

/// Before the first block of a task.
void start_streaming(const AttentionParams& params, float* scratch);

/// Adds block `entry` of the prefix's tables (block `n`), all of whose tokens the row sees;
/// `ahead` is the entry to prefetch, or -1.
void add_block_streaming(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
                         const RowState& row);

}  // namespace rillkv::kernels::cpu::avx512
