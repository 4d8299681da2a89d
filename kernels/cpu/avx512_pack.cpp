// Statistics and packers for AVX-512 (F, BW, DQ, VL) and F16C: 16 lanes. The algorithm is in
// simd_pack.h.

// GCC 12's own header leaves the registers of _mm512_undefined_* uninitialised on purpose and then
// warns wherever they are inlined (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd_pack.h"

namespace rillkv::kernels::cpu {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  using Float = __m512;
  using Int = __m512i;
  using Half = __m256i;
  using Part = __mmask16;
  static constexpr int kExact = _MM_FROUND_NO_EXC;

  static Part part(int count) { return static_cast<Part>((1u << count) - 1u); }

  // ---- memory ----
  static Float widen_bfloat16(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  template <Dtype kType>
  static Float load(const void* row, int c) {
    if constexpr (kType == Dtype::kFloat32) {
      return _mm512_loadu_ps(static_cast<const float*>(row) + c);
    } else {
      const __m256i x = _mm256_loadu_si256(
          reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(row) + c));
      return kType == Dtype::kBFloat16 ? widen_bfloat16(x) : _mm512_cvtph_ps(x);
    }
  }
  template <Dtype kType>
  static Float load_part(const void* row, int c, Part part) {
    if constexpr (kType == Dtype::kFloat32) {
      return _mm512_maskz_loadu_ps(part, static_cast<const float*>(row) + c);
    } else {
      const __m256i x = _mm256_maskz_loadu_epi16(part, static_cast<const uint16_t*>(row) + c);
      return kType == Dtype::kBFloat16 ? widen_bfloat16(x) : _mm512_cvtph_ps(x);
    }
  }
  // NaN ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16
  static __m256i to_bfloat16(Float x) {
    const Int bits = _mm512_castps_si512(x);
    const Int top = _mm512_srli_epi32(bits, 16);
    const Int odd = _mm512_and_si512(top, set_int(1));
    const Int rounded =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, set_int(0x7fff))), 16);
    return _mm512_cvtepi32_epi16(
        _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), top, set_int(0x40)));
  }
  template <Dtype kType>
  static void store_as(Float x, void* row, int c) {
    if constexpr (kType == Dtype::kFloat32) {
      _mm512_storeu_ps(static_cast<float*>(row) + c, x);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<uint16_t*>(row) + c),
                          kType == Dtype::kBFloat16 ? to_bfloat16(x) : to_half_nearest(x));
    }
  }
  // Apart from store_as because a masked store costs several times a plain one on some machines.
  template <Dtype kType>
  static void store_part_as(Float x, void* row, int c, Part part) {
    if constexpr (kType == Dtype::kFloat32) {
      _mm512_mask_storeu_ps(static_cast<float*>(row) + c, part, x);
    } else {
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(row) + c, part,
                               kType == Dtype::kBFloat16 ? to_bfloat16(x) : to_half_nearest(x));
    }
  }
  static Float load(const float* x) { return _mm512_loadu_ps(x); }
  static Float load_or(const float* x, Part part, Float other) {
    return _mm512_mask_loadu_ps(other, part, x);
  }
  static Float load_aligned(const float* x) { return _mm512_load_ps(x); }
  static Int load_aligned(const int32_t* x) { return _mm512_load_si512(x); }
  static void store(Float x, float* out) { _mm512_storeu_ps(out, x); }
  static void store_part(Float x, float* out, Part part) { _mm512_mask_storeu_ps(out, part, x); }
  static void store_words(Int x, uint32_t* out) { _mm512_storeu_si512(out, x); }
  static void store_half_part(Half x, uint16_t* out, Part part) {
    _mm256_mask_storeu_epi16(out, part, x);
  }
  static Int load_bytes(const uint8_t* x) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  }
  static void store_bytes(Int x, uint8_t* out) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(x));
  }

  // ---- arithmetic ----
  static Float set(float x) { return _mm512_set1_ps(x); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
  static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Int round(Float x) {
    return _mm512_cvt_roundps_epi32(x, _MM_FROUND_TO_NEAREST_INT | kExact);
  }
  static Float round_float(Float x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | kExact);
  }
  static Float to_float(Int x) { return _mm512_cvtepi32_ps(x); }
  static Half to_half_down(Float x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEG_INF | kExact); }
  static Half to_half_up(Float x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_POS_INF | kExact); }
  static Half to_half_nearest(Float x) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | kExact);
  }
  static uint16_t first_half(Half x) {
    return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm256_castsi256_si128(x)));
  }
  static Float from_half(Half x) { return _mm512_cvtph_ps(x); }
  static Float infinity_if_zero(Float x) {
    return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_EQ_OQ),
                              set(float_from_bits(0x7f800000u)));
  }
  static int count_outside(Float x, Float lo, Float hi) {
    return __builtin_popcount(static_cast<unsigned>(_mm512_cmp_ps_mask(x, lo, _CMP_LT_OQ)) |
                              static_cast<unsigned>(_mm512_cmp_ps_mask(x, hi, _CMP_GT_OQ)));
  }
  static Float keep(Float x, Part part) { return _mm512_maskz_mov_ps(part, x); }
  static float min_of(Float x) { return _mm512_reduce_min_ps(x); }
  static float max_of(Float x) { return _mm512_reduce_max_ps(x); }
  /// sums[l] += sums[l + 8], + 4, + 2, + 1
  static float fold16(const Float* sums) {
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(sums[0]), _mm512_extractf32x8_ps(sums[0], 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  // ---- bits ----
  static Int zero_int() { return _mm512_setzero_si512(); }
  static Int set_int(int32_t x) { return _mm512_set1_epi32(x); }
  static Int bits(Float x) { return _mm512_castps_si512(x); }
  static Float floats(Int x) { return _mm512_castsi512_ps(x); }
  static Int bit_and(Int a, Int b) { return _mm512_and_si512(a, b); }
  static Int bit_or(Int a, Int b) { return _mm512_or_si512(a, b); }
  static Int and_not(Int a, Int b) { return _mm512_andnot_si512(a, b); }
  static Int max_unsigned(Int a, Int b) { return _mm512_max_epu32(a, b); }
  static Int greater(Int a, Int b) { return _mm512_movm_epi32(_mm512_cmpgt_epi32_mask(a, b)); }
  static Int shift_right(Int x, Int counts) { return _mm512_srlv_epi32(x, counts); }
  static Int shift_right_all(Int x, int count) {
    return _mm512_srl_epi32(x, _mm_cvtsi32_si128(count));
  }
  template <int kBits>
  static Int shift_left(Int x) {
    return _mm512_slli_epi32(x, kBits);
  }
  /// acc << kBits | (x & mask); 0xf8 is the truth table of a | (b & c).
  template <int kBits>
  static Int append(Int acc, Int x, Int mask) {
    return _mm512_ternarylogic_epi32(_mm512_slli_epi32(acc, kBits), x, mask, 0xf8);
  }

  // ---- shuffles ----
  /// Registers of four consecutive words, one lane a channel, to `at[channel] + offset`.
  static void store_transposed(const uint32_t* words, uint8_t* const* at, int offset) {
    const Int a = _mm512_load_si512(words), b = _mm512_load_si512(words + 16);
    const Int c = _mm512_load_si512(words + 32), d = _mm512_load_si512(words + 48);
    const Int ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
    const Int cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
    store_quarters(_mm512_unpacklo_epi64(ab_low, cd_low), at, offset);
    store_quarters(_mm512_unpackhi_epi64(ab_low, cd_low), at + 1, offset);
    store_quarters(_mm512_unpacklo_epi64(ab_high, cd_high), at + 2, offset);
    store_quarters(_mm512_unpackhi_epi64(ab_high, cd_high), at + 3, offset);
  }
  static void store_quarters(Int x, uint8_t* const* at, int offset) {
    store_16(_mm512_castsi512_si128(x), at[0] + offset);
    store_16(_mm512_extracti32x4_epi32(x, 1), at[4] + offset);
    store_16(_mm512_extracti32x4_epi32(x, 2), at[8] + offset);
    store_16(_mm512_extracti32x4_epi32(x, 3), at[12] + offset);
  }
  static void store_16(__m128i x, uint8_t* at) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), x);
  }
  /// Lane l holds an element that belongs kElementBits * (l / kWords) bits higher in word l %
  /// kWords.
  template <int kWords, int kElementBits>
  static void store_folded(Int x, uint8_t* out) {
    static_assert(kWords == 2 || kWords == 4 || kWords == 8);
    constexpr int e = kElementBits, w = kWords;
    const Int counts =
        _mm512_setr_epi32(0, e * (1 / w), e * (2 / w), e * (3 / w), e * (4 / w), e * (5 / w),
                          e * (6 / w), e * (7 / w), e * (8 / w), e * (9 / w), e * (10 / w),
                          e * (11 / w), e * (12 / w), e * (13 / w), e * (14 / w), e * (15 / w));
    x = _mm512_sllv_epi32(x, counts);
    const __m256i eight =
        _mm256_or_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    if constexpr (kWords == 8) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), eight);
    } else {
      const __m128i four =
          _mm_or_si128(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
      if constexpr (kWords == 4) {
        store_16(four, out);
      } else {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out),
                         _mm_or_si128(four, _mm_unpackhi_epi64(four, four)));
      }
    }
  }
  /// Lane l takes x[l] + x[l ^ kSpan] where bit kSpan of l is clear, x[l ^ kSpan] - x[l] where set.
  /// The multiply-add by 1 or -1 rounds once, as the sum or difference does.
  template <int kSpan>
  static Float butterfly(Float x) {
    constexpr __mmask16 kUpper = kSpan == 1   ? 0xaaaa
                                 : kSpan == 2 ? 0xcccc
                                 : kSpan == 4 ? 0xf0f0
                                              : 0xff00;
    Float y;
    if constexpr (kSpan == 1) {
      y = _mm512_permute_ps(x, 0xb1);
    } else if constexpr (kSpan == 2) {
      y = _mm512_permute_ps(x, 0x4e);
    } else if constexpr (kSpan == 4) {
      y = _mm512_shuffle_f32x4(x, x, 0xb1);
    } else {
      y = _mm512_shuffle_f32x4(x, x, 0x4e);
    }
    return _mm512_fmadd_ps(x, _mm512_mask_blend_ps(kUpper, set(1.0f), set(-1.0f)), y);
  }
};

}  // namespace

namespace avx512 {

RILLKV_DEFINE_PACK_KERNELS(Avx512)

}  // namespace avx512
}  // namespace rillkv::kernels::cpu
