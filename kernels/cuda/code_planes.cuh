// From codes in registers to words of planes, four codes at a time: a code is a byte of a word, and
// one shift and one mask take the same bits of all four.
#pragma once

#include <cstdint>

#include "kernels/cuda/quantise.cuh"

namespace rillkv::kernels::cuda {

/// A sum with it, of what is between 0 and 255, is rounded to a whole number, ties to even.
inline constexpr float kCodeShift = 12582912.0f;  // 1.5 * 2^23

/// A code in the lowest byte, of a quotient that rounds to 0 .. 255.
__device__ inline uint32_t code_byte(float quotient) {
  return __float_as_uint(__fadd_rn(quotient, kCodeShift));
}
/// The lowest bytes of four words.
__device__ inline uint32_t four_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

/// The lowest `count` bytes of a word: all from 4 on, none up to 0.
__device__ inline uint32_t first_bytes(int count) {
  return count >= 4 ? ~0u : count <= 0 ? 0u : (1u << 8 * count) - 1;
}

/// Eight codes of `width` bits, the even ones' bytes and the odd ones': element k of a nibble plane
/// is code k, and so are the crumb and the bit in the lower bits of nibble k. What a shift moves
/// into another byte the mask takes away: a code is below 2^width.
struct EightCodes {
  uint32_t even, odd;

  /// The first nibble plane of widths 4 .. 8.
  __device__ uint32_t nibbles(int width) const {
    return (even >> (width - 4) & 0x0f0f0f0fu) | (odd << (8 - width) & 0xf0f0f0f0u);
  }
  /// The second nibble plane of width 8.
  __device__ uint32_t low_nibbles() const {
    return (even & 0x0f0f0f0fu) | (odd << 4 & 0xf0f0f0f0u);
  }
  __device__ uint32_t crumbs(int width) const {
    const int shift = format::crumb_shift(width);
    return (even >> shift & 0x03030303u) | (odd << (4 - shift) & 0x30303030u);
  }
  __device__ uint32_t bits() const { return (even & 0x01010101u) | (odd << 4 & 0x10101010u); }
};

}  // namespace rillkv::kernels::cuda
