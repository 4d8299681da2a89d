// The part of the vocabulary that the compiler's vector extension writes alike for registers of any
// width: base of every Simd.
#pragma once

#include <cstdint>

namespace rillkv::kernels::cpu {

/// Registers: the types F and I.
template <class Registers>
struct VectorOps {
  using F = typename Registers::F;
  using I = typename Registers::I;

  static F zero() { return F{}; }
  static I zero_int() { return I{}; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }

  static F as_float(I x) { return reinterpret_cast<F>(x); }
  static I as_int(F x) { return reinterpret_cast<I>(x); }
  static I bit_or(I a, I b) { return a | b; }
  static I bit_and(I a, I b) { return a & b; }
  static I and_not(I a, I b) { return ~a & b; }
  /// mask ? a : b by bits.
  static I choose_bits(I mask, I a, I b) { return (a & mask) | (~mask & b); }
  static I add_int(I a, I b) { return as_register(dwords(a) + dwords(b)); }

 private:
  using Dwords [[gnu::vector_size(sizeof(I))]] = uint32_t;
  static Dwords dwords(I x) { return reinterpret_cast<Dwords>(x); }
  static I as_register(Dwords x) { return reinterpret_cast<I>(x); }
};

}  // namespace rillkv::kernels::cpu
