// Where the second moment of a kv head's queries keeps its numbers: the one authority for host and
// device.
//
// S = sum of q q^T, D x D, symmetric, fp32. Rows go in blocks of 16; a row of block I holds columns
// 0 .. 16 (I + 1) - 1, so that the lower triangle is whole tiles of 16 x 16:
//
//   row block 0   | tile 0,0 |                      16 rows of 16 floats
//   row block 1   | tile 1,0 | tile 1,1 |           16 rows of 32 floats
//   row block 2   | tile 2,0 | tile 2,1 | tile 2,2 |
//
// Tiles on the diagonal are whole too: there [i][j] and [j][i] are both stored, and equal. Rows and
// columns from D on, where D is no multiple of 16, are zero. 10 KB at D = 64, 36 KB at 128.
#pragma once

#include <cstddef>

#include "kernels/packed_format.h"

namespace rillkv::kernels {

inline constexpr int kMomentTile = 16;

/// Floats of the moment of one kv head.
RILLKV_HOST_DEVICE constexpr size_t moment_floats(int head_dim) {
  const size_t blocks = (static_cast<size_t>(head_dim) + kMomentTile - 1) / kMomentTile;
  return kMomentTile * kMomentTile / 2 * blocks * (blocks + 1);
}
/// Floats of a row, and the one that row `row` begins at.
RILLKV_HOST_DEVICE constexpr int moment_columns(int row) {
  return kMomentTile * (row / kMomentTile + 1);
}
RILLKV_HOST_DEVICE constexpr size_t moment_row(int row) {
  const size_t block = static_cast<size_t>(row) / kMomentTile;
  return kMomentTile * kMomentTile / 2 * block * (block + 1) +
         static_cast<size_t>(row % kMomentTile) * kMomentTile * (block + 1);
}
/// The float that is S[i][j], whichever of the two is greater.
RILLKV_HOST_DEVICE constexpr size_t moment_at(int i, int j) {
  return i >= j ? moment_row(i) + static_cast<size_t>(j) : moment_row(j) + static_cast<size_t>(i);
}

static_assert(4 * moment_floats(64) == 10 * 1024 && 4 * moment_floats(128) == 36 * 1024);
static_assert(moment_row(16) == 256 && moment_row(17) == 256 + 32 && moment_floats(20) == 768);

}  // namespace rillkv::kernels
