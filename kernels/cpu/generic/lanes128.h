// What the vocabularies of x86 do with the last 128 bits. Included by files compiled for AVX.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/generic/inline.h"

namespace rillkv::kernels::cpu {
namespace {

RILLKV_INLINE void store_16(uint8_t* p, __m128i x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
}

/// (lane 0 op lane 2) op (lane 1 op lane 3)
template <class Op>
RILLKV_INLINE float fold_four(__m128 x, Op op) {
  x = op(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(op(x, _mm_movehdup_ps(x)));
}
RILLKV_INLINE float add_four(__m128 x) {
  return fold_four(x, [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
}

/// 4 dwords to p, or the two that are lane 0 | lane 2 and lane 1 | lane 3.
template <int kWords>
RILLKV_INLINE void store_words(uint8_t* p, __m128i four) {
  static_assert(kWords == 2 || kWords == 4);
  if constexpr (kWords == 4) {
    store_16(p, four);
  } else {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p),
                     _mm_or_si128(four, _mm_unpackhi_epi64(four, four)));
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu
