// 2^s of a step's scores, a few rows at a time between products.
#pragma once

#include <cstdint>

#include "kernels/cpu/amx/arithmetic.h"
#include "kernels/cpu/amx/workspace.h"
#include "kernels/cpu/generic/inline.h"

namespace rillkv::kernels::cpu::amx {
namespace {

/// Goes along scores [blocks of 32 columns][32 rows][32 columns] and leaves weights of the same
/// shape in bf16, which are tiles. With kMasked a weight is 0 where the column's token comes after
/// the row's.
struct Softmax {
  const float* scores;
  uint32_t* weights;
  float* sums;            // [32][16], to which the weights are added
  const int32_t* index;   // of the columns; with kMasked only
  const int32_t* tokens;  // [32] of the rows; likewise
  int rows_left;
  uint32_t row = 0;

  template <bool kMasked, int kCount>
  RILLKV_INLINE void advance() {
    using S = TileBf16;
    float* sum = sums + row * kLanes;
#pragma GCC unroll 8
    for (uint32_t i = 0; i < kCount; ++i) {
      S::F x = S::load(scores + i * kKeys), y = S::load(scores + i * kKeys + kLanes);
      if constexpr (kMasked) {
        x = S::hide_after(x, index, tokens[row + i]);
        y = S::hide_after(y, index + kLanes, tokens[row + i]);
      }
      x = S::exp2(x);
      y = S::exp2(y);
      S::store(sum + i * kLanes, S::add(S::load(sum + i * kLanes), S::add(x, y)));
      S::store_int(weights + i * kLanes, S::pack_row(x, y));
    }
    scores += kCount * kKeys;
    weights += kCount * kLanes;
    row = (row + kCount) % kRows;
    rows_left -= kCount;
    if (kMasked && row == 0) index += kKeys;
  }
};

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
