// Packed codes to pairs of fp16 numbers, for the fast attention kernels.
//
// A code of w bits, at the top of a byte t = code * 2^(8 - w), becomes z = t / 128 - 1 in [-1, 1),
// exactly, so a value is centre + unit z with
//
//   affine      unit = step * 2^(w - 1), centre = lo + unit      (lo + step * code)
//   symmetric   unit = step * 2^(w - 1), centre = 0              (step * (code - 2^(w - 1)))
//
// and nothing cancels: rounding centre and unit to fp16 costs 2^-11 of the value's own range. Two
// codes take one LOP3, which puts their bits into the mantissa of 1024 (0x6400), and one HFMA2,
// which subtracts what is not code. PTX instead of C++, because nvcc makes and, and, or of what is
// one LOP3, and because these counts are the cost of decoding.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"

namespace rillkv::kernels::cuda {

// LOP3's last operand is the function's value for 0xF0, 0xCC and 0xAA.
/// (a ^ b) & kMask.
template <uint32_t kMask>
__device__ inline uint32_t masked_xor(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0x28;" : "=r"(out) : "r"(a), "r"(b), "n"(kMask));
  return out;
}
/// (a & kMask) | c.
template <uint32_t kMask>
__device__ inline uint32_t masked_or(uint32_t a, uint32_t c) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(out) : "r"(a), "n"(kMask), "r"(c));
  return out;
}
/// Bits of `a` where kMask has ones, of `b` elsewhere.
template <uint32_t kMask>
__device__ inline uint32_t select_bits(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xCA;" : "=r"(out) : "n"(kMask), "r"(a), "r"(b));
  return out;
}
/// Byte kByte of x; __byte_perm's selector would take an instruction to load.
template <int kByte>
__device__ inline uint32_t byte_of(uint32_t x) {
  uint32_t out;
  asm("prmt.b32 %0, %1, 0, %2;" : "=r"(out) : "r"(x), "n"(0x4440 + kByte));
  return out;
}
__device__ inline uint32_t hfma2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}
__device__ inline uint32_t hmul2(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}
__device__ inline uint32_t hadd2(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}
/// A pair of 2^kPower in fp16.
template <int kPower>
__device__ constexpr uint32_t twice_power() {
  return static_cast<uint32_t>(kPower + 15) << 10 | static_cast<uint32_t>(kPower + 15) << 26;
}
__device__ inline uint32_t hneg2(uint32_t a) {  // an operand's sign in SASS
  uint32_t out;
  asm("neg.f16x2 %0, %1;" : "=r"(out) : "r"(a));
  return out;
}

/// One half of a pair in both: which half an operand takes is part of the instruction in SASS.
__device__ inline uint32_t low_twice(uint32_t x) {
  uint32_t out;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {l, l};}" : "=r"(out) : "r"(x));
  return out;
}
__device__ inline uint32_t high_twice(uint32_t x) {
  uint32_t out;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {h, h};}" : "=r"(out) : "r"(x));
  return out;
}

/// Pairs of fp16 constants, in registers: nvcc would move them there before every use.
struct ExpandConstants {
  uint32_t magic = opaque(0x64006400u);      // 1024
  uint32_t by_low = opaque(0x30003000u);     // 1 / 8
  uint32_t less_low = opaque(0xD808D808u);   // -129
  uint32_t by_high = opaque(0x20002000u);    // 1 / 128
  uint32_t less_high = opaque(0xC880C880u);  // -9
};

/// Nibbles 0..3 of both halves of a word to z[0..3]. The code's first bits are at the top of the
/// nibbles of `high`; of codes of more than 4 bits, the rest is at the top of those of `low`, with
/// zeros below.
template <int kWidth>
__device__ inline void expand_codes(uint32_t (&z)[4], uint32_t high, uint32_t low,
                                    const ExpandConstants& c) {
  if constexpr (kWidth <= 4) {
    constexpr uint32_t kNibble = (15u << (4 - kWidth) & 15) * 0x00010001u;
    // 1024 + n with n = t / 16, and 1024 + 16 n.
    z[0] = hfma2(masked_or<kNibble>(high, c.magic), c.by_low, c.less_low);
    z[1] = hfma2(masked_or<(kNibble << 4)>(high, c.magic), c.by_high, c.less_high);
    const uint32_t next = high >> 8;
    z[2] = hfma2(masked_or<kNibble>(next, c.magic), c.by_low, c.less_low);
    z[3] = hfma2(masked_or<(kNibble << 4)>(next, c.magic), c.by_high, c.less_high);
  } else {
    const uint32_t even = select_bits<0xf0f0f0f0u>(high << 4, low);  // bytes t of nibbles 0 and 2
    const uint32_t odd = select_bits<0xf0f0f0f0u>(high, low >> 4);   // 1 and 3
    z[0] = hfma2(masked_or<0x00ff00ffu>(even, c.magic), c.by_high, c.less_high);
    z[1] = hfma2(masked_or<0x00ff00ffu>(odd, c.magic), c.by_high, c.less_high);
    z[2] = hfma2(__byte_perm(even, c.magic, 0x7351), c.by_high, c.less_high);
    z[3] = hfma2(__byte_perm(odd, c.magic, 0x7351), c.by_high, c.less_high);
  }
}

/// Brings the planes' words to the nibbles that expand_codes wants: `crumbs` and `bits` are at the
/// top of theirs, with anything below.
template <int kWidth>
__device__ inline void merge_planes(uint32_t& high, uint32_t& low, uint32_t nibbles,
                                    uint32_t second_nibbles, uint32_t crumbs, uint32_t bits) {
  constexpr int kRest = kWidth > 4 ? kWidth - 4 : kWidth;
  uint32_t rest = second_nibbles;
  if constexpr (kRest == 1) rest = bits;
  if constexpr (kRest == 2) rest = crumbs;
  if constexpr (kRest == 3) rest = select_bits<0xccccccccu>(crumbs, bits >> 2);
  if constexpr (kWidth >= 4) {
    constexpr uint32_t kMask = (15u << (4 - kRest) & 15) * 0x11111111u;
    high = nibbles;
    low = kRest < 4 ? rest & kMask : rest;
  } else {
    high = rest;
    low = 0;
  }
}

}  // namespace rillkv::kernels::cuda
