// The second half of decode.cpp: weights times values. p step is rounded to 15 bits in a
// unit of the block, split in two signed bytes, and vpdpbusd sums four tokens a lane. Rounding p
// step rather than p wastes no bits on tokens of large step. Codes are unpacked once for all rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/avx512/decode/pairs.h"
#include "kernels/cpu/generic/online_softmax.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

constexpr float kMaxWeight = 32600.0f;  // + 128 for the split into bytes stays below 2^15

/// Weights p step of a block as signed bytes (256 high + low), and what the offsets add.
struct alignas(64) ValueWeights {
  // [token / 4][lane quad: a quarter of the channels][token % 4]
  int8_t high[kTokens * 4];
  int8_t low[kTokens * 4];
  float unit[4];    // by quarter of the channels
  float offset[4];  // sum_j p_j lo_j
};

void prepare_values(const AttentionParams& params, const uint8_t* block, const float* p,
                    ValueWeights& out) {
  const int groups = params.prefix.value_groups;
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step = lo + groups * kTokens;
  // Of 32 dwords: the second bytes, then (upper half) the first bytes, with their top bit flipped.
  alignas(64) static constexpr uint8_t kBytes[64] = {
      1,  5,  9,  13, 17, 21, 25, 29, 33, 37,  41,  45,  49,  53,  57,  61,
      65, 69, 73, 77, 81, 85, 89, 93, 97, 101, 105, 109, 113, 117, 121, 125,
      0,  4,  8,  12, 16, 20, 24, 28, 32, 36,  40,  44,  48,  52,  56,  60,
      64, 68, 72, 76, 80, 84, 88, 92, 96, 100, 104, 108, 112, 116, 120, 124};
  const I bytes = _mm512_load_si512(kBytes);
  const I flip = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi8(-128), 1);
  F weight[2][8], inverse[2];
  for (int g = 0; g < 2; ++g) {
    if (g == groups) {  // one group: the second half of the channels has the same
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) weight[1][i] = weight[0][i];
      inverse[1] = inverse[0];
      out.unit[2] = out.unit[3] = out.unit[0];
      out.offset[2] = out.offset[3] = out.offset[0];
      break;
    }
    F most = _mm512_setzero_ps(), offset = most;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const F x = _mm512_loadu_ps(p + 16 * i);
      weight[g][i] = _mm512_mul_ps(x, load_halves(step + g * kTokens + 16 * i));
      most = _mm512_max_ps(most, weight[g][i]);
      offset = _mm512_fmadd_ps(x, load_halves(lo + g * kTokens + 16 * i), offset);
    }
    const float largest = _mm512_reduce_max_ps(most);
    inverse[g] = _mm512_set1_ps(largest > 1.0e-30f ? kMaxWeight / largest : 0.0f);
    out.unit[2 * g] = out.unit[2 * g + 1] = largest / kMaxWeight;
    out.offset[2 * g] = out.offset[2 * g + 1] = _mm512_reduce_add_ps(offset);
  }
  const F bias = _mm512_set1_ps(128.0f);
  // The four dwords of a quad of tokens: group 0, 0, 1, 1.
  const I quads = _mm512_setr_epi32(0, 0, 16, 16, 1, 1, 17, 17, 2, 2, 18, 18, 3, 3, 19, 19);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // 32 tokens
    I split[2];                  // 8 dwords of high bytes, 8 of low bytes
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
      // w = 256 high + low with low in -128 .. 127: the bias makes the carry
      const I a = round_to_int(_mm512_fmadd_ps(weight[g][2 * i], inverse[g], bias));
      const I b = round_to_int(_mm512_fmadd_ps(weight[g][2 * i + 1], inverse[g], bias));
      split[g] = _mm512_xor_si512(flip, _mm512_permutex2var_epi8(a, bytes, b));
    }
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {  // four quads of tokens
      const I from_high = _mm512_add_epi32(quads, _mm512_set1_epi32(4 * part));
      const I from_low = _mm512_add_epi32(quads, _mm512_set1_epi32(4 * part + 8));
      const size_t at = static_cast<size_t>(2 * i + part) * 64;
      _mm512_store_si512(out.high + at, _mm512_permutex2var_epi32(split[0], from_high, split[1]));
      _mm512_store_si512(out.low + at, _mm512_permutex2var_epi32(split[0], from_low, split[1]));
    }
  }
}

/// Dword lane i of x[j] gets the bytes of four rows at one place: byte 16 (i / 4) + 4 j + i % 4.
RILLKV_INLINE void interleave(I a, I b, I c, I d, I (&x)[4]) {
  const I ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
  const I cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
  x[0] = _mm512_unpacklo_epi16(ab0, cd0);
  x[1] = _mm512_unpackhi_epi16(ab0, cd0);
  x[2] = _mm512_unpacklo_epi16(ab1, cd1);
  x[3] = _mm512_unpackhi_epi16(ab1, cd1);
}

/// The codes of four tokens as bytes, four tokens a dword, by side: lane i of x[side][j] is channel
/// (D / 4) (i % 4) + 4 (i / 4) + j, for D = 128 and side 1 16 more. (Byte 4 w + r of a row of 128
/// holds the fields 2 r and 2 r + 1 of word w, channels 32 r + w and 32 r + 16 + w; of a row of 64,
/// channel 16 r + w.) Up to 4 bits, the codes of side 1 are left times 16, which saves shifts.
template <int kD, int kWidth>
struct ValueCodes {
  static constexpr int kSides = kD / 64;
  static constexpr float kSideScale[2] = {1.0f, kWidth <= 4 ? 1.0f / 16 : 1.0f};

  Planes at;
  ValueCodes(const uint8_t* block, int groups)
      : at(format::token_planes(block, kTokens, 0, kD, groups, false, kWidth)) {}

  RILLKV_INLINE void next(I (&x)[kSides][4]) {
    const I nibble = _mm512_set1_epi8(15);
    I high[4], low[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      load_codes<Simd, kD>(at, kWidth, 0, high[i], low[i]);
      format::advance(at, kD, kWidth);
    }
    if constexpr (kWidth <= 4) {
      I both[4];
      interleave(high[0], high[1], high[2], high[3], both);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        x[0][j] = _mm512_and_si512(both[j], nibble);
        if constexpr (kSides == 2) x[1][j] = _mm512_andnot_si512(nibble, both[j]);
      }
    } else {  // code = high << (width - 4) | low
#pragma GCC unroll 2
      for (int side = 0; side < kSides; ++side) {
        I bytes[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const I top = _mm512_and_si512(_mm512_srli_epi16(high[i], 4 * side), nibble);
          const I rest = _mm512_srli_epi16(low[i], 4 * side);
          bytes[i] =
              _mm512_ternarylogic_epi32(_mm512_slli_epi16(top, kWidth - 4), rest, nibble, 0xF8);
        }
        interleave(bytes[0], bytes[1], bytes[2], bytes[3], x[side]);
      }
    }
  }
};

/// A value block's codes one register after the other: registers [side][token / 4][j].
template <int kD, int kWidth>
void unpack_values(const uint8_t* block, int groups, Ahead& ahead, uint8_t* out) {
  using Codes = ValueCodes<kD, kWidth>;
  Codes from(block, groups);
  for (int t = 0; t < kTokens; t += 4, out += 256) {
    ahead.step_quad();
    I x[Codes::kSides][4];
    from.next(x);
#pragma GCC unroll 2
    for (int side = 0; side < Codes::kSides; ++side) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j)
        _mm512_store_si512(out + side * 64 * kTokens + 64 * j, x[side][j]);
    }
  }
}

/// Four tokens' weights, for the four quarters of the channels, repeated.
RILLKV_INLINE I weight_bytes(const int8_t* of, int t) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(of + 4 * t)));
}

/// sums = sums * shrink + sum_j p_j v_j of one row and side, whose code sums are given; `scale`: of
/// the codes in them.
template <int kD>
RILLKV_INLINE void finish_values(const I (&high)[4], const I (&low)[4], float scale,
                                 const ValueWeights& weights, int side, float shrink, float* sums) {
  // Channels 4 (i / 4) + j of lanes i of four registers, to natural order: a transpose of 4 x 4
  // within the lanes' quads, then of the quads.
  const F unit =
      _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_broadcast_f32x4(_mm_loadu_ps(weights.unit)));
  const F offset = _mm512_broadcast_f32x4(_mm_loadu_ps(weights.offset));
  F y[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const I w = _mm512_add_epi32(_mm512_slli_epi32(high[j], 8), low[j]);
    y[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(w), unit, offset);
  }
  // z[quarter], lane 4 q + j: channel (D / 4) quarter + 16 side + 4 q + j
  const F a = _mm512_unpacklo_ps(y[0], y[1]), b = _mm512_unpackhi_ps(y[0], y[1]);
  const F c = _mm512_unpacklo_ps(y[2], y[3]), d = _mm512_unpackhi_ps(y[2], y[3]);
  const F z[4] = {_mm512_shuffle_ps(a, c, 0x44), _mm512_shuffle_ps(a, c, 0xEE),
                  _mm512_shuffle_ps(b, d, 0x44), _mm512_shuffle_ps(b, d, 0xEE)};
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    float* to = sums + kD / 4 * quarter + 16 * side;
    _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), _mm512_set1_ps(shrink), z[quarter]));
  }
}

/// sums = sums * shrink + sum_j p_j v_j of R rows and one side of the channels.
template <int kD, int R>
void add_values(const ValueWeights* weights, const uint8_t* codes, float scale, int row, int side,
                const float* shrink, const OnlineSoftmax* rows) {
  I high[R][4], low[R][4];
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) high[r][j] = low[r][j] = _mm512_setzero_si512();
  }
  codes += side * 64 * kTokens;
  for (int t = 0; t < kTokens; t += 4, codes += 256) {
    I x[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) x[j] = _mm512_load_si512(codes + 64 * j);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const I w_high = weight_bytes(weights[row + r].high, t);
      const I w_low = weight_bytes(weights[row + r].low, t);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        high[r][j] = _mm512_dpbusd_epi32(high[r][j], x[j], w_high);
        low[r][j] = _mm512_dpbusd_epi32(low[r][j], x[j], w_low);
      }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
    finish_values<kD>(high[r], low[r], scale, weights[row + r], side, shrink[row + r],
                      rows[row + r].accumulators);
  }
}

/// The same for one row, both sides, straight from the packed codes.
template <int kD, int kWidth>
void add_values_once(const uint8_t* block, int groups, Ahead& ahead, const ValueWeights& weights,
                     float shrink, float* sums) {
  using Codes = ValueCodes<kD, kWidth>;
  Codes from(block, groups);
  I high[Codes::kSides][4], low[Codes::kSides][4];
#pragma GCC unroll 2
  for (int side = 0; side < Codes::kSides; ++side) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) high[side][j] = low[side][j] = _mm512_setzero_si512();
  }
  for (int t = 0; t < kTokens; t += 4) {
    ahead.step_quad();
    I x[Codes::kSides][4];
    from.next(x);
    const I w_high = weight_bytes(weights.high, t), w_low = weight_bytes(weights.low, t);
#pragma GCC unroll 2
    for (int side = 0; side < Codes::kSides; ++side) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        high[side][j] = _mm512_dpbusd_epi32(high[side][j], x[side][j], w_high);
        low[side][j] = _mm512_dpbusd_epi32(low[side][j], x[side][j], w_low);
      }
    }
  }
#pragma GCC unroll 2
  for (int side = 0; side < Codes::kSides; ++side) {
    finish_values<kD>(high[side], low[side], Codes::kSideScale[side], weights, side, shrink, sums);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::avx512
