// RMSNorm with the residual connection before it, the SiLU gate and RoPE: one body in portable C++
// that each instruction set's file compiles with its own flags.
//
//   y_i = x_i / sqrt(mean(x^2) + epsilon) * w_i             z_i = g_i / (1 + exp(-g_i)) * u_i
//
// Every loop runs over kLanes independent numbers, which the compiler turns into whole registers;
// sums are kept in kLanes partial sums, so that their order does not depend on the register's
// width. Everything has internal linkage, as rows.h explains.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic/exponential.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/with_dtype.h"
#include "kernels/cpu/kernels.h"

namespace rillkv::kernels::cpu {
namespace {

constexpr int kLanes = 16;

template <Dtype kDtype>
inline void rms_norm_rows(const NormParams& p, int64_t begin, int64_t end) {
  using E = Element<kDtype>;
  using T = typename E::Type;
  const int64_t n = p.columns, whole = n / kLanes * kLanes;
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t row = begin; row < end; ++row) {
    T* x = static_cast<T*>(p.x) + row * n;
    T* out = static_cast<T*>(p.out) + row * n;
    if (p.delta != nullptr) {
      const T* delta = static_cast<const T*>(p.delta) + row * n;
      for (int64_t i = 0; i < n; ++i) x[i] = E::store(E::load(x[i]) + E::load(delta[i]));
    }
    float sums[kLanes] = {};
    for (int64_t i = 0; i < whole; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) sums[j] += E::load(x[i + j]) * E::load(x[i + j]);
    }
    for (int64_t i = whole; i < n; ++i) sums[i - whole] += E::load(x[i]) * E::load(x[i]);
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
    }
    const float scale = 1.0f / __builtin_sqrtf(sums[0] / static_cast<float>(n) + p.epsilon);
    for (int64_t i = 0; i < n; ++i) out[i] = E::store(E::load(x[i]) * scale * E::load(weight[i]));
  }
}

template <Dtype kDtype>
inline void gate_rows(const GateParams& p, int64_t begin, int64_t end) {
  using E = Element<kDtype>;
  using T = typename E::Type;
  const int64_t n = p.columns;
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = static_cast<const T*>(p.gate_up) + row * 2 * n;
    const T* up = gate + n;
    T* __restrict out = static_cast<T*>(p.out) + row * n;
    for (int64_t i = 0; i < n; ++i) {
      const float g = E::load(gate[i]);
      out[i] = E::store(g / (1.0f + exponential(-g)) * E::load(up[i]));
    }
  }
}

template <Dtype kDtype>
inline void rope_tokens(const RopeParams& p, int64_t begin, int64_t end) {
  using E = Element<kDtype>;
  using T = typename E::Type;
  const int64_t half = p.head_dim / 2;
  for (int64_t t = begin; t < end; ++t) {
    const float *cosines = p.cos + t * half, *sines = p.sin + t * half;
    for (int64_t h = 0; h < p.heads; ++h) {
      const T* x = static_cast<const T*>(row_of(p.x, kDtype, t, h));
      T* out = static_cast<T*>(row_of(p.out, kDtype, t, h));
#pragma GCC ivdep
      for (int64_t i = 0; i < half; ++i) {
        const float a = E::load(x[i]), b = E::load(x[half + i]);
        out[i] = E::store(a * cosines[i] - b * sines[i]);
        out[half + i] = E::store(b * cosines[i] + a * sines[i]);
      }
    }
  }
}

/// The entries of KernelTable, compiled for the including file's instruction set.
constexpr ElementwiseKernels elementwise_kernels() {
  return {
      .rms_norm =
          [](const NormParams& p, int64_t begin, int64_t end) {
            with_dtype(p.dtype, [&](auto type) { rms_norm_rows<type>(p, begin, end); });
          },
      .gate =
          [](const GateParams& p, int64_t begin, int64_t end) {
            with_dtype(p.dtype, [&](auto type) { gate_rows<type>(p, begin, end); });
          },
      .rope =
          [](const RopeParams& p, int64_t begin, int64_t end) {
            with_dtype(p.dtype, [&](auto type) { rope_tokens<type>(p, begin, end); });
          },
  };
}

}  // namespace
}  // namespace rillkv::kernels::cpu
