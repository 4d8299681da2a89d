// Exponentials without a library: the same bits on every machine, and loops over them vectorise.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic/half.h"

namespace rillkv::kernels::cpu {
namespace {

/// exp(x) for |x| <= 87, beyond that as there: 2^n * exp(r) with |r| <= ln(2)/2, whose Taylor
/// polynomial of degree 7 errs by less than 4e-9 relative; what remains is about two fp32
/// roundings.
inline float exponential(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float clamped = x < -87.0f ? -87.0f : x > 87.0f ? 87.0f : x;
  const float shifted = clamped * 1.44269504f + kMagic;
  const float n = shifted - kMagic;
  const float r =
      (clamped - n * 0.693359375f) - n * -2.12194440e-4f;  // ln(2) in two parts: exact products
  float y = 1.0f / 5040;
  y = y * r + 1.0f / 720;
  y = y * r + 1.0f / 120;
  y = y * r + 1.0f / 24;
  y = y * r + 1.0f / 6;
  y = y * r + 0.5f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  return y * float_from_bits((float_bits(shifted) + 127u) << 23);  // the integer is in the low bits
}

/// 2^f for |f| <= 1/2, relative error 1e-7 (minimax, degree 6); S: see simd_concept.h.
template <class S>
typename S::F exp2_fraction(typename S::F f) {
  typename S::F y = S::fma(f, S::set1(1.53458113e-4f), S::set1(1.33999312e-3f));
  y = S::fma(y, f, S::set1(9.61848896e-3f));
  y = S::fma(y, f, S::set1(5.55032878e-2f));
  y = S::fma(y, f, S::set1(2.40226469e-1f));
  y = S::fma(y, f, S::set1(6.93147206e-1f));
  return S::fma(y, f, S::set1(1.0f));
}

}  // namespace
}  // namespace rillkv::kernels::cpu
