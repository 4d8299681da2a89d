// AVX-512 (F, BW, DQ, VL, VBMI, VNNI, BF16) and F16C as the vocabulary of generic/simd_concept.h,
// which says what each operation does. Included by avx512/ only.
#pragma once

// GCC 12's own header leaves the registers of _mm512_undefined_* uninitialised on purpose and then
// warns wherever they are inlined (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/generic/exponential.h"
#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/lanes128.h"
#include "kernels/cpu/generic/simd_concept.h"
#include "kernels/cpu/generic/vector_ops.h"
#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu::avx512 {

struct Registers {
  using F = __m512;
  using I = __m512i;
};

struct Simd : VectorOps<Registers> {
  static constexpr int kLanes = 16;
  using H = __m256i;
  using Part = __mmask16;
  static constexpr int kExact = _MM_FROUND_NO_EXC;

  // ---- constants ----
  static F set1(float x) { return _mm512_set1_ps(x); }
  static I set1_int(int32_t x) { return _mm512_set1_epi32(x); }
  static Part part(int count) {
    return count >= kLanes ? static_cast<Part>(0xffff)
                           : static_cast<Part>((1u << (count > 0 ? count : 0)) - 1u);
  }

  // ---- memory ----
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_part(const float* p, Part part) { return _mm512_maskz_loadu_ps(part, p); }
  static F load_part_or(const float* p, Part part, F other) {
    return _mm512_mask_loadu_ps(other, part, p);
  }
  static F load_once(const float* p) {
    F x = _mm512_loadu_ps(p);
    asm("" : "+v"(x));
    return x;
  }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void store_part(float* p, F x, Part part) { _mm512_mask_storeu_ps(p, part, x); }
  static I load_int(const void* p) { return _mm512_loadu_si512(p); }
  static void store_int(void* p, I x) { _mm512_storeu_si512(p, x); }
  // In assembly because GCC otherwise folds the load into every one of the multiply-adds that use
  // it, four loads for one.
  static I broadcast(const uint32_t* p) {
    I x;
    asm("vpbroadcastd %1, %0" : "=v"(x) : "m"(*p));
    return x;
  }
  static F broadcast_float(const float* p) {
    F x;
    asm("vbroadcastss %1, %0" : "=v"(x) : "m"(*p));
    return x;
  }
  static I load_bytes(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_bytes(uint8_t* p, I x) { cpu::store_16(p, _mm512_cvtepi32_epi8(x)); }
  static H load_16(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static H load_16_part(const uint16_t* p, Part part) { return _mm256_maskz_loadu_epi16(part, p); }
  static void store_16(uint16_t* p, H x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static void store_16_part(uint16_t* p, H x, Part part) { _mm256_mask_storeu_epi16(p, part, x); }
  static I choose_bits(I mask, I a, I b) { return _mm512_ternarylogic_epi32(a, b, mask, 0xE4); }
  template <int kWords>
  static I repeat_words(const uint8_t* p) {
    [[maybe_unused]] const auto* words = reinterpret_cast<const __m128i*>(p);
    if constexpr (kWords == 1) return _mm512_broadcastd_epi32(_mm_loadu_si32(p));
    if constexpr (kWords == 2) return _mm512_broadcastq_epi64(_mm_loadl_epi64(words));
    if constexpr (kWords == 4) return _mm512_broadcast_i32x4(_mm_loadu_si128(words));
    if constexpr (kWords == 8) {
      return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
  }
  static I gather_words(const uint8_t* base, I word_index) {
    return _mm512_i32gather_epi32(word_index, reinterpret_cast<const int*>(base), 4);
  }
  // Inlined by force: GCC 12 may otherwise find a function that does nothing, and drop its calls.
  static RILLKV_INLINE void prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
  }

  // ---- arithmetic ----
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | kExact); }
  static I round_to_int(F x) {
    return _mm512_cvt_roundps_epi32(x, _MM_FROUND_TO_NEAREST_INT | kExact);
  }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  static F infinity_if_zero(F x) {
    return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_EQ_OQ),
                              set1(__builtin_inff()));
  }
  static F keep(F x, Part part) { return _mm512_maskz_mov_ps(part, x); }
  static F hide_after(F x, const int32_t* index, int32_t limit) {
    const __mmask16 hidden = _mm512_cmpgt_epi32_mask(load_int(index), set1_int(limit));
    return _mm512_mask_blend_ps(hidden, x, set1(-__builtin_inff()));
  }
  static uint32_t less_bits(F a, F b) {
    return static_cast<uint32_t>(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ));
  }
  static F choose(uint32_t bits, F a, F b) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), b, a);
  }
  static int count_outside(F x, F lo, F hi) {
    return __builtin_popcount(static_cast<unsigned>(_mm512_cmp_ps_mask(x, lo, _CMP_LT_OQ)) |
                              static_cast<unsigned>(_mm512_cmp_ps_mask(x, hi, _CMP_GT_OQ)));
  }
  static float first_lane(F x) { return _mm512_cvtss_f32(x); }
  static float reduce_add(F x) { return _mm512_reduce_add_ps(x); }
  static float reduce_min(F x) { return _mm512_reduce_min_ps(x); }
  static float reduce_max(F x) { return _mm512_reduce_max_ps(x); }
  static float fold16(const F* sums) {
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(sums[0]), _mm512_extractf32x8_ps(sums[0], 1));
    return add_four(_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
  }

  // ---- numbers of 16 bits ----
  static I widen(H x) { return _mm512_cvtepu16_epi32(x); }
  static H narrow(I x) { return _mm512_cvtepi32_epi16(x); }
  static H to_half_down(F x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEG_INF | kExact); }
  static H to_half_up(F x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_POS_INF | kExact); }
  static H to_half(F x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | kExact); }
  // NaN ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1). Not the instruction, which takes
  // subnormal numbers for zero.
  static I bfloat16_bits(F x) {
    const I bits = as_int(x);
    const I half = add_int(bit_and(shift_right(bits, 16), set1_int(1)), set1_int(0x7fff));
    return _mm512_mask_or_epi32(add_int(bits, half), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits,
                                set1_int(0x400000));
  }
  static H to_bfloat16(F x) { return narrow(shift_right(bfloat16_bits(x), 16)); }
  static F from_half(H x) { return _mm512_cvtph_ps(x); }
  static float half_to_float(uint16_t x) { return _cvtsh_ss(x); }

  // ---- bits ----
  static I max_unsigned(I a, I b) { return _mm512_max_epu32(a, b); }
  static I greater(I a, I b) { return _mm512_movm_epi32(_mm512_cmpgt_epi32_mask(a, b)); }
  static I shift_right(I x, int n) { return _mm512_srli_epi32(x, static_cast<unsigned>(n)); }
  static I shift_left(I x, int n) { return _mm512_slli_epi32(x, static_cast<unsigned>(n)); }
  static I shift_right_each(I x, I n) { return _mm512_srlv_epi32(x, n); }
  static I shift_left_each(I x, I n) { return _mm512_sllv_epi32(x, n); }
  template <int kBits>
  static I append(I words, I x, I mask) {  // 0xf8 is the truth table of a | (b & c)
    return _mm512_ternarylogic_epi32(_mm512_slli_epi32(words, kBits), x, mask, 0xf8);
  }

  // ---- codes of 4 bits ----
  /// A 16-entry table in one register: vpermps reads 4 bits.
  struct Affine {
    F table;
    Affine(float lo, float step)
        : table(
              _mm512_fmadd_ps(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                              _mm512_set1_ps(step), _mm512_set1_ps(lo))) {}
    F operator()(I codes) const { return _mm512_permutexvar_ps(codes, table); }
  };
  struct Scaled {
    Affine table;
    explicit Scaled(float step) : table(0.0f, step) {}
    F operator()(I codes, F high) const { return _mm512_add_ps(table(codes), high); }
  };
  static F low_bits(I x, int mask) { return to_float(bit_and(x, set1_int(mask))); }

  // ---- shuffles ----
  template <int kSpan>
  static F exchange(F x) {
    if constexpr (kSpan == 1) return _mm512_permute_ps(x, 0xB1);
    if constexpr (kSpan == 2) return _mm512_permute_ps(x, 0x4E);
    if constexpr (kSpan == 4) return _mm512_shuffle_f32x4(x, x, 0xB1);
    if constexpr (kSpan == 8) return _mm512_shuffle_f32x4(x, x, 0x4E);
  }
  static F repeat_each4(const float* p) {
    const F four = _mm512_broadcast_f32x4(_mm_loadu_ps(p));
    return _mm512_permutevar_ps(four,
                                _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
  }
  static void unzip4(const float* p, F (&out)[4]) {
    // A 4 x 4 transpose of 128-bit lanes, then one of dwords within each: lane q of `quads[i]` is
    // quad 4 q + i.
    const F a = load(p), b = load(p + 16), c = load(p + 32), d = load(p + 48);
    const F ab_even = _mm512_shuffle_f32x4(a, b, 0x88), ab_odd = _mm512_shuffle_f32x4(a, b, 0xDD);
    const F cd_even = _mm512_shuffle_f32x4(c, d, 0x88), cd_odd = _mm512_shuffle_f32x4(c, d, 0xDD);
    const F quads[4] = {
        _mm512_shuffle_f32x4(ab_even, cd_even, 0x88), _mm512_shuffle_f32x4(ab_odd, cd_odd, 0x88),
        _mm512_shuffle_f32x4(ab_even, cd_even, 0xDD), _mm512_shuffle_f32x4(ab_odd, cd_odd, 0xDD)};
    const F low01 = _mm512_unpacklo_ps(quads[0], quads[1]);
    const F high01 = _mm512_unpackhi_ps(quads[0], quads[1]);
    const F low23 = _mm512_unpacklo_ps(quads[2], quads[3]);
    const F high23 = _mm512_unpackhi_ps(quads[2], quads[3]);
    out[0] = _mm512_shuffle_ps(low01, low23, 0x44);
    out[1] = _mm512_shuffle_ps(low01, low23, 0xEE);
    out[2] = _mm512_shuffle_ps(high01, high23, 0x44);
    out[3] = _mm512_shuffle_ps(high01, high23, 0xEE);
  }
  static void transpose(I (&x)[16]) {
    I y[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {  // pairs of rows
      y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
      y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // quads of rows: 128-bit lane l of x[4i+j] is column 4l+j
      x[4 * i] = _mm512_unpacklo_epi64(y[4 * i], y[4 * i + 2]);
      x[4 * i + 1] = _mm512_unpackhi_epi64(y[4 * i], y[4 * i + 2]);
      x[4 * i + 2] = _mm512_unpacklo_epi64(y[4 * i + 1], y[4 * i + 3]);
      x[4 * i + 3] = _mm512_unpackhi_epi64(y[4 * i + 1], y[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {                              // a 4 x 4 transpose of 128-bit lanes
      const I a = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88);  // lanes 0 2 of rows 0-3, 4-7
      const I b = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xDD);  // lanes 1 3
      const I c = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);  // rows 8-11, 12-15
      const I d = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xDD);
      y[j] = _mm512_shuffle_i32x4(a, c, 0x88);       // column j
      y[8 + j] = _mm512_shuffle_i32x4(a, c, 0xDD);   // column 8 + j
      y[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);   // column 4 + j
      y[12 + j] = _mm512_shuffle_i32x4(b, d, 0xDD);  // column 12 + j
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) x[i] = y[i];
  }
  static void store_columns(const uint32_t* words, uint8_t* const* at, int offset) {
    const I a = _mm512_load_si512(words), b = _mm512_load_si512(words + 16);
    const I c = _mm512_load_si512(words + 32), d = _mm512_load_si512(words + 48);
    const I ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
    const I cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
    const auto store_quarters = [&](I x, uint8_t* const* to) {
      cpu::store_16(to[0] + offset, _mm512_castsi512_si128(x));
      cpu::store_16(to[4] + offset, _mm512_extracti32x4_epi32(x, 1));
      cpu::store_16(to[8] + offset, _mm512_extracti32x4_epi32(x, 2));
      cpu::store_16(to[12] + offset, _mm512_extracti32x4_epi32(x, 3));
    };
    store_quarters(_mm512_unpacklo_epi64(ab_low, cd_low), at);
    store_quarters(_mm512_unpackhi_epi64(ab_low, cd_low), at + 1);
    store_quarters(_mm512_unpacklo_epi64(ab_high, cd_high), at + 2);
    store_quarters(_mm512_unpackhi_epi64(ab_high, cd_high), at + 3);
  }
  template <int kWords>
  static void store_folded(uint8_t* out, I x) {
    static_assert(kWords == 2 || kWords == 4 || kWords == 8);
    const __m256i eight =
        _mm256_or_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    if constexpr (kWords == 8) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), eight);
    } else {
      store_words<kWords>(
          out, _mm_or_si128(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1)));
    }
  }
};
static_assert(SimdVocabulary<Simd>);

/// 24 accumulators of 6 x 4 registers leave 4 for the panel, 1 for the broadcast and hide the
/// latency of 4 cycles at one multiply-add a cycle with room to spare.
struct Microtile {
  static constexpr int kMicroRows = 6;
  static constexpr int kPanelVectors = 4;
};

/// fp32 tiles: a dword is one float, one multiply-add a dword.
struct Fp32 : Simd, Microtile {
  static constexpr int kPack = 1;
  static constexpr int kTileTokens = 256;

  static void store_pair(uint32_t* first, uint32_t* second, F a, F b) {
    store_int(first, as_int(a));
    store_int(second, as_int(b));
  }
  static F dot(F sum, I a, I b) { return fma(as_float(a), as_float(b), sum); }

  /// Relative error 1e-7; the exponent add underflows to 0 as it should.
  static F exp2(F x) {
    const F n = round(x);
    // -inf - -inf is NaN; the clamp makes it -inf + 1e30, whose power of two is scaled to 0 anyway.
    const F f = sub(max(x, set1(-1.0e4f)), max(n, set1(-1.0e4f)));
    return _mm512_scalef_ps(exp2_fraction<Simd>(f), n);
  }
};
static_assert(TileArithmetic<Fp32>);

/// bf16 tiles: a dword is two bf16 values, two multiply-adds a dword (vdpbf16ps).
struct Bf16 : Simd, Microtile {
  static constexpr int kPack = 2;
  static constexpr int kTileTokens = 512;

  static I pack_pair(F a, F b) {
    const I halves = (I)_mm512_cvtne2ps_pbh(b, a);
    const I interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, halves);
  }
  static I pack_row(F first, F second) { return (I)_mm512_cvtne2ps_pbh(second, first); }
  static void store_pair(uint32_t* first, uint32_t*, F a, F b) {
    store_int(first, pack_pair(a, b));
  }
  static F dot(F sum, I a, I b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

  /// A 32-entry table of bf16 in one register, a's values below and b's above: one vpermw for 32
  /// values.
  struct PairTable {
    I table;
    PairTable(float lo_a, float step_a, float lo_b, float step_b)
        : table((I)_mm512_cvtne2ps_pbh(Affine(lo_b, step_b).table, Affine(lo_a, step_a).table)) {}
    I operator()(I words) const {
      // (words & 0x000f000f) | 0x00100000: bit 4 of the index chooses b's half
      const I index =
          _mm512_ternarylogic_epi32(words, set1_int(0x000f000f), set1_int(0x00100000), 0xEA);
      return _mm512_permutexvar_epi16(index, table);
    }
  };
  static I low_words(I a, I b) {
    return _mm512_mask_blend_epi16(0xAAAAAAAA, a, _mm512_slli_epi32(b, 16));
  }
  static I high_words(I a, I b) {
    return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(a, 16), b);
  }

  /// Relative error 8e-5 (bf16 keeps 2e-3): vscalef multiplies by 2^floor(x), so a cubic in x -
  /// floor(x) is all that is left (minimax). 2^-inf = 0.
  static F exp2(F x) {
    const F f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    F y = fma(f, set1(7.802451e-2f), set1(2.2606717e-1f));
    y = fma(y, f, set1(6.9583354e-1f));
    y = fma(y, f, set1(9.9992522e-1f));
    return _mm512_scalef_ps(y, x);
  }
};
static_assert(TileArithmetic<Bf16> && PairedArithmetic<Bf16>);

}  // namespace rillkv::kernels::cpu::avx512
