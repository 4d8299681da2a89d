// The steps of trellis.h that every instruction set takes one number at a time: the ranges that a
// key channel tries, and the step and zero of its trellis. Internal linkage, as rows.h explains.
#pragma once

#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/scales.h"
#include "kernels/steps8.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cpu {
namespace {

/// A range: the step of its scalar quantiser, and where its middle is.
struct KeyRange {
  int step;
  float centre;
};

/// A step and zero, and how keys become levels: v = fma(x, scale, offset).
struct KeyLattice {
  int step;
  float zero, scale, offset;
};

/// KEYS, steps 1 to 3, of a channel of keys from lo to hi.
class KeySteps {
 public:
  RILLKV_INLINE KeySteps(float lo, float hi, float average, int width)
      : width_(width), average_(average), middle_((lo + hi) * 0.5f) {
    const float half = (hi - lo) * 0.5f;
    const float low = lo < 0.0f ? -lo : lo, high = hi < 0.0f ? -hi : hi;
    least_ = format::nearest8((low > high ? low : high) * 0x1p-15f) + 1;
    widest_ = format::nearest8(2.0f * half / max_code(width));
  }

  /// k < key_candidates(width).
  RILLKV_INLINE KeyRange candidate(int k) const {
    const float factor = format::inverse8(136 + k);
    return {widest_ - k > least_ ? widest_ - k : least_,
            k <= 1 ? middle_ : __builtin_fmaf(middle_, factor, average_ * (1.0f - factor))};
  }
  /// Of the scalar quantiser.
  RILLKV_INLINE KeyLattice scalar(const KeyRange& range) const {
    const float inverse = format::inverse8(range.step);
    const float zero =
        round_to_integer(__builtin_fmaf(range.centre, inverse, -0.5f * max_code(width_)));
    return {range.step, zero, inverse, -zero};
  }
  RILLKV_INLINE KeyLattice trellis(const KeyRange& range) const {
    int step = range.step + key_shift(width_);
    step = step > least_ ? step : least_;
    step = step < 255 ? step : 255;
    const float inverse = format::inverse8(step);
    float zero =
        round_to_integer(__builtin_fmaf(range.centre, inverse, -0.5f * max_code(width_ + 1)));
    zero = zero > -kMaxZero ? zero : -kMaxZero;
    zero = zero < kMaxZero ? zero : kMaxZero;
    const float gain = key_gain(width_);
    return {step, zero, inverse * gain, __builtin_fmaf(average_ * (1.0f - gain), inverse, -zero)};
  }

 private:
  int width_, least_, widest_;
  float average_, middle_;
};

}  // namespace
}  // namespace rillkv::kernels::cpu
