// Scale and codes of a channel in the chain of error feedback, where every instruction is waited
// for: quantise.cuh's to the bit, from arithmetic alone. Conversions to fp16 and back take longer.
#pragma once

#include "kernels/cuda/code_planes.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cuda {

/// fp16 has 13 bits less than fp32, and below this multiples of 2^-24.
inline constexpr float kLeastNormalHalf = 0x1p-14f;
inline constexpr uint32_t kBelowHalf = 0x1fff;

/// The fp16 number next to x towards minus infinity; |x| <= 65504.
__device__ inline float half_below(float x) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t away = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) & kBelowHalf;
  // The last place of 0.5 .. 1 is worth 2^-24.
  const float small = __fsub_rn(__fadd_rd(x, 0.75f), 0.75f);
  return fabsf(x) < kLeastNormalHalf ? small : __uint_as_float((bits + away) & ~kBelowHalf);
}
/// The same towards plus infinity; 0 <= x <= 65504.
__device__ inline float half_above(float x) {
  const float small = __fsub_rn(__fadd_ru(x, 0.5f), 0.5f);
  return x < kLeastNormalHalf ? small
                              : __uint_as_float((__float_as_uint(x) + kBelowHalf) & ~kBelowHalf);
}
/// 1 / x, off by 2^-23 of it; 0 for 0.
__device__ inline float near_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return x > 0.0f ? y : 0.0f;
}

/// The largest code of a width, and its reciprocal to nearest.
struct TopCode {
  float top, inverse;
};
__device__ inline TopCode top_code(int width) {
  return {max_code(width), __frcp_rn(max_code(width))};
}

/// As affine_scale.
struct ChainScale {
  float lo, step, reciprocal;

  /// of: the width's.
  __device__ ChainScale(float least, float most, TopCode of) {
    lo = half_below(__fadd_rn(least, 0.0f));
    // The quotient by a top code: its first approximation is off by less than 2 ulp, and one
    // residual, which is exact, corrects that (FeedbackScaleTest).
    const float range = __fsub_rn(most, lo), q = __fmul_rn(range, of.inverse);
    step = half_above(__fmaf_rn(__fmaf_rn(-of.top, q, range), of.inverse, q));
    reciprocal = near_reciprocal(step);
  }
  /// quantise.cuh says why the quotient is a division's; a reciprocal that is off by 2^-23 makes
  /// its first approximation off by less than 4 ulp, and the sum's error 2^-20 ulp.
  __device__ float quotient(float x) const {
    const float distance = __fsub_rn(x, lo), q = __fmul_rn(distance, reciprocal);
    return __fmaf_rn(__fmaf_rn(q, -step, distance), reciprocal, q);
  }
};

/// A number's bits as an integer that compares as the number does, and back.
__device__ inline int ordered(float x) {
  const int bits = __float_as_int(x);
  return bits ^ (bits >> 31 & 0x7fffffff);
}
__device__ inline float unordered(int bits) {
  return __int_as_float(bits ^ (bits >> 31 & 0x7fffffff));
}

__device__ inline float within_magnitude(float x) {
  return fminf(fmaxf(x, -format::kMaxMagnitude), format::kMaxMagnitude);
}

}  // namespace rillkv::kernels::cuda
