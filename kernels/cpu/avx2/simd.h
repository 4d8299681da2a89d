// AVX2 with FMA and F16C as the vocabulary of generic/simd_concept.h, which says what each
// operation does. Included by avx2/ only.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/generic/exponential.h"
#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/lanes128.h"
#include "kernels/cpu/generic/simd_concept.h"
#include "kernels/cpu/generic/vector_ops.h"
#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu::avx2 {

struct Registers {
  using F = __m256;
  using I = __m256i;
};

struct Simd : VectorOps<Registers> {
  static constexpr int kLanes = 8;
  using H = __m128i;
  struct Part {
    __m256i mask;
    int count;
  };
  static constexpr int kExact = _MM_FROUND_NO_EXC;

  // ---- constants ----
  static F set1(float x) { return _mm256_set1_ps(x); }
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
  static F broadcast_float(const float* p) {
    F x = _mm256_broadcast_ss(p);
    asm("" : "+x"(x));
    return x;
  }
  static I load_bytes(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_bytes(uint8_t* p, I x) {
    const __m128i words = narrow(x);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
  static H load_16(const uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static H load_16_part(const uint16_t* p, const Part& part) {
    if (part.count == kLanes) return load_16(p);
    alignas(16) uint16_t lanes[kLanes] = {};
    std::memcpy(lanes, p, sizeof(uint16_t) * static_cast<size_t>(part.count));
    return load_16(lanes);
  }
  static void store_16(uint16_t* p, H x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x); }
  static void store_16_part(uint16_t* p, H x, const Part& part) {
    if (part.count == kLanes) return store_16(p, x);
    alignas(16) uint16_t lanes[kLanes];
    store_16(lanes, x);
    std::memcpy(p, lanes, sizeof(uint16_t) * static_cast<size_t>(part.count));
  }
  template <int kWords>
  static I repeat_words(const uint8_t* p) {
    [[maybe_unused]] const auto* words = reinterpret_cast<const __m128i*>(p);
    if constexpr (kWords == 1) return _mm256_broadcastd_epi32(_mm_loadu_si32(p));
    if constexpr (kWords == 2) return _mm256_broadcastq_epi64(_mm_loadl_epi64(words));
    if constexpr (kWords == 4) return _mm256_broadcastsi128_si256(_mm_loadu_si128(words));
  }
  static I gather_words(const uint8_t* base, I word_index) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(base), word_index, 4);
  }
  // Inlined by force: GCC 12 may otherwise find a function that does nothing, and drop its calls.
  static RILLKV_INLINE void prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
  }

  // ---- arithmetic ----
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
  static float reduce_add(F x) { return add_four(_mm_add_ps(low_half(x), high_half(x))); }
  static float reduce_min(F x) {
    return fold_four(_mm_min_ps(low_half(x), high_half(x)),
                     [](__m128 a, __m128 b) { return _mm_min_ps(a, b); });
  }
  static float reduce_max(F x) {
    return fold_four(_mm_max_ps(low_half(x), high_half(x)),
                     [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
  }
  static float fold16(const F* sums) { return reduce_add(add(sums[0], sums[1])); }

  // ---- numbers of 16 bits ----
  static I widen(H x) { return _mm256_cvtepu16_epi32(x); }
  static H narrow(I x) {
    return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  }
  static H to_half_down(F x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEG_INF | kExact); }
  static H to_half_up(F x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_POS_INF | kExact); }
  static H to_half(F x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | kExact); }
  // NaN ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)
  static I bfloat16_bits(F x) {
    const I bits = as_int(x);
    const I half = add_int(bit_and(shift_right(bits, 16), set1_int(1)), set1_int(0x7fff));
    const I nan = as_int(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(add_int(bits, half), bit_or(bits, set1_int(0x400000)), nan);
  }
  static H to_bfloat16(F x) { return narrow(shift_right(bfloat16_bits(x), 16)); }
  static F from_half(H x) { return _mm256_cvtph_ps(x); }
  static float half_to_float(uint16_t x) { return _cvtsh_ss(x); }

  // ---- bits ----
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
  static void unzip4(const float* p, F (&out)[4]) {
    // A transpose of 128-bit lanes, then one of dwords within each: lane q of `quads[i]` is quad
    // 4 q + i.
    const F a = load(p), b = load(p + 8), c = load(p + 16), d = load(p + 24);
    const F quads[4] = {_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31),
                        _mm256_permute2f128_ps(b, d, 0x20), _mm256_permute2f128_ps(b, d, 0x31)};
    const F low01 = _mm256_unpacklo_ps(quads[0], quads[1]);
    const F high01 = _mm256_unpackhi_ps(quads[0], quads[1]);
    const F low23 = _mm256_unpacklo_ps(quads[2], quads[3]);
    const F high23 = _mm256_unpackhi_ps(quads[2], quads[3]);
    out[0] = _mm256_shuffle_ps(low01, low23, 0x44);
    out[1] = _mm256_shuffle_ps(low01, low23, 0xEE);
    out[2] = _mm256_shuffle_ps(high01, high23, 0x44);
    out[3] = _mm256_shuffle_ps(high01, high23, 0xEE);
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
      cpu::store_16(to[0] + offset, _mm256_castsi256_si128(x));
      cpu::store_16(to[4] + offset, _mm256_extracti128_si256(x, 1));
    };
    store_halves(_mm256_unpacklo_epi64(ab_low, cd_low), at);
    store_halves(_mm256_unpackhi_epi64(ab_low, cd_low), at + 1);
    store_halves(_mm256_unpacklo_epi64(ab_high, cd_high), at + 2);
    store_halves(_mm256_unpackhi_epi64(ab_high, cd_high), at + 3);
  }
  template <int kWords>
  static void store_folded(uint8_t* out, I x) {
    store_words<kWords>(out,
                        _mm_or_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
  }

 private:
  static __m128 low_half(F x) { return _mm256_castps256_ps128(x); }
  static __m128 high_half(F x) { return _mm256_extractf128_ps(x, 1); }
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

  /// Relative error 1e-7: times a power of two made of its exponent bits. Below 2^-126 the result
  /// is 0.
  static F exp2(F x) {
    x = max(x, set1(-127.0f));
    const F n = round(x);
    const F f = sub(x, n);
    const I exponent = _mm256_add_epi32(round_to_int(n), set1_int(127));
    return mul(exp2_fraction<Simd>(f), as_float(_mm256_slli_epi32(exponent, 23)));
  }
};
static_assert(TileArithmetic<Fp32>);

}  // namespace rillkv::kernels::cpu::avx2
