// Statistics over the tokens of a chunk or block, a register of channels at a time; S: see
// simd_concept.h. scalar/pack.cpp defines the results; its lines stand above the operations that
// repeat them.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic/half.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/simd_rows.h"
#include "kernels/cpu/generic/with_dtype.h"
#include "kernels/cpu/kernels.h"

namespace rillkv::kernels::cpu {
namespace {

inline constexpr int kStrip = 4;  // registers of a row that a reduction holds at a time

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
      reduction.add(state[v], load_as<S, kType>(row, c + v * L));
    }
    reduction.add(state[N - 1], load_part_as<S, kType>(row, c + (N - 1) * L, part));
  }
  for (int v = 0; v < N - 1; ++v) reduction.end(state[v], c + v * L, S::part(L));
  reduction.end(state[N - 1], c + (N - 1) * L, part);
}

template <class S, class Reduction>
void reduce(const PackParams& p, Reduction reduction) {
  constexpr int L = S::kLanes;
  with_dtype(p.dtype, [&](auto type) {
    for (int c = 0; c < p.head_dim; c += kStrip * L) {
      const int registers = (p.head_dim - c + L - 1) / L;
      with_int<1, kStrip>(registers,
                          [&](auto count) { reduce_strip<S, type, count>(p, c, reduction); });
    }
  });
}

template <class S>
struct Absmax {
  using State = typename S::I;
  float* out;
  void begin(State& most, int, typename S::Part) const { most = S::zero_int(); }
  // most[c] = max(most[c], bits(x) & 0x7fffffff)
  void add(State& most, typename S::F x) const {
    most = S::max_unsigned(most, S::bit_and(S::as_int(x), S::set1_int(0x7fffffff)));
  }
  // out[c] = most[c] > inf ? NaN : most[c]
  void end(State most, int c, typename S::Part part) const {
    const typename S::I nan =
        S::bit_and(S::greater(most, S::set1_int(0x7f800000)), S::set1_int(0x7fffffff));
    // bits | nan would keep the payload of some and not of others: set all, then clear to
    // 0x7fc00000.
    const typename S::I merged = S::bit_or(most, nan);
    const typename S::I clear = S::bit_and(nan, S::set1_int(0x003fffff));
    S::store_part(out + c, S::as_float(S::and_not(clear, merged)), part);
  }
};

template <class S>
struct MinMax {
  struct State {
    typename S::F lo, hi;
  };
  float* lo;
  float* hi;
  void begin(State& s, int, typename S::Part) const {
    s.lo = S::set1(float_from_bits(0x7f800000u));
    s.hi = S::set1(float_from_bits(0xff800000u));
  }
  void add(State& s, typename S::F x) const {
    s.lo = S::min(x, s.lo);
    s.hi = S::max(x, s.hi);
  }
  // lo[c] += 0.0f
  void end(State s, int c, typename S::Part part) const {
    S::store_part(lo + c, S::add(s.lo, S::set1(0.0f)), part);
    S::store_part(hi + c, S::add(s.hi, S::set1(0.0f)), part);
  }
};

template <class S>
struct AddSquares {
  using State = typename S::F;
  float* sums;
  void begin(State& sum, int c, typename S::Part part) const { sum = S::load_part(sums + c, part); }
  // sums[c] += x * x, two roundings
  void add(State& sum, typename S::F x) const { sum = S::add(sum, S::mul(x, x)); }
  void end(State sum, int c, typename S::Part part) const { S::store_part(sums + c, sum, part); }
};

/// The first pass of variance.
template <class S>
struct Mean {
  using State = typename S::F;
  float* means;
  float count;
  void begin(State& sum, int, typename S::Part) const { sum = S::zero(); }
  void add(State& sum, typename S::F x) const { sum = S::add(sum, x); }
  void end(State sum, int c, typename S::Part part) const {
    S::store_part(means + c, S::div(sum, S::set1(count)), part);
  }
};

/// The second, in place of the means.
template <class S>
struct MeanSquare {
  struct State {
    typename S::F mean, sum;
  };
  float* out;
  float count;
  void begin(State& s, int c, typename S::Part part) const {
    s.mean = S::load_part(out + c, part);
    s.sum = S::zero();
  }
  // sum = fma(x - mean, x - mean, sum)
  void add(State& s, typename S::F x) const {
    const typename S::F from_mean = S::sub(x, s.mean);
    s.sum = S::fma(from_mean, from_mean, s.sum);
  }
  void end(State s, int c, typename S::Part part) const {
    S::store_part(out + c, S::div(s.sum, S::set1(count)), part);
  }
};

template <class S>
void variance_any(const PackParams& p, float* out) {
  const auto count = static_cast<float>(p.tokens);
  reduce<S>(p, Mean<S>{out, count});
  reduce<S>(p, MeanSquare<S>{out, count});
}

/// The entries of KernelTable.
template <class S>
constexpr StatisticsKernels statistics_kernels() {
  return {
      .absmax = [](const PackParams& p, float* out) { reduce<S>(p, Absmax<S>{out}); },
      .min_max =
          [](const PackParams& p, float* lo, float* hi) {
            reduce<S>(p, MinMax<S>{lo, hi});
          },
      .add_squares = [](const PackParams& p, float* sums) { reduce<S>(p, AddSquares<S>{sums}); },
  };
}

}  // namespace
}  // namespace rillkv::kernels::cpu
