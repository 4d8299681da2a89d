// What every CPU kernel file needs and may include whatever its instruction set: conversions
// between fp32 and the 16-bit formats, row loads and stores, the Walsh-Hadamard butterfly, and
// affine and symmetric scale arithmetic.
//
// Everything here has internal linkage. A file compiled for AVX-512 that emitted a copy of an
// external inline function could lend that copy to the portable files at link time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/packed_format.h"
#include "kernels/params.h"

namespace rillkv::kernels::cpu {
namespace {

inline constexpr int kMaxBlockSize = 256;

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

inline size_t element_bytes(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

/// Address of element (token, head, 0).
inline const void* row_of(const Activation& x, Dtype dtype, int64_t token, int64_t head) {
  return static_cast<const uint8_t*>(x.data) +
         static_cast<size_t>(token * x.token_stride + head * x.head_stride) * element_bytes(dtype);
}

inline void* row_of(const MutableActivation& x, Dtype dtype, int64_t token, int64_t head) {
  return static_cast<uint8_t*>(x.data) +
         static_cast<size_t>(token * x.token_stride + head * x.head_stride) * element_bytes(dtype);
}

/// Element `i` of a row.
inline float load_element(const void* row, Dtype dtype, int64_t i) {
  switch (dtype) {
    case Dtype::kFloat32:
      return static_cast<const float*>(row)[i];
    case Dtype::kBFloat16:
      return bfloat16_to_float(static_cast<const uint16_t*>(row)[i]);
    case Dtype::kFloat16:
      return half_to_float(static_cast<const uint16_t*>(row)[i]);
  }
  return 0;
}

inline void load_row(const void* row, Dtype dtype, int count, float* out) {
  switch (dtype) {
    case Dtype::kFloat32:
      std::memcpy(out, row, sizeof(float) * static_cast<size_t>(count));
      break;
    case Dtype::kBFloat16:
      for (int i = 0; i < count; ++i) {
        out[i] = bfloat16_to_float(static_cast<const uint16_t*>(row)[i]);
      }
      break;
    case Dtype::kFloat16:
      for (int i = 0; i < count; ++i) {
        out[i] = half_to_float(static_cast<const uint16_t*>(row)[i]);
      }
      break;
  }
}

/// Stores `factor * in` in the row's dtype, rounded to nearest even.
inline void store_row(const float* in, float factor, Dtype dtype, int count, void* row) {
  switch (dtype) {
    case Dtype::kFloat32:
      for (int i = 0; i < count; ++i) static_cast<float*>(row)[i] = in[i] * factor;
      break;
    case Dtype::kBFloat16:
      for (int i = 0; i < count; ++i) {
        static_cast<uint16_t*>(row)[i] = float_to_bfloat16(in[i] * factor);
      }
      break;
    case Dtype::kFloat16:
      for (int i = 0; i < count; ++i) {
        static_cast<uint16_t*>(row)[i] = float_to_half(in[i] * factor);
      }
      break;
  }
}

// ---- rotations ----

/// Unnormalised Walsh-Hadamard butterflies, spans 1, 2, 4, ... count / 2, in place.
inline void hadamard_butterflies(float* x, int count) {
  for (int span = 1; span < count; span *= 2) {
    for (int begin = 0; begin < count; begin += 2 * span) {
      for (int i = begin; i < begin + span; ++i) {
        const float a = x[i];
        const float b = x[i + span];
        x[i] = a + b;
        x[i + span] = a - b;
      }
    }
  }
}

/// The multiplier that makes the butterflies orthonormal: fp32(1 / sqrt(count)).
inline float hadamard_factor(int count) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(count)));
}

// ---- the end of attention ----

/// out[t, head] = sums / total, rotated back if the values are rotated. Destroys `sums`. A row that
/// saw no key is 0.
inline void finish_row(const AttentionParams& p, float* sums, float total, int64_t t,
                       int64_t head) {
  float factor = total != 0.0f ? 1.0f / total : 0.0f;
  if (p.rotate_output) {
    hadamard_butterflies(sums, p.head_dim);
    factor *= hadamard_factor(p.head_dim);
  }
  store_row(sums, factor, p.dtype, p.head_dim, row_of(p.out, p.dtype, t, head));
}

// ---- scales; the byte identity of all back ends rests on these lines ----

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
