// Scales of codes; the byte identity of all back ends rests on these lines.
//
// Internal linkage: a file compiled for AVX-512 that emitted a copy of an external inline function
// could lend that copy to the portable files at link time.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic/half.h"

namespace rillkv::kernels::cpu {
namespace {

inline constexpr int kMaxBlockSize = 256;

/// Rounds |x| < 2^22 to the nearest integer, ties to even, as rint does, in a form that vectorises.
inline float round_to_integer(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: the sum's last place is worth 1
  return (x + kShift) - kShift;
}

inline float max_code(int width) { return static_cast<float>((1 << width) - 1); }

struct AffineScale {
  uint16_t lo_bits, step_bits;  // as stored
  float lo, step;               // their exact values
};

/// lo rounds towards minus infinity and step, computed from the stored lo, towards plus infinity,
/// so no code of a value in [lo, hi] exceeds 2^width - 1. step is 0 iff hi equals the stored lo.
/// Adding +0 turns -0 into +0: which zero a minimum returns depends on the instruction set.
inline AffineScale affine_scale(float lo, float hi, int width) {
  AffineScale scale;
  scale.lo_bits = float_to_half(lo + 0.0f, Rounding::kDown);
  scale.lo = half_to_float(scale.lo_bits);
  const float step = (hi - scale.lo) / max_code(width);
  scale.step_bits = step > 0.0f ? float_to_half(step, Rounding::kUp) : 0;
  scale.step = half_to_float(scale.step_bits);
  return scale;
}

/// fp16(absmax / (2^(width-1) - 1)), to nearest even; width >= 2.
inline uint16_t symmetric_step_bits(float absmax, int width) {
  return float_to_half(absmax / static_cast<float>((1 << (width - 1)) - 1));
}

}  // namespace
}  // namespace rillkv::kernels::cpu
