// The Walsh-Hadamard transform y = H x / sqrt(D), D a power of two: butterflies of the spans 1, 2,
// 4, ... D / 2 in this order, fp32, then one multiply. The portable lines define the result, the
// SIMD versions repeat it bit for bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/simd_rows.h"

namespace rillkv::kernels::cpu {
namespace {

/// Unnormalised, in place.
inline void hadamard_butterflies(float* x, int count) {
  for (int span = 1; span < count; span *= 2) {
    for (int begin = 0; begin < count; begin += 2 * span) {
      for (int i = begin; i < begin + span; ++i) {
        const float a = x[i];
        const float b = x[i + span];
        x[i] = a + b;
        x[i + span] = a - b;
      }
    }
  }
}

/// The multiplier that makes the butterflies orthonormal: fp32(1 / sqrt(count)).
inline float hadamard_factor(int count) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(count)));
}

// ---- in registers; S: see simd_concept.h ----

inline constexpr int kMaxSimdHeadDim = 512;  // rows live on the stack; longer ones go the slow way

/// -1 in the lanes whose bit kSpan is set, 1 in the others.
template <int kLanes, int kSpan>
struct ButterflySigns {
  alignas(64) float lanes[kLanes];
  constexpr ButterflySigns() : lanes() {
    for (int i = 0; i < kLanes; ++i) lanes[i] = (i & kSpan) != 0 ? -1.0f : 1.0f;
  }
};
template <int kLanes, int kSpan>
inline constexpr ButterflySigns<kLanes, kSpan> kButterflySigns;

/// Lane l takes x[l] + x[l ^ kSpan] where bit kSpan of l is clear, x[l ^ kSpan] - x[l] where set.
/// The multiply-add by 1 or -1 rounds once, as the sum or difference does.
template <class S, int kSpan>
inline typename S::F butterfly(typename S::F x) {
  return S::fma(x, S::load(kButterflySigns<S::kLanes, kSpan>.lanes),
                S::template exchange<kSpan>(x));
}

/// The spans within one register, of which `count` lanes count.
template <class S>
inline typename S::F butterflies_in_register(typename S::F x, int count) {
  x = butterfly<S, 1>(x);
  if (count > 2) x = butterfly<S, 2>(x);
  if (count > 4) x = butterfly<S, 4>(x);
  if constexpr (S::kLanes > 8) {
    if (count > 8) x = butterfly<S, 8>(x);
  }
  return x;
}

/// A row of kRegisters registers, or (0) of as many as `count` needs.
template <class S, Dtype kType, int kRegisters, class Load>
void hadamard_registers(int count, const Load& load, float factor, void* out) {
  constexpr int L = S::kLanes;
  const int registers = kRegisters > 0 ? kRegisters : count / L;
  typename S::F x[kRegisters > 0 ? kRegisters : kMaxSimdHeadDim / L];
  for (int v = 0; v < registers; ++v) x[v] = butterflies_in_register<S>(load(v * L), L);
  for (int span = 1; span < registers; span *= 2) {
    for (int begin = 0; begin < registers; begin += 2 * span) {
      for (int v = begin; v < begin + span; ++v) {
        const typename S::F a = x[v], b = x[v + span];
        x[v] = S::add(a, b);
        x[v + span] = S::sub(a, b);
      }
    }
  }
  const typename S::F factors = S::set1(factor);
  for (int v = 0; v < registers; ++v) {
    store_as<S, kType>(out, v * L, S::mul(x[v], factors));
  }
}

/// out[c] = factor * (butterflies x)[c] in kType for c < count <= kMaxSimdHeadDim; load(c) gives
/// kLanes values from c on, load_part(part) those of a row shorter than a register.
template <class S, Dtype kType, class Load, class LoadPart>
void hadamard_row(int count, const Load& load, const LoadPart& load_part, float factor, void* out) {
  constexpr int L = S::kLanes;
  if (count == 64) {
    hadamard_registers<S, kType, 64 / L>(count, load, factor, out);
  } else if (count == 128) {
    hadamard_registers<S, kType, 128 / L>(count, load, factor, out);
  } else if (count >= L) {
    hadamard_registers<S, kType, 0>(count, load, factor, out);
  } else {
    const auto part = S::part(count);
    const typename S::F x = butterflies_in_register<S>(load_part(part), count);
    store_part_as<S, kType>(out, 0, S::mul(x, S::set1(factor)), part);
  }
}

/// KernelTable::hadamard for rows of up to kMaxSimdHeadDim channels.
template <class S>
void hadamard_tokens(const PackParams& p, const MutableActivation& out) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype kType = type;
    const float factor = hadamard_factor(p.head_dim);
    const uint8_t* row = first_row(p);
    for (int t = 0; t < p.tokens; ++t, row += row_bytes(p)) {
      hadamard_row<S, kType>(
          p.head_dim, [&](int c) { return load_as<S, kType>(row, c); },
          [&](auto part) { return load_part_as<S, kType>(row, 0, part); }, factor,
          row_of(out, kType, t, p.kv_head));
    }
  });
}

}  // namespace
}  // namespace rillkv::kernels::cpu
