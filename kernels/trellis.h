// Trellis-coded keys and values (policy "trellis"): the numerics that every back end keeps to the
// bit. packed_format.h says how the bits are read, feedback.h what is done to the keys before.
//
// All fp32; fma rounds once, every other operation by itself. rint rounds ties to even; what goes
// to an integer is clamped first. A sum over elements i = 0, 1, ... has 16 accumulators, element i
// goes to number i % 16, ascending; then number l takes l + 8, l + 4, l + 2, l + 1.
//
// KEYS. A channel of width w, x its T keys with feedback, top = 2^w - 1:
// 1. lo, hi = minimum, maximum (+0.0); avg = (sum of x) / T; mid = (lo + hi) * 0.5, half =
//    (hi - lo) * 0.5; least = nearest8(max(|lo|, |hi|) * 2^-15) + 1, below which the zero has no 16
//    bits.
// 2. Range of the scalar quantiser: i0 = nearest8(2 half / top); for k = 0 .. key_candidates(w) - 1
//      i = max(i0 - k, least)   f = fp32(2^(-k/8))   inverse = inverse8(i)
//      centre = k <= 1 ? mid : fma(mid, f, avg * (1 - f))
//      zero = rint(fma(centre, inverse, -0.5 top))   v = fma(x, inverse, -zero)
//      q = min(max(rint(v), 0), top)
//      error = (sum of (v - q)^2) * step8(i)^2
//    The least error wins, the smaller k on a tie.
// 3. j = min(max(i + key_shift(w), least), 255), zero = rint(fma(centre, inverse8(j), -0.5 (2 top +
//    1))), clamped to +-kMaxZero; the trellis search of v = fma(x, inverse8(j), -zero).
//    y = step8(j) * (zero + L).
//
// VALUES of one kv head, rotated, `width` = w and wide pairs of w + 1:
// 1. A token's scale: i0 = nearest8((max over channels |x|) / (2^(w+1) - 1)); for k = 0 ..
//    kValueCandidates - 1, i = max(i0 - k, 0), over channels of W = w or w + 1 bits
//      v = x * (inverse8(i) * inverse_unit)
//      r = v - (min(max(rint(v - 0.5), -2^(W-1)), 2^(W-1) - 1) + 0.5)
//      error = (sum of (r * r) * squared_unit) * step8(i)^2
//    with inverse_unit and squared_unit of scalar_unit(W, w), rounded to fp32 once.
//    The least error wins, the smaller k on a tie.
// 2. A channel: the trellis search of v = fma(x, inverse8(scale) * half_inverse_gain, 2^W - 0.5)
//    with token t weighing step8(scale_t)^2; half_inverse_gain is 0.5, or fp32(2^(-1/8)) for a wide
//    channel.
//
// TRELLIS SEARCH of v_0 .. v_(T-1) for the levels 0 .. 2^(w+1) - 1 of least squared error
// (Viterbi).
// State before a token: s = 4 u_(t-3) + 2 u_(t-2) + u_(t-1). Of subset j = 0 .. 3, the levels that
// are j modulo 4, the nearest: z_j = min(max(rint((v - j) * 0.25), 0), 2^(w-1) - 1); e_j = v - (4
// z_j + j); d_j = e_j * e_j, times the token's weight if there are weights. Metrics m_0 = 0 and
// kUnreached elsewhere; state n = (2 s + u) % 8 is reached from s = n / 2 and from s = n / 2 + 4
// with u = n % 2 by the subset j = 2 (u ^ u_(t-1) ^ u_(t-3)) + u_(t-2), at m_s + d_j; the smaller
// wins, the first on a tie. From the last token's state of least metric, the lowest on a tie, the
// path is traced back; b_t = z_j.
#pragma once

#include "kernels/packed_format.h"

namespace rillkv::kernels {

inline constexpr int kTrellisStates = 8;
inline constexpr float kUnreached = 1e30f;
inline constexpr float kMaxZero = 32767.0f - 256.0f;  // with the highest level it still is int16
inline constexpr int kValueCandidates = 9;

/// Ranges that are tried for a key channel.
RILLKV_HOST_DEVICE constexpr int key_candidates(int width) {
  return width == 1 ? 15 : width <= 3 ? 5 : 2;
}
inline constexpr int kMostKeyCandidates = 15;
/// From the best scalar step to the trellis's, in eighths of an octave.
RILLKV_HOST_DEVICE constexpr int key_shift(int width) {
  return width <= 2 ? -10 : width <= 5 ? -8 : -7;
}
/// Squared error that a trellis of so many bits leaves of a unit Gaussian, for the gains of
/// widths; width: 0 .. 7.
RILLKV_HOST_DEVICE constexpr double trellis_error(int width) {
  constexpr double kErrors[] = {1, .3255, .094, .0267, .00713, .00185, 4.7e-4, 1.2e-4};
  return kErrors[width];
}
/// The step of the scalar quantiser of W bits that reaches as far as the trellis of a value channel
/// whose scale is 1; W: width or width + 1.
RILLKV_HOST_DEVICE constexpr double scalar_unit(int own_width, int width) {
  const double gain = own_width > width ? static_cast<double>(format::kWideGain) : 1.0;
  return gain * ((2 << own_width) - 1) / (1 << (own_width - 1));
}
RILLKV_HOST_DEVICE constexpr float inverse_unit(int own_width, int width) {
  return static_cast<float>(1.0 / scalar_unit(own_width, width));
}
RILLKV_HOST_DEVICE constexpr float squared_unit(int own_width, int width) {
  return static_cast<float>(scalar_unit(own_width, width) * scalar_unit(own_width, width));
}
RILLKV_HOST_DEVICE constexpr float half_inverse_gain(int own_width, int width) {
  return own_width > width ? 0x1.d5818ep-1f : 0.5f;
}

}  // namespace rillkv::kernels
