// Codes in registers into planes of packed_format.h: the inverse of plane_registers.h. S: see
// simd_concept.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/plane_registers.h"
#include "kernels/planes.h"

namespace rillkv::kernels::cpu {
namespace {

/// The plane of kCount codes, a power of two from 64 to 256: of bits shift ... of registers(v), the
/// codes v L .. v L + L - 1 as dwords. A plane is whole registers, or a register whole planes, of
/// which register v holds elements v L / W ... of the words, side by side.
template <class S, int kCount, int kElementBits, class Registers>
RILLKV_INLINE void pack_plane_registers(const Registers& registers, int shift, uint8_t* out) {
  constexpr int L = S::kLanes, W = kCount * kElementBits / 32;
  static_assert(W % L == 0 || L % W == 0);
  using Int = typename S::I;
  const Int mask = S::set1_int((1 << kElementBits) - 1);
  if constexpr (W >= L) {
#pragma GCC unroll 4
    for (int i = 0; i < W; i += L) {
      Int words = S::zero_int();
#pragma GCC unroll 32
      for (int k = 32 / kElementBits - 1; k >= 0; --k) {
        const Int code = S::shift_right(registers((k * W + i) / L), shift);
        words = S::template append<kElementBits>(words, code, mask);
      }
      S::store_int(out + 4 * i, words);
    }
  } else {
    // Lane l of register v is element v L / W + l / W.
    constexpr int kRegisters = kCount / L, kElementsOfOne = L / W;
    Int words = S::zero_int();
#pragma GCC unroll 32
    for (int v = kRegisters - 1; v >= 0; --v) {
      const Int code = S::bit_and(S::shift_right(registers(v), shift), mask);
      words = S::bit_or(S::shift_left(words, kElementBits * kElementsOfOne), code);
    }
    // An element of lane l belongs kElementBits * (l / W) bits higher, in word l % W.
    const Int shifts = S::load_int(kLaneShifts<L, W, kElementBits>.lanes);
    S::template store_folded<W>(out, S::shift_left_each(words, shifts));
  }
}

/// All planes of kCount codes of `width` bits.
template <class S, int kCount, class Registers>
RILLKV_INLINE void pack_registers(const Registers& registers, int width,
                                  const format::Planes<uint8_t>& at) {
  format::for_each_plane(at, kCount, width, [&](uint8_t* plane, auto element_bits, int shift) {
    pack_plane_registers<S, kCount, element_bits>(registers, shift, plane);
  });
}

}  // namespace
}  // namespace rillkv::kernels::cpu
