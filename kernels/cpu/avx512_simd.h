// AVX-512 under the names that the tiled attention (attention_tiles.h, attention_tiled.h) is
// written in. Included by avx512_*.cpp only.
#pragma once

// GCC 12 takes the deliberately undefined operands inside its own intrinsics for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/avx512_decode.h"
#include "kernels/params.h"

namespace rillkv::kernels::cpu::avx512 {

struct Simd {
  static constexpr int kLanes = 16;
  // Microkernel: 6 rows x 4 registers are 24 accumulators, which leaves 4 for the panel, 1 for the
  // broadcast and hides the latency of 4 cycles at one multiply-add a cycle with room to spare.
  static constexpr int kMicroRows = 6;
  static constexpr int kPanelVectors = 4;
  static constexpr int kPanel = kPanelVectors * kLanes;
  using F = __m512;
  using I = __m512i;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  /// One dword to all lanes. In assembly because GCC otherwise folds the load into every one of the
  /// multiply-adds that use it, four loads for one.
  static I broadcast(const uint32_t* p) {
    I x;
    asm("vpbroadcastd %1, %0" : "=v"(x) : "m"(*p));
    return x;
  }
  /// A load that stays one load, however often the value is used (see broadcast).
  static F load_once(const float* p) {
    F x = _mm512_loadu_ps(p);
    asm("" : "+v"(x));
    return x;
  }
  static I load_int(const void* p) { return _mm512_loadu_si512(p); }
  static void store_int(void* p, I x) { _mm512_storeu_si512(p, x); }
  static I set1_int(int32_t x) { return _mm512_set1_epi32(x); }
  static I zero_int() { return _mm512_setzero_si512(); }
  static F as_float(I x) { return _mm512_castsi512_ps(x); }
  static I as_int(F x) { return _mm512_castps_si512(x); }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
  static F fms(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }    // a b - c
  static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
  static float reduce_max(F x) { return _mm512_reduce_max_ps(x); }
  static float reduce_add(F x) { return _mm512_reduce_add_ps(x); }
  static float first_lane(F x) { return _mm512_cvtss_f32(x); }

  static I bit_or(I a, I b) { return _mm512_or_si512(a, b); }
  static I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
  static I shift_right(I x, int n) { return _mm512_srli_epi32(x, static_cast<unsigned>(n)); }
  static I shift_left(I x, int n) { return _mm512_sll_epi32(x, _mm_cvtsi32_si128(n)); }
  static I shift_right_each(I x, I n) { return _mm512_srlv_epi32(x, n); }

  /// The first `count` elements of p, zero beyond; reads nothing past them.
  static __mmask16 first(int count) {
    return count >= 16 ? static_cast<__mmask16>(0xffff)
                       : static_cast<__mmask16>((1u << (count > 0 ? count : 0)) - 1u);
  }
  static F load_first(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
  static void store_first(float* p, F x, int count) { _mm512_mask_storeu_ps(p, first(count), x); }

  /// Up to 16 elements of a row in `dtype` from element `begin` on, zero beyond `end`.
  static F load_row(const void* row, Dtype dtype, int begin, int end) {
    const __mmask16 mask = first(end - begin);
    if (dtype == Dtype::kFloat32) {
      return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(row) + begin);
    }
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(row) + begin);
    if (dtype == Dtype::kFloat16) return _mm512_cvtph_ps(bits);
    return as_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static void store_row(void* row, Dtype dtype, int begin, int end, F x) {
    const __mmask16 mask = first(end - begin);
    if (dtype == Dtype::kFloat32) {
      _mm512_mask_storeu_ps(static_cast<float*>(row) + begin, mask, x);
      return;
    }
    const __m256i bits = dtype == Dtype::kFloat16
                             ? _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
                             : (__m256i)_mm512_cvtneps_pbh(x);
    _mm256_mask_storeu_epi16(static_cast<uint16_t*>(row) + begin, mask, bits);
  }
  static F load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static float half_to_float(uint16_t x) { return _cvtsh_ss(x); }

  /// Words of a plane of kWords 32-bit words, repeated to fill a register (kWords < 16).
  template <int kWords>
  static I repeat_words(const uint8_t* p) {
    if constexpr (kWords == 1) {
      int32_t word;
      __builtin_memcpy(&word, p, 4);
      return _mm512_set1_epi32(word);
    } else if constexpr (kWords == 2) {
      int64_t words;
      __builtin_memcpy(&words, p, 8);
      return _mm512_set1_epi64(words);
    } else if constexpr (kWords == 4) {
      return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    } else if constexpr (kWords == 8) {
      return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    } else {
      return _mm512_loadu_si512(p);
    }
  }
  static I gather_words(const uint8_t* base, I word_index) {
    return _mm512_i32gather_epi32(word_index, reinterpret_cast<const int*>(base), 4);
  }
  static F gather_floats(const float* base, I index) { return _mm512_i32gather_ps(index, base, 4); }

  /// lo + step * code for the codes in the low 4 bits of each lane; what lies above is ignored: a
  /// 16-entry table in one register, and vpermps reads 4 bits.
  struct Affine {
    F table;
    Affine(float lo, float step)
        : table(
              _mm512_fmadd_ps(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                              _mm512_set1_ps(step), _mm512_set1_ps(lo))) {}
    F operator()(I codes) const { return _mm512_permutexvar_ps(codes, table); }
  };
  /// low + table[codes]: the second plane of a wide code.
  struct Scaled {
    Affine table;
    explicit Scaled(float step) : table(0.0f, step) {}
    F operator()(I codes, F high) const { return _mm512_add_ps(table(codes), high); }
  };
  /// Codes in the low `bits` bits of each lane, as floats.
  static F low_bits(I x, int mask) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(x, _mm512_set1_epi32(mask)));
  }

  /// x with lanes i and i ^ kSpan exchanged.
  template <int kSpan>
  static F exchange(F x) {
    if constexpr (kSpan == 1) return _mm512_permute_ps(x, 0xB1);
    if constexpr (kSpan == 2) return _mm512_permute_ps(x, 0x4E);
    if constexpr (kSpan == 4) return _mm512_shuffle_f32x4(x, x, 0xB1);
    if constexpr (kSpan == 8) return _mm512_shuffle_f32x4(x, x, 0x4E);
  }

  /// x where index <= limit, -infinity elsewhere.
  static F hide_after(F x, const int32_t* index, int32_t limit) {
    const __mmask16 hidden = _mm512_cmpgt_epi32_mask(load_int(index), set1_int(limit));
    return _mm512_mask_blend_ps(hidden, x, set1(-__builtin_inff()));
  }

  /// 16 x 16 dwords, row r of the input becomes lane r of the outputs.
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

  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
};

/// fp32 tiles: a dword is one float, one multiply-add a dword.
struct Fp32 : Simd {
  static constexpr int kPack = 1;  // values in a dword
  static constexpr bool kStreams = false;
  static constexpr int kTileTokens = 256;

  static void store_pair(uint32_t* first, uint32_t* second, F a, F b) {
    store_int(first, as_int(a));
    store_int(second, as_int(b));
  }
  static F dot(F sum, I a, I b) { return fma(as_float(a), as_float(b), sum); }

  /// 2^x for x <= 0, relative error 1e-7: a polynomial in x - round(x) and an exponent add that
  /// underflows to 0 as it should (minimax, degree 6).
  static F exp2(F x) {
    const F n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // -inf - -inf is NaN; the clamp makes it -inf + 1e30, whose power of two is scaled to 0 anyway.
    const F f = _mm512_sub_ps(_mm512_max_ps(x, set1(-1.0e4f)), _mm512_max_ps(n, set1(-1.0e4f)));
    F y = fma(f, set1(1.53458113e-4f), set1(1.33999312e-3f));
    y = fma(y, f, set1(9.61848896e-3f));
    y = fma(y, f, set1(5.55032878e-2f));
    y = fma(y, f, set1(2.40226469e-1f));
    y = fma(y, f, set1(6.93147206e-1f));
    y = fma(y, f, set1(1.0f));
    return _mm512_scalef_ps(y, n);
  }
};

/// bf16 tiles: a dword is two bf16 values, two multiply-adds a dword (vdpbf16ps).
struct Bf16 : Simd {
  static constexpr int kPack = 2;
  static constexpr bool kStreams = true;  // see avx512_decode.h
  static constexpr int kTileTokens = 512;
  using Rows = avx512::Rows;
  static constexpr int kMaxStreamedRows = avx512::kMaxStreamedRows;
  static size_t streaming_bytes(const AttentionParams& params) {
    return avx512::streaming_bytes(params);
  }
  static void start_streaming(const AttentionParams& params, int rows, void* scratch) {
    avx512::start_streaming(params, rows, scratch);
  }
  static bool add_block_streaming(const AttentionParams& params, int n, int64_t entry,
                                  int64_t ahead, const Rows& rows) {
    return avx512::add_block_streaming(params, n, entry, ahead, rows);
  }

  /// (a, b) of each lane as one dword, a in the low half.
  static I pack_pair(F a, F b) {
    const I halves = (I)_mm512_cvtne2ps_pbh(b, a);
    const I interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, halves);
  }
  /// lo + step * code for two rows of 4-bit fields at once, as dwords (a, b) of bf16: a 32-entry
  /// table of bf16 in one register, a's values below and b's above, one vpermw for 32 values.
  struct PairTable {
    I table;
    PairTable(float lo_a, float step_a, float lo_b, float step_b)
        : table((I)_mm512_cvtne2ps_pbh(Affine(lo_b, step_b).table, Affine(lo_a, step_a).table)) {}
    /// `words`: the field of a in the low 4 bits of the low word of each lane, b's in the high
    /// word.
    I operator()(I words) const {
      // (words & 0x000f000f) | 0x00100000: bit 4 of the index chooses b's half
      const I index =
          _mm512_ternarylogic_epi32(words, set1_int(0x000f000f), set1_int(0x00100000), 0xEA);
      return _mm512_permutexvar_epi16(index, table);
    }
  };
  /// Low words of each lane: fields 0..3 of a below those of b; high words: fields 4..7.
  static I low_words(I a, I b) {
    return _mm512_mask_blend_epi16(0xAAAAAAAA, a, _mm512_slli_epi32(b, 16));
  }
  static I high_words(I a, I b) {
    return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(a, 16), b);
  }
  /// 32 consecutive values as 16 dwords.
  static I pack_row(F first, F second) { return (I)_mm512_cvtne2ps_pbh(second, first); }
  static void store_pair(uint32_t* first, uint32_t*, F a, F b) {
    store_int(first, pack_pair(a, b));
  }
  static F dot(F sum, I a, I b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

  /// 2^x for x <= 0, relative error 8e-5 (bf16 keeps 2e-3): vscalef multiplies by 2^floor(x), so a
  /// cubic in x - floor(x) is all that is left (minimax). 2^-inf = 0.
  static F exp2(F x) {
    const F f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    F y = fma(f, set1(7.802451e-2f), set1(2.2606717e-1f));
    y = fma(y, f, set1(6.9583354e-1f));
    y = fma(y, f, set1(9.9992522e-1f));
    return _mm512_scalef_ps(y, x);
  }
};

}  // namespace rillkv::kernels::cpu::avx512
