// The two matrix products of tiled attention, by one microkernel.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/cpu/generic/tiles.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

/// out[r, :] = sum over steps of a[r, step] * panel[step, :], on top of out[r, :] * shrink[r] with
/// kAccumulate. R rows x N registers of one panel.
template <class S, bool kAccumulate, int R, int N>
void multiply_block(const uint32_t* a, size_t a_stride, const uint32_t* panel, int steps,
                    float* out, size_t out_stride, [[maybe_unused]] const float* shrink) {
  typename S::F sum[R][N];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      if constexpr (kAccumulate) {
        sum[r][j] = S::mul(S::set1(shrink[r]),
                           S::load(out + static_cast<size_t>(r) * out_stride + j * S::kLanes));
      } else {
        sum[r][j] = S::zero();
      }
    }
  }
  for (int k = 0; k < steps; ++k, panel += kPanel<S>) {
    typename S::I b[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) b[j] = S::load_int(panel + j * S::kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const typename S::I x = S::broadcast(a + static_cast<size_t>(r) * a_stride + k);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) sum[r][j] = S::dot(sum[r][j], x, b[j]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      S::store(out + static_cast<size_t>(r) * out_stride + j * S::kLanes, sum[r][j]);
    }
  }
}

using Microkernel = void (*)(const uint32_t*, size_t, const uint32_t*, int, float*, size_t,
                             const float*);

/// [rows - 1][registers - 1]
template <class S, bool kAccumulate>
inline constexpr auto kMicrokernels = []<int... kRows>(std::integer_sequence<int, kRows...>) {
  const auto row = []<int R, int... kVectors>(std::integer_sequence<int, kVectors...>) {
    return std::array<Microkernel, S::kPanelVectors>{
        multiply_block<S, kAccumulate, R, kVectors + 1>...};
  };
  return std::array<std::array<Microkernel, S::kPanelVectors>, S::kMicroRows>{
      row.template operator()<kRows + 1>(std::make_integer_sequence<int, S::kPanelVectors>())...};
}
(std::make_integer_sequence<int, S::kMicroRows>());

/// Rows a microkernel takes of `rest`: as many as it can, but 8 = 4 + 4 and 7 = 4 + 3, which keep
/// more of the multiply-adds' latency covered than 6 + 2 and 6 + 1.
template <class S>
int next_rows(int rest) {
  static_assert(S::kMicroRows == 6);
  return rest == 8 || rest == 7 ? 4 : rest < S::kMicroRows ? rest : S::kMicroRows;
}

/// rows x panels product; `vectors` registers of columns in all. See multiply_block.
template <class S, bool kAccumulate>
void multiply(const uint32_t* a, size_t a_stride, int rows, const uint32_t* tile,
              size_t panel_stride, int vectors, int steps, float* out, size_t out_stride,
              const float* shrink) {
  for (int v = 0; v < vectors; v += S::kPanelVectors, tile += panel_stride) {
    const int width = vectors - v < S::kPanelVectors ? vectors - v : S::kPanelVectors;
    for (int r = 0, count = 0; r < rows; r += count) {
      count = next_rows<S>(rows - r);
      kMicrokernels<S, kAccumulate>[static_cast<size_t>(count - 1)][static_cast<size_t>(width - 1)](
          a + static_cast<size_t>(r) * a_stride, a_stride, tile, steps,
          out + static_cast<size_t>(r) * out_stride + v * S::kLanes, out_stride,
          kAccumulate ? shrink + r : nullptr);
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
