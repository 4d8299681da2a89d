// A few query rows over a few tokens that are no block (sinks, the open tail, the chunk itself),
// without a tile: making one for up to kDirectRows rows costs several times the products it serves.
// fp32 throughout.
#pragma once

#include <cstddef>

#include "kernels/cpu/generic/online_softmax.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

constexpr int kDirectRows = 8;

/// Takes `count` <= kLanes tokens into one row. Rows of `keys` (rotated) and `values` are `stride`
/// apart; they and the query are zero from head_dim to the next multiple of kLanes.
template <class S>
void attend_tokens(const float* query, const float* keys, const float* values, size_t stride,
                   int head_dim, int count, OnlineSoftmax& row) {
  using F = typename S::F;
  alignas(64) float p[S::kLanes];
  S::store(p, S::set1(-__builtin_inff()));
  for (int i = 0; i < count; ++i) {  // s = q~ k~
    const float* key = keys + static_cast<size_t>(i) * stride;
    F dot = S::zero();
    for (int c = 0; c < head_dim; c += S::kLanes) {
      dot = S::fma(S::load(query + c), S::load(key + c), dot);
    }
    p[i] = S::reduce_add(dot);
  }
  const F shrink = S::exp2(S::set1(row.raise(S::reduce_max(S::load(p)))));
  const F weights = S::exp2(S::sub(S::load(p), S::set1(row.max)));
  row.add(S::first_lane(shrink), S::reduce_add(weights));
  S::store(p, weights);
  for (int c = 0; c < head_dim; c += S::kLanes) {  // o = o 2^(m - m') + p v
    F total = S::mul(S::load(row.accumulators + c), shrink);
    for (int i = 0; i < count; ++i) {
      total = S::fma(S::set1(p[i]), S::load(values + static_cast<size_t>(i) * stride + c), total);
    }
    S::store(row.accumulators + c, total);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
