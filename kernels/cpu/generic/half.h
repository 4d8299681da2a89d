// Conversions between fp32, fp16 and bf16 in portable C++: the definition that every instruction
// set's own conversions repeat.
//
// Internal linkage: a file compiled for AVX-512 that emitted a copy of an external inline function
// could lend that copy to the portable files at link time.
#pragma once

#include <cstdint>
#include <cstring>

namespace rillkv::kernels::cpu {
namespace {

enum class Rounding { kNearestEven, kDown, kUp };

inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  // Normal numbers: rebias the exponent by 127 - 15. Subnormal ones: an integer multiple of 2^-24,
  // which never passes through an fp32 subnormal (a thread may flush those). Inf and NaN keep their
  // fraction.
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t special = (magnitude << 13) | 0x7f800000u;
  const uint32_t subnormal =
      float_bits(static_cast<float>(static_cast<int32_t>(magnitude)) * (1.0f / 16777216.0f));
  const uint32_t bits = magnitude < 0x0400u ? subnormal : magnitude >= 0x7c00u ? special : normal;
  return float_from_bits(sign | bits);
}

/// fp32 to fp16 with the rounding asked for; NaN stays NaN, overflow becomes infinity or the
/// largest finite value as IEEE 754 has it.
inline uint16_t float_to_half(float x, Rounding rounding = Rounding::kNearestEven) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude == 0x7f800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  const uint32_t exponent = magnitude >> 23;
  const uint32_t significand = (magnitude & 0x7fffffu) | (exponent != 0 ? 0x800000u : 0u);
  uint32_t shift = 13, base = 0;
  if (exponent >= 113) {
    base = (exponent - 113) << 10;  // the significand's leading one adds the last exponent step
  } else {
    shift = 13 + 113 - (exponent != 0 ? exponent : 1);
    if (shift > 31) shift = 31;  // the significand has 24 bits: all of it is remainder
  }
  uint32_t half = base + (significand >> shift);
  const uint32_t rest = significand & ((1u << shift) - 1u);
  const uint32_t middle = 1u << (shift - 1);
  bool away = false;
  if (rounding == Rounding::kNearestEven) {
    away = rest > middle || (rest == middle && (half & 1u) != 0);
  } else {
    away = rest != 0 && (sign != 0) == (rounding == Rounding::kDown);
  }
  half += away ? 1u : 0u;
  if (half >= 0x7c00u) {
    const bool to_infinity =
        rounding == Rounding::kNearestEven || (sign != 0) == (rounding == Rounding::kDown);
    half = to_infinity ? 0x7c00u : 0x7bffu;
  }
  return static_cast<uint16_t>(sign | half);
}

inline float bfloat16_to_float(uint16_t x) {
  return float_from_bits(static_cast<uint32_t>(x) << 16);
}

inline uint16_t float_to_bfloat16(float x) {
  const uint32_t bits = float_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace
}  // namespace rillkv::kernels::cpu
