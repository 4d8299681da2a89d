// Consuming filled tiles: the online softmax of all rows of a task over their columns,
//
//   s = q~ k~^T,   p = 2^(s - m'),   o = o 2^(m - m') + p v
//
// in blocks of kBlockRows rows, whose scores and weights stay in the L1 cache. Visibility is one
// rule, index <= query index: registers of columns that every row of the block sees skip it,
// columns that none sees are not computed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/fill.h"
#include "kernels/cpu/generic/products.h"
#include "kernels/cpu/generic/query_rows.h"
#include "kernels/cpu/generic/workspace.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

/// Scores of one row become weights, dwords of the second product's left side. Returns what the
/// accumulators shrink by. `vectors` is a multiple of kPack.
template <class S>
float softmax_row(const float* scores, int vectors, OnlineSoftmax& row, uint32_t* weights) {
  using F = typename S::F;
  constexpr int L = S::kLanes;
  F most = S::load(scores), most2 = most;
  int v = 0;
  for (; v + 4 <= vectors; v += 4) {
    const float* x = scores + v * L;
    most = S::max(most, S::max(S::load(x), S::load(x + L)));
    most2 = S::max(most2, S::max(S::load(x + 2 * L), S::load(x + 3 * L)));
  }
  for (; v < vectors; ++v) most = S::max(most, S::load(scores + v * L));
  const float change = row.raise(S::reduce_max(S::max(most, most2)));
  const F max = S::set1(row.max);

  F total = S::zero(), total2 = total;
  const auto weigh = [&](int at, F& into) {  // kPack registers of scores to one of dwords
    const F p = S::exp2(S::sub(S::load(scores + at * L), max));
    if constexpr (S::kPack == 2) {
      const F q = S::exp2(S::sub(S::load(scores + (at + 1) * L), max));
      into = S::add(into, S::add(p, q));
      S::store_int(weights + at / 2 * L, S::pack_row(p, q));
    } else {
      into = S::add(into, p);
      S::store_int(weights + at * L, S::as_int(p));
    }
  };
  v = 0;
  for (; v + 2 * S::kPack <= vectors; v += 2 * S::kPack) {
    weigh(v, total);
    weigh(v + S::kPack, total2);
  }
  if (v < vectors) weigh(v, total);
  const float shrink = S::first_lane(S::exp2(S::set1(change)));
  row.add(shrink, S::reduce_add(S::add(total, total2)));
  return shrink;
}

template <class S>
void consume_rows(int head_dim, const Workspace& w, const QueryRows<S>& rows,
                  const KeyValueTiles<S>& tiles, int begin, int count) {
  constexpr int L = S::kLanes;
  const int32_t t_first = rows.token(begin), t_last = rows.token(begin + count - 1);
  int vectors = 0;
  uint64_t masked = 0;
  for (int v = 0; v < tiles.vectors(); ++v) {
    if (tiles.any_visible(v, t_last)) vectors = v + 1;
    if (!tiles.all_visible(v, t_first)) masked |= uint64_t{1} << v;
  }
  vectors = (vectors + S::kPack - 1) / S::kPack * S::kPack;
  if (vectors == 0) return;
  if (vectors < kMaxTileVectors) masked &= (uint64_t{1} << vectors) - 1;

  const size_t steps = static_cast<size_t>(head_dim / S::kPack);
  const size_t value_steps = static_cast<size_t>(tiles.value_steps());
  const size_t score_stride = static_cast<size_t>(tiles.capacity()) + kRowPadding;
  const size_t weight_stride = value_steps + kRowPadding, stride = padded(head_dim);
  multiply<S, false>(rows.query(begin), steps, count, w.keys, steps * kPanel<S>, vectors,
                     static_cast<int>(steps), w.scores, score_stride, nullptr);
  float shrink[kBlockRows];
  for (int r = 0; r < count; ++r) {
    float* scores = w.scores + static_cast<size_t>(r) * score_stride;
    for (uint64_t left = masked; left != 0; left &= left - 1) {
      const int at = __builtin_ctzll(left) * L;
      S::store(scores + at,
               S::hide_after(S::load(scores + at), w.index + at, rows.token(begin + r)));
    }
    shrink[r] = softmax_row<S>(scores, vectors, rows.softmax(begin + r),
                               w.weights + static_cast<size_t>(r) * weight_stride);
  }
  multiply<S, true>(w.weights, weight_stride, count, w.values, value_steps * kPanel<S>,
                    (head_dim + L - 1) / L, vectors * L / S::kPack,
                    rows.softmax(begin).accumulators, stride, shrink);
}

/// Takes the tiles' columns into all rows and leaves the tiles empty.
template <class S>
void consume_tiles(int head_dim, const Workspace& w, const QueryRows<S>& rows,
                   KeyValueTiles<S>& tiles) {
  if (tiles.vectors() == 0) return;
  tiles.complete();
  for (int r = 0; r < rows.count(); r += kBlockRows) {
    consume_rows<S>(head_dim, w, rows, tiles, r,
                    rows.count() - r < kBlockRows ? rows.count() - r : kBlockRows);
  }
  tiles.clear();
}

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
