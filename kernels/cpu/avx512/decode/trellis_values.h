// Weights times the values of a trellis block, whose channels lie along the tokens:
//
//   sum_t p_t v(c, t) = g_c (2 sum_t p'_t L(c, t) + (1 - M_c) sum_t p'_t),   p'_t = p_t scale_t
//
// p' is rounded to 15 bits in a unit of the block and split in two signed bytes, as values.h does;
// both sums take the rounded one. Levels become bytes of 64 tokens a register, four channels at a
// time for all rows, vpdpbusd sums four tokens a lane, and lanes are summed as in a transposition.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/avx512/decode/pairs.h"
#include "kernels/cpu/avx512/decode/values.h"
#include "kernels/cpu/generic/online_softmax.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

/// Weights of a block: byte b of lane l is token 32 b + l ([0]) or 32 b + 16 + l ([1]).
struct alignas(64) TrellisWeights {
  I high[2], low[2];  // 256 high + low, both signed
  /// For both channels of a pair, 8 lanes each: byte b of lane l is token 32 b + 8 f + l % 8 ([f]).
  I pair_high[4], pair_low[4];
  float unit;
  float sum;  // of the rounded weights, in units
};

void prepare_trellis_values(const uint8_t* block, const float* p, TrellisWeights& out) {
  F weight[8], most = _mm512_setzero_ps();
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    weight[i] = _mm512_mul_ps(_mm512_load_ps(p + 16 * i), load_steps(block + 16 * i));
    most = _mm512_max_ps(most, weight[i]);
  }
  const float largest = _mm512_reduce_max_ps(most);
  const F inverse = _mm512_set1_ps(largest > 1.0e-30f ? kMaxWeight / largest : 0.0f);
  out.unit = largest / kMaxWeight;
  const I byte = _mm512_set1_epi32(255), flip = _mm512_set1_epi8(-128);
  I sum = _mm512_setzero_si512();
#pragma GCC unroll 2
  for (int odd = 0; odd < 2; ++odd) {
    I high = _mm512_setzero_si512(), low = high;
#pragma GCC unroll 4
    for (int b = 3; b >= 0; --b) {
      const I rounded = round_to_int(_mm512_mul_ps(weight[2 * b + odd], inverse));
      sum = _mm512_add_epi32(sum, rounded);
      // 256 high + low with low in -128 .. 127
      const I w = _mm512_add_epi32(rounded, _mm512_set1_epi32(128));
      high = _mm512_or_si512(_mm512_slli_epi32(high, 8), _mm512_srli_epi32(w, 8));
      low = _mm512_or_si512(_mm512_slli_epi32(low, 8), _mm512_and_si512(w, byte));
    }
    low = _mm512_xor_si512(low, flip);
    out.high[odd] = high;
    out.low[odd] = low;
    out.pair_high[2 * odd] = _mm512_shuffle_i64x2(high, high, 0x44);
    out.pair_high[2 * odd + 1] = _mm512_shuffle_i64x2(high, high, 0xEE);
    out.pair_low[2 * odd] = _mm512_shuffle_i64x2(low, low, 0x44);
    out.pair_low[2 * odd + 1] = _mm512_shuffle_i64x2(low, low, 0xEE);
  }
  out.sum = static_cast<float>(_mm512_reduce_add_epi32(sum));
}

/// Levels of a channel as bytes, from 5 bits of level on in their upper bits; tokens as in
/// TrellisWeights.
struct LevelBytes {
  I even, odd;
};
struct FourChannels {
  LevelBytes of[4];
};
/// What such a byte is in units of the level.
constexpr float level_unit(int width) {
  return width > 3 ? 1.0f / static_cast<float>(1 << (7 - width)) : 1.0f;
}

template <int kWidth>
RILLKV_INLINE LevelBytes load_level_bytes(const Planes& b, const uint8_t* subsets) {
  I high, low;
  load_level_fields<kWidth>(b, subsets, high, low);
  if constexpr (kWidth <= 3) {
    const I nibble = _mm512_set1_epi8(15);
    return {_mm512_and_si512(high, nibble), _mm512_and_si512(_mm512_srli_epi32(high, 4), nibble)};
  } else {
    const I top = _mm512_set1_epi8(static_cast<char>(0xF0));
    return {_mm512_ternarylogic_epi32(top, _mm512_slli_epi32(high, 4), low, 0xCA),
            _mm512_ternarylogic_epi32(top, high, _mm512_srli_epi32(low, 4), 0xCA)};
  }
}

/// Lane 4 q + i: the sum of the lanes 4 q .. 4 q + 3 of x[i].
RILLKV_INLINE I sum_of_quads(const I (&x)[4]) {
  const auto pair = [](I a, I b) __attribute__((always_inline)) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  };
  const I a = pair(x[0], x[1]), b = pair(x[2], x[3]);
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}
/// Lane 4 q + i: the sum of the lanes i, 4 + i, .. of x[q], q < 4.
RILLKV_INLINE I sum_of_lanes(const I* x) {
  const auto halves = [](I a, I b) __attribute__((always_inline)) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
  };
  return halves(halves(x[0], x[1]), halves(x[2], x[3]));
}

/// sum_t weight level of a channel, by lanes. Of all: <= 128 * 32600 * 255 < 2^31.
RILLKV_INLINE I weigh_levels(const LevelBytes& levels, const TrellisWeights& w) {
  I x = _mm512_dpbusd_epi32(_mm512_setzero_si512(), levels.even, w.high[0]);
  x = _mm512_slli_epi32(_mm512_dpbusd_epi32(x, levels.odd, w.high[1]), 8);
  x = _mm512_dpbusd_epi32(x, levels.even, w.low[0]);
  return _mm512_dpbusd_epi32(x, levels.odd, w.low[1]);
}

/// The planes of a value block, and the widths of its channels.
template <int kD>
struct TrellisValueBlock {
  int width, wide_pairs;
  Planes begin;
  const uint8_t* subsets;
  size_t bytes;

  TrellisValueBlock(const AttentionParams& params, const uint8_t* block, uint8_t* scratch)
      : width(params.prefix.value_width),
        wide_pairs(params.prefix.value_wide_pairs),
        subsets(scratch),
        bytes(format::trellis_value_bytes(kD, kTokens, width, wide_pairs)) {
    const auto planes = format::trellis_value_planes(block, kTokens, kD, width, wide_pairs);
    begin = planes.b;
    write_subsets<Simd, kTokens>(planes.path, kD, scratch);
  }

  /// Where the planes of a channel of pair p begin.
  Planes planes_of(int p, bool second) const {
    Planes at = begin;
    format::advance(at, kTokens, format::trellis_value_planes(p, width, wide_pairs));
    if (second) {
      format::advance(at, kTokens, format::trellis_value_width(p, width, wide_pairs) - 1);
    }
    return at;
  }
  const uint8_t* subsets_of(int p, bool second) const {
    return subsets + static_cast<size_t>(2 * p + (second ? 1 : 0)) * kSubset;
  }
  static constexpr size_t kSubset = format::plane_bytes(kTokens, 2);
};

/// sum_t weight level of four channels of all rows, lanes by quads, to sums[row][channel / 4].
template <int kD>
using LevelSums = I[kMaxRows][kD / 4];

template <int kD, bool kOneRow>
RILLKV_INLINE void weigh_four(const FourChannels& x, const TrellisWeights* weights, int rows,
                              int four, LevelSums<kD>& out) {
  for (int r = 0; r < (kOneRow ? 1 : rows); ++r) {
    const TrellisWeights& w = weights[r];
    const I sums[4] = {weigh_levels(x.of[0], w), weigh_levels(x.of[1], w), weigh_levels(x.of[2], w),
                       weigh_levels(x.of[3], w)};
    out[r][four] = sum_of_quads(sums);
  }
}

/// Channels of 4 bits, whole pairs at a time: their planes fill registers as they lie, and nothing
/// is spread over lanes.
struct PairBytes {
  I of[4];  // tokens as in TrellisWeights::pair_high
};

/// Of two pairs that lie side by side; 8 L a byte.
RILLKV_INLINE void load_two_pairs(const Planes& b, const uint8_t* subsets, PairBytes (&out)[2]) {
  const I bits = _mm512_loadu_si512(b.bits);
  // The even bits of a bit plane belong to the first words of a crumb plane, the odd ones to the
  // others: to the upper bits of crumbs.
  const I turns = _mm512_setr_epi32(1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0);
  const I top = _mm512_set1_epi8(static_cast<char>(0xE0)), all = _mm512_set1_epi8(-8);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const I spread =
        i == 0 ? _mm512_shuffle_i64x2(bits, bits, 0x50) : _mm512_shuffle_i64x2(bits, bits, 0xFA);
    const I bit = _mm512_rolv_epi32(spread, turns);
    const I crumbs = _mm512_loadu_si512(b.crumbs + 64 * i);
    const I subset = _mm512_loadu_si512(subsets + 64 * i);
    // Fields of 4, b in their upper 3 bits.
    const I even = choose<12>(_mm512_slli_epi32(crumbs, 2), bit);
    const I odd = choose<12>(crumbs, _mm512_srli_epi32(bit, 2));
    const auto join = [&](I b_of, I subset_of) __attribute__((always_inline)) {
      return _mm512_and_si512(choose_by(top, b_of, subset_of), all);
    };
    out[i].of[0] = join(_mm512_slli_epi32(even, 4), _mm512_slli_epi32(subset, 3));
    out[i].of[1] = join(_mm512_slli_epi32(odd, 4), _mm512_slli_epi32(subset, 1));
    out[i].of[2] = join(even, _mm512_srli_epi32(subset, 1));
    out[i].of[3] = join(odd, _mm512_srli_epi32(subset, 3));
  }
}

/// sum_t weight level of the pairs from .. to - 1, all of 4 bits; fours of them.
template <int kD, bool kOneRow>
void weigh_pairs_of_4(const TrellisValueBlock<kD>& block, int from, int to,
                      const TrellisWeights* weights, int rows, Ahead& ahead, LevelSums<kD>& out) {
  Planes at = block.planes_of(from, false);
  const uint8_t* subsets = block.subsets_of(from, false);
  for (int p = from; p < to; p += 4) {
    for (int i = 0; i < 8 * Ahead::kQuads / kD; ++i) ahead.step_quad();
    PairBytes x[2][2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      load_two_pairs(at, subsets, x[i]);
      at.crumbs += 128;
      at.bits += 64;
      subsets += 128;
    }
    for (int r = 0; r < (kOneRow ? 1 : rows); ++r) {
      const TrellisWeights& w = weights[r];
      I sums[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const PairBytes& bytes = x[i / 2][i % 2];
        I sum = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int f = 0; f < 4; ++f) sum = _mm512_dpbusd_epi32(sum, bytes.of[f], w.pair_high[f]);
        sum = _mm512_slli_epi32(sum, 8);
#pragma GCC unroll 4
        for (int f = 0; f < 4; ++f) sum = _mm512_dpbusd_epi32(sum, bytes.of[f], w.pair_low[f]);
        sums[i] = sum;
      }
      const I both = sum_of_quads(sums);
      out[r][p / 4] = _mm512_maskz_mov_epi32(0x00FF, both);
      out[r][(p + kD / 2) / 4] = _mm512_maskz_mov_epi32(0xFF00, both);
    }
  }
}

/// The same of the channels of pairs from .. to - 1 of one half, all of kWidth bits; fours of them.
template <int kD, int kWidth, bool kOneRow>
void weigh_pairs(const TrellisValueBlock<kD>& block, int from, int to, bool second,
                 const TrellisWeights* weights, int rows, Ahead& ahead, LevelSums<kD>& out) {
  constexpr format::PlaneOffsets kPair =
      format::plane_extents(2 * format::planes_of(kWidth - 1), kTokens);
  Planes at = block.planes_of(from, second);
  const uint8_t* subsets = block.subsets_of(from, second);
  const auto next = [&]() __attribute__((always_inline)) {
    const LevelBytes bytes = load_level_bytes<kWidth>(at, subsets);
    at.nibbles += kPair.nibbles;
    at.crumbs += kPair.crumbs;
    at.bits += kPair.bits;
    subsets += 2 * TrellisValueBlock<kD>::kSubset;
    return bytes;
  };
  for (int p = from; p < to; p += 4) {
    for (int i = 0; i < 4 * Ahead::kQuads / kD; ++i) ahead.step_quad();
    FourChannels x;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) x.of[i] = next();
    weigh_four<kD, kOneRow>(x, weights, rows, (p + (second ? kD / 2 : 0)) / 4, out);
  }
}

/// Of four pairs of both widths.
template <int kD>
void weigh_mixed(const TrellisValueBlock<kD>& block, int p, bool second,
                 const TrellisWeights* weights, int rows, Ahead& ahead, LevelSums<kD>& out) {
  for (int i = 0; i < 4 * Ahead::kQuads / kD; ++i) ahead.step_quad();
  FourChannels x;
  for (int i = 0; i < 4; ++i) {
    with_int<1, 7>(format::trellis_value_width(p + i, block.width, block.wide_pairs),
                   [&](auto own) {
                     x.of[i] = load_level_bytes<own>(block.planes_of(p + i, second),
                                                     block.subsets_of(p + i, second));
                   });
  }
  weigh_four<kD, false>(x, weights, rows, (p + (second ? kD / 2 : 0)) / 4, out);
}

/// sums = sums * shrink + sum_t p_t v_t of all rows.
template <int kD>
void add_trellis_values(const TrellisValueBlock<kD>& block, const TrellisWeights* weights,
                        const float* shrink, int rows, const OnlineSoftmax* of, Ahead& ahead) {
  constexpr int kHalf = kD / 2;
  const int width = block.width, wide = block.wide_pairs, whole = wide / 4 * 4;
  LevelSums<kD> sums;
  const auto weigh = [&](int own_width, int from, int to) {
    if (from == to) return;
    with_int<1, 7>(own_width, [&](auto own) {
      if constexpr (own == 4) {
        const auto pairs = rows == 1 ? weigh_pairs_of_4<kD, true> : weigh_pairs_of_4<kD, false>;
        pairs(block, from, to, weights, rows, ahead, sums);
      } else {
        const auto pairs = rows == 1 ? weigh_pairs<kD, own, true> : weigh_pairs<kD, own, false>;
        for (const bool second : {false, true}) {
          pairs(block, from, to, second, weights, rows, ahead, sums);
        }
      }
    });
  };
  weigh(width + 1, 0, whole);
  if (whole < wide) {
    for (const bool second : {false, true}) {
      weigh_mixed<kD>(block, whole, second, weights, rows, ahead, sums);
    }
  }
  weigh(width, (wide + 3) / 4 * 4, kHalf);
  const I lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int c = 0; c < kD; c += 16) {
    // v = slope byte + offset, in units of p'
    const __mmask16 is_wide =
        _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(wide - (c < kHalf ? c : c - kHalf)));
    const auto by_width = [&](float narrow, float broad) __attribute__((always_inline)) {
      return _mm512_mask_blend_ps(is_wide, _mm512_set1_ps(narrow), _mm512_set1_ps(broad));
    };
    const F slope = by_width(2 * level_unit(width), 2 * format::kWideGain * level_unit(width + 1));
    const F offset = by_width(static_cast<float>(1 - (2 << width)),
                              format::kWideGain * static_cast<float>(1 - (4 << width)));
    for (int r = 0; r < rows; ++r) {
      const F total = _mm512_cvtepi32_ps(sum_of_lanes(&sums[r][c / 4]));
      const F value = _mm512_mul_ps(
          _mm512_set1_ps(weights[r].unit),
          _mm512_fmadd_ps(total, slope, _mm512_mul_ps(offset, _mm512_set1_ps(weights[r].sum))));
      float* to = of[r].accumulators + c;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), _mm512_set1_ps(shrink[r]), value));
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::avx512
