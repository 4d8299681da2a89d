// Trellis-coded values: trellis searches with one channel a lane; S: see simd_concept.h.
// scalar/trellis.cpp defines what the bytes are; its lines stand above the groups of vector
// operations that repeat them.
//
// A strip of L channels keeps its 8 metrics in registers. A token's decisions are 8 words with a
// bit a channel, and so is everything after them: the path is traced back with three words for the
// states of all channels, and the subsets are XORs of the path's words.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/generic/pack.h"
#include "kernels/steps8.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cpu {
namespace {

// ---- the search's arithmetic ----

/// z_j = min(max(rint((v - j) * 0.25), 0), top)
template <class S>
RILLKV_INLINE typename S::F nearest_of_subset(typename S::F v, typename S::F subset,
                                              typename S::F top) {
  const typename S::F z = S::round(S::mul(S::sub(v, subset), S::set1(0.25f)));
  return S::min(S::max(z, S::zero()), top);
}
/// e = v - (4 z_j + j); d_j = e * e. The multiply-add is exact.
template <class S>
RILLKV_INLINE typename S::F subset_distance(typename S::F v, typename S::F subset,
                                            typename S::F top) {
  const typename S::F z = nearest_of_subset<S>(v, subset, top);
  const typename S::F error = S::sub(v, S::fma(S::set1(4.0f), z, subset));
  return S::mul(error, error);
}
/// j = 2 z1 + z0 of the lanes' bits.
template <class S>
RILLKV_INLINE typename S::F subset_of(uint32_t low, uint32_t high) {
  return S::choose(high, S::choose(low, S::set1(3.0f), S::set1(2.0f)),
                   S::choose(low, S::set1(1.0f), S::zero()));
}

// ---- scales ----

/// What the search of a token's scale needs to know of a block.
struct ValueReaches {
  alignas(64) float lanes[kMaxSimdHeadDim + 16] = {};  // value_reach by channel, then zeros
  float widest;
  float granular;

  ValueReaches(int head_dim, int width, int wide_pairs)
      : widest(value_reach(width, width)), granular(value_granular(head_dim, width, wide_pairs)) {
    const int pairs = head_dim / 2;
    for (int c = 0; c < head_dim; ++c) {
      lanes[c] = value_reach(format::trellis_value_width(c % pairs, width, wide_pairs), width);
    }
  }
};

/// search_scale of scalar/trellis.cpp; x: zeros after the last channel; its signs are lost.
template <class S>
int search_scale(float* x, const ValueReaches& reaches, int head_dim) {
  using F = typename S::F;
  constexpr int L = S::kLanes, kSums = 16 / L;
  F most = S::zero();
  for (int c = 0; c < head_dim; c += L) {
    const F size = S::as_float(S::bit_and(S::as_int(S::load(x + c)), S::set1_int(0x7fffffff)));
    S::store(x + c, size);
    most = S::max(size, most);
  }
  const int widest = format::nearest8(S::reduce_max(most) / reaches.widest);
  int best = 0;
  float least_error = 0.0f;
  for (int k = 0; k < kValueCandidates; ++k) {
    const int scale = widest - k > 0 ? widest - k : 0;
    const float size = format::step8(scale);
    const F below = S::set1(-size);
    F sums[kSums];
    for (F& sum : sums) sum = S::zero();
    for (int c = 0; c < head_dim; c += 16) {
#pragma GCC unroll 2
      for (int a = 0; a < kSums; ++a) {
        // beyond = max(fma(-s, reach, |x|), 0); sum = fma(beyond, beyond, sum)
        const int at = c + a * L;
        const F beyond =
            S::max(S::fma(below, S::load(reaches.lanes + at), S::load(x + at)), S::zero());
        sums[a] = S::fma(beyond, beyond, sums[a]);
      }
    }
    const float error = S::fold16(sums) + reaches.granular * (size * size);
    if (k > 0 && !(error < least_error)) break;
    least_error = error;
    best = scale;
  }
  return best;
}

// ---- a strip of L channels ----

/// The lanes' numbers of three bits, a word a bit.
struct StateWords {
  uint32_t bits[3] = {};
};

/// What a strip needs at every token, beside where its planes go.
template <class S>
struct ValueStrip {
  const uint8_t* first;  // the row of token 0
  int64_t stride;        // bytes to the next
  int c, tokens;
  typename S::Part part;
  typename S::F unit;    // value_unit
  typename S::F middle;  // 2^W - 0.5
  typename S::F top;     // 2^(W-1) - 1
  const float* inverses;
  const float* weights;

  /// fma(x, inverse * unit, middle)
  template <Dtype kType>
  RILLKV_INLINE typename S::F input(int t) const {
    const typename S::F x = load_part_as<S, kType>(first + t * stride, c, part);
    return S::fma(x, S::mul(S::set1(inverses[t]), unit), middle);
  }
};

/// chosen: [tokens][8] out, bit l of word n: lane l's state n is best reached from n / 2 + 4.
template <class S, Dtype kType>
StateWords advance_strip(const ValueStrip<S>& strip, uint16_t* chosen) {
  using F = typename S::F;
  F metrics[kTrellisStates];
  metrics[0] = S::zero();
  for (int s = 1; s < kTrellisStates; ++s) metrics[s] = S::set1(kUnreached);
  for (int t = 0; t < strip.tokens; ++t) {
    const F v = strip.template input<kType>(t), weight = S::set1(strip.weights[t]);
    F distances[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      distances[j] =
          S::mul(subset_distance<S>(v, S::set1(static_cast<float>(j)), strip.top), weight);
    }
    F next[kTrellisStates];
#pragma GCC unroll 8
    for (int n = 0; n < kTrellisStates; ++n) {
      // From n / 2; the other one's is subset ^ 2.
      const int subset = 2 * ((n ^ n >> 1) & 1) + (n >> 2);
      const F here = S::add(metrics[n / 2], distances[subset]);
      const F there = S::add(metrics[n / 2 + 4], distances[subset ^ 2]);
      chosen[8 * t + n] = static_cast<uint16_t>(S::less_bits(there, here));
      next[n] = S::min(there, here);
    }
#pragma GCC unroll 8
    for (int n = 0; n < kTrellisStates; ++n) metrics[n] = next[n];
  }
  StateWords state;
  F least = metrics[0];
#pragma GCC unroll 8
  for (int s = 1; s < kTrellisStates; ++s) {
    const uint32_t less = S::less_bits(metrics[s], least);
    least = S::min(metrics[s], least);
    for (int i = 0; i < 3; ++i) {
      state.bits[i] = (state.bits[i] & ~less) | ((s >> i & 1) != 0 ? less : 0u);
    }
  }
  return state;
}

/// path: [tokens] out, bit l: u of lane l.
inline void trace_back_strip(const uint16_t* chosen, int tokens, StateWords state, uint32_t* path) {
  const auto choose = [](uint32_t bits, uint32_t set, uint32_t clear) {
    return clear ^ ((set ^ clear) & bits);
  };
  uint32_t low = state.bits[0], middle = state.bits[1], high = state.bits[2];
  for (int t = tokens - 1; t >= 0; --t) {
    const uint16_t* from = chosen + 8 * t;
    path[t] = low;
    uint32_t words[4];
    for (int i = 0; i < 4; ++i) words[i] = choose(low, from[2 * i + 1], from[2 * i]);
    const uint32_t chosen_high =
        choose(high, choose(middle, words[3], words[2]), choose(middle, words[1], words[0]));
    low = middle;
    middle = high;
    high = chosen_high;
  }
}

/// planes: of b; path_planes: of u, as of channels of 1 bit.
template <class S, Dtype kType>
void pack_value_strip(const ValueStrip<S>& strip, int block_size, const StripPlanes<S>& planes,
                      const StripPlanes<S>& path_planes) {
  alignas(64) uint16_t chosen[kTrellisStates * kMaxBlockSize];
  uint32_t words[kMaxBlockSize + 3] = {};  // three zeros before the first token's
  uint32_t* path = words + 3;
  trace_back_strip(chosen, strip.tokens, advance_strip<S, kType>(strip, chosen), path);
  const typename S::F one = S::as_float(S::set1_int(1));
  pack_strip<S>(path_planes, block_size,
                [&](int t) { return S::as_int(S::choose(path[t], one, S::zero())); });
  pack_strip<S>(planes, block_size, [&](int t) {
    if (t >= strip.tokens) return S::zero_int();
    const typename S::F subset = subset_of<S>(path[t - 2], path[t] ^ path[t - 1] ^ path[t - 3]);
    return S::round_to_int(nearest_of_subset<S>(strip.template input<kType>(t), subset, strip.top));
  });
}

template <class S, Dtype kType>
void pack_trellis_values_in(const PackParams& p, int width, int wide_pairs, uint8_t* out) {
  constexpr int L = S::kLanes;
  const int D = p.head_dim, T = p.block_size, pairs = D / 2;
  std::memset(out, 0, format::trellis_value_path_offset(T));
  const ValueReaches reaches(D, width, wide_pairs);
  alignas(64) float row[kMaxSimdHeadDim + 2 * L] = {};
  float inverses[kMaxBlockSize], weights[kMaxBlockSize];
  for (int t = 0; t < p.tokens; ++t) {
    load_whole_row<S, kType>(first_row(p) + t * row_bytes(p), D, row);
    const int scale = search_scale<S>(row, reaches, D);
    out[t] = static_cast<uint8_t>(scale);
    inverses[t] = format::inverse8(scale);
    weights[t] = format::step8(scale) * format::step8(scale);
  }

  const format::TrellisPlanes<uint8_t> begin =
      format::trellis_value_planes(out, T, D, width, wide_pairs);
  alignas(64) uint8_t nowhere[kMaxBlockSize / 2];
  for (int c = 0; c < D; c += L) {
    const int count = D - c < L ? D - c : L;
    StripPlanes<S> planes, path_planes;
    alignas(64) float unit[L], middle[L], top[L];
    for (int l = 0; l < L; ++l) {
      const int pair = (c + l) % pairs;
      const int own = format::trellis_value_width(pair, width, wide_pairs);
      unit[l] = value_unit(own, width);
      middle[l] = 0.5f * max_code(own + 1);
      top[l] = max_code(own - 1);
      format::TrellisPlanes<uint8_t> at = begin;
      format::advance(at.b, T, format::trellis_value_planes(pair, width, wide_pairs));
      if (c + l >= pairs) format::advance(at.b, T, own - 1);
      at.path += format::channel_position(c + l, D) * static_cast<int>(format::plane_bytes(T, 1));
      planes.set(l, l < count ? own - 1 : 0, T, at.b, nowhere);
      path_planes.set(l, l < count ? 1 : 0, T, {nowhere, nowhere, at.path}, nowhere);
    }
    const ValueStrip<S> strip = {.first = first_row(p),
                                 .stride = row_bytes(p),
                                 .c = c,
                                 .tokens = p.tokens,
                                 .part = S::part(count),
                                 .unit = S::load(unit),
                                 .middle = S::load(middle),
                                 .top = S::load(top),
                                 .inverses = inverses,
                                 .weights = weights};
    pack_value_strip<S, kType>(strip, T, planes, path_planes);
  }
  // What follows the last plane is padding.
  format::Planes<uint8_t> end = begin.b;
  format::advance(end, T, format::trellis_value_planes(pairs, width, wide_pairs));
  const size_t bytes = static_cast<size_t>(end.bits - out);
  std::memset(end.bits, 0, format::align_up(bytes) - bytes);
}

template <class S>
void pack_trellis_values_any(const PackParams& p, int32_t width, int32_t wide_pairs, uint8_t* out) {
  if (p.head_dim > kMaxSimdHeadDim) {
    return scalar::kTrellis.pack_trellis_values(p, width, wide_pairs, out);
  }
  with_dtype(p.dtype,
             [&](auto type) { pack_trellis_values_in<S, type>(p, width, wide_pairs, out); });
}

}  // namespace
}  // namespace rillkv::kernels::cpu
