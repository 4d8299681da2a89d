// Levels of a trellis channel of 128 tokens, as load_levels (generic/trellis_levels.h) has them but
// in fewer operations: a variable rotation lines a plane up and brings it to its place in the field
// at once, and one ternary operation chooses among planes what masks would otherwise cut out.
#pragma once

#include <cstdint>

#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/generic/plane_registers.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

/// A plane of kWords words: element (i / kWords) of word (i % kWords) of lane i, and every 4 bits
/// another, kPlace bits above the bottom of its field. Other bits are anything.
template <int kWords, int kPlace>
RILLKV_INLINE __m512i load_field(const uint8_t* plane) {
  static constexpr struct Turns {
    alignas(64) int32_t lanes[16];
    constexpr Turns() : lanes() {
      for (int i = 0; i < 16; ++i) lanes[i] = (32 + kPlace - i / kWords * (kWords / 4)) % 32;
    }
  } kTurns;
  return _mm512_rolv_epi32(Simd::repeat_words<kWords>(plane), _mm512_load_si512(kTurns.lanes));
}
template <int kPlace>
RILLKV_INLINE __m512i load_bits(const uint8_t* plane) {
  return load_field<4, kPlace>(plane);
}
template <int kPlace>
RILLKV_INLINE __m512i load_crumbs(const uint8_t* plane) {
  return load_field<8, kPlace>(plane);
}
/// mask ? a : b by bits. Not with the mask first, where gcc would copy it to be overwritten.
RILLKV_INLINE __m512i choose_by(__m512i mask, __m512i a, __m512i b) {
  return _mm512_ternarylogic_epi32(a, b, mask, 0xE4);
}
/// The bits of `mask`, a field of 4, of a, the others of b.
template <int kMask>
RILLKV_INLINE __m512i choose(__m512i a, __m512i b) {
  return choose_by(_mm512_set1_epi32(static_cast<int>(kMask * 0x11111111u)), a, b);
}
/// The same of a field of 8.
template <int kMask>
RILLKV_INLINE __m512i choose_in_bytes(__m512i a, __m512i b) {
  return choose_by(_mm512_set1_epi32(static_cast<int>(kMask * 0x01010101u)), a, b);
}
template <int kMask>
RILLKV_INLINE __m512i keep(__m512i a) {
  return _mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(kMask * 0x11111111u)));
}

/// Levels of a channel of kWidth bits in fields of 4: L = high up to 3 bits, otherwise `high` is
/// its 4 upper bits and `low` the rest, at the top of the field.
template <int kWidth>
RILLKV_INLINE void load_level_fields(const Planes& b, const uint8_t* subsets, __m512i& high,
                                     __m512i& low) {
  static_assert(1 <= kWidth && kWidth <= 7);
  low = _mm512_setzero_si512();
  if constexpr (kWidth == 1) high = keep<3>(load_crumbs<0>(subsets));
  if constexpr (kWidth == 2) {
    high = keep<7>(choose<4>(load_bits<2>(b.bits), load_crumbs<0>(subsets)));
  }
  if constexpr (kWidth == 3) high = choose<12>(load_crumbs<2>(b.crumbs), load_crumbs<0>(subsets));
  if constexpr (kWidth == 4) {
    high = choose<1>(load_crumbs<-1>(subsets),
                     choose<2>(load_bits<1>(b.bits), load_crumbs<2>(b.crumbs)));
    low = keep<8>(load_crumbs<3>(subsets));
  }
  if constexpr (kWidth > 4) high = _mm512_loadu_si512(b.nibbles);
  if constexpr (kWidth == 5) low = keep<12>(load_crumbs<2>(subsets));
  if constexpr (kWidth == 6) {
    low = keep<14>(choose<8>(load_bits<3>(b.bits), load_crumbs<1>(subsets)));
  }
  if constexpr (kWidth == 7) low = choose<12>(load_crumbs<2>(b.crumbs), load_crumbs<0>(subsets));
}

/// Levels of a channel of 4 bits, 5 bits each, at the bottom of bytes with anything above them: in
/// byte b of lane i those of the tokens 32 b + i (`even`) and 32 b + 16 + i (`odd`).
RILLKV_INLINE void load_level_indices(const Planes& b, const uint8_t* subsets, __m512i& even,
                                      __m512i& odd) {
  const auto gather = [&]<int kPlace>() __attribute__((always_inline)) {
    return choose_in_bytes<3>(
        load_crumbs<kPlace>(subsets),
        choose_in_bytes<4>(load_bits<kPlace + 2>(b.bits), load_crumbs<kPlace + 3>(b.crumbs)));
  };
  even = gather.template operator()<0>();
  odd = gather.template operator()<-4>();
}

}  // namespace
}  // namespace rillkv::kernels::cpu::avx512
