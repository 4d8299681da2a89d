// Steps of a byte: eight to the octave, 2^-17 to 2^14.9, as trellis blocks store them
// (packed_format.h). For host and device; always inlined (see RILLKV_HOST_DEVICE).
//
// A step is a rounded 2^(m / 8) times a power of two, so that every back end has the same fp32
// number, and a wrong last place of a library's exp2 or log2 has no part in it.
#pragma once

#include <cstdint>

#include "kernels/packed_format.h"

namespace rillkv::format {

/// fp32 nearest to 2^(m / 8), m = 0 .. 7.
RILLKV_HOST_DEVICE constexpr float step8_mantissa(int m) {
  constexpr float kMantissa[8] = {0x1.000000p+0f, 0x1.172b84p+0f, 0x1.306fe0p+0f, 0x1.4bfdaep+0f,
                                  0x1.6a09e6p+0f, 0x1.8ace54p+0f, 0x1.ae89fap+0f, 0x1.d5818ep+0f};
  return kMantissa[m];
}
/// fp32 nearest to 2^(-m / 8), m = 0 .. 7.
RILLKV_HOST_DEVICE constexpr float inverse8_mantissa(int m) {
  constexpr float kInverse[8] = {0x1.000000p+0f, 0x1.d5818ep-1f, 0x1.ae89fap-1f, 0x1.8ace54p-1f,
                                 0x1.6a09e6p-1f, 0x1.4bfdaep-1f, 0x1.306fe0p-1f, 0x1.172b84p-1f};
  return kInverse[m];
}

/// 2^((i - 136) / 8), i = 0 .. 255.
RILLKV_HOST_DEVICE constexpr float step8(int i) {
  return step8_mantissa(i & 7) * (0x1p-17f * static_cast<float>(1u << (i >> 3)));
}
/// 2^((136 - i) / 8), i = 0 .. 255.
RILLKV_HOST_DEVICE constexpr float inverse8(int i) {
  return inverse8_mantissa(i & 7) * (0x1p-14f * static_cast<float>(1u << (31 - (i >> 3))));
}

/// The i whose step8 is nearest to x in ratio, clamped to 0 .. 255; 0 unless x > 0. A number is
/// nearer to the step above from 2^((m + 0.5) / 8) on.
RILLKV_HOST_DEVICE inline int nearest8(float x) {
  // Fractions of 2^(1/16), 2^(3/16), ..., 2^(15/16), rounded to fp32.
  constexpr uint32_t kThresholds[8] = {0x05aac3, 0x11c3d3, 0x1ef532, 0x2d583f,
                                       0x3d08a4, 0x4e248c, 0x60ccdf, 0x75257d};
  if (!(x > 0.0f)) return 0;
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const uint32_t fraction = bits & 0x7fffffu;
  int index = (static_cast<int>(bits >> 23) - 127 + 17) * 8;
  for (int m = 0; m < 8; ++m) index += fraction >= kThresholds[m] ? 1 : 0;
  return index < 0 ? 0 : index > 255 ? 255 : index;
}

static_assert(step8(136) == 1.0f && inverse8(136) == 1.0f && step8(0) == 0x1p-17f &&
              inverse8(0) == 0x1p17f && step8(255) == 0x1.d5818ep+14f);

}  // namespace rillkv::format
