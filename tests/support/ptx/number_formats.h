// Conversions between float formats, exact in every rounding mode.
//
// Directed rounding and the half formats go through a double that is rounded *to odd*: inexact
// results get their last bit set, so that rounding them once more to a format with at least two
// bits less gives what a single rounding would have given (Boldo and Melquiond, "Emulation of FMA
// and correctly rounded sums", 2008).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace rillkv::ptx {

enum class Rounding : uint8_t { kNearest, kZero, kDown, kUp };

inline constexpr uint32_t kNanBits = 0x7fffffffu;  // what PTX's f32 instructions return
inline constexpr uint16_t kHalfNanBits = 0x7fff;   // f16 and bf16

/// NaNs carry no payload in PTX.
inline float canonical(float x) { return x == x ? x : std::bit_cast<float>(kNanBits); }
inline double canonical(double x) { return x; }

// ---- exact arithmetic in double, rounded to odd ----

inline double make_odd(double rounded, double error) {
  if (!(error != 0) || !std::isfinite(rounded)) return rounded;
  // Towards zero if the error says so, then set the last bit.
  uint64_t bits = std::bit_cast<uint64_t>(rounded);
  if ((error < 0) != (rounded < 0) && rounded != 0) --bits;
  return std::bit_cast<double>(bits | 1);
}

inline double add_odd(double a, double b) {
  const double sum = a + b;
  const double b_part = sum - a;  // Knuth's two-sum: the error is exact
  return make_odd(sum, (a - (sum - b_part)) + (b - b_part));
}
/// a, b, c with at most 24 significant bits: the product is exact.
inline double fma_odd(double a, double b, double c) { return add_odd(a * b, c); }
inline double div_odd(double a, double b) {
  const double quotient = a / b;
  if (!std::isfinite(quotient) || !std::isfinite(b)) return quotient;
  const double remainder = std::fma(-quotient, b, a);
  return make_odd(quotient, b < 0 ? -remainder : remainder);
}
inline double sqrt_odd(double a) {
  const double root = std::sqrt(a);
  if (!std::isfinite(root)) return root;
  return make_odd(root, std::fma(-root, root, a));
}

// ---- to float ----

inline float round_to_float(double x, Rounding mode) {
  const float nearest = static_cast<float>(x);
  const double back = nearest;
  if (mode == Rounding::kNearest || back == x || x != x) return nearest;
  const float infinity = std::numeric_limits<float>::infinity();
  if (mode == Rounding::kDown || (mode == Rounding::kZero && x > 0)) {
    return back > x ? std::nextafter(nearest, -infinity) : nearest;
  }
  return back < x ? std::nextafter(nearest, infinity) : nearest;
}

inline float float_odd(double x) {
  const float nearest = static_cast<float>(x);
  const double back = nearest;
  if (!(back != x)) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::fabs(back) > std::fabs(x)) --bits;
  return std::bit_cast<float>(bits | 1);
}

// ---- half formats ----

inline float half_to_float(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
  // Rebias the exponent by multiplying, which makes subnormal halves normal floats.
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t bits = (h & 0x7fff) >= 0x7c00 ? magnitude | 0x7f800000u : finite;
  return std::bit_cast<float>(bits | static_cast<uint32_t>(h & 0x8000) << 16);
}

inline uint16_t float_to_half(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal =
      (magnitude + 0xfff + ((magnitude >> 13) & 1) - (uint32_t{112} << 23)) >> 13;
  // Adding 0.5 leaves a multiple of 2^-24, the spacing of subnormal halves, in the low bits.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t h = magnitude >= 0x38800000u ? normal : subnormal;
  h = magnitude >= 0x477ff000u ? 0x7c00u : h;  // 65520 and more
  h |= bits >> 16 & 0x8000u;
  return static_cast<uint16_t>(magnitude > 0x7f800000u ? kHalfNanBits : h);
}

inline float bfloat_to_float(uint16_t b) {
  return std::bit_cast<float>(static_cast<uint32_t>(b) << 16);
}

inline uint16_t float_to_bfloat(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? kHalfNanBits : rounded);
}

/// The two 16-bit formats behind one interface.
struct HalfFormat {
  static float widen(uint16_t x) { return half_to_float(x); }
  static uint16_t narrow(float x) { return float_to_half(x); }
};
struct BfloatFormat {
  static float widen(uint16_t x) { return bfloat_to_float(x); }
  static uint16_t narrow(float x) { return float_to_bfloat(x); }
};

template <typename Format>
uint16_t round_to_16_bits(double x, Rounding mode) {
  const uint16_t nearest = Format::narrow(float_odd(x));
  const double back = Format::widen(nearest);
  if (mode == Rounding::kNearest || back == x || x != x) return nearest;
  const bool too_large = back > x;
  const bool down = mode == Rounding::kDown || (mode == Rounding::kZero && x > 0);
  if (too_large != down) return nearest;
  // One step towards the other side: sign-magnitude, so the direction depends on the sign.
  if ((nearest & 0x7fff) == 0) return down ? 0x8001 : 0x0001;
  const bool shrink = (nearest & 0x8000) != 0 ? !down : down;
  return static_cast<uint16_t>(shrink ? nearest - 1 : nearest + 1);
}

}  // namespace rillkv::ptx
