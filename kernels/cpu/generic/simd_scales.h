// scales.h in registers; S: see simd_concept.h. The scalar lines stand above the groups of vector
// operations that repeat them.
#pragma once

#include "kernels/cpu/generic/scales.h"

namespace rillkv::kernels::cpu {
namespace {

template <class S>
struct Scale {
  typename S::F lo, step;  // as stored
  typename S::F divisor;   // the stored step; infinity where that is 0, so that all codes are 0
};

/// affine_scale of scales.h for a register, and the bits to store.
template <class S>
Scale<S> make_affine_scale(typename S::F lo, typename S::F hi, typename S::F top,
                           typename S::H& lo_bits, typename S::H& step_bits) {
  Scale<S> scale;
  // lo_bits = float_to_half(lo + 0.0f, down)
  lo_bits = S::to_half_down(S::add(lo, S::set1(0.0f)));
  scale.lo = S::from_half(lo_bits);
  // step_bits = max((hi - lo) / top, 0), up
  const typename S::F step = S::div(S::sub(hi, scale.lo), top);
  step_bits = S::to_half_up(S::max(step, S::set1(0.0f)));
  scale.step = S::from_half(step_bits);
  scale.divisor = S::infinity_if_zero(scale.step);
  return scale;
}

/// min(max((x - lo) / step, 0), top), rounded to the nearest integer, ties to even.
template <class S>
typename S::I affine_code(typename S::F x, const Scale<S>& scale, typename S::F top) {
  const typename S::F code = S::div(S::sub(x, scale.lo), scale.divisor);
  return S::round_to_int(S::min(S::max(code, S::set1(0.0f)), top));
}

}  // namespace
}  // namespace rillkv::kernels::cpu
