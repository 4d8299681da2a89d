// Rows of a dtype in registers; S: see simd_concept.h. `c` counts elements from a row's start.
#pragma once

#include <cstdint>

#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu {
namespace {

template <class S, Dtype kType>
typename S::F widen_as(typename S::H x) {
  if constexpr (kType == Dtype::kFloat16) return S::from_half(x);
  return S::as_float(S::shift_left(S::widen(x), 16));
}
template <class S, Dtype kType>
typename S::H narrow_as(typename S::F x) {
  if constexpr (kType == Dtype::kFloat16) return S::to_half(x);
  return S::to_bfloat16(x);
}

/// kLanes elements.
template <class S, Dtype kType>
typename S::F load_as(const void* row, int c) {
  if constexpr (kType == Dtype::kFloat32) {
    return S::load(static_cast<const float*>(row) + c);
  } else {
    return widen_as<S, kType>(S::load_16(static_cast<const uint16_t*>(row) + c));
  }
}
template <class S, Dtype kType>
void store_as(void* row, int c, typename S::F x) {
  if constexpr (kType == Dtype::kFloat32) {
    S::store(static_cast<float*>(row) + c, x);
  } else {
    S::store_16(static_cast<uint16_t*>(row) + c, narrow_as<S, kType>(x));
  }
}

/// Those of the part, zeros beyond. Apart because a masked store costs several times a plain one on
/// some machines.
template <class S, Dtype kType>
typename S::F load_part_as(const void* row, int c, const typename S::Part& part) {
  if constexpr (kType == Dtype::kFloat32) {
    return S::load_part(static_cast<const float*>(row) + c, part);
  } else {
    return widen_as<S, kType>(S::load_16_part(static_cast<const uint16_t*>(row) + c, part));
  }
}
template <class S, Dtype kType>
void store_part_as(void* row, int c, typename S::F x, const typename S::Part& part) {
  if constexpr (kType == Dtype::kFloat32) {
    S::store_part(static_cast<float*>(row) + c, x, part);
  } else {
    S::store_16_part(static_cast<uint16_t*>(row) + c, narrow_as<S, kType>(x), part);
  }
}

/// A row in fp32, with L zeros after it.
template <class S, Dtype kType>
void load_whole_row(const uint8_t* row, int head_dim, float* x) {
  constexpr int L = S::kLanes;
  int c = 0;
  for (; c + L <= head_dim; c += L) S::store(x + c, load_as<S, kType>(row, c));
  S::store(x + c, load_part_as<S, kType>(row, c, S::part(head_dim - c)));
}

}  // namespace
}  // namespace rillkv::kernels::cpu
