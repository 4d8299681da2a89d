// The seam for kernels that take a few query rows over whole blocks without a tile: the second
// parameter of Attention, beside its arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/online_softmax.h"
#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu {

/// The rows of a task, as such kernels see them.
struct StreamedRows {
  int count;             // 1 .. kMaxRows
  const float* queries;  // [count, query_stride], rotated, times scale log2(e)
  size_t query_stride;
  OnlineSoftmax* rows;  // [count], log2 units
  void* scratch;        // scratch_bytes(), 64-byte aligned, after start
};

/// An instruction set without such kernels, and what others have to offer.
struct NoStreaming {
  /// Most rows they take.
  static constexpr int kMaxRows = 0;
  /// Scratch of a task; 0 if there is no version for these blocks.
  static RILLKV_INLINE size_t scratch_bytes(const AttentionParams&) { return 0; }
  /// Before the first block of a task of so many rows.
  static RILLKV_INLINE void start(const AttentionParams&, int /*rows*/, void* /*scratch*/) {}
  /// Adds block `entry` of the prefix's tables (block `n`), all of whose tokens all rows see;
  /// `ahead` is the entry to prefetch, or -1. Returns false, with nothing done, for a block that
  /// the kernels do not take.
  static RILLKV_INLINE bool add_block(const AttentionParams&, int /*n*/, int64_t /*entry*/,
                                      int64_t /*ahead*/, const StreamedRows&) {
    return false;
  }
};

}  // namespace rillkv::kernels::cpu
