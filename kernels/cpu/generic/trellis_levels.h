// Levels of trellis blocks in registers (packed_format.h has the code):
//
//   L_t = 4 b_t + j_t,   j_t = 2 (u_t ^ u_(t-1) ^ u_(t-3)) + u_(t-2)
//
// j is the subset that the path u chooses for a token. In a path plane of W words, bit k of word i
// is token k W + i: one token earlier is the word before, and for word 0 the last one shifted left.
// So the subsets of several channels come from a register of their path planes by rotations of
// lanes, shifts and XORs, and are crumb planes like those of codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/plane_registers.h"
#include "kernels/packed_format.h"
#include "kernels/steps8.h"

namespace rillkv::kernels::cpu {
namespace {

/// step8 of every byte.
struct Steps8 {
  float of[256];
  constexpr Steps8() : of() {
    for (int i = 0; i < 256; ++i) of[i] = format::step8(i);
  }
};
inline constexpr Steps8 kSteps8;

/// What a register of path planes of kWords words each is shifted by, to be kBy tokens earlier.
template <int kLanes, int kWords, int kBy>
struct EarlierShifts {
  alignas(64) int32_t lanes[kLanes];
  constexpr EarlierShifts() : lanes() {
    for (int i = 0; i < kLanes; ++i) lanes[i] = (kBy - i % kWords + kWords - 1) / kWords;
  }
};
template <int kLanes, int kWords, int kBy>
inline constexpr EarlierShifts<kLanes, kWords, kBy> kEarlierShifts;

/// Path planes of channels of kTokens tokens, as many as fit in a register.
template <class S, int kTokens>
struct PathRegister {
  using I = typename S::I;
  static constexpr int kWords = kTokens / 32;
  static constexpr int kChannels = S::kLanes / kWords;
  static_assert(kWords <= S::kLanes);

  /// Bit by bit the u of kBy tokens before, 0 before the first.
  template <int kBy>
  static RILLKV_INLINE I earlier(I u) {
    const I turned = shuffle(
        u, u, [](int i) { return i / kWords * kWords + (i % kWords + 4 * kWords - kBy) % kWords; });
    return S::shift_left_each(turned, S::load_int(kEarlierShifts<S::kLanes, kWords, kBy>.lanes));
  }

  /// The subsets of all tokens: a crumb plane of each channel, 2 kWords words, in two registers.
  static RILLKV_INLINE void subsets(I u, I& first, I& second) {
    const I low = earlier<2>(u);
    const I high = xor_bits(u, earlier<1>(xor_bits(u, low)));
    // Crumb k of word i of the plane is token 2 k kWords + i: for the first words the even bits of
    // the bit planes, for the others the odd ones.
    const I even = S::set1_int(0x55555555);
    const I head = S::choose_bits(even, low, S::shift_left(high, 1));
    const I tail = S::choose_bits(even, S::shift_right(low, 1), high);
    first = shuffle(head, tail, [](int i) { return source(i); });
    second = shuffle(head, tail, [](int i) { return source(S::kLanes + i); });
  }

 private:
  using Dwords [[gnu::vector_size(sizeof(I))]] = uint32_t;

  /// Where lane i of the two registers of crumb planes comes from: heads and tails take turns.
  static constexpr int source(int i) {
    const int group = i / kWords;
    return group / 2 * kWords + i % kWords + group % 2 * S::kLanes;
  }
  static RILLKV_INLINE I xor_bits(I a, I b) {
    return reinterpret_cast<I>(reinterpret_cast<Dwords>(a) ^ reinterpret_cast<Dwords>(b));
  }
  /// Lane i is lane Of()(i) of a, or of b from kLanes on.
  template <class Of>
  static RILLKV_INLINE I shuffle(I a, I b, Of) {
    return [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
      return reinterpret_cast<I>(__builtin_shufflevector(reinterpret_cast<Dwords>(a),
                                                         reinterpret_cast<Dwords>(b), Of()(i)...));
    }
    (std::make_integer_sequence<int, S::kLanes>());
  }
};

/// Bytes of the subsets of a block's channels, with room for whole registers.
inline size_t subset_bytes(int channels, int tokens) {
  return format::align_up(static_cast<size_t>(channels) * format::plane_bytes(tokens, 2)) + 64;
}

/// Subsets of `channels` channels, from their path planes: crumb planes in the same order.
template <class S, int kTokens>
void write_subsets(const uint8_t* path, int channels, uint8_t* subsets) {
  using Register = PathRegister<S, kTokens>;
  const auto step = [&](typename S::I u) __attribute__((always_inline)) {
    typename S::I first, second;
    Register::subsets(u, first, second);
    S::store_int(subsets, first);
    S::store_int(subsets + sizeof first, second);
    path += sizeof u;
    subsets += 2 * sizeof u;
  };
  int words = channels * Register::kWords;
  for (; words >= S::kLanes; words -= S::kLanes) step(S::load_int(path));
  if (words > 0) {
    step(S::as_int(S::load_part(reinterpret_cast<const float*>(path), S::part(words))));
  }
}

/// Levels of one channel of `width` bits in registers of 4-bit fields, as load_codes has codes of
/// width + 1 bits: L = high up to 3 bits, otherwise high * 2^(width - 3) + low. `b` and `subsets`
/// are its planes.
template <class S, int kCount>
RILLKV_INLINE void load_levels(const Planes& b, const uint8_t* subsets, int width, int h,
                               typename S::I& high, typename S::I& low) {
  using I = typename S::I;
  using R = PlaneRegisters<S, kCount>;
  const I crumbs = S::set1_int(0x33333333), ones = S::set1_int(0x11111111);
  const I subset = R::template load<2>(subsets, h);
  I rest = S::bit_and(subset, crumbs);
  if (width == 4) {  // the fifth bit of a level of three bits of b
    high = S::bit_or(S::shift_left(S::bit_and(R::template load<2>(b.crumbs, h), crumbs), 2),
                     S::bit_or(S::shift_left(S::bit_and(R::template load<1>(b.bits, h), ones), 1),
                               S::bit_and(S::shift_right(subset, 1), ones)));
    low = S::bit_and(subset, ones);
    return;
  }
  const int part = width - 1;
  if ((part & 2) != 0) {
    rest = S::bit_or(rest, S::shift_left(S::bit_and(R::template load<2>(b.crumbs, h), crumbs), 2));
  } else if ((part & 1) != 0) {
    rest = S::bit_or(rest, S::shift_left(S::bit_and(R::template load<1>(b.bits, h), ones), 2));
  }
  if (width < 4) {
    high = rest;
    low = S::zero_int();
    return;
  }
  high = R::template load<4>(b.nibbles, h);
  low = rest;
}

}  // namespace
}  // namespace rillkv::kernels::cpu
