// Codes of packed_format.h in registers: a plane in one load, one shift and one mask a register.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic/inline.h"
#include "kernels/planes.h"

namespace rillkv::kernels::cpu {
namespace {  // internal linkage: copies of different instruction sets must not be merged

using Planes = format::Planes<const uint8_t>;

/// Per-lane right shifts that line up a plane of kWords words of kBits-bit elements, repeated to
/// fill a register of kLanes words: lane i holds element (i / kWords) of word (i % kWords).
template <int kLanes, int kWords, int kBits>
struct LaneShifts {
  alignas(64) int32_t lanes[kLanes];
  constexpr LaneShifts() : lanes() {
    for (int i = 0; i < kLanes; ++i) lanes[i] = i / kWords * kBits;
  }
};
template <int kLanes, int kWords, int kBits>
inline constexpr LaneShifts<kLanes, kWords, kBits> kLaneShifts;

/// Registers of a plane of kCount elements (a power of two from 32 to 256). In register h, field k
/// of kSpacing bits of every lane holds the element of vector k * kRegisters + h: the elements
/// [kLanes * v, kLanes * v + kLanes) in natural order, for nibbles, crumbs and bits alike. Bits
/// above the element are others' and must be ignored or masked.
template <class S, int kCount>
struct PlaneRegisters {
  using I = typename S::I;
  static constexpr int kRegisters = kCount / 8 > S::kLanes ? kCount / 8 / S::kLanes : 1;
  static constexpr int kFields = kCount / S::kLanes / kRegisters;
  static constexpr int kSpacing = 32 / kFields;

  template <int kBits>
  static RILLKV_INLINE I load(const uint8_t* plane, int h) {
    constexpr int kWords = kCount * kBits / 32;
    if constexpr (kWords >= S::kLanes) {
      constexpr int kParts = kWords / S::kLanes;
      const I words = S::load_int(plane + h % kParts * (4 * S::kLanes));
      return h / kParts == 0 ? words : S::shift_right(words, h / kParts * kBits);
    } else {
      const I words = S::template repeat_words<kWords>(plane);
      const I shifts = S::load_int(kLaneShifts<S::kLanes, kWords, kBits>.lanes);
      const I aligned = S::shift_right_each(words, shifts);
      return h == 0 ? aligned : S::shift_right(aligned, h * (S::kLanes / kWords) * kBits);
    }
  }
};

/// Codes of one channel (or row), as one or two registers of 4-bit fields: code = high for widths
/// up to 4, otherwise code = high * 2^(width - 4) + low (16 high + low for width 8).
template <class S, int kCount>
RILLKV_INLINE void load_codes(const Planes& at, int width, int h, typename S::I& high,
                              typename S::I& low) {
  using R = PlaneRegisters<S, kCount>;
  typename S::I rest = S::zero_int();
  if ((width & 3) != 0) {
    if ((width & 2) != 0) {
      // crumb << (width & 1): what a bit plane holds comes below
      rest = S::bit_and(R::template load<2>(at.crumbs, h), S::set1_int(0x33333333));
      if ((width & 1) != 0) rest = S::shift_left(rest, 1);
    }
    if ((width & 1) != 0) {
      rest = S::bit_or(rest, S::bit_and(R::template load<1>(at.bits, h), S::set1_int(0x11111111)));
    }
  }
  if (width < 4) {
    high = rest;
    low = S::zero_int();
    return;
  }
  high = R::template load<4>(at.nibbles, h);
  low = width == 8 ? R::template load<4>(at.nibbles + format::plane_bytes(kCount, 4), h) : rest;
}

/// Step of the high register's fields, in units of the code's step.
RILLKV_INLINE float high_step(int width) {
  return width > 4 ? static_cast<float>(1 << (width - 4)) : 1.0f;
}

}  // namespace
}  // namespace rillkv::kernels::cpu
