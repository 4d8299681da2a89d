// Channel pairs of a packed channel block: where each one's planes are, their order by width, and a
// lane's words of them.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/expand_codes.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {

/// Bytes of a plane of each kind.
__device__ constexpr format::PlaneOffsets plane_sizes() {
  return format::plane_extents({1, 1, 1}, kAttentionTile);
}

/// Scale of codes in fp32: value = centre + unit z.
struct CodeScale {
  float centre, unit;
};
__device__ inline CodeScale code_scale(const uint16_t* lo, const uint16_t* step, int i, int width,
                                       bool symmetric) {
  const float unit = half_bits_to_float(step[i]) * static_cast<float>(1 << (width - 1));
  return {symmetric ? 0.0f : half_bits_to_float(lo[i]) + unit, unit};
}

/// A pair among the D / 2 of a block; kLess: planes are of so many bits less than the widths.
template <int D, int kLess = 0>
struct PairPlace {
  uint32_t own;     // widths of both channels' planes, as in the block if kLess is 0
  uint32_t before;  // plane_counts of the pairs before
  uint32_t total;   // plane_counts of the block
  int rank;         // by the width of the lower channel

  /// A thread a pair, called by the D / 64 warps that hold them all, in order.
  __device__ PairPlace(const uint8_t* widths, int pair) : own(widths[pair] - 17 * kLess) {
    constexpr int kHalf = D / 2;
    const int lane = pair % 32;
    const bool upper = pair >= 32;
    const uint32_t others = kHalf > 32 ? widths[pair ^ 32] - 17 * kLess : 0;  // of the other warp

    // Planes before each pair: a scan.
    const auto planes_of = [](uint32_t both) {
      return plane_counts(format::first_width(both)) + plane_counts(format::second_width(both));
    };
    uint32_t sum = planes_of(own);
#pragma unroll
    for (int span = 1; span < 32; span *= 2) {
      const uint32_t previous = __shfl_up_sync(0xffffffffu, sum, span);
      if (lane >= span) sum += previous;
    }
    total = __shfl_sync(0xffffffffu, sum, 31);
    if constexpr (kHalf > 32) {
      const uint32_t of_others = __reduce_add_sync(0xffffffffu, planes_of(others));
      total += of_others;
      if (upper) sum += of_others;
    }
    before = sum - planes_of(own);

    // The pair's rank by the width of its lower channel: from the top bit down, pairs that are
    // still equal and have a zero where this one has a one come before it.
    const auto key = static_cast<uint32_t>(format::first_width(own)) - 1;
    const auto other_key = static_cast<uint32_t>(format::first_width(others)) - 1;
    uint32_t equal = 0xffffffffu, other_equal = kHalf > 32 ? 0xffffffffu : 0;
    uint32_t less = 0, other_less = 0;
#pragma unroll
    for (int bit = 4; bit > 0; bit >>= 1) {
      const uint32_t mine = (key & bit) != 0 ? 0xffffffffu : 0;
      const uint32_t ones = __ballot_sync(0xffffffffu, (key & bit) != 0);
      less |= equal & mine & ~ones;
      equal &= ~(ones ^ mine);
      if constexpr (kHalf > 32) {
        const uint32_t other_ones = __ballot_sync(0xffffffffu, (other_key & bit) != 0);
        other_less |= other_equal & mine & ~other_ones;
        other_equal &= ~(other_ones ^ mine);
      }
    }
    rank = __popc(less) + __popc(other_less) + __popc(equal & ((1u << lane) - 1)) +
           (upper ? __popc(other_equal) : 0);
  }
};

/// A lane's words of a channel's planes: word `thread` modulo 16 of the nibbles and what belongs to
/// its tokens. Addresses in shared memory, `codes` that of the block's codes.
struct WordOfPlanes {
  uint32_t nibbles, crumbs, bits;
  uint32_t crumb_shift, bit_shift;  // to the top of the nibbles

  __device__ WordOfPlanes(uint32_t codes, uint32_t thread)
      : nibbles(masked_or<4 * 15>(4 * thread, codes)),
        crumbs(masked_or<4 * 7>(4 * thread, codes)),
        bits(masked_or<4 * 3>(4 * thread, codes)),
        crumb_shift(2 - (thread >> 3 & 1) * 2),
        bit_shift(3 - (thread >> 2 & 3)) {}

  /// What expand_codes takes. kNext: of the channel whose planes follow those at `at`.
  template <int kWidth, bool kNext = false>
  __device__ void merge(uint32_t& high, uint32_t& low, format::PlaneOffsets at) const {
    constexpr format::PlaneOffsets kAt = format::plane_extents(
        kNext ? format::planes_of(kWidth) : format::PlaneCounts{}, kAttentionTile);
    uint32_t first = 0, second = 0, crumb = 0, bit = 0;
    if constexpr (format::nibble_planes(kWidth) > 0) {
      first = load_shared<kAt.nibbles>(nibbles + at.nibbles);
    }
    if constexpr (format::nibble_planes(kWidth) > 1) {
      second = load_shared<kAt.nibbles + plane_sizes().nibbles>(nibbles + at.nibbles);
    }
    if constexpr (format::crumb_planes(kWidth) > 0) {
      crumb = load_shared<kAt.crumbs>(crumbs + at.crumbs) << crumb_shift;
    }
    if constexpr (format::bit_planes(kWidth) > 0) {
      bit = load_shared<kAt.bits>(bits + at.bits) << bit_shift;
    }
    merge_planes<kWidth>(high, low, first, second, crumb, bit);
  }
  /// The same for any width, as codes of 8 bits whose last ones are zeros.
  __device__ void merge_any(uint32_t& high, uint32_t& low, format::PlaneOffsets at,
                            int width) const {
    uint32_t first = 0, rest = 0;
    if (width >= 4) first = load_shared(nibbles + at.nibbles);
    if (width == 8) rest = load_shared<plane_sizes().nibbles>(nibbles + at.nibbles);
    if ((width & 2) != 0) rest = load_shared(crumbs + at.crumbs) << crumb_shift & 0xccccccccu;
    if ((width & 1) != 0) {
      const uint32_t bit = load_shared(bits + at.bits) << bit_shift & 0x88888888u;
      rest |= (width & 2) != 0 ? bit >> 2 : bit;
    }
    high = width >= 4 ? first : rest;
    low = width >= 4 ? rest : 0;
  }
  template <int kWidth>
  __device__ void expand(uint32_t (&z)[4], format::PlaneOffsets at,
                         const ExpandConstants& constants) const {
    uint32_t high, low;
    merge<kWidth>(high, low, at);
    expand_codes<kWidth>(z, high, low, constants);
  }

  /// Two channels of one width: the planes read first at `at`, the second ones `next` (nibbles),
  /// next / 2 (crumbs) and next / 4 (bits) further.
  template <int kWidth>
  __device__ void expand_pair(uint32_t (&za)[4], uint32_t (&zb)[4], format::PlaneOffsets at,
                              int next, const ExpandConstants& constants) const {
    if constexpr (kWidth == 8) {
      // The planes of a channel take turns.
      const uint32_t one = nibbles + at.nibbles, other = one + static_cast<uint32_t>(next);
      const auto channel = [&](uint32_t(&z)[4], uint32_t x, uint32_t y) {
        expand_codes<8>(z, next < 0 ? y : x, next < 0 ? x : y, constants);
      };
      constexpr uint32_t kNext = 2 * plane_sizes().nibbles;
      channel(za, load_shared(one), load_shared(other));
      channel(zb, load_shared<kNext>(one), load_shared<kNext>(other));
    } else {
      expand<kWidth>(za, at, constants);
      expand<kWidth>(
          zb,
          {at.nibbles + static_cast<uint32_t>(next), at.crumbs + static_cast<uint32_t>(next >> 1),
           at.bits + static_cast<uint32_t>(next >> 2)},
          constants);
    }
  }
};

/// f(width as a Constant) for a width of 1 to kMost, 7 or 8.
template <int kMost = format::kMaxWidth, typename F>
__device__ inline void for_width(uint32_t width, F f) {
  switch (width) {
    case 1:
      return f(Constant<1>());
    case 2:
      return f(Constant<2>());
    case 3:
      return f(Constant<3>());
    case 4:
      return f(Constant<4>());
    case 5:
      return f(Constant<5>());
    case 6:
      return f(Constant<6>());
    case 7:
      if constexpr (kMost > 7) return f(Constant<7>());
      [[fallthrough]];
    default:
      return f(Constant<kMost>());
  }
}

}  // namespace rillkv::kernels::cuda
