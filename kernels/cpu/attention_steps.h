// The steps of the tiled attention on a block of rows: the two matrix products, the softmax between
// them, and the end of a row. See attention_tiled.h for how they fit together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_tiles.h"
#include "kernels/params.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

// ---- microkernels: R rows x N registers of one panel ----

/// out[r, :] = sum over steps of a[r, step] * panel[step, :]
template <class S, int R, int N>
void product(const uint32_t* a, size_t a_stride, const uint32_t* panel, int steps, float* out,
             size_t out_stride, const float*) {
  typename S::F sum[R][N];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) sum[r][j] = S::zero();
  }
  for (int k = 0; k < steps; ++k, panel += S::kPanel) {
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

/// out[r, :] = out[r, :] * shrink[r] + sum over steps of a[r, step] * panel[step, :]
template <class S, int R, int N>
void accumulate(const uint32_t* a, size_t a_stride, const uint32_t* panel, int steps, float* out,
                size_t out_stride, const float* shrink) {
  typename S::F sum[R][N];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      sum[r][j] = S::mul(S::set1(shrink[r]),
                         S::load(out + static_cast<size_t>(r) * out_stride + j * S::kLanes));
    }
  }
  for (int k = 0; k < steps; ++k, panel += S::kPanel) {
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

template <class S, int R>
Microkernel product_of(int vectors) {
  if constexpr (S::kPanelVectors == 4) {
    if (vectors == 4) return product<S, R, 4>;
    if (vectors == 3) return product<S, R, 3>;
  }
  return vectors == 2 ? product<S, R, 2> : product<S, R, 1>;
}
template <class S, int R>
Microkernel accumulate_of(int vectors) {
  if constexpr (S::kPanelVectors == 4) {
    if (vectors == 4) return accumulate<S, R, 4>;
    if (vectors == 3) return accumulate<S, R, 3>;
  }
  return vectors == 2 ? accumulate<S, R, 2> : accumulate<S, R, 1>;
}
template <class S, bool kAccumulate>
Microkernel microkernel(int rows, int vectors) {
  static_assert(S::kMicroRows == 6);
  switch (rows) {
#define RILLKV_CASE(R) \
  case R:              \
    return kAccumulate ? accumulate_of<S, R>(vectors) : product_of<S, R>(vectors);
    RILLKV_CASE(1)
    RILLKV_CASE(2)
    RILLKV_CASE(3)
    RILLKV_CASE(4)
    RILLKV_CASE(5)
    default:
      RILLKV_CASE(6)
#undef RILLKV_CASE
  }
}

/// Rows a microkernel takes of `rest`: 6, but 8 = 4 + 4 and 7 = 4 + 3, which keep more of the
/// multiply-adds' latency covered than 6 + 2 and 6 + 1.
inline int next_rows(int rest) { return rest == 8 || rest == 7 ? 4 : rest < 6 ? rest : 6; }

/// rows x panels product; `vectors` registers of columns in all.
template <class S, bool kAccumulate>
void multiply(const uint32_t* a, size_t a_stride, int rows, const uint32_t* tile,
              size_t panel_stride, int vectors, int steps, float* out, size_t out_stride,
              const float* shrink) {
  for (int v = 0; v < vectors; v += S::kPanelVectors, tile += panel_stride) {
    const int width = vectors - v < S::kPanelVectors ? vectors - v : S::kPanelVectors;
    for (int r = 0, count = 0; r < rows; r += count) {
      count = next_rows(rows - r);
      microkernel<S, kAccumulate>(count, width)(
          a + static_cast<size_t>(r) * a_stride, a_stride, tile, steps,
          out + static_cast<size_t>(r) * out_stride + v * S::kLanes, out_stride,
          kAccumulate ? shrink + r : nullptr);
    }
  }
}

// ---- softmax ----

/// One row: scores become weights (dwords of the second product's left side); m, sum and shrink as
/// the header says. `vectors` is a multiple of kPack.
template <class S>
void softmax_row(const float* scores, int vectors, float& m, float& sum, float& shrink,
                 uint32_t* weights) {
  using F = typename S::F;
  constexpr int L = S::kLanes;
  F most = S::load(scores), most2 = most;
  int v = 0;
  for (; v + 4 <= vectors; v += 4) {
    const float* x = scores + v * L;
    most = S::max(most, S::max(S::load(x), S::load(x + L)));
    most2 = S::max(most2, S::max(S::load(x + 2 * L), S::load(x + 3 * L)));
  }
  for (; v < vectors; ++v) most = S::max(most, S::load(scores + v * L));
  const float row_max = S::reduce_max(S::max(most, most2));
  const float next = row_max > m ? row_max : m;
  const F next_max = S::set1(next);

  F total = S::zero(), total2 = total;
  const auto weigh = [&](int at, F& into) {  // kPack registers of scores to one of dwords
    const F p = S::exp2(S::sub(S::load(scores + at * L), next_max));
    if constexpr (S::kPack == 2) {
      const F q = S::exp2(S::sub(S::load(scores + (at + 1) * L), next_max));
      into = S::add(into, S::add(p, q));
      S::store_int(weights + at / 2 * L, S::pack_row(p, q));
    } else {
      into = S::add(into, p);
      S::store_int(weights + at * L, S::as_int(p));
    }
  };
  v = 0;
  for (; v + 2 * S::kPack <= vectors; v += 2 * S::kPack) {
    weigh(v, total);
    weigh(v + S::kPack, total2);
  }
  if (v < vectors) weigh(v, total);
  shrink = S::first_lane(S::exp2(S::set1(m - next)));
  sum = sum * shrink + S::reduce_add(S::add(total, total2));
  m = next;
}

// ---- the end: Walsh-Hadamard in registers ----

template <class S, int kSpan>
RILLKV_INLINE typename S::F butterfly_in_register(typename S::F x) {
  alignas(64) float sign[S::kLanes];
  for (int i = 0; i < S::kLanes; ++i) sign[i] = (i & kSpan) != 0 ? -1.0f : 1.0f;
  return S::fma(x, S::load(sign), S::template exchange<kSpan>(x));
}

/// Unnormalised butterflies of all spans, in place; `count` a power of two.
template <class S>
void hadamard_row(float* x, int count) {
  using F = typename S::F;
  constexpr int L = S::kLanes;
  if (count < L) {
    for (int span = 1; span < count; span *= 2) {
      for (int i = 0; i < count; ++i) {
        if ((i & span) != 0) continue;
        const float a = x[i], b = x[i + span];
        x[i] = a + b;
        x[i + span] = a - b;
      }
    }
    return;
  }
  for (int i = 0; i < count; i += L) {
    F y = S::load(x + i);
    y = butterfly_in_register<S, 1>(y);
    y = butterfly_in_register<S, 2>(y);
    y = butterfly_in_register<S, 4>(y);
    if constexpr (L == 16) y = butterfly_in_register<S, 8>(y);
    S::store(x + i, y);
  }
  for (int span = L; span < count; span *= 2) {
    for (int begin = 0; begin < count; begin += 2 * span) {
      for (int i = begin; i < begin + span; i += L) {
        const F a = S::load(x + i), b = S::load(x + i + span);
        S::store(x + i, S::add(a, b));
        S::store(x + i + span, S::sub(a, b));
      }
    }
  }
}

/// out[t, head] = sums / total, rotated back where values are rotated; 0 where no key was seen.
/// Destroys `sums`.
template <class S>
void finish_row(const AttentionParams& params, float* sums, float total, int64_t t, int64_t head) {
  const int D = params.head_dim;
  float factor = total > 0.0f ? 1.0f / total : 0.0f;
  if (params.rotate_output) {
    hadamard_row<S>(sums, D);
    factor /= __builtin_sqrtf(static_cast<float>(D));
  }
  const size_t bytes = params.dtype == Dtype::kFloat32 ? 4 : 2;
  void* out =
      static_cast<uint8_t*>(params.out.data) +
      static_cast<size_t>(t * params.out.token_stride + head * params.out.head_stride) * bytes;
  for (int c = 0; c < D; c += S::kLanes) {
    S::store_row(out, params.dtype, c, D, S::mul(S::load_first(sums + c, D - c), S::set1(factor)));
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
