// The end of attention: a row's sums become the row of `out`.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic/hadamard.h"
#include "kernels/cpu/generic/online_softmax.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/simd_rows.h"
#include "kernels/cpu/generic/with_dtype.h"
#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu {
namespace {

/// out[t, head] = accumulators / sum, rotated back where values are rotated; 0 where no key was
/// seen. Destroys the accumulators.
inline void finish_row(const AttentionParams& p, const OnlineSoftmax& row, int64_t t,
                       int64_t head) {
  float factor = row.sum != 0.0f ? 1.0f / row.sum : 0.0f;
  if (p.rotate_output) {
    hadamard_butterflies(row.accumulators, p.head_dim);
    factor *= hadamard_factor(p.head_dim);
  }
  store_row(row.accumulators, factor, p.dtype, p.head_dim, row_of(p.out, p.dtype, t, head));
}

/// The same in registers; S: see simd_concept.h.
template <class S>
void finish_row_simd(const AttentionParams& p, const OnlineSoftmax& row, int64_t t, int64_t head) {
  const int D = p.head_dim;
  if (p.rotate_output && D > kMaxSimdHeadDim) return finish_row(p, row, t, head);
  const float factor = row.sum != 0.0f ? 1.0f / row.sum : 0.0f;
  void* out = row_of(p.out, p.dtype, t, head);
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype kType = type;
    if (p.rotate_output) {
      hadamard_row<S, kType>(
          D, [&](int c) { return S::load(row.accumulators + c); },
          [&](auto part) { return S::load_part(row.accumulators, part); },
          factor * hadamard_factor(D), out);
      return;
    }
    for (int c = 0; c < D; c += S::kLanes) {
      const auto part = S::part(D - c);
      store_part_as<S, kType>(
          out, c, S::mul(S::load_part(row.accumulators + c, part), S::set1(factor)), part);
    }
  });
}

}  // namespace
}  // namespace rillkv::kernels::cpu
