// Statistics and the Walsh-Hadamard transform for a register of S::kLanes fp32 numbers; see
// simd_pack.h for S. scalar_pack.cpp defines the results; its lines stand above the operations that
// repeat them.
#pragma once

#include <cstdint>

#include "kernels/cpu/common.h"

namespace rillkv::kernels::cpu {
namespace {

inline constexpr int kMaxSimdHeadDim = 1024;  // rows live on the stack; more takes the scalar path
inline constexpr int kStrip = 4;              // registers of a row that a reduction holds at a time

inline const uint8_t* first_row(const PackParams& p) {
  return static_cast<const uint8_t*>(row_of(p.input, p.dtype, 0, p.kv_head));
}
inline int64_t row_bytes(const PackParams& p) {
  return p.input.token_stride * static_cast<int64_t>(element_bytes(p.dtype));
}

// ---- statistics ----

/// One strip of N registers from channel c on; Reduction says what to do with a token.
template <class S, Dtype kType, int N, class Reduction>
void reduce_strip(const PackParams& p, int c, Reduction reduction) {
  constexpr int L = S::kLanes;
  const int rest = p.head_dim - c - (N - 1) * L;
  const typename S::Part part = S::part(rest < L ? rest : L);
  typename Reduction::State state[N];
  for (int v = 0; v < N - 1; ++v) reduction.begin(state[v], c + v * L, S::part(L));
  reduction.begin(state[N - 1], c + (N - 1) * L, part);
  const uint8_t* row = first_row(p);
  const int64_t stride = row_bytes(p);
  for (int t = 0; t < p.tokens; ++t, row += stride) {
    for (int v = 0; v < N - 1; ++v) {
      reduction.add(state[v], S::template load<kType>(row, c + v * L));
    }
    reduction.add(state[N - 1], S::template load_part<kType>(row, c + (N - 1) * L, part));
  }
  for (int v = 0; v < N - 1; ++v) reduction.end(state[v], c + v * L, S::part(L));
  reduction.end(state[N - 1], c + (N - 1) * L, part);
}

template <class S, Dtype kType, class Reduction>
void reduce(const PackParams& p, Reduction reduction) {
  constexpr int L = S::kLanes;
  for (int c = 0; c < p.head_dim; c += kStrip * L) {
    switch ((p.head_dim - c + L - 1) / L) {
      case 1:
        reduce_strip<S, kType, 1>(p, c, reduction);
        break;
      case 2:
        reduce_strip<S, kType, 2>(p, c, reduction);
        break;
      case 3:
        reduce_strip<S, kType, 3>(p, c, reduction);
        break;
      default:
        reduce_strip<S, kType, kStrip>(p, c, reduction);
    }
  }
}

template <class S>
struct Absmax {
  using State = typename S::Int;
  float* out;
  void begin(State& most, int, typename S::Part) const { most = S::zero_int(); }
  // most[c] = max(most[c], bits(x) & 0x7fffffff)
  void add(State& most, typename S::Float x) const {
    most = S::max_unsigned(most, S::bit_and(S::bits(x), S::set_int(0x7fffffff)));
  }
  // out[c] = most[c] > inf ? NaN : most[c]
  void end(State most, int c, typename S::Part part) const {
    const typename S::Int nan =
        S::bit_and(S::greater(most, S::set_int(0x7f800000)), S::set_int(0x7fffffff));
    // bits | nan would keep the payload of some and not of others: set all, then clear to
    // 0x7fc00000.
    const typename S::Int merged = S::bit_or(most, nan);
    const typename S::Int clear = S::bit_and(nan, S::set_int(0x003fffff));
    S::store_part(S::floats(S::and_not(clear, merged)), out + c, part);
  }
};

template <class S>
struct MinMax {
  struct State {
    typename S::Float lo, hi;
  };
  float* lo;
  float* hi;
  void begin(State& s, int, typename S::Part) const {
    s.lo = S::set(float_from_bits(0x7f800000u));
    s.hi = S::set(float_from_bits(0xff800000u));
  }
  void add(State& s, typename S::Float x) const {
    s.lo = S::min(x, s.lo);
    s.hi = S::max(x, s.hi);
  }
  // lo[c] += 0.0f
  void end(State s, int c, typename S::Part part) const {
    S::store_part(S::add(s.lo, S::set(0.0f)), lo + c, part);
    S::store_part(S::add(s.hi, S::set(0.0f)), hi + c, part);
  }
};

template <class S>
struct AddSquares {
  using State = typename S::Float;
  float* sums;
  void begin(State& sum, int c, typename S::Part part) const {
    sum = S::template load_part<Dtype::kFloat32>(sums, c, part);
  }
  // sums[c] += x * x, two roundings
  void add(State& sum, typename S::Float x) const { sum = S::add(sum, S::mul(x, x)); }
  void end(State sum, int c, typename S::Part part) const { S::store_part(sum, sums + c, part); }
};

// ---- Walsh-Hadamard ----

/// Butterflies of the spans below L within one register.
template <class S>
typename S::Float butterflies_within(typename S::Float x, int head_dim) {
  x = S::template butterfly<1>(x);
  if (head_dim > 2) x = S::template butterfly<2>(x);
  if (head_dim > 4) x = S::template butterfly<4>(x);
  if constexpr (S::kLanes > 8) {
    if (head_dim > 8) x = S::template butterfly<8>(x);
  }
  return x;
}

/// One row of V registers (V = 0: as many as head_dim needs).
template <class S, Dtype kType, int V>
void hadamard_row(const uint8_t* in, int head_dim, typename S::Float factor, void* out) {
  constexpr int L = S::kLanes;
  const int registers = V > 0 ? V : head_dim / L;
  typename S::Float x[V > 0 ? V : kMaxSimdHeadDim / L];
  for (int v = 0; v < registers; ++v) {
    x[v] = butterflies_within<S>(S::template load<kType>(in, v * L), head_dim);
  }
  for (int span = 1; span < registers; span *= 2) {
    for (int begin = 0; begin < registers; begin += 2 * span) {
      for (int v = begin; v < begin + span; ++v) {
        const typename S::Float a = x[v], b = x[v + span];
        x[v] = S::add(a, b);
        x[v + span] = S::sub(a, b);
      }
    }
  }
  for (int v = 0; v < registers; ++v) {
    S::template store_as<kType>(S::mul(x[v], factor), out, v * L);
  }
}

template <class S, Dtype kType>
void hadamard_in(const PackParams& p, const MutableActivation& out) {
  constexpr int L = S::kLanes;
  const int D = p.head_dim;
  const typename S::Float factor = S::set(hadamard_factor(D));
  const uint8_t* row = first_row(p);
  for (int t = 0; t < p.tokens; ++t, row += row_bytes(p)) {
    void* to = row_of(out, kType, t, p.kv_head);
    if (D == 64) {
      hadamard_row<S, kType, 64 / L>(row, D, factor, to);
    } else if (D == 128) {
      hadamard_row<S, kType, 128 / L>(row, D, factor, to);
    } else if (D >= L) {
      hadamard_row<S, kType, 0>(row, D, factor, to);
    } else {
      const typename S::Part part = S::part(D);
      const typename S::Float x =
          butterflies_within<S>(S::template load_part<kType>(row, 0, part), D);
      S::template store_part_as<kType>(S::mul(x, factor), to, 0, part);
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu
