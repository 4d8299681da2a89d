// Levels of trellis channels of 128 tokens (packed_format.h has the code) for the fast attention
// kernels, which have a lane take word i of a channel's nibbles: tokens i + 16 e, e = 0 .. 7.
//
//   L_t = 4 b_t + j_t,   j_t = 2 (u_t ^ u_(t-1) ^ u_(t-3)) + u_(t-2)
//
// j is the subset that the path u chooses for a token. The path plane of a channel is four words,
// bit k of word w being token 4 k + w: one token earlier is the word before, and for word 0 the
// last one shifted left. subsets_of makes of it a crumb plane of j, of eight words as every other:
// once a block, a thread a channel. A lane then has its bits of b and j as it has those of codes,
// and merge_levels brings them to where expand_levels makes fp16 of them:
//
//   z = L / 2^w - 1 in [-1, 1), exactly, so that
//   key   = step (zero + L)                = step (zero + 2^w) + (step 2^w) z
//   value = step g (2 L + 1 - 2^(w + 1))   = step g + (step g 2^(w + 1)) z
#pragma once

#include <cstdint>

#include "kernels/cuda/expand_codes.cuh"
#include "kernels/planes.h"
#include "kernels/steps8.h"

namespace rillkv::kernels::cuda {

/// 2^((i - 136) / 8), i = 0 .. 255, to 2^-22 of itself: for what becomes fp16.
__device__ inline float step8_fast(uint32_t i) {
  return exp2_fast(fmaf(static_cast<float>(i), 0.125f, -17.0f));
}

// LOP3's last operand, as in expand_codes.cuh.
__device__ inline uint32_t xor_three(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}

/// A crumb plane of 128 tokens: words 0 .. 3 and 4 .. 7.
struct SubsetPlane {
  uint4 head, tail;
};
/// j of all tokens of a channel; u: its path plane.
__device__ inline SubsetPlane subsets_of(uint4 u) {
  const uint32_t y = u.y << 1, z = u.z << 1, w = u.w << 1;  // of the words before word 0
  // Crumb k of word i is token 8 k + i: for the first four words the even bits of the bit planes,
  // for the others the odd ones.
  const auto head = [](uint32_t high, uint32_t low) {
    return select_bits<0x55555555u>(low, high << 1);
  };
  const auto tail = [](uint32_t high, uint32_t low) {
    return select_bits<0x55555555u>(low >> 1, high);
  };
  const uint32_t high[4] = {xor_three(u.x, w, y), xor_three(u.y, u.x, z), xor_three(u.z, u.y, w),
                            xor_three(u.w, u.z, u.x)};
  const uint32_t low[4] = {z, w, u.x, u.y};
  return {
      {head(high[0], low[0]), head(high[1], low[1]), head(high[2], low[2]), head(high[3], low[3])},
      {tail(high[0], low[0]), tail(high[1], low[1]), tail(high[2], low[2]), tail(high[3], low[3])}};
}

/// How far a lane's words are turned to the left to bring its elements of a plane to the bottom of
/// the nibbles; `word`: of the nibbles, 0 .. 15.
struct LevelTurns {
  uint32_t crumbs, bits;

  __device__ explicit LevelTurns(uint32_t word)
      : crumbs(0 - (word >> 3 & 1) * 2), bits(0 - (word >> 2 & 3)) {}
};
/// The elements kPlace bits above the bottom of the nibbles.
template <int kPlace>
__device__ inline uint32_t turned(uint32_t x, uint32_t turns) {
  return __funnelshift_l(x, x, turns + kPlace);  // modulo 32
}

/// A level of kWidth bits of code in nibbles of `high` and `low`, for expand_levels, from the words
/// of the planes as they are loaded (those that b has not: anything).
template <int kWidth>
__device__ inline void merge_levels(uint32_t& high, uint32_t& low, uint32_t nibbles,
                                    uint32_t crumbs, uint32_t bits, uint32_t subsets,
                                    const LevelTurns& turns) {
  static_assert(format::kMinWidth <= kWidth && kWidth <= format::kMaxTrellisWidth);
  low = 0;
  if constexpr (kWidth == 1) high = turned<2>(subsets, turns.crumbs);
  if constexpr (kWidth == 2) {
    high = select_bits<0x88888888u>(turned<3>(bits, turns.bits), turned<1>(subsets, turns.crumbs));
  }
  if constexpr (kWidth == 3) {
    high =
        select_bits<0xccccccccu>(turned<2>(crumbs, turns.crumbs), turned<0>(subsets, turns.crumbs));
  }
  if constexpr (kWidth == 4) {  // three bits and two: the fields begin a bit further down
    high = select_bits<0x66666666u>(turned<1>(crumbs, turns.crumbs), turned<0>(bits, turns.bits)) &
           0x77777777u;
    low = turned<2>(subsets, turns.crumbs) & 0xccccccccu;
  }
  if constexpr (kWidth > 4) high = nibbles;
  if constexpr (kWidth == 5) low = turned<2>(subsets, turns.crumbs) & 0xccccccccu;
  if constexpr (kWidth == 6) {
    low = select_bits<0x88888888u>(turned<3>(bits, turns.bits), turned<1>(subsets, turns.crumbs)) &
          0xeeeeeeeeu;
  }
  if constexpr (kWidth == 7) {
    low =
        select_bits<0xccccccccu>(turned<2>(crumbs, turns.crumbs), turned<0>(subsets, turns.crumbs));
  }
}

/// ExpandConstants for levels of any width.
struct LevelConstants : ExpandConstants {
  uint32_t by_four = opaque(0x24002400u);    // 1 / 64
  uint32_t less_four = opaque(0xCC40CC40u);  // -17
};

/// z of nibbles 0..3 of both halves of a word, of a channel of kWidth bits.
template <int kWidth>
__device__ inline void expand_levels(uint32_t (&z)[4], uint32_t high, uint32_t low,
                                     const LevelConstants& c) {
  if constexpr (kWidth == 4) {
    ExpandConstants four = c;
    four.by_high = c.by_four;
    four.less_high = c.less_four;
    expand_codes<5>(z, high, low, four);
  } else {
    expand_codes<kWidth + 1>(z, high, low, c);
  }
}

}  // namespace rillkv::kernels::cuda
