// RMSNorm and the SiLU gate of elementwise.h, a register of S::kLanes numbers at a time; S: see
// simd_concept.h. elementwise.h defines the results; its lines stand above the operations that
// repeat them, bit for bit. By hand because GCC 12 turns a clamp into branches of a vector loop and
// then divides twice, and leaves the loops that write what they read to scalar code.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic/elementwise.h"
#include "kernels/cpu/generic/simd_rows.h"

namespace rillkv::kernels::cpu {
namespace {

/// The values of the even and of the odd elements of 2 kLanes consecutive bf16 numbers: two shifts
/// instead of the shuffles that widening and narrowing in order take.
template <class S>
struct EvenOdd {
  typename S::F even, odd;
};
template <class S>
RILLKV_INLINE EvenOdd<S> load_even_odd(const void* row, int c) {
  const typename S::I words = S::load_int(static_cast<const uint16_t*>(row) + c);
  const typename S::I upper = S::set1_int(static_cast<int32_t>(0xffff0000));
  return {S::as_float(S::shift_left(words, 16)), S::as_float(S::bit_and(words, upper))};
}
template <class S>
RILLKV_INLINE void store_even_odd(void* row, int c, const EvenOdd<S>& x) {
  const typename S::I upper = S::set1_int(static_cast<int32_t>(0xffff0000));
  const typename S::I low = S::shift_right(S::bfloat16_bits(x.even), 16);
  S::store_int(static_cast<uint16_t*>(row) + c,
               S::bit_or(low, S::bit_and(S::bfloat16_bits(x.odd), upper)));
}

/// out[i] = store(f(load(rows[i])...)) for i < n; `out` may be one of the rows.
template <class S, Dtype kType, class Function, class... Rows>
RILLKV_INLINE void map_row(int n, void* out, const Function& f, const Rows*... rows) {
  constexpr int L = S::kLanes;
  int c = 0;
  if constexpr (kType == Dtype::kBFloat16) {
    const auto both = [&](const auto&... x) __attribute__((always_inline)) {
      return EvenOdd<S>{f(x.even...), f(x.odd...)};
    };
    for (; c + 2 * L <= n; c += 2 * L) {
      store_even_odd<S>(out, c, both(load_even_odd<S>(rows, c)...));
    }
  }
  for (; c + L <= n; c += L) store_as<S, kType>(out, c, f(load_as<S, kType>(rows, c)...));
  if (c < n) {
    const typename S::Part part = S::part(n - c);
    store_part_as<S, kType>(out, c, f(load_part_as<S, kType>(rows, c, part)...), part);
  }
}

template <class S, Dtype kType>
void rms_norm_rows_simd(const NormParams& p, int64_t begin, int64_t end) {
  using F = typename S::F;
  constexpr int L = S::kLanes, kSums = kLanes / L;
  const int n = static_cast<int>(p.columns);
  const int64_t bytes = p.columns * static_cast<int64_t>(element_bytes(kType));
  for (int64_t row = begin; row < end; ++row) {
    uint8_t* x = static_cast<uint8_t*>(p.x) + row * bytes;
    uint8_t* out = static_cast<uint8_t*>(p.out) + row * bytes;
    if (p.delta != nullptr) {
      const uint8_t* delta = static_cast<const uint8_t*>(p.delta) + row * bytes;
      // x[i] = store(load(x[i]) + load(delta[i]))
      const auto sum = [](F a, F b) __attribute__((always_inline)) { return S::add(a, b); };
      map_row<S, kType>(n, x, sum, x, delta);
    }
    // sums[i % 16] += x[i] * x[i]
    F sums[kSums];
    for (F& sum : sums) sum = S::zero();
    int c = 0;
    for (; c + kLanes <= n; c += kLanes) {
      for (int s = 0; s < kSums; ++s) {
        const F v = load_as<S, kType>(x, c + s * L);
        sums[s] = S::add(sums[s], S::mul(v, v));
      }
    }
    for (int s = 0; s < kSums && c + s * L < n; ++s) {
      const F v = load_part_as<S, kType>(x, c + s * L, S::part(n - c - s * L));
      sums[s] = S::add(sums[s], S::mul(v, v));
    }
    const float mean = S::fold16(sums) / static_cast<float>(p.columns);
    const F scale = S::set1(1.0f / __builtin_sqrtf(mean + p.epsilon));
    // out[i] = store(load(x[i]) * scale * load(weight[i]))
    const auto scaled = [&](F v, F w) __attribute__((always_inline)) {
      return S::mul(S::mul(v, scale), w);
    };
    map_row<S, kType>(n, out, scaled, x, static_cast<const uint8_t*>(p.weight));
  }
}

/// exponential() of exponential.h.
template <class S>
RILLKV_INLINE typename S::F exponential_of(typename S::F x) {
  using F = typename S::F;
  const F magic = S::set1(12582912.0f);
  // clamped = x < -87 ? -87 : x > 87 ? 87 : x, NaN as it is
  const F clamped = S::min(S::set1(87.0f), S::max(S::set1(-87.0f), x));
  const F shifted = S::add(S::mul(clamped, S::set1(1.44269504f)), magic);
  const F n = S::sub(shifted, magic);
  const F r = S::sub(S::sub(clamped, S::mul(n, S::set1(0.693359375f))),
                     S::mul(n, S::set1(-2.12194440e-4f)));
  F y = S::set1(1.0f / 5040);
  for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
    y = S::add(S::mul(y, r), S::set1(coefficient));
  }
  // y * 2^n: the bits of shifted, plus 127, shifted to the exponent
  const auto power = S::shift_left(S::add_int(S::as_int(shifted), S::set1_int(127)), 23);
  return S::mul(y, S::as_float(power));
}

template <class S, Dtype kType>
void gate_rows_simd(const GateParams& p, int64_t begin, int64_t end) {
  using F = typename S::F;
  const int64_t bytes = p.columns * static_cast<int64_t>(element_bytes(kType));
  for (int64_t row = begin; row < end; ++row) {
    const uint8_t* gate = static_cast<const uint8_t*>(p.gate_up) + 2 * row * bytes;
    const uint8_t* up = gate + bytes;
    uint8_t* out = static_cast<uint8_t*>(p.out) + row * bytes;
    // out[i] = store(g / (1 + exponential(-g)) * load(up[i]))
    const auto gated = [](F g, F u) __attribute__((always_inline)) {
      const F e = exponential_of<S>(S::mul(g, S::set1(-1.0f)));
      return S::mul(S::div(g, S::add(S::set1(1.0f), e)), u);
    };
    map_row<S, kType>(static_cast<int>(p.columns), out, gated, gate, up);
  }
}

/// The entries of KernelTable; `rope` is the portable one.
template <class S>
constexpr ElementwiseKernels elementwise_kernels_simd() {
  ElementwiseKernels kernels = elementwise_kernels();
  kernels.rms_norm = [](const NormParams& p, int64_t begin, int64_t end) {
    with_dtype(p.dtype, [&](auto type) { rms_norm_rows_simd<S, type>(p, begin, end); });
  };
  kernels.gate = [](const GateParams& p, int64_t begin, int64_t end) {
    with_dtype(p.dtype, [&](auto type) { gate_rows_simd<S, type>(p, begin, end); });
  };
  return kernels;
}

}  // namespace
}  // namespace rillkv::kernels::cpu
