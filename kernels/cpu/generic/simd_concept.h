// The vocabulary that the kernels in generic/ are written in, and what each operation must do. An
// instruction set brings one struct Simd that satisfies SimdVocabulary (<isa>/simd.h), and for the
// tiles of attention one or more that satisfy TileArithmetic.
//
// A register holds kLanes numbers of 32 bits: F as floats, I as integers ("dwords"); H holds kLanes
// numbers of 16 bits. Pointers need no alignment unless said. Nothing is contracted: mul then add
// rounds twice, on which the identity of packed bytes rests. Where an operation has several valid
// results for NaN or for zeros of two signs, its comment says which; where it says nothing, IEEE
// 754 with rounding to nearest even decides.
//
// CONSTANTS
//   zero() set1(x) zero_int() set1_int(x)   all lanes
//   part(count)          the first `count` lanes: none if count <= 0, all from kLanes on
// MEMORY
//   load(p) store(p, x)              kLanes floats
//   load_part(p, part)               lanes outside the part are 0, and their memory is not read
//   load_part_or(p, part, other)     they are those of `other`
//   store_part(p, x, part)           their memory is not written
//   load_int(p) store_int(p, x)      kLanes dwords, from and to any type
//   load_once(p)                     load(p), which the compiler must not repeat at each use
//   broadcast(p) broadcast_float(p)   one dword, or float, in all lanes, likewise
//   load_bytes(p) store_bytes(p, x)  kLanes unsigned bytes to and from dwords of 0 .. 255
//   load_16(p) store_16(p, h)        kLanes 16-bit numbers
//   load_16_part(p, part) store_16_part(p, h, part)   the part's, as load_part and store_part
//   repeat_words<n>(p)               lane l is dword l % n; n a power of two below kLanes
//   gather_words(p, i)               lane l is dword i[l] of p
//   prefetch(p)                      the cache line at p, into the second-level cache
// ARITHMETIC
//   add sub mul div      lane by lane
//   min(a, b) max(a, b)  b if the lanes compare equal or one of them is NaN
//   fma(a, b, c)         a b + c, rounded once;   fnma(a, b, c) = c - a b
//   round(x)             to an integral float, ties to even;   round_to_int(x) the same as a dword
//   to_float(i)          signed dwords
//   infinity_if_zero(x)  +infinity where x is a zero of either sign, x elsewhere
//   keep(x, part)        x in the part, 0 elsewhere
//   hide_after(x, index, limit)   x where index[l] <= limit, -infinity elsewhere
//   count_outside(x, lo, hi)      how many lanes are < lo or > hi
//   first_lane(x)  reduce_add(x) (any order)  reduce_min(x)  reduce_max(x) (no NaN)
//   fold16(sums)         of 16 numbers in 16 / kLanes registers: s[l] += s[l + 8], + 4, + 2, + 1
// NUMBERS OF 16 BITS
//   widen(h)             unsigned, to dwords
//   to_half_down to_half_up to_half   fp16 rounded towards -infinity, +infinity, to nearest even
//   to_bfloat16(x)       to nearest even; NaN keeps its upper half with the quiet bit set
//   bfloat16_bits(x)     dwords whose upper halves are to_bfloat16(x); their lower are anything
//   from_half(h)  half_to_float(u16)
// BITS
//   as_float(i) as_int(f) bit_or bit_and and_not(a, b) = ~a & b  max_unsigned(a, b)  add_int(a, b)
//   greater(a, b)        signed; all bits of a lane, or none
//   shift_right(x, n) shift_left(x, n)   logical, all lanes by n;   *_each(x, n) lane by lane
//   append<n>(words, x, mask)            words << n | (x & mask)
// CODES OF 4 BITS
//   Affine(lo, step)(i)  lo + step * (i & 15), within two roundings
//   Scaled(step)(i, high) high + step * (i & 15), likewise
//   low_bits(i, mask)    i & mask as floats
// SHUFFLES
//   exchange<n>(x)       lane l is x[l ^ n]; n a power of two below kLanes
//   unzip4(p, out)       4 kLanes floats: lane l of out[c] is float 4 l + c, c < 4
//   transpose(x)         kLanes registers: lane r of register c takes lane c of register r
//   store_columns(words, at, offset)   4 registers (aligned to a register): the 4 dwords of lane l,
//                        16 bytes, go to at[l] + offset
//   store_folded<n>(p, x)   n dwords, a power of two below kLanes: dword i is the bitwise or of the
//                        lanes l with l % n = i
#pragma once

#include <concepts>
#include <cstdint>

namespace rillkv::kernels::cpu {

template <class S>
concept SimdVocabulary = requires(typename S::F f, typename S::I i, typename S::H h,
                                  const typename S::F* fs, const typename S::Part& part,
                                  const void* row, void* out, const float* p, float* q,
                                  const uint8_t* bytes, uint8_t* bytes_out, uint16_t* halves,
                                  const uint32_t* words, uint8_t* const* at, const int32_t* index,
                                  typename S::I (&registers)[S::kLanes],
                                  typename S::F (&quads)[4]) {
  requires S::kLanes == 8 || S::kLanes == 16;
  requires sizeof(f) == 4 * S::kLanes && sizeof(i) == 4 * S::kLanes && sizeof(h) == 2 * S::kLanes;

  { S::zero() } -> std::same_as<typename S::F>;
  { S::set1(1.0f) } -> std::same_as<typename S::F>;
  { S::zero_int() } -> std::same_as<typename S::I>;
  { S::set1_int(1) } -> std::same_as<typename S::I>;
  { S::part(1) } -> std::same_as<typename S::Part>;

  { S::load(p) } -> std::same_as<typename S::F>;
  { S::load_part(p, part) } -> std::same_as<typename S::F>;
  { S::load_part_or(p, part, f) } -> std::same_as<typename S::F>;
  { S::load_once(p) } -> std::same_as<typename S::F>;
  S::store(q, f);
  S::store_part(q, f, part);
  { S::load_int(row) } -> std::same_as<typename S::I>;
  S::store_int(out, i);
  { S::broadcast(words) } -> std::same_as<typename S::I>;
  { S::broadcast_float(p) } -> std::same_as<typename S::F>;
  { S::load_bytes(bytes) } -> std::same_as<typename S::I>;
  S::store_bytes(bytes_out, i);
  { S::load_16(halves) } -> std::same_as<typename S::H>;
  { S::load_16_part(halves, part) } -> std::same_as<typename S::H>;
  S::store_16(halves, h);
  S::store_16_part(halves, h, part);
  { S::template repeat_words<4>(bytes) } -> std::same_as<typename S::I>;
  { S::gather_words(bytes, i) } -> std::same_as<typename S::I>;
  S::prefetch(row);

  { S::add(f, f) } -> std::same_as<typename S::F>;
  { S::sub(f, f) } -> std::same_as<typename S::F>;
  { S::mul(f, f) } -> std::same_as<typename S::F>;
  { S::div(f, f) } -> std::same_as<typename S::F>;
  { S::min(f, f) } -> std::same_as<typename S::F>;
  { S::max(f, f) } -> std::same_as<typename S::F>;
  { S::fma(f, f, f) } -> std::same_as<typename S::F>;
  { S::fnma(f, f, f) } -> std::same_as<typename S::F>;
  { S::round(f) } -> std::same_as<typename S::F>;
  { S::round_to_int(f) } -> std::same_as<typename S::I>;
  { S::to_float(i) } -> std::same_as<typename S::F>;
  { S::infinity_if_zero(f) } -> std::same_as<typename S::F>;
  { S::keep(f, part) } -> std::same_as<typename S::F>;
  { S::hide_after(f, index, 0) } -> std::same_as<typename S::F>;
  { S::count_outside(f, f, f) } -> std::same_as<int>;
  { S::first_lane(f) } -> std::same_as<float>;
  { S::reduce_add(f) } -> std::same_as<float>;
  { S::reduce_min(f) } -> std::same_as<float>;
  { S::reduce_max(f) } -> std::same_as<float>;
  { S::fold16(fs) } -> std::same_as<float>;

  { S::widen(h) } -> std::same_as<typename S::I>;
  { S::to_half_down(f) } -> std::same_as<typename S::H>;
  { S::to_half_up(f) } -> std::same_as<typename S::H>;
  { S::to_half(f) } -> std::same_as<typename S::H>;
  { S::to_bfloat16(f) } -> std::same_as<typename S::H>;
  { S::bfloat16_bits(f) } -> std::same_as<typename S::I>;
  { S::from_half(h) } -> std::same_as<typename S::F>;
  { S::half_to_float(uint16_t{}) } -> std::same_as<float>;

  { S::as_float(i) } -> std::same_as<typename S::F>;
  { S::as_int(f) } -> std::same_as<typename S::I>;
  { S::bit_or(i, i) } -> std::same_as<typename S::I>;
  { S::bit_and(i, i) } -> std::same_as<typename S::I>;
  { S::and_not(i, i) } -> std::same_as<typename S::I>;
  { S::max_unsigned(i, i) } -> std::same_as<typename S::I>;
  { S::add_int(i, i) } -> std::same_as<typename S::I>;
  { S::greater(i, i) } -> std::same_as<typename S::I>;
  { S::shift_right(i, 1) } -> std::same_as<typename S::I>;
  { S::shift_left(i, 1) } -> std::same_as<typename S::I>;
  { S::shift_right_each(i, i) } -> std::same_as<typename S::I>;
  { S::shift_left_each(i, i) } -> std::same_as<typename S::I>;
  { S::template append<4>(i, i, i) } -> std::same_as<typename S::I>;

  { typename S::Affine(0.0f, 1.0f)(i) } -> std::same_as<typename S::F>;
  { typename S::Scaled(1.0f)(i, f) } -> std::same_as<typename S::F>;
  { S::low_bits(i, 15) } -> std::same_as<typename S::F>;

  { S::template exchange<1>(f) } -> std::same_as<typename S::F>;
  S::unzip4(p, quads);
  S::transpose(registers);
  S::store_columns(words, at, 0);
  S::template store_folded<2>(bytes_out, i);
};

/// What the matrix products of tiled attention need beside it (generic/tiles.h says what a tile
/// is):
///
///   kMicroRows x kPanelVectors   registers of sums that a microkernel holds
///   kPack                        values in a dword of a tile: 1 (fp32) or 2 (bf16)
///   kTileTokens                  tokens of a group of tiles, which stays in the second-level cache
///   store_pair(p, q, a, b)       the channels of a pair into a tile: floats to p and q, or (kPack
///   2)
///                                both to p, a in the low half
///   dot(sum, a, b)               sum + the products of the values in the lanes' dwords
///   exp2(x)                      2^x for x <= 0, to the precision that the tile's values have; 0
///                                where it underflows, and for -infinity
template <class S>
concept TileArithmetic = SimdVocabulary<S> &&
    requires(typename S::F f, typename S::I i, uint32_t* p) {
  requires S::kPack == 1 || S::kPack == 2;
  requires S::kMicroRows >
  0 && S::kPanelVectors > 0 && S::kTileTokens % S::kLanes == 0;
  S::store_pair(p, p, f, f);
  { S::dot(f, i, i) } -> std::same_as<typename S::F>;
  { S::exp2(f) } -> std::same_as<typename S::F>;
};

/// Tiles of two 16-bit values a dword:
///
///   pack_pair(a, b)   the values of each lane as one dword, a in the low half
///   pack_row(a, b)    2 kLanes consecutive values as kLanes dwords
///   PairTable(lo_a, step_a, lo_b, step_b)(i)   lo + step * code of two rows at once as
///                     pack_pair(a, b): the codes in the low 4 bits of each 16-bit half, a's low
///   low_words(a, b)   the low halves of a's and b's dwords as one dword;   high_words the upper
template <class S>
concept PairedArithmetic = TileArithmetic<S> && S::kPack == 2 &&
                           requires(typename S::F f, typename S::I i) {
  { S::pack_pair(f, f) } -> std::same_as<typename S::I>;
  { S::pack_row(f, f) } -> std::same_as<typename S::I>;
  { typename S::PairTable(0.0f, 1.0f, 0.0f, 1.0f)(i) } -> std::same_as<typename S::I>;
  { S::low_words(i, i) } -> std::same_as<typename S::I>;
  { S::high_words(i, i) } -> std::same_as<typename S::I>;
};

}  // namespace rillkv::kernels::cpu
