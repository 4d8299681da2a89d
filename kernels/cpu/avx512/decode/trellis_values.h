// Weights times the values of a trellis block, whose channels lie along the tokens:
//
//   sum_t p_t v(c, t) = g_c (2 sum_t p'_t L(c, t) + (1 - M_c) sum_t p'_t),   p'_t = p_t scale_t
//
// p' is rounded to 15 bits in a unit of the block and split in two signed bytes, as values.h does;
// both sums take the rounded one. Levels become bytes of 64 tokens a register, vpdpbusd sums four
// tokens a lane, and the lanes of 16 channels are summed by one transposition.
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
    out.high[odd] = high;
    out.low[odd] = _mm512_xor_si512(low, flip);
  }
  out.sum = static_cast<float>(_mm512_reduce_add_epi32(sum));
}

/// Levels of the channels of a group as bytes, each in its upper bits from 5 bits of level on.
struct alignas(64) LevelBytes {
  static constexpr int kChannels = 16;
  I of[kChannels][2];  // tokens as in TrellisWeights
};
/// What such a byte is in units of the level.
constexpr float level_unit(int width) {
  return width > 3 ? 1.0f / static_cast<float>(1 << (7 - width)) : 1.0f;
}

template <int kWidth>
RILLKV_INLINE void load_level_bytes(const Planes& b, const uint8_t* subsets, I (&out)[2]) {
  I high, low;
  load_levels<Simd, kTokens>(b, subsets, kWidth, 0, high, low);
  const I nibble = _mm512_set1_epi8(15);
  if constexpr (kWidth <= 3) {
    out[0] = _mm512_and_si512(high, nibble);
    out[1] = _mm512_and_si512(_mm512_srli_epi32(high, 4), nibble);
  } else {
    const I top = _mm512_set1_epi8(static_cast<char>(0xF0));
    const I rest = _mm512_slli_epi32(low, static_cast<unsigned>(7 - kWidth));
    out[0] = _mm512_ternarylogic_epi32(top, _mm512_slli_epi32(high, 4), rest, 0xCA);
    out[1] = _mm512_ternarylogic_epi32(top, high, _mm512_srli_epi32(rest, 4), 0xCA);
  }
}

/// Lane c: the sum of the lanes of x[c].
RILLKV_INLINE I sum_of_lanes(const I (&x)[16]) {
  I y[8], z[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    y[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]),
                            _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    z[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(y[2 * i], y[2 * i + 1]),
                            _mm512_unpackhi_epi64(y[2 * i], y[2 * i + 1]));
  }
  const auto halves = [](I a, I b) __attribute__((always_inline)) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
  };
  return halves(halves(z[0], z[1]), halves(z[2], z[3]));
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

  /// Bytes of the channels of pairs first .. first + 15, of one half of the channels.
  void load_group(int first, bool second, Ahead& ahead, LevelBytes& out) const {
    constexpr int kChannelsAStep = kD / Ahead::kQuads;
    const int last = first + LevelBytes::kChannels;
    const auto load = [&](int from, int to, auto own) __attribute__((always_inline)) {
      const format::PlaneCounts one = format::planes_of(own - 1), pair = one + one;
      Planes at = begin;
      format::advance(at, kTokens, format::trellis_value_planes(from, width, wide_pairs));
      if (second) format::advance(at, kTokens, one);
      for (int p = from; p < to; ++p) {
        if (p % kChannelsAStep == 0) ahead.step_quad();
        const size_t position = static_cast<size_t>(2 * p + (second ? 1 : 0));
        load_level_bytes<own>(at, subsets + position * format::plane_bytes(kTokens, 2),
                              out.of[p - first]);
        format::advance(at, kTokens, pair);
      }
    };
    const int cut = wide_pairs < first ? first : wide_pairs < last ? wide_pairs : last;
    if (cut > first) with_int<2, 7>(width + 1, [&](auto own) { load(first, cut, own); });
    if (cut < last) with_int<1, 7>(width, [&](auto own) { load(cut, last, own); });
  }
};

/// sums = sums * shrink + sum_t p_t v_t of all rows.
template <int kD>
void add_trellis_values(const TrellisValueBlock<kD>& block, const TrellisWeights* weights,
                        const float* shrink, int rows, const OnlineSoftmax* of, Ahead& ahead) {
  constexpr int kHalf = kD / 2;
  const I lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const int width = block.width;
  for (int c = 0; c < kD; c += LevelBytes::kChannels) {
    const bool second = c >= kHalf;
    const int first = second ? c - kHalf : c;
    LevelBytes levels;
    block.load_group(first, second, ahead, levels);
    // v = slope byte + offset, in units of p'
    const __mmask16 wide =
        _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(block.wide_pairs - first));
    const auto by_width = [&](float narrow, float broad) __attribute__((always_inline)) {
      return _mm512_mask_blend_ps(wide, _mm512_set1_ps(narrow), _mm512_set1_ps(broad));
    };
    const F slope = by_width(2 * level_unit(width), 2 * format::kWideGain * level_unit(width + 1));
    const F offset = by_width(static_cast<float>(1 - (2 << width)),
                              format::kWideGain * static_cast<float>(1 - (4 << width)));
    for (int r = 0; r < rows; ++r) {
      const TrellisWeights& w = weights[r];
      const I high0 = w.high[0], high1 = w.high[1], low0 = w.low[0], low1 = w.low[1];
      I sum[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const I even = levels.of[i][0], odd = levels.of[i][1];
        I x = _mm512_dpbusd_epi32(_mm512_setzero_si512(), even, high0);
        x = _mm512_slli_epi32(_mm512_dpbusd_epi32(x, odd, high1), 8);
        x = _mm512_dpbusd_epi32(x, even, low0);
        sum[i] = _mm512_dpbusd_epi32(x, odd, low1);
      }
      // sum |weight| level <= 128 * 32600 * 255 < 2^31
      const F total = _mm512_cvtepi32_ps(sum_of_lanes(sum));
      const F value = _mm512_mul_ps(
          _mm512_set1_ps(w.unit),
          _mm512_fmadd_ps(total, slope, _mm512_mul_ps(offset, _mm512_set1_ps(w.sum))));
      float* to = of[r].accumulators + c;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), _mm512_set1_ps(shrink[r]), value));
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::avx512
