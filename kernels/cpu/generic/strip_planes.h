// Planes of L channels at once, a register holding their codes of one token; S: see simd_concept.h.
//
// Element k of word i of a plane is token k W + i: with R = block_size / 32, the tokens r, r + R,
// ..., r + 31 R fill
//   bit word    r                     element k     of token r + k R
//   crumb words r + (k % 2) R         element k / 2
//   nibble words r + (k % 4) R        element k / 4
// so eleven accumulators (the second nibble of 8 bits included) take 32 tokens from the last to the
// first, each by "acc = acc << element bits | part of code". The words of L channels, one register
// a word, are then transposed four by four into the channels' planes.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/scales.h"
#include "kernels/planes.h"

namespace rillkv::kernels::cpu {
namespace {

/// Where the planes of a strip of L channels go, and the shifts that its widths give.
template <class S>
struct StripPlanes {
  static constexpr int L = S::kLanes;
  alignas(64) int32_t nibble_shift[L];
  alignas(64) int32_t crumb_shift[L];
  bool any_nibble = false, any_second = false, any_crumb = false, any_bit = false;
  uint8_t* nibble_at[L];
  uint8_t* second_at[L];
  uint8_t* crumb_at[L];
  uint8_t* bit_at[L];

  /// Lane l: a channel of `width` bits (0: none) whose planes begin at `at`. Planes that it lacks
  /// go to `nowhere`, which no one reads.
  void set(int l, int width, int block_size, const format::Planes<uint8_t>& at, uint8_t* nowhere) {
    nibble_shift[l] = width > 4 ? format::nibble_shift(width) : 0;
    crumb_shift[l] = format::crumb_shift(width);
    nibble_at[l] = second_at[l] = crumb_at[l] = bit_at[l] = nowhere;
    if (format::nibble_planes(width) > 0) {
      nibble_at[l] = at.nibbles;
      any_nibble = true;
    }
    if (format::nibble_planes(width) > 1) {
      second_at[l] = at.nibbles + format::plane_bytes(block_size, 4);
      any_second = true;
    }
    if (format::crumb_planes(width) > 0) {
      crumb_at[l] = at.crumbs;
      any_crumb = true;
    }
    if (format::bit_planes(width) > 0) {
      bit_at[l] = at.bits;
      any_bit = true;
    }
  }
};

/// `words` registers of words, one lane a channel, to the channels' planes.
template <class S>
void store_planes(const uint32_t* buffer, int words, uint8_t* const* at) {
  constexpr int L = S::kLanes;
  int i = 0;
  for (; i + 4 <= words; i += 4) S::store_columns(buffer + i * L, at, 4 * i);
  for (; i < words; ++i) {
    for (int l = 0; l < L; ++l) std::memcpy(at[l] + 4 * i, buffer + i * L + l, 4);
  }
}

/// code(t): the codes of token t, called once for every t < block_size.
template <class S, class Code>
RILLKV_INLINE void pack_strip(const StripPlanes<S>& strip, int block_size, const Code& code) {
  constexpr int L = S::kLanes;
  using Int = typename S::I;
  alignas(64) uint32_t nibbles[kMaxBlockSize / 8 * L], seconds[kMaxBlockSize / 8 * L];
  alignas(64) uint32_t crumbs[kMaxBlockSize / 16 * L], bits[kMaxBlockSize / 32 * L];
  const Int nibble_shift = S::load_int(strip.nibble_shift);
  const Int crumb_shift = S::load_int(strip.crumb_shift);
  const Int low4 = S::set1_int(15), low2 = S::set1_int(3), low1 = S::set1_int(1);
  const int R = block_size / 32;
  for (int r = 0; r < R; ++r) {
    Int nibble[4], second[4], crumb[2], bit = S::zero_int();
    for (int s = 0; s < 4; ++s) nibble[s] = second[s] = S::zero_int();
    crumb[0] = crumb[1] = S::zero_int();
    for (int j = 7; j >= 0; --j) {
      for (int s = 3; s >= 0; --s) {
        const Int x = code(r + (4 * j + s) * R);
        // words |= ((code >> shift) & mask) << (element_bits * k)
        if (strip.any_nibble) {
          nibble[s] = S::template append<4>(nibble[s], S::shift_right_each(x, nibble_shift), low4);
        }
        if (strip.any_second) second[s] = S::template append<4>(second[s], x, low4);
        if (strip.any_crumb) {
          crumb[s & 1] =
              S::template append<2>(crumb[s & 1], S::shift_right_each(x, crumb_shift), low2);
        }
        if (strip.any_bit) bit = S::template append<1>(bit, x, low1);
      }
    }
    for (int s = 0; s < 4; ++s) {
      S::store_int(nibbles + (r + s * R) * L, nibble[s]);
      S::store_int(seconds + (r + s * R) * L, second[s]);
    }
    for (int s = 0; s < 2; ++s) S::store_int(crumbs + (r + s * R) * L, crumb[s]);
    S::store_int(bits + r * L, bit);
  }
  if (strip.any_nibble) store_planes<S>(nibbles, 4 * R, strip.nibble_at);
  if (strip.any_second) store_planes<S>(seconds, 4 * R, strip.second_at);
  if (strip.any_crumb) store_planes<S>(crumbs, 2 * R, strip.crumb_at);
  if (strip.any_bit) store_planes<S>(bits, R, strip.bit_at);
}

}  // namespace
}  // namespace rillkv::kernels::cpu
