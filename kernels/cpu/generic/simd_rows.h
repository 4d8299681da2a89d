// Rows of a dtype in registers; S: see simd_concept.h. `c` counts elements from a row's start.
#pragma once

#include <cstdint>

#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu {
namespace {

/// To nearest even: NaN ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16, as
/// float_to_bfloat16 of half.h. No instruction's own conversion, of which some take subnormal
/// numbers for zero.
template <class S>
typename S::H to_bfloat16(typename S::F x) {
  using I = typename S::I;
  const I bits = S::as_int(x), top = S::shift_right(bits, 16);
  const I odd = S::bit_and(top, S::set1_int(1));
  const I rounded = S::shift_right(S::add_int(bits, S::add_int(odd, S::set1_int(0x7fff))), 16);
  const I nan = S::greater(S::bit_and(bits, S::set1_int(0x7fffffff)), S::set1_int(0x7f800000));
  return S::narrow(
      S::bit_or(S::and_not(nan, rounded), S::bit_and(nan, S::bit_or(top, S::set1_int(0x40)))));
}

template <class S, Dtype kType>
typename S::F widen_as(typename S::H x) {
  if constexpr (kType == Dtype::kFloat16) return S::from_half(x);
  return S::as_float(S::shift_left(S::widen(x), 16));
}
template <class S, Dtype kType>
typename S::H narrow_as(typename S::F x) {
  if constexpr (kType == Dtype::kFloat16) return S::to_half(x);
  return to_bfloat16<S>(x);
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

}  // namespace
}  // namespace rillkv::kernels::cpu
