// AVX2 with FMA and F16C under the names that the tiled attention (attention_tiles.h,
// attention_tiled.h) is written in. Included by avx2_*.cpp only.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/params.h"

namespace rillkv::kernels::cpu::avx2 {

/// fp32 tiles whatever the dtype: AVX2 has no bf16 arithmetic.
struct Fp32 {
  static constexpr int kLanes = 8;
  // 6 rows x 2 registers are 12 accumulators of the 16 registers; the panel takes 2, the broadcast
  // 1. Twelve chains cover the latency of 4 cycles at two multiply-adds a cycle.
  static constexpr int kMicroRows = 6;
  static constexpr int kPanelVectors = 2;
  static constexpr int kPanel = kPanelVectors * kLanes;
  static constexpr int kPack = 1;  // values in a dword
  static constexpr int kTileTokens = 256;
  using F = __m256;
  using I = __m256i;

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static I broadcast(const uint32_t* p) { return _mm256_set1_epi32(static_cast<int32_t>(*p)); }
  static F load_once(const float* p) {
    F x = _mm256_loadu_ps(p);
    asm("" : "+x"(x));
    return x;
  }
  static I load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store_int(void* p, I x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  static I set1_int(int32_t x) { return _mm256_set1_epi32(x); }
  static I zero_int() { return _mm256_setzero_si256(); }
  static F as_float(I x) { return _mm256_castsi256_ps(x); }
  static I as_int(F x) { return _mm256_castps_si256(x); }

  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }    // a b + c
  static F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a b
  static F dot(F sum, I a, I b) { return fma(as_float(a), as_float(b), sum); }
  static float first_lane(F x) { return _mm256_cvtss_f32(x); }
  static float reduce_max(F x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
  }
  static float reduce_add(F x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }

  static I bit_or(I a, I b) { return _mm256_or_si256(a, b); }
  static I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
  static I shift_right(I x, int n) { return _mm256_srli_epi32(x, n); }
  static I shift_left(I x, int n) { return _mm256_sll_epi32(x, _mm_cvtsi32_si128(n)); }
  static I shift_right_each(I x, I n) { return _mm256_srlv_epi32(x, n); }

  /// The first `count` elements of p, zero beyond; reads nothing past them.
  static I first(int count) {
    return _mm256_cmpgt_epi32(set1_int(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static F load_first(const float* p, int count) {
    return count >= kLanes ? load(p) : _mm256_maskload_ps(p, first(count));
  }
  static void store_first(float* p, F x, int count) {
    if (count >= kLanes) {
      store(p, x);
    } else {
      _mm256_maskstore_ps(p, first(count), x);
    }
  }

  /// Up to 8 elements of a row in `dtype` from element `begin` on, zero beyond `end`.
  static F load_row(const void* row, Dtype dtype, int begin, int end) {
    const int count = end - begin;
    if (dtype == Dtype::kFloat32) return load_first(static_cast<const float*>(row) + begin, count);
    const uint16_t* at = static_cast<const uint16_t*>(row) + begin;
    __m128i bits;
    if (count >= kLanes) {
      bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    } else {
      alignas(16) uint16_t some[kLanes] = {};
      for (int i = 0; i < count; ++i) some[i] = at[i];
      bits = _mm_load_si128(reinterpret_cast<const __m128i*>(some));
    }
    if (dtype == Dtype::kFloat16) return _mm256_cvtph_ps(bits);
    return as_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static void store_row(void* row, Dtype dtype, int begin, int end, F x) {
    const int count = end - begin;
    if (dtype == Dtype::kFloat32) {
      store_first(static_cast<float*>(row) + begin, x, count);
      return;
    }
    __m128i bits;
    if (dtype == Dtype::kFloat16) {
      bits = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    } else {  // to nearest even: add half a unit less one, and one more if the unit is odd
      const I u = as_int(x);
      const I odd = bit_and(_mm256_srli_epi32(u, 16), set1_int(1));
      const I rounded =
          _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, set1_int(0x7fff))), 16);
      const I nan = as_int(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
      const I halves = _mm256_blendv_epi8(rounded, set1_int(0x7fc0), nan);
      bits = _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    }
    uint16_t* at = static_cast<uint16_t*>(row) + begin;
    if (count >= kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(at), bits);
    } else {
      alignas(16) uint16_t some[kLanes];
      _mm_store_si128(reinterpret_cast<__m128i*>(some), bits);
      for (int i = 0; i < count; ++i) at[i] = some[i];
    }
  }
  static float half_to_float(uint16_t x) { return _cvtsh_ss(x); }

  /// Words of a plane of kWords 32-bit words, repeated to fill a register (kWords < 8).
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
      return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
  }
  static I gather_words(const uint8_t* base, I word_index) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(base), word_index, 4);
  }

  /// lo + step * code for the codes in the low 4 bits of each lane; what lies above is ignored.
  struct Affine {
    F lo, step;
    Affine(float lo_value, float step_value) : lo(set1(lo_value)), step(set1(step_value)) {}
    F operator()(I codes) const { return fma(low_bits(codes, 15), step, lo); }
  };
  /// high + step * code: the second plane of a wide code.
  struct Scaled {
    F step;
    explicit Scaled(float step_value) : step(set1(step_value)) {}
    F operator()(I codes, F high) const { return fma(low_bits(codes, 15), step, high); }
  };
  /// Bits of each lane under `mask`, as floats.
  static F low_bits(I x, int mask) { return _mm256_cvtepi32_ps(bit_and(x, set1_int(mask))); }

  static void store_pair(uint32_t* first_out, uint32_t* second_out, F a, F b) {
    store_int(first_out, as_int(a));
    store_int(second_out, as_int(b));
  }

  /// x with lanes i and i ^ kSpan exchanged.
  template <int kSpan>
  static F exchange(F x) {
    if constexpr (kSpan == 1) return _mm256_permute_ps(x, 0xB1);
    if constexpr (kSpan == 2) return _mm256_permute_ps(x, 0x4E);
    if constexpr (kSpan == 4) return _mm256_permute2f128_ps(x, x, 1);
  }

  /// x where index <= limit, -infinity elsewhere.
  static F hide_after(F x, const int32_t* index, int32_t limit) {
    const I hidden = _mm256_cmpgt_epi32(load_int(index), set1_int(limit));
    return _mm256_blendv_ps(x, set1(-__builtin_inff()), as_float(hidden));
  }

  /// 8 x 8 dwords, row r of the input becomes lane r of the outputs.
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

  /// 2^x for x <= 0, relative error 1e-7: a polynomial in x - round(x) (minimax, degree 6) times a
  /// power of two made of its exponent bits. Below 2^-126 the result is 0.
  static F exp2(F x) {
    x = max(x, set1(-127.0f));
    const F n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const F f = sub(x, n);
    F y = fma(f, set1(1.53458113e-4f), set1(1.33999312e-3f));
    y = fma(y, f, set1(9.61848896e-3f));
    y = fma(y, f, set1(5.55032878e-2f));
    y = fma(y, f, set1(2.40226469e-1f));
    y = fma(y, f, set1(6.93147206e-1f));
    y = fma(y, f, set1(1.0f));
    const I exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), set1_int(127));
    return mul(y, as_float(_mm256_slli_epi32(exponent, 23)));
  }

  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
};

}  // namespace rillkv::kernels::cpu::avx2
