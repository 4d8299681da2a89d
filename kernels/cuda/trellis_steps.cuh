// The numbers that trellis coding makes of a width, a range and a scale (kernels/trellis.h), to the
// bit: intrinsics that the compiler may not contract, and powers from selections, since what a
// chain waits for may not come from memory.
#pragma once

#include "kernels/cuda/feedback_scale.cuh"
#include "kernels/steps8.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cuda {

/// format::step8(i), also for i above 255: 2^((i - 136) / 8); 0 <= i <= 1000.
__device__ inline float power8(int i) {
  const bool low = (i & 1) != 0, middle = (i & 2) != 0, high = (i & 4) != 0;
  const float a = low ? format::step8_mantissa(1) : format::step8_mantissa(0);
  const float b = low ? format::step8_mantissa(3) : format::step8_mantissa(2);
  const float c = low ? format::step8_mantissa(5) : format::step8_mantissa(4);
  const float d = low ? format::step8_mantissa(7) : format::step8_mantissa(6);
  const float mantissa = high ? (middle ? d : c) : (middle ? b : a);
  return __int_as_float(__float_as_int(mantissa) + ((i >> 3) - 17) * (1 << 23));
}
/// format::inverse8(i): the mantissas of both are the same, halved.
__device__ inline float inverse_power8(int i) { return power8(272 - i); }

/// To the nearest integer, ties to even, as kernels/cpu has it.
__device__ inline float to_integer(float x) {
  return __fsub_rn(__fadd_rn(x, kCodeShift), kCodeShift);
}

/// z_j of the subset j; top: 2^(w-1) - 1.
__device__ inline float nearest_of_subset(float v, float subset, float top) {
  const float z = to_integer(__fmul_rn(__fsub_rn(v, subset), 0.25f));
  return fminf(fmaxf(z, 0.0f), top);
}
/// d_j without a weight.
__device__ inline float subset_distance(float v, float subset, float top) {
  const float level = __fmaf_rn(4.0f, nearest_of_subset(v, subset, top), subset);  // exactly
  const float error = __fsub_rn(v, level);
  return __fmul_rn(error, error);
}
/// The subset by which state n (after a token) is reached from its predecessor `from`.
__device__ constexpr int subset_between(int from, int n) {
  return 2 * ((n ^ from ^ from >> 2) & 1) + (from >> 1 & 1);
}

/// Bit n: state n is best reached from n / 2 + 4. metrics: [8] before the token; distances: [4].
__device__ inline uint32_t trellis_choices(const float (&metrics)[kTrellisStates],
                                           const float (&distances)[4]) {
  uint32_t chosen = 0;
#pragma unroll
  for (int n = 0; n < kTrellisStates; ++n) {
    const int from = n / 2, other = n / 2 + 4;
    const float here = __fadd_rn(metrics[from], distances[subset_between(from, n)]);
    const float there = __fadd_rn(metrics[other], distances[subset_between(other, n)]);
    chosen |= there < here ? 1u << n : 0u;
  }
  return chosen;
}

/// key_gain(width), by selections.
__device__ inline float key_gain_of(int width) {
  const float narrow = width == 1 ? key_gain(1) : width == 2 ? key_gain(2) : key_gain(3);
  const float middle = width == 4 ? key_gain(4) : key_gain(5);
  const float wide = width == 6 ? key_gain(6) : key_gain(7);
  return width <= 3 ? narrow : width <= 5 ? middle : wide;
}

/// KEYS, steps 1 to 3, of a channel of keys from lo to hi.
class KeySteps {
 public:
  struct Range {
    int step;
    float centre;
  };
  /// v = fma(x, scale, offset).
  struct Lattice {
    int step;
    float zero, scale, offset;
  };

  /// top: the width's.
  __device__ KeySteps(float lo, float hi, float average, int width, TopCode top)
      : width_(width), top_(top.top), average_(average) {
    middle_ = __fmul_rn(__fadd_rn(lo, hi), 0.5f);
    const float range = __fmul_rn(2.0f, __fmul_rn(__fsub_rn(hi, lo), 0.5f));
    least_ = format::nearest8(__fmul_rn(fmaxf(fabsf(lo), fabsf(hi)), 0x1p-15f)) + 1;
    const float q = __fmul_rn(range, top.inverse);  // as ChainScale divides
    widest_ = format::nearest8(__fmaf_rn(__fmaf_rn(-top.top, q, range), top.inverse, q));
  }

  __device__ Range candidate(int k) const {
    const float factor = inverse_power8(136 + k);
    const float mixed = __fmaf_rn(middle_, factor, __fmul_rn(average_, __fsub_rn(1.0f, factor)));
    return {max(widest_ - k, least_), k <= 1 ? middle_ : mixed};
  }
  /// Of the scalar quantiser.
  __device__ Lattice scalar(const Range& range) const {
    const float inverse = inverse_power8(range.step);
    const float zero = to_integer(__fmaf_rn(range.centre, inverse, __fmul_rn(-0.5f, top_)));
    return {range.step, zero, inverse, -zero};
  }
  __device__ Lattice trellis(const Range& range) const {
    const int step = min(max(range.step + key_shift(width_), least_), 255);
    const float inverse = inverse_power8(step);
    const float exact =
        to_integer(__fmaf_rn(range.centre, inverse, -__fadd_rn(top_, 0.5f)));  // (2 top + 1) / 2
    const float zero = fminf(fmaxf(exact, -kMaxZero), kMaxZero), gain = key_gain_of(width_);
    return {step, zero, __fmul_rn(inverse, gain),
            __fmaf_rn(__fmul_rn(average_, __fsub_rn(1.0f, gain)), inverse, -zero)};
  }

 private:
  int width_, least_, widest_;
  float top_, average_, middle_;
};

}  // namespace rillkv::kernels::cuda
