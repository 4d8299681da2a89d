// AVX2 with FMA and F16C as the vocabulary of generic/simd_concept.h, which says what each
// operation does. Included by avx2/ only.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/generic/simd_concept.h"
#include "kernels/params.h"

namespace rillkv::kernels::cpu::avx2 {

struct Simd {
  static constexpr int kLanes = 8;
  using F = __m256;
  using I = __m256i;
  using H = __m128i;
  struct Part {
    __m256i mask;
    int count;
  };
  static constexpr int kExact = _MM_FROUND_NO_EXC;

  // ---- constants ----
  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static I zero_int() { return _mm256_setzero_si256(); }
  static I set1_int(int32_t x) { return _mm256_set1_epi32(x); }
  static Part part(int count) {
    return {_mm256_cmpgt_epi32(set1_int(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
            count > kLanes ? kLanes
            : count > 0    ? count
                           : 0};
  }

  // ---- memory; plain where all lanes count: a masked store costs many times as much on AMD ----
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load_part(const float* p, const Part& part) {
    return part.count == kLanes ? load(p) : _mm256_maskload_ps(p, part.mask);
  }
  static F load_part_or(const float* p, const Part& part, F other) {
    return _mm256_blendv_ps(other, load_part(p, part), _mm256_castsi256_ps(part.mask));
  }
  static F load_once(const float* p) {
    F x = _mm256_loadu_ps(p);
    asm("" : "+x"(x));
    return x;
  }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static void store_part(float* p, F x, const Part& part) {
    if (part.count == kLanes) {
      store(p, x);
    } else {
      _mm256_maskstore_ps(p, part.mask, x);
    }
  }
  static I load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store_int(void* p, I x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  static I broadcast(const uint32_t* p) { return _mm256_set1_epi32(static_cast<int32_t>(*p)); }
  static I load_bytes(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_bytes(uint8_t* p, I x) {
    const __m128i words = narrow_to_16(x);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
  static void store_half_part(uint16_t* p, H x, const Part& part) {
    if (part.count == kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
    } else {
      alignas(16) uint16_t lanes[kLanes];
      _mm_store_si128(reinterpret_cast<__m128i*>(lanes), x);
      std::memcpy(p, lanes, sizeof(uint16_t) * static_cast<size_t>(part.count));
    }
  }
  template <int kWords>
  static I repeat_words(const uint8_t* p) {
    if constexpr (kWords == 1) {
      int32_t word;
      __builtin_memcpy(&word, p, 4);
      return _mm256_set1_epi32(word);
    } else if constexpr (kWords == 2) {
      int64_t words;
      __builtin_memcpy(&words, p, 8);
      return _mm256_set1_epi64x(words);
    } else {
      static_assert(kWords == 4);
      return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
  }
  static I gather_words(const uint8_t* base, I word_index) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(base), word_index, 4);
  }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

  // ---- rows of a dtype ----
  template <Dtype kType>
  static F load_as(const void* row, int c) {
    if constexpr (kType == Dtype::kFloat32) {
      return _mm256_loadu_ps(static_cast<const float*>(row) + c);
    } else {
      return widen<kType>(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(row) + c)));
    }
  }
  template <Dtype kType>
  static F load_part_as(const void* row, int c, const Part& part) {
    if constexpr (kType == Dtype::kFloat32) {
      return load_part(static_cast<const float*>(row) + c, part);
    } else {
      if (part.count == kLanes) return load_as<kType>(row, c);
      alignas(16) uint16_t x[kLanes] = {};
      std::memcpy(x, static_cast<const uint16_t*>(row) + c,
                  sizeof(uint16_t) * static_cast<size_t>(part.count));
      return widen<kType>(_mm_load_si128(reinterpret_cast<const __m128i*>(x)));
    }
  }
  template <Dtype kType>
  static void store_as(void* row, int c, F x) {
    if constexpr (kType == Dtype::kFloat32) {
      _mm256_storeu_ps(static_cast<float*>(row) + c, x);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(row) + c),
                       narrow<kType>(x));
    }
  }
  template <Dtype kType>
  static void store_part_as(void* row, int c, F x, const Part& part) {
    if constexpr (kType == Dtype::kFloat32) {
      store_part(static_cast<float*>(row) + c, x, part);
    } else {
      store_half_part(static_cast<uint16_t*>(row) + c, narrow<kType>(x), part);
    }
  }

  // ---- arithmetic ----
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | kExact); }
  static I round_to_int(F x) { return _mm256_cvtps_epi32(round(x)); }
  static F to_float(I x) { return _mm256_cvtepi32_ps(x); }
  static F infinity_if_zero(F x) {
    return _mm256_blendv_ps(x, set1(__builtin_inff()),
                            _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_EQ_OQ));
  }
  static F keep(F x, const Part& part) { return _mm256_and_ps(x, _mm256_castsi256_ps(part.mask)); }
  static F hide_after(F x, const int32_t* index, int32_t limit) {
    const I hidden = _mm256_cmpgt_epi32(load_int(index), set1_int(limit));
    return _mm256_blendv_ps(x, set1(-__builtin_inff()), as_float(hidden));
  }
  static int count_outside(F x, F lo, F hi) {
    const F outside =
        _mm256_or_ps(_mm256_cmp_ps(x, lo, _CMP_LT_OQ), _mm256_cmp_ps(x, hi, _CMP_GT_OQ));
    return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(outside)));
  }
  static float first_lane(F x) { return _mm256_cvtss_f32(x); }
  static float reduce_add(F x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }
  static float reduce_min(F x) {
    __m128 y = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_min_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_min_ss(y, _mm_movehdup_ps(y)));
  }
  static float reduce_max(F x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
  }
  static float fold16(const F* sums) { return reduce_add(add(sums[0], sums[1])); }

  // ---- 16-bit floats ----
  static H to_half_down(F x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEG_INF | kExact); }
  static H to_half_up(F x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_POS_INF | kExact); }
  static H to_half(F x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | kExact); }
  static F from_half(H x) { return _mm256_cvtph_ps(x); }
  static float half_to_float(uint16_t x) { return _cvtsh_ss(x); }
  // NaN ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16
  static H to_bfloat16(F x) {
    const I bits = as_int(x), top = _mm256_srli_epi32(bits, 16);
    const I odd = _mm256_and_si256(top, set1_int(1));
    const I rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, set1_int(0x7fff))), 16);
    const I nan = as_int(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return narrow_to_16(_mm256_blendv_epi8(rounded, _mm256_or_si256(top, set1_int(0x40)), nan));
  }

  // ---- bits ----
  static F as_float(I x) { return _mm256_castsi256_ps(x); }
  static I as_int(F x) { return _mm256_castps_si256(x); }
  static I bit_or(I a, I b) { return _mm256_or_si256(a, b); }
  static I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
  static I and_not(I a, I b) { return _mm256_andnot_si256(a, b); }
  static I max_unsigned(I a, I b) { return _mm256_max_epu32(a, b); }
  static I greater(I a, I b) { return _mm256_cmpgt_epi32(a, b); }
  static I shift_right(I x, int n) { return _mm256_srli_epi32(x, n); }
  static I shift_left(I x, int n) { return _mm256_slli_epi32(x, n); }
  static I shift_right_each(I x, I n) { return _mm256_srlv_epi32(x, n); }
  static I shift_left_each(I x, I n) { return _mm256_sllv_epi32(x, n); }
  template <int kBits>
  static I append(I words, I x, I mask) {
    return _mm256_or_si256(_mm256_slli_epi32(words, kBits), _mm256_and_si256(x, mask));
  }

  // ---- codes of 4 bits ----
  struct Affine {
    F lo, step;
    Affine(float lo_value, float step_value) : lo(set1(lo_value)), step(set1(step_value)) {}
    F operator()(I codes) const { return fma(low_bits(codes, 15), step, lo); }
  };
  struct Scaled {
    F step;
    explicit Scaled(float step_value) : step(set1(step_value)) {}
    F operator()(I codes, F high) const { return fma(low_bits(codes, 15), step, high); }
  };
  static F low_bits(I x, int mask) { return to_float(bit_and(x, set1_int(mask))); }

  // ---- shuffles ----
  template <int kSpan>
  static F exchange(F x) {
    if constexpr (kSpan == 1) return _mm256_permute_ps(x, 0xB1);
    if constexpr (kSpan == 2) return _mm256_permute_ps(x, 0x4E);
    if constexpr (kSpan == 4) return _mm256_permute2f128_ps(x, x, 1);
  }
  static void transpose(I (&x)[8]) {
    I y[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // pairs of rows
      y[2 * i] = _mm256_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
      y[2 * i + 1] = _mm256_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    I z[8];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {  // quads of rows: 128-bit lane l of z[4i+j] is column 4l+j
      z[4 * i] = _mm256_unpacklo_epi64(y[4 * i], y[4 * i + 2]);
      z[4 * i + 1] = _mm256_unpackhi_epi64(y[4 * i], y[4 * i + 2]);
      z[4 * i + 2] = _mm256_unpacklo_epi64(y[4 * i + 1], y[4 * i + 3]);
      z[4 * i + 3] = _mm256_unpackhi_epi64(y[4 * i + 1], y[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      x[j] = _mm256_permute2x128_si256(z[j], z[4 + j], 0x20);
      x[4 + j] = _mm256_permute2x128_si256(z[j], z[4 + j], 0x31);
    }
  }
  static void store_columns(const uint32_t* words, uint8_t* const* at, int offset) {
    const I a = load_int(words), b = load_int(words + 8);
    const I c = load_int(words + 16), d = load_int(words + 24);
    const I ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
    const I cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
    const auto store_halves = [&](I x, uint8_t* const* to) {
      store_16(_mm256_castsi256_si128(x), to[0] + offset);
      store_16(_mm256_extracti128_si256(x, 1), to[4] + offset);
    };
    store_halves(_mm256_unpacklo_epi64(ab_low, cd_low), at);
    store_halves(_mm256_unpackhi_epi64(ab_low, cd_low), at + 1);
    store_halves(_mm256_unpacklo_epi64(ab_high, cd_high), at + 2);
    store_halves(_mm256_unpackhi_epi64(ab_high, cd_high), at + 3);
  }
  template <int kWords>
  static void store_folded(uint8_t* out, I x) {
    static_assert(kWords == 2 || kWords == 4);
    const __m128i four = _mm_or_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    if constexpr (kWords == 4) {
      store_16(four, out);
    } else {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out),
                       _mm_or_si128(four, _mm_unpackhi_epi64(four, four)));
    }
  }

 private:
  template <Dtype kType>
  static F widen(__m128i x) {
    if constexpr (kType == Dtype::kFloat16) return _mm256_cvtph_ps(x);
    return as_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  template <Dtype kType>
  static __m128i narrow(F x) {
    return kType == Dtype::kBFloat16 ? to_bfloat16(x) : to_half(x);
  }
  static __m128i narrow_to_16(I x) {
    return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  }
  static void store_16(__m128i x, uint8_t* at) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), x);
  }
};
static_assert(SimdVocabulary<Simd>);

/// fp32 tiles whatever the dtype: AVX2 has no bf16 arithmetic.
struct Fp32 : Simd {
  // 6 rows x 2 registers are 12 accumulators of the 16 registers; the panel takes 2, the broadcast
  // 1. Twelve chains cover the latency of 4 cycles at two multiply-adds a cycle.
  static constexpr int kMicroRows = 6;
  static constexpr int kPanelVectors = 2;
  static constexpr int kPack = 1;
  static constexpr int kTileTokens = 256;

  static void store_pair(uint32_t* first, uint32_t* second, F a, F b) {
    store_int(first, as_int(a));
    store_int(second, as_int(b));
  }
  static F dot(F sum, I a, I b) { return fma(as_float(a), as_float(b), sum); }

  /// Relative error 1e-7: a polynomial in x - round(x) (minimax, degree 6) times a power of two
  /// made of its exponent bits. Below 2^-126 the result is 0.
  static F exp2(F x) {
    x = max(x, set1(-127.0f));
    const F n = round(x);
    const F f = sub(x, n);
    F y = fma(f, set1(1.53458113e-4f), set1(1.33999312e-3f));
    y = fma(y, f, set1(9.61848896e-3f));
    y = fma(y, f, set1(5.55032878e-2f));
    y = fma(y, f, set1(2.40226469e-1f));
    y = fma(y, f, set1(6.93147206e-1f));
    y = fma(y, f, set1(1.0f));
    const I exponent = _mm256_add_epi32(round_to_int(n), set1_int(127));
    return mul(y, as_float(_mm256_slli_epi32(exponent, 23)));
  }
};
static_assert(TileArithmetic<Fp32>);

}  // namespace rillkv::kernels::cpu::avx2
