// A few query rows over a few tokens that are no block (sinks, the open tail, the chunk itself),
// without a tile: making one for up to kDirectRows rows costs several times the products it serves.
// fp32 throughout.
#pragma once

#include <cstddef>

#include "kernels/cpu/attention_tiles.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

constexpr int kDirectRows = 8;

/// Online softmax of one row over `count` <= kLanes tokens. Rows of `keys` (rotated) and `values`
/// are `stride` apart; they and the query are zero from head_dim to the next multiple of kLanes.
template <class S>
void attend_tokens(const float* query, const float* keys, const float* values, size_t stride,
                   int head_dim, int count, float& max, float& sum, float* sums) {
  using F = typename S::F;
  alignas(64) float p[S::kLanes];
  S::store(p, S::set1(-__builtin_inff()));
  for (int i = 0; i < count; ++i) {
    const float* key = keys + static_cast<size_t>(i) * stride;
    F dot = S::zero();
    for (int c = 0; c < head_dim; c += S::kLanes) {
      dot = S::fma(S::load(query + c), S::load(key + c), dot);
    }
    p[i] = S::reduce_add(dot);
  }
  const float most = S::reduce_max(S::load(p)), next = most > max ? most : max;
  const F weights = S::exp2(S::sub(S::load(p), S::set1(next)));
  S::store(p, weights);
  const F shrink = S::exp2(S::set1(max - next));
  sum = sum * S::first_lane(shrink) + S::reduce_add(weights);
  max = next;
  for (int c = 0; c < head_dim; c += S::kLanes) {
    F total = S::mul(S::load(sums + c), shrink);
    for (int i = 0; i < count; ++i) {
      total = S::fma(S::set1(p[i]), S::load(values + static_cast<size_t>(i) * stride + c), total);
    }
    S::store(sums + c, total);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
