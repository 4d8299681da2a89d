// The query rows of a task as tiles, from their activations to the rows of `out`: row r is query
// token query_begin + r / G and head r % G of the kv head's group of G. Rows beyond the last, up to
// a whole block of 32, are queries of zeros whose results nobody reads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx/arithmetic.h"
#include "kernels/cpu/amx/workspace.h"
#include "kernels/cpu/generic/online_softmax.h"
#include "kernels/cpu/generic/output.h"
#include "kernels/cpu/generic/query_rows.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/tiles.h"

namespace rillkv::kernels::cpu::amx {
namespace {

template <int D>
class RowBlocks {
 public:
  RowBlocks(const AttentionParams& params, const AttentionTask& task, const Workspace& workspace)
      : p_(params),
        task_(task),
        w_(workspace),
        group_(params.heads / params.kv_heads),
        rows_((task.query_end - task.query_begin) * group_) {}

  int count() const { return (rows_ + kRows - 1) / kRows; }
  int32_t first_token(int block) const { return w_.tokens[block * kRows]; }
  int32_t last_token(int block) const { return w_.tokens[block * kRows + kRows - 1]; }

  /// q~ = scale log2(e) R q of all rows, and nothing seen yet.
  void load() const {
    const int all = count() * kRows;
    const float factor = p_.scale * tiled::kLog2E;
    for (int r = 0; r < all; ++r) {
      const int32_t t = r < rows_ ? token(r) : task_.query_end - 1;
      w_.tokens[r] = t;
      uint32_t* packed = w_.chunks[0].staging;
      if (r < rows_) {
        tiled::read_row<S>(row_of(p_.queries, p_.dtype, t, head(r)), p_.dtype, D, w_.row);
        tiled::rotate_row<S>(w_.row, p_.query_cos + int64_t{t} * (D / 2),
                             p_.query_sin + int64_t{t} * (D / 2), factor, D, packed);
      } else {
        tiled::clear_row<S>(reinterpret_cast<float*>(packed), D / 2);
      }
      uint32_t* tile = w_.queries + static_cast<size_t>(r / kTileRows) * (D / 32) * kTile;
      for (int i = 0; i < D / 32; ++i) {
        S::store_int(tile + i * kTile + r % kTileRows * kLanes, S::load_int(packed + i * kLanes));
      }
    }
    const size_t rows = static_cast<size_t>(all);
    tiled::clear_row<S>(w_.sums, rows * D);
    tiled::clear_row<S>(w_.minus_m, rows * kLanes);
    tiled::clear_row<S>(w_.weight_sum, rows * kLanes);
    for (int block = 0; block < count(); ++block) w_.started[block] = 0;
  }

  /// out = o / l, or the partial result.
  void finish() const {
    for (int r = 0; r < rows_; ++r) {
      const float* tile = w_.sums + static_cast<size_t>(r / kTileRows) * (D / 16) * kTile;
      for (int i = 0; i < D / 16; ++i) {
        S::store(w_.row + i * kLanes, S::load(tile + i * kTile + r % kTileRows * kLanes));
      }
      const OnlineSoftmax row = {-w_.minus_m[static_cast<size_t>(r) * kLanes],
                                 S::reduce_add(S::load(w_.weight_sum + size_t(r) * kLanes)),
                                 w_.row};
      if (task_.partial == nullptr) {
        finish_row_simd<S>(p_, row, token(r), head(r));
      } else {
        row.store(task_.partial + static_cast<size_t>(r) * (D + 2), D, tiled::kLn2);
      }
    }
  }

 private:
  using S = TileBf16;
  int32_t token(int r) const { return task_.query_begin + r / group_; }
  int64_t head(int r) const { return int64_t{task_.kv_head} * group_ + r % group_; }

  const AttentionParams& p_;
  const AttentionTask& task_;
  const Workspace& w_;
  const int group_, rows_;
};

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
