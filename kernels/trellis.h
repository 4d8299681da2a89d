// Trellis-coded keys and values (policy "trellis"): the numerics that every back end keeps to the
// bit. packed_format.h says how the bits are read, feedback.h what is done to the keys before.
//
// GAIN. A quantiser of least squared error shrinks what it codes: its levels are the centroids of
// their cells, so with an error of D of the variance, numbers come back as 1 - D of themselves on
// average and the rest is noise (Gersho & Gray, Vector Quantization and Signal Compression, 1992,
// section 6.2). Attention sums over many tokens, where noise averages out and a common factor does
// not: what is coded is the number divided by 1 - trellis_error(width).
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
//    1))), clamped to +-kMaxZero; the trellis search of v = fma(x, inverse8(j) * key_gain(w),
//    fma(avg * (1 - key_gain(w)), inverse8(j), -zero)).
//    y = step8(j) * (zero + L).
//
// VALUES of one kv head, rotated, `width` = w and wide pairs of w + 1:
// 1. A token's scale: i0 = nearest8((max over channels |x|) / value_reach(w, w)); for k = 0, 1, ..
//    kValueCandidates - 1, i = max(i0 - k, 0), s = step8(i), over channels of W = w or w + 1 bits
//      beyond = max(fma(-s, value_reach(W, w), |x|), 0)   sum = fma(beyond, beyond, sum)
//      error = sum + value_granular(D, w, wide_pairs) * (s * s)
//    as long as the error gets smaller: it is convex in s, so the first minimum is the only one.
// 2. A channel: the trellis search of v = fma(x, inverse8(scale) * value_unit(W, w), 2^W - 0.5)
//    with token t weighing step8(scale_t)^2.
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
/// From the best scalar step to the step of the trellis, in eighths of an octave: where Gaussian
/// channels have the least error, and come back as themselves on average.
RILLKV_HOST_DEVICE constexpr int key_shift(int width) {
  return width == 1 ? -3 : width == 2 ? -9 : width <= 5 ? -8 : -7;
}
/// Squared error that a trellis of so many bits leaves of a unit Gaussian, for the gains of
/// widths; width: 0 .. 7.
RILLKV_HOST_DEVICE constexpr double trellis_error(int width) {
  constexpr double kErrors[] = {1, .3255, .094, .0267, .00713, .00185, 4.7e-4, 1.2e-4};
  return kErrors[width];
}
/// What remains of a number on average, see GAIN.
RILLKV_HOST_DEVICE constexpr double trellis_shrinkage(int width) {
  return 1.0 - trellis_error(width);
}

/// Of a key channel about its average.
RILLKV_HOST_DEVICE constexpr float key_gain(int width) {
  return static_cast<float>(1.0 / trellis_shrinkage(width));
}

// ---- value channels of own_width = width or width + 1 bits, in steps of their token ----
RILLKV_HOST_DEVICE constexpr double value_gain(int own_width, int width) {
  return own_width > width ? static_cast<double>(format::kWideGain) : 1.0;
}
/// The outermost level.
RILLKV_HOST_DEVICE constexpr float value_reach(int own_width, int width) {
  return static_cast<float>(value_gain(own_width, width) * trellis_shrinkage(own_width) *
                            ((2 << own_width) - 1));
}
/// Squared error that a token of head_dim values within reach is left with: 1/12 of the square of
/// as many steps as codes have values.
RILLKV_HOST_DEVICE constexpr float value_granular(int head_dim, int width, int wide_pairs) {
  double sum = 0.0;
  for (int own = width; own <= width + 1; ++own) {
    const int channels = own > width ? 2 * wide_pairs : head_dim - 2 * wide_pairs;
    if (channels == 0) continue;
    const double reach =
        value_gain(own, width) * trellis_shrinkage(own) * static_cast<double>((2 << own) - 1);
    const double step = reach / (1 << (own - 1));
    sum += channels * step * step / 12.0;
  }
  return static_cast<float>(sum);
}
/// Levels to the number that a step of 1 is coded as.
RILLKV_HOST_DEVICE constexpr float value_unit(int own_width, int width) {
  return static_cast<float>(0.5 / (value_gain(own_width, width) * trellis_shrinkage(own_width)));
}

}  // namespace rillkv::kernels
