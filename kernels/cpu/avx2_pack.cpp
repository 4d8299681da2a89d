// Statistics and packers for AVX2, FMA and F16C: 8 lanes. The algorithm is in simd_pack.h.
#include <immintrin.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd_pack.h"

namespace rillkv::kernels::cpu {
namespace {

/// -1 eight times, then 0 eight times: a mask of n lanes begins at 8 - n.
alignas(64) constexpr int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

struct Avx2 {
  static constexpr int kLanes = 8;
  using Float = __m256;
  using Int = __m256i;
  using Half = __m128i;
  struct Part {
    __m256i mask;
    int count;
  };
  static constexpr int kExact = _MM_FROUND_NO_EXC;

  static Part part(int count) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + 8 - count)), count};
  }

  // ---- memory ----
  template <Dtype kType>
  static Float widen(__m128i x) {
    if constexpr (kType == Dtype::kBFloat16) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
    } else {
      return _mm256_cvtph_ps(x);
    }
  }
  template <Dtype kType>
  static Float load(const void* row, int c) {
    if constexpr (kType == Dtype::kFloat32) {
      return _mm256_loadu_ps(static_cast<const float*>(row) + c);
    } else {
      return widen<kType>(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(row) + c)));
    }
  }
  template <Dtype kType>
  static Float load_part(const void* row, int c, const Part& part) {
    if constexpr (kType == Dtype::kFloat32) {
      return _mm256_maskload_ps(static_cast<const float*>(row) + c, part.mask);
    } else {
      if (part.count == kLanes) return load<kType>(row, c);
      alignas(16) uint16_t x[kLanes] = {};
      std::memcpy(x, static_cast<const uint16_t*>(row) + c, sizeof(uint16_t) * size_t(part.count));
      return widen<kType>(_mm_load_si128(reinterpret_cast<const __m128i*>(x)));
    }
  }
  // NaN ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16
  static __m128i to_bfloat16(Float x) {
    const Int bits = _mm256_castps_si256(x);
    const Int top = _mm256_srli_epi32(bits, 16);
    const Int odd = _mm256_and_si256(top, set_int(1));
    const Int rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, set_int(0x7fff))), 16);
    const Int nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return narrow_to_16(_mm256_blendv_epi8(rounded, _mm256_or_si256(top, set_int(0x40)), nan));
  }
  template <Dtype kType>
  static void store_as(Float x, void* row, int c) {
    if constexpr (kType == Dtype::kFloat32) {
      _mm256_storeu_ps(static_cast<float*>(row) + c, x);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(row) + c),
                       kType == Dtype::kBFloat16 ? to_bfloat16(x) : to_half_nearest(x));
    }
  }
  template <Dtype kType>
  static void store_part_as(Float x, void* row, int c, const Part& part) {
    if constexpr (kType == Dtype::kFloat32) {
      _mm256_maskstore_ps(static_cast<float*>(row) + c, part.mask, x);
    } else {
      store_half_part(kType == Dtype::kBFloat16 ? to_bfloat16(x) : to_half_nearest(x),
                      static_cast<uint16_t*>(row) + c, part);
    }
  }
  static __m128i narrow_to_16(Int x) {
    return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  }
  static Float load(const float* x) { return _mm256_loadu_ps(x); }
  /// Reads whole registers: `x` must have room for one.
  static Float load_or(const float* x, const Part& part, Float other) {
    return _mm256_blendv_ps(other, _mm256_loadu_ps(x), _mm256_castsi256_ps(part.mask));
  }
  static Float load_aligned(const float* x) { return _mm256_load_ps(x); }
  static Int load_aligned(const int32_t* x) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(x));
  }
  static void store(Float x, float* out) { _mm256_storeu_ps(out, x); }
  static void store_part(Float x, float* out, const Part& part) {
    _mm256_maskstore_ps(out, part.mask, x);
  }
  static void store_words(Int x, uint32_t* out) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), x);
  }
  static void store_half_part(Half x, uint16_t* out, const Part& part) {
    if (part.count == kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), x);
    } else {
      alignas(16) uint16_t lanes[kLanes];
      _mm_store_si128(reinterpret_cast<__m128i*>(lanes), x);
      std::memcpy(out, lanes, sizeof(uint16_t) * size_t(part.count));
    }
  }
  static Int load_bytes(const uint8_t* x) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)));
  }
  static void store_bytes(Int x, uint8_t* out) {
    const __m128i words = narrow_to_16(x);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
  }

  // ---- arithmetic ----
  static Float set(float x) { return _mm256_set1_ps(x); }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
  static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
  static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Float round_float(Float x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | kExact);
  }
  static Int round(Float x) { return _mm256_cvtps_epi32(round_float(x)); }
  static Float to_float(Int x) { return _mm256_cvtepi32_ps(x); }
  static Half to_half_down(Float x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEG_INF | kExact); }
  static Half to_half_up(Float x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_POS_INF | kExact); }
  static Half to_half_nearest(Float x) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | kExact);
  }
  static uint16_t first_half(Half x) { return static_cast<uint16_t>(_mm_cvtsi128_si32(x)); }
  static Float from_half(Half x) { return _mm256_cvtph_ps(x); }
  static Float infinity_if_zero(Float x) {
    return _mm256_blendv_ps(x, set(float_from_bits(0x7f800000u)),
                            _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_EQ_OQ));
  }
  static int count_outside(Float x, Float lo, Float hi) {
    const Float outside =
        _mm256_or_ps(_mm256_cmp_ps(x, lo, _CMP_LT_OQ), _mm256_cmp_ps(x, hi, _CMP_GT_OQ));
    return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(outside)));
  }
  static Float keep(Float x, const Part& part) {
    return _mm256_and_ps(x, _mm256_castsi256_ps(part.mask));
  }
  static float min_of(Float x) {
    __m128 m = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
  }
  static float max_of(Float x) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  /// sums[l] += sums[l + 8], + 4, + 2, + 1
  static float fold16(const Float* sums) {
    const __m256 eight = _mm256_add_ps(sums[0], sums[1]);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  // ---- bits ----
  static Int zero_int() { return _mm256_setzero_si256(); }
  static Int set_int(int32_t x) { return _mm256_set1_epi32(x); }
  static Int bits(Float x) { return _mm256_castps_si256(x); }
  static Float floats(Int x) { return _mm256_castsi256_ps(x); }
  static Int bit_and(Int a, Int b) { return _mm256_and_si256(a, b); }
  static Int bit_or(Int a, Int b) { return _mm256_or_si256(a, b); }
  static Int and_not(Int a, Int b) { return _mm256_andnot_si256(a, b); }
  static Int max_unsigned(Int a, Int b) { return _mm256_max_epu32(a, b); }
  static Int greater(Int a, Int b) { return _mm256_cmpgt_epi32(a, b); }
  static Int shift_right(Int x, Int counts) { return _mm256_srlv_epi32(x, counts); }
  static Int shift_right_all(Int x, int count) {
    return _mm256_srl_epi32(x, _mm_cvtsi32_si128(count));
  }
  template <int kBits>
  static Int shift_left(Int x) {
    return _mm256_slli_epi32(x, kBits);
  }
  /// acc << kBits | (x & mask)
  template <int kBits>
  static Int append(Int acc, Int x, Int mask) {
    return _mm256_or_si256(_mm256_slli_epi32(acc, kBits), _mm256_and_si256(x, mask));
  }

  // ---- shuffles ----
  /// Registers of four consecutive words, one lane a channel, to `at[channel] + offset`.
  static void store_transposed(const uint32_t* words, uint8_t* const* at, int offset) {
    const auto load = [&](int i) {
      return _mm256_load_si256(reinterpret_cast<const __m256i*>(words + i * kLanes));
    };
    const Int a = load(0), b = load(1), c = load(2), d = load(3);
    const Int ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
    const Int cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
    store_halves(_mm256_unpacklo_epi64(ab_low, cd_low), at, offset);
    store_halves(_mm256_unpackhi_epi64(ab_low, cd_low), at + 1, offset);
    store_halves(_mm256_unpacklo_epi64(ab_high, cd_high), at + 2, offset);
    store_halves(_mm256_unpackhi_epi64(ab_high, cd_high), at + 3, offset);
  }
  static void store_halves(Int x, uint8_t* const* at, int offset) {
    store_16(_mm256_castsi256_si128(x), at[0] + offset);
    store_16(_mm256_extracti128_si256(x, 1), at[4] + offset);
  }
  static void store_16(__m128i x, uint8_t* at) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), x);
  }
  /// Lane l holds an element that belongs kElementBits * (l / kWords) bits higher in word l %
  /// kWords.
  template <int kWords, int kElementBits>
  static void store_folded(Int x, uint8_t* out) {
    static_assert(kWords == 2 || kWords == 4);
    constexpr int e = kElementBits, w = kWords;
    x = _mm256_sllv_epi32(x, _mm256_setr_epi32(0, e * (1 / w), e * (2 / w), e * (3 / w),
                                               e * (4 / w), e * (5 / w), e * (6 / w), e * (7 / w)));
    const __m128i four = _mm_or_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    if constexpr (kWords == 4) {
      store_16(four, out);
    } else {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out),
                       _mm_or_si128(four, _mm_unpackhi_epi64(four, four)));
    }
  }
  /// Lane l takes x[l] + x[l ^ kSpan] where bit kSpan of l is clear, x[l ^ kSpan] - x[l] where set.
  /// The multiply-add by 1 or -1 rounds once, as the sum or difference does.
  template <int kSpan>
  static Float butterfly(Float x) {
    constexpr int kUpper = kSpan == 1 ? 0xaa : kSpan == 2 ? 0xcc : 0xf0;
    Float y;
    if constexpr (kSpan == 1) {
      y = _mm256_permute_ps(x, 0xb1);
    } else if constexpr (kSpan == 2) {
      y = _mm256_permute_ps(x, 0x4e);
    } else {
      y = _mm256_permute2f128_ps(x, x, 1);
    }
    return _mm256_fmadd_ps(x, _mm256_blend_ps(set(1.0f), set(-1.0f), kUpper), y);
  }
};

}  // namespace

namespace avx2 {

RILLKV_DEFINE_PACK_KERNELS(Avx2)

}  // namespace avx2
}  // namespace rillkv::kernels::cpu
