// Decode attention of one bfloat16 query row (one query head a kv head) over sealed blocks of 128
// tokens and D = 128, in integers, straight from the packed codes.
//
//   s_j = c_j u_j + s_j v_j     u = a k1 + b k2 + C,  v = d k1 + e k2 + E    for each channel pair
//   (a, b, d, e) = (S1 r1, S2 r2, S1 r2, -S2 r1),  C = l1 r1 + l2 r2,  E = l1 r2 - l2 r1
//   o = sum_j p_j (lo_j + step_j code_j) = sum_j p_j lo_j + sum_j (p_j step_j) code_j
//
// with codes k, steps S and offsets l of the pair's two channels, r = R(-t0) q~ and (c_j, s_j) the
// rotation of token j within the block. All lanes are tokens in the first part, channels in the
// second.
//
// Keys. a, b, d, e are rounded to 16 bits in a unit that the block's largest step * |q| sets, so u
// and v are one vpdpwssd each for the pairs (k1, k2) of 16 tokens. The width allocation makes
// step * |q| about equal among the pairs, which is what a common unit needs. C and E are integers
// in the same unit; where an offset is so far from its range that they would not fit, the unit
// grows. The block is two halves of 64 tokens, each with its own r: the table of (c_j, s_j) is then
// read for 64 tokens only and half as much of it passes through the L1 cache.
//
// Values. p step is rounded to 15 bits in a unit of the block, split in two signed bytes, and
// vpdpbusd sums four tokens a lane. Rounding p step rather than p wastes no bits on tokens of large
// step. The error of both parts together is 3e-4 of the result's norm, bf16's own is 4e-3.
//
// Memory. Blocks are visited in the order of the tables and those kBlocksAhead later are prefetched
// a few lines at a time; without it cold decode takes twice as long.
#include "kernels/cpu/avx512_decode.h"

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/avx512_simd.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

using tiled::Prefetch;
using F = __m512;
using I = __m512i;

constexpr int kD = 128, kPairs = kD / 2, kTokens = 128;
constexpr float kMaxCoefficient = 32700.0f;  // below 2^15 by more than the rounding
constexpr float kMaxConstant = 1.0e9f;       // leaves 2^31 room for 2 * 255 * 2^15
constexpr float kMaxWeight = 32600.0f;       // + 128 for the split into bytes stays below 2^15

/// Integer coefficients of one half of a block.
struct alignas(64) Coefficients {
  int32_t ab[kPairs];  // a in the low word, b in the high
  int32_t de[kPairs];
  int32_t constant_u[kPairs];
  int32_t constant_v[kPairs];
};

inline I round_to_int(F x) { return _mm512_cvtps_epi32(x); }
inline F negate(F x) { return _mm512_sub_ps(_mm512_setzero_ps(), x); }

/// Coefficients of both halves; returns the unit.
float prepare_keys(const AttentionParams& params, const uint8_t* block, const float* rotation,
                   const RowState& row, Coefficients (&out)[2]) {
  const float* query = row.query;
  const bool symmetric = params.prefix.keys_symmetric;
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step =
      reinterpret_cast<const uint16_t*>(block + format::channel_step_offset(kD, symmetric));
  const uint8_t* widths = block + format::channel_widths_offset(kD, symmetric);
  constexpr int kVectors = kPairs / 16;
  F step1[kVectors], step2[kVectors], lo1[kVectors], lo2[kVectors];
  F most = _mm512_setzero_ps(), most_offset = most;
  for (int i = 0; i < kVectors; ++i) {
    const F q1 = _mm512_loadu_ps(query + 16 * i), q2 = _mm512_loadu_ps(query + kPairs + 16 * i);
    const F norm = _mm512_sqrt_ps(_mm512_fmadd_ps(q1, q1, _mm512_mul_ps(q2, q2)));
    step1[i] = Simd::load_half(step + 16 * i);
    step2[i] = Simd::load_half(step + kPairs + 16 * i);
    if (symmetric) {  // lo = -step 2^(width - 1)
      const I pair =
          _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(widths + 16 * i)));
      const I one = _mm512_set1_epi32(1);
      const I w1 = _mm512_sub_epi32(_mm512_and_si512(pair, _mm512_set1_epi32(15)), one);
      const I w2 = _mm512_sub_epi32(_mm512_srli_epi32(pair, 4), one);
      lo1[i] = negate(_mm512_mul_ps(step1[i], _mm512_cvtepi32_ps(_mm512_sllv_epi32(one, w1))));
      lo2[i] = negate(_mm512_mul_ps(step2[i], _mm512_cvtepi32_ps(_mm512_sllv_epi32(one, w2))));
    } else {
      lo1[i] = Simd::load_half(lo + 16 * i);
      lo2[i] = Simd::load_half(lo + kPairs + 16 * i);
    }
    most = _mm512_max_ps(most, _mm512_mul_ps(norm, _mm512_max_ps(step1[i], step2[i])));
    most_offset = _mm512_max_ps(
        most_offset,
        _mm512_mul_ps(norm, _mm512_max_ps(_mm512_abs_ps(lo1[i]), _mm512_abs_ps(lo2[i]))));
  }
  // |C|, |E| <= sqrt(2) |l| |q|
  const float by_step = _mm512_reduce_max_ps(most) / kMaxCoefficient;
  const float by_offset = _mm512_reduce_max_ps(most_offset) * 1.42f / kMaxConstant;
  const float unit = by_step > by_offset ? by_step : by_offset;
  const F inverse = _mm512_set1_ps(unit > 0.0f ? 1.0f / unit : 0.0f);

  const I low_word = _mm512_set1_epi32(0xffff);
  for (int i = 0; i < kVectors; ++i) {
    const F q1 = _mm512_mul_ps(inverse, _mm512_loadu_ps(query + 16 * i));
    const F q2 = _mm512_mul_ps(inverse, _mm512_loadu_ps(query + kPairs + 16 * i));
    const F c0 = _mm512_loadu_ps(rotation + 16 * i);
    const F s0 = _mm512_loadu_ps(rotation + kPairs + 16 * i);
    // r = R(-t0) q
    F r1 = _mm512_fmadd_ps(q1, c0, _mm512_mul_ps(q2, s0));
    F r2 = _mm512_fmsub_ps(q2, c0, _mm512_mul_ps(q1, s0));
    for (int half = 0; half < 2; ++half) {
      if (half == 1) {  // R(-64) on top
        const F c = _mm512_loadu_ps(row.scratch + 16 * i);
        const F s = _mm512_loadu_ps(row.scratch + kPairs + 16 * i);
        const F turned = _mm512_fmadd_ps(r1, c, _mm512_mul_ps(r2, s));
        r2 = _mm512_fmsub_ps(r2, c, _mm512_mul_ps(r1, s));
        r1 = turned;
      }
      const I a = round_to_int(_mm512_mul_ps(step1[i], r1));
      const I b = round_to_int(_mm512_mul_ps(step2[i], r2));
      const I d = round_to_int(_mm512_mul_ps(step1[i], r2));
      const I e = round_to_int(negate(_mm512_mul_ps(step2[i], r1)));
      Coefficients& to = out[half];
      _mm512_store_si512(&to.ab[16 * i],
                         _mm512_or_si512(_mm512_and_si512(a, low_word), _mm512_slli_epi32(b, 16)));
      _mm512_store_si512(&to.de[16 * i],
                         _mm512_or_si512(_mm512_and_si512(d, low_word), _mm512_slli_epi32(e, 16)));
      _mm512_store_si512(&to.constant_u[16 * i],
                         round_to_int(_mm512_fmadd_ps(lo1[i], r1, _mm512_mul_ps(lo2[i], r2))));
      _mm512_store_si512(&to.constant_v[16 * i],
                         round_to_int(_mm512_fmsub_ps(lo1[i], r2, _mm512_mul_ps(lo2[i], r1))));
    }
  }
  return unit;
}

/// scores[j] for the tokens of a block, in token order, log2 units.
void score_block(const AttentionParams& params, const uint8_t* block, const float* rotation,
                 const RowState& row, const uint8_t* next_block, float* scores) {
  Coefficients coefficients[2];
  const float unit = prepare_keys(params, block, rotation, row, coefficients);
  const bool symmetric = params.prefix.keys_symmetric;
  const uint8_t* widths = block + format::channel_widths_offset(kD, symmetric);
  tiled::ChannelCursors at = tiled::channel_cursors(block, kD, kTokens, symmetric);
  Prefetch ahead(next_block, static_cast<size_t>(at.end - block), kPairs);
  F sum[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) sum[i] = _mm512_setzero_ps();
  const I field = _mm512_set1_epi32(0x000f000f);

  for (int p = 0; p < kPairs; ++p) {
    const int w1 = widths[p] & 15, w2 = widths[p] >> 4;
    ahead.step<Simd>();
    I high1, low1, high2, low2;
    tiled::load_codes<Simd, kTokens>(at.first, w1, 0, high1, low1);
    tiled::load_codes<Simd, kTokens>(at.second, w2, 0, high2, low2);
    tiled::advance<kTokens>(at.first, w1);
    tiled::advance<kTokens>(at.second, w2);
    const float* cosines = params.rotations.in_block_cos + p * kTokens;
    const float* sines = params.rotations.in_block_sin + p * kTokens;
    F c[4], s[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      c[k] = _mm512_loadu_ps(cosines + 16 * k);
      s[k] = _mm512_loadu_ps(sines + 16 * k);
    }
    // sum += c u + s v for the 16 tokens whose codes are the words of x
    const auto add = [&](int half, int k, I x) __attribute__((always_inline)) {
      const Coefficients& of = coefficients[half];
      const I u =
          _mm512_dpwssd_epi32(_mm512_set1_epi32(of.constant_u[p]), x, _mm512_set1_epi32(of.ab[p]));
      const I v =
          _mm512_dpwssd_epi32(_mm512_set1_epi32(of.constant_v[p]), x, _mm512_set1_epi32(of.de[p]));
      F& to = sum[4 * half + k];
      to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(u), c[k], to);
      to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(v), s[k], to);
    };
    // Word pairs (k1, k2): fields 0..3 of each lane (the first 64 tokens), then fields 4..7.
    const I high[2] = {Bf16::low_words(high1, high2), Bf16::high_words(high1, high2)};
    if (w1 <= 4 && w2 <= 4) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          add(half, k, _mm512_and_si512(_mm512_srli_epi16(high[half], 4 * k), field));
        }
      }
    } else {  // code = high << (width - 4) | low, whatever each channel's width
      const I low[2] = {Bf16::low_words(low1, low2), Bf16::high_words(low1, low2)};
      const int shift1 = w1 > 4 ? w1 - 4 : 0, shift2 = w2 > 4 ? w2 - 4 : 0;
      const I shift = _mm512_set1_epi32(shift1 | shift2 << 16);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          const I x = _mm512_sllv_epi16(
              _mm512_and_si512(_mm512_srli_epi16(high[half], 4 * k), field), shift);
          // x | (low & field)
          add(half, k,
              _mm512_ternarylogic_epi32(x, _mm512_srli_epi16(low[half], 4 * k), field, 0xF8));
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    _mm512_storeu_ps(scores + 16 * i, _mm512_mul_ps(sum[i], _mm512_set1_ps(unit)));
  }
}

/// Weights p step of a block as signed bytes (256 high + low), and what the offsets add.
struct alignas(64) ValueWeights {
  // [token / 4][lane quad: group of channels 0-31, 32-63, 64-95, 96-127][token % 4]
  int8_t high[kTokens * 4];
  int8_t low[kTokens * 4];
  float unit[4];    // by lane quad's channel range, as above
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
      weight[g][i] = _mm512_mul_ps(x, Simd::load_half(step + g * kTokens + 16 * i));
      most = _mm512_max_ps(most, weight[g][i]);
      offset = _mm512_fmadd_ps(x, Simd::load_half(lo + g * kTokens + 16 * i), offset);
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

/// sums = sums * shrink + sum_j p_j v_j. Byte 4 w + r of a row's registers holds the fields 2 r and
/// 2 r + 1 of word w, that is channels 32 r + w and 32 r + 16 + w: after interleave, lane i of x[j]
/// is channel 32 (i % 4) + 4 (i / 4) + j, or 16 more.
void add_values(const AttentionParams& params, const uint8_t* block, const float* p, float shrink,
                Prefetch ahead, float* sums) {
  ValueWeights weights;
  prepare_values(params, block, p, weights);
  const int width = params.prefix.value_bits;
  tiled::Planes at;
  at.nibbles = block + format::token_codes_offset(kTokens, params.prefix.value_groups, false);
  at.crumbs = at.nibbles + kTokens * (width >> 2) * (kD / 2);
  at.bits = at.crumbs + kTokens * ((width >> 1) & 1) * (kD / 4);
  const I nibble = _mm512_set1_epi8(15);
  I high[2][4], low[2][4];
#pragma GCC unroll 2
  for (int side = 0; side < 2; ++side) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) high[side][j] = low[side][j] = _mm512_setzero_si512();
  }
  const auto dot = [&](int side, int j, I codes, I w_high, I w_low) __attribute__((always_inline)) {
    high[side][j] = _mm512_dpbusd_epi32(high[side][j], codes, w_high);
    low[side][j] = _mm512_dpbusd_epi32(low[side][j], codes, w_low);
  };
  for (int t = 0; t < kTokens; t += 4) {
    ahead.step<Simd>();
    const I w_high = _mm512_broadcast_i32x4(
        _mm_load_si128(reinterpret_cast<const __m128i*>(weights.high + 4 * t)));
    const I w_low = _mm512_broadcast_i32x4(
        _mm_load_si128(reinterpret_cast<const __m128i*>(weights.low + 4 * t)));
    I row_high[4], row_low[4], x[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      tiled::load_codes<Simd, kD>(at, width, 0, row_high[i], row_low[i]);
      tiled::advance<kD>(at, width);
    }
    if (width <= 4) {
      interleave(row_high[0], row_high[1], row_high[2], row_high[3], x);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        dot(0, j, _mm512_and_si512(x[j], nibble), w_high, w_low);
        dot(1, j, _mm512_and_si512(_mm512_srli_epi16(x[j], 4), nibble), w_high, w_low);
      }
    } else {  // code = high << (width - 4) | low, as bytes
      const __m128i shift = _mm_cvtsi32_si128(width - 4);
#pragma GCC unroll 2
      for (int side = 0; side < 2; ++side) {
        I codes[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const I top = _mm512_and_si512(_mm512_srli_epi16(row_high[i], 4 * side), nibble);
          const I rest = _mm512_srli_epi16(row_low[i], 4 * side);
          codes[i] = _mm512_ternarylogic_epi32(_mm512_sll_epi16(top, shift), rest, nibble, 0xF8);
        }
        interleave(codes[0], codes[1], codes[2], codes[3], x);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) dot(side, j, x[j], w_high, w_low);
      }
    }
  }
  const F unit = _mm512_broadcast_f32x4(_mm_loadu_ps(weights.unit));
  const F offset = _mm512_broadcast_f32x4(_mm_loadu_ps(weights.offset));
  // Channels 4 (i / 4) + j of lanes i of four registers, to natural order: a transpose of 4 x 4
  // within the lanes' quads, then of the quads.
#pragma GCC unroll 2
  for (int side = 0; side < 2; ++side) {
    F y[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const I w = _mm512_add_epi32(_mm512_slli_epi32(high[side][j], 8), low[side][j]);
      y[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(w), unit, offset);
    }
    // z[r], lane 4 q + j: channel 32 r + 16 side + 4 q + j
    const F a = _mm512_unpacklo_ps(y[0], y[1]), b = _mm512_unpackhi_ps(y[0], y[1]);
    const F c = _mm512_unpacklo_ps(y[2], y[3]), d = _mm512_unpackhi_ps(y[2], y[3]);
    const F z[4] = {_mm512_shuffle_ps(a, c, 0x44), _mm512_shuffle_ps(a, c, 0xEE),
                    _mm512_shuffle_ps(b, d, 0x44), _mm512_shuffle_ps(b, d, 0xEE)};
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      float* to = sums + 32 * r + 16 * side;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), _mm512_set1_ps(shrink), z[r]));
    }
  }
}

}  // namespace

bool streams_blocks(const AttentionParams& params) {
  return params.head_dim == kD && params.block_size == kTokens &&
         !params.prefix.values_channel_major &&
         (params.prefix.value_groups == 1 || params.prefix.value_groups == 2);
}

void start_streaming(const AttentionParams& params, float* scratch) {
  for (int p = 0; p < kPairs; ++p) {  // R(64): column 64 of the in-block table
    scratch[p] = params.rotations.in_block_cos[p * kTokens + kTokens / 2];
    scratch[kPairs + p] = params.rotations.in_block_sin[p * kTokens + kTokens / 2];
  }
}

void add_block_streaming(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
                         const RowState& row) {
  const PackedPrefix& prefix = params.prefix;
  const uint8_t *keys = prefix.keys[entry], *values = prefix.values[entry];
  const Prefetch values_ahead(
      ahead < 0 ? nullptr : prefix.values[ahead],
      format::token_block_bytes(kTokens, kD, prefix.value_groups, false, prefix.value_bits),
      kTokens / 4);
  alignas(64) float p[kTokens];
  score_block(params, keys, prefix.rotations[n], row, ahead < 0 ? nullptr : prefix.keys[ahead], p);

  F most = _mm512_load_ps(p);
  for (int i = 16; i < kTokens; i += 16) most = _mm512_max_ps(most, _mm512_load_ps(p + i));
  const float block_max = _mm512_reduce_max_ps(most);
  const float next = block_max > *row.max ? block_max : *row.max;
  F total = _mm512_setzero_ps();
  for (int i = 0; i < kTokens; i += 16) {
    const F x = Fp32::exp2(_mm512_sub_ps(_mm512_load_ps(p + i), _mm512_set1_ps(next)));
    total = _mm512_add_ps(total, x);
    _mm512_store_ps(p + i, x);
  }
  const float shrink = _mm512_cvtss_f32(Fp32::exp2(_mm512_set1_ps(*row.max - next)));
  *row.sum = *row.sum * shrink + _mm512_reduce_add_ps(total);
  *row.max = next;
  add_values(params, values, p, shrink, values_ahead, row.sums);
}

}  // namespace rillkv::kernels::cpu::avx512
