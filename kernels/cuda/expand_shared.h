// Where things lie in the shared memory of rillkv_expand_slice_*.
#pragma once

#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {

/// Offsets in bytes. Keys and values are different CTAs, and so share the room.
struct ExpandShared {
  int rotation;  // float[D]: cos and sin of R(t0) (the tile, [128][D] of 16 bits, is at 0)
  int table;     // the block's ChannelTable
  int packed;    // the block

  RILLKV_HOST_DEVICE constexpr explicit ExpandShared(int head_dim)
      : rotation(128 * 2 * head_dim),
        table(rotation + 4 * head_dim),
        packed(table + channel_table_bytes(head_dim)) {}
  /// All of it; `block_bytes`: of the largest block.
  RILLKV_HOST_DEVICE constexpr int bytes(int block_bytes) const { return packed + block_bytes; }
};

/// Of rillkv_expand_slice_trellis_*.
struct ExpandTrellisShared {
  int rotation;  // float[D]
  int table;     // keys: the block's TrellisTable; values: the scales of its tokens, walks
  int subsets;   // of the block
  int packed;    // the block

  RILLKV_HOST_DEVICE constexpr explicit ExpandTrellisShared(int head_dim)
      : rotation(128 * 2 * head_dim),
        table(rotation + 4 * head_dim),
        subsets(table + trellis_table_bytes(head_dim)),
        packed(subsets + subset_bytes(head_dim)) {}
  RILLKV_HOST_DEVICE constexpr int bytes(int block_bytes) const { return packed + block_bytes; }
};
static_assert(kTrellisScaleBytes + kTrellisWalkBytes <= trellis_table_bytes(64));

}  // namespace rillkv::kernels::cuda
