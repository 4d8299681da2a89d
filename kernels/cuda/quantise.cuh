// Scale arithmetic of the packers, bit for bit that of kernels/cpu: fp32, IEEE division, round to
// nearest even, and intrinsics that the compiler may not contract into fused multiply-adds.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cuda {

struct AffineScale {
  uint16_t lo_bits, step_bits;  // as stored
  float lo, step;               // their exact values
  float reciprocal;             // 1 / step, to nearest; 0 where step is, and so every code
};

__device__ inline float max_code(int width) { return static_cast<float>((1 << width) - 1); }

/// What lo is stored as: rounded towards minus infinity. Adding +0 turns -0 into +0.
__device__ inline __half stored_lo(float lo) { return __float2half_rd(__fadd_rn(lo, 0.0f)); }

/// step, computed from the stored lo, rounds towards plus infinity.
__device__ inline AffineScale affine_scale(float lo, float hi, int width) {
  AffineScale scale;
  scale.lo_bits = __half_as_ushort(stored_lo(lo));
  scale.lo = __half2float(stored_lo(lo));
  const float step = __fdiv_rn(__fsub_rn(hi, scale.lo), max_code(width));
  scale.step_bits = step > 0.0f ? __half_as_ushort(__float2half_ru(step)) : uint16_t{0};
  scale.step = half_bits_to_float(scale.step_bits);
  scale.reciprocal = scale.step > 0.0f ? __frcp_rn(scale.step) : 0.0f;
  return scale;
}

/// distance / step, rounded as a division is wherever the quotient does not underflow (it becomes
/// code 0 there, either way). The first q is off by less than 2 ulp and its residual is exact, so
/// the sum before its rounding is off by less than 2^-22 ulp. That decides: the quotient by a step,
/// whose significand has 11 bits, is no nearer than 2^-12 ulp to the middle of two floats (and
/// never on it: 25 bits times an odd step would be a float of 24).
/// A division costs three times as much, most of it to look for operands that do not occur: a step
/// is an fp16 number above 0, a distance at most 2^17.
__device__ inline float quotient(float distance, const AffineScale& scale) {
  const float q = __fmul_rn(distance, scale.reciprocal);
  return __fmaf_rn(__fmaf_rn(q, -scale.step, distance), scale.reciprocal, q);
}

__device__ inline uint16_t symmetric_step_bits(float absmax, int width) {
  return __half_as_ushort(
      __float2half_rn(__fdiv_rn(absmax, static_cast<float>((1 << (width - 1)) - 1))));
}

__device__ inline uint32_t affine_code(float x, const AffineScale& scale, int width) {
  const float code = quotient(__fsub_rn(x, scale.lo), scale);
  return static_cast<uint32_t>(__float2int_rn(fminf(fmaxf(code, 0.0f), max_code(width))));
}

/// 1 if rounding (x - lo) / step leaves the codes' range.
__device__ inline uint32_t affine_clips(float x, const AffineScale& scale, int width) {
  const float code = rintf(quotient(__fsub_rn(x, scale.lo), scale));
  return code < 0.0f || code > max_code(width) ? 1 : 0;
}

/// Code of a symmetric scale, offset by 2^(width-1); `clipped` counts codes out of range.
__device__ inline uint32_t symmetric_code(float x, float step, int width, uint32_t& clipped) {
  const float half = static_cast<float>(1 << (width - 1));
  if (step == 0.0f) return 1u << (width - 1);
  const float code = rintf(__fdiv_rn(x, step));
  clipped += code < -half || code > half - 1.0f ? 1 : 0;
  return static_cast<uint32_t>(__float2int_rn(fminf(fmaxf(code, -half), half - 1.0f) + half));
}

/// Word `index` of all words of a row's planes (nibble planes, crumbs, bits, in that order), made
/// of `count` codes, code_at(0) and so on; where it goes: `plane` 0 nibbles, 1 crumbs, 2 bits, and
/// `word` from the start of the row's planes of that kind.
struct PlaneWord {
  uint32_t bits;
  int plane;
  int word;
};
__device__ inline int words_of_row(int width, int count) {
  return static_cast<int>(format::codes_bytes(count, width) / 4);
}
template <typename CodeAt>
__device__ inline PlaneWord make_plane_word(const CodeAt& code_at, int index, int width,
                                            int count) {
  const int nibble_words = format::plane_words(count, 4);
  const int crumb_words = format::plane_words(count, 2);
  const int all_nibbles = format::nibble_planes(width) * nibble_words;
  const int all_crumbs = format::crumb_planes(width) * crumb_words;
  int element_bits = 4, words = nibble_words, shift = 0;
  PlaneWord out = {0, 0, index};
  if (index < all_nibbles) {
    shift = index < nibble_words ? format::nibble_shift(width) : 0;
  } else if (index < all_nibbles + all_crumbs) {
    element_bits = 2;
    words = crumb_words;
    shift = format::crumb_shift(width);
    out.plane = 1;
    out.word = index - all_nibbles;
  } else {
    element_bits = 1;
    words = format::plane_words(count, 1);
    out.plane = 2;
    out.word = index - all_nibbles - all_crumbs;
  }
  const uint32_t mask = (1u << element_bits) - 1;
  for (int k = 0; k < 32 / element_bits; ++k) {
    const int element = k * words + out.word % words;
    if (element < count) {
      out.bits |= (static_cast<uint32_t>(code_at(element)) >> shift & mask) << (element_bits * k);
    }
  }
  return out;
}

/// The same of codes that lie one after the other, a byte each.
__device__ inline PlaneWord make_plane_word(const uint8_t* codes, int index, int width, int count) {
  return make_plane_word([codes](int i) { return codes[i]; }, index, width, count);
}

__device__ inline void fill_zero(uint8_t* begin, uint8_t* end) {
  for (uint8_t* at = begin + threadIdx.x; at < end; at += blockDim.x) *at = 0;
}

}  // namespace rillkv::kernels::cuda
