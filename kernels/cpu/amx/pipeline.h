// The products and the softmax of attention on a tile unit, for units of 32 rows by a chunk of
// columns:
//
//   s = q~ k~^T - m     p = 2^s     o += p v     l += p
//
// A row's m is *not* the running maximum but the maximum over the first columns it sees. p is a
// floating-point number in fp32 and in bf16, so its relative error does not depend on m, and
// nothing goes wrong before sums leave fp32's range; long before, at kLimit, `repair` does what
// online softmax always does. Hence no pass for the maximum, no rescaling of o, and -m is simply
// what the accumulators of q k^T start from.
//
// Units are a stream that three stages pass through, so that the tile unit and the vector units are
// busy at the same time. A unit is D / 32 steps; while step t of the stream
//
//   t                multiplies q k^T of the unit's next share of its blocks of 32 columns,
//   t - 1            becomes 2^s in bf16, a few rows after every two tile products,
//   t - D / 32 - 1   adds p v to 32 of the D channels of o.
//
// Both products keep 2 x 2 accumulators and load 2 + 2 operands for four products. What streams
// from the second-level cache (keys, values, o) is loaded past the first, where q, p and s live.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx/arithmetic.h"
#include "kernels/cpu/amx/softmax.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/amx/workspace.h"
#include "kernels/cpu/generic/inline.h"

namespace rillkv::kernels::cpu::amx {
namespace {

/// 32 rows and the columns of a chunk that they see.
struct Unit {
  int row_block = 0;
  int blocks = 0;       // of 32 columns; 0: nothing
  uint32_t masked = 0;  // bit j: some row does not see all columns of block j
  const tiled::Workspace* chunk = nullptr;
  uint32_t* weights = nullptr;  // [blocks][2] tiles; the pipeline chooses
};

template <TileUnit Tiles, int D>
class Pipeline {
 public:
  static constexpr int kSteps = D / 32;  // of a unit; also tiles of a row of q, pairs of tiles of o

  explicit Pipeline(const Workspace& workspace) : w_(workspace) {
    tiled::clear_row<S>(w_.unit_sums, kRows * kLanes);
  }

  /// Takes in a unit of at least one block; after_step() is called after each of its steps. From
  /// the first of these on, units before the last one are done with their chunks.
  template <class AfterStep>
  RILLKV_INLINE void add(const Unit& unit, const AfterStep& after_step) {
    // A repair of the last unit would come after the first scores of this one.
    if (last_.blocks != 0 && last_.row_block == unit.row_block) drain();
    start_rows(unit);
    pass(unit, after_step);
  }

  /// Finishes the units in flight.
  void drain() {
    for (int i = 0; i < 2; ++i) pass({}, [] {});
  }

 private:
  using S = TileBf16;
  // Rows of softmax after every two products: all are done when the products are.
  static constexpr int kRowsBetween = 256 / D;
  static_assert(D % 32 == 0 && kRows % kRowsBetween == 0);
  // Of a lane's sum of a unit's weights. Far below overflow, even of o and l with every unit at it.
  static constexpr float kLimit = 0x1p60f;

  struct Scores {
    const uint32_t *queries, *keys;
    const float* minus_m;
    float* out;
    int blocks;
  };
  struct Sums {
    const uint32_t *weights, *values;
    float* out;
    int blocks;
  };

  // ---- the stream ----

  template <class AfterStep>
  RILLKV_INLINE void pass(Unit unit, const AfterStep& after_step) {
    unit.weights = w_.weights[odd_unit_];
    for (int s = 0; s < kSteps; ++s) {
      // Stages behind the first are at the step before, which may be the last of the unit before.
      const int before = s == 0 ? kSteps - 1 : s - 1;
      const Unit &weighed = s == 0 ? last_ : unit, &summed = s == 0 ? before_last_ : last_;
      const int begin = first_block(weighed, before), end = first_block(weighed, before + 1);
      const bool masked = (weighed.masked >> begin & ((1u << (end - begin)) - 1)) != 0;
      const Softmax softmax = {
          w_.scores[!odd_step_],
          weighed.weights + begin * (2 * kTile),
          w_.unit_sums,
          weighed.chunk == nullptr ? nullptr : weighed.chunk->index + begin * kKeys,
          w_.tokens + weighed.row_block * kRows,
          (end - begin) * kRows};
      (masked ? step<true> : step<false>)(scores_of(unit, s), softmax, sums_of(summed, before));
      if (s == 0 && last_.blocks != 0) finish_unit(last_);
      odd_step_ = !odd_step_;
      after_step();
    }
    before_last_ = last_;
    last_ = unit;
    odd_unit_ = !odd_unit_;
  }

  /// The three stages of one step.
  template <bool kMasked>
  static __attribute__((noinline)) void step(Scores qk, Softmax softmax, Sums pv) {
    const auto between = [&]() __attribute__((always_inline)) {
      if (softmax.rows_left > 0) softmax.advance<kMasked, kRowsBetween>();
    };
    for (int j = 0; j < qk.blocks; ++j) {
      scores_block(qk.queries, qk.keys, qk.minus_m, qk.out, between);
      qk.keys += 2 * kSteps * kTile;
      qk.out += kRows * kKeys;
    }
    if (pv.blocks > 0) {
      constexpr int kNextRows = D / 16 * kTile;
      Tiles::template stream<0>(pv.out);
      Tiles::template stream<1>(pv.out + kTile);
      Tiles::template stream<2>(pv.out + kNextRows);
      Tiles::template stream<3>(pv.out + kNextRows + kTile);
      for (int j = 0; j < pv.blocks; ++j) {
        products(pv.weights, pv.weights + kTile, pv.values, pv.values + kColumnBlocks * kTile,
                 between);
        pv.weights += 2 * kTile;
        pv.values += kTile;
      }
      Tiles::template store<0>(pv.out);
      Tiles::template store<1>(pv.out + kTile);
      Tiles::template store<2>(pv.out + kNextRows);
      Tiles::template store<3>(pv.out + kNextRows + kTile);
    }
    while (softmax.rows_left > 0) softmax.advance<kMasked, kRowsBetween>();
  }

  /// C += A B for 2 x 2 tiles, C in 0 .. 3.
  template <class Between>
  static RILLKV_INLINE void products(const uint32_t* a0, const uint32_t* a1, const uint32_t* b0,
                                     const uint32_t* b1, const Between& between) {
    Tiles::template stream<6>(b0);
    Tiles::template load<4>(a0);
    Tiles::template dot<0, 4, 6>();
    Tiles::template stream<7>(b1);
    Tiles::template dot<1, 4, 7>();
    between();
    Tiles::template load<5>(a1);
    Tiles::template dot<2, 5, 6>();
    Tiles::template dot<3, 5, 7>();
    between();
  }

  /// 32 rows x 32 columns of q k^T - m, rows of 32 floats.
  template <class Between>
  static RILLKV_INLINE void scores_block(const uint32_t* queries, const uint32_t* keys,
                                         const float* minus_m, float* out, const Between& between) {
    Tiles::template load<0>(minus_m);
    Tiles::template load<1>(minus_m);
    Tiles::template load<2>(minus_m + kTile);
    Tiles::template load<3>(minus_m + kTile);
#pragma GCC unroll 8
    for (int i = 0; i < kSteps; ++i) {
      products(queries + i * kTile, queries + (kSteps + i) * kTile, keys + i * kTile,
               keys + (kSteps + i) * kTile, between);
    }
    constexpr size_t kStride = sizeof(float) * kKeys;
    Tiles::template store<0>(out, kStride);
    Tiles::template store<1>(out + kLanes, kStride);
    Tiles::template store<2>(out + kTileRows * kKeys, kStride);
    Tiles::template store<3>(out + kTileRows * kKeys + kLanes, kStride);
  }

  // ---- what a unit's steps work on ----

  /// Blocks [first_block(s), first_block(s + 1)) are those of step s.
  static int first_block(const Unit& unit, int step) { return step * unit.blocks / kSteps; }
  const uint32_t* queries(const Unit& unit) const {
    return w_.queries + unit.row_block * (2 * kSteps * kTile);
  }
  static const uint32_t* keys(const Unit& unit, int block) {
    return unit.chunk->keys + block * (2 * kSteps * kTile);
  }
  float* minus_m(const Unit& unit) const { return w_.minus_m + unit.row_block * (kRows * kLanes); }
  float* weight_sum(const Unit& unit) const {
    return w_.weight_sum + unit.row_block * (kRows * kLanes);
  }
  float* sums(const Unit& unit) const { return w_.sums + unit.row_block * (kRows * D); }

  Scores scores_of(const Unit& unit, int step) const {
    if (unit.blocks == 0) return {};
    const int begin = first_block(unit, step);
    return {queries(unit), keys(unit, begin), minus_m(unit), w_.scores[odd_step_],
            first_block(unit, step + 1) - begin};
  }
  Sums sums_of(const Unit& unit, int channels) const {
    if (unit.blocks == 0) return {};
    return {unit.weights, unit.chunk->values + channels * (2 * kColumnBlocks * kTile),
            sums(unit) + channels * (2 * kTile), unit.blocks};
  }

  // ---- maxima ----

  /// m of the rows that see their first columns in this unit, from the first 16 of them.
  RILLKV_INLINE void start_rows(const Unit& unit) {
    if (w_.started[unit.row_block] != ~0u) start_rows_now(unit);
  }
  __attribute__((noinline)) void start_rows_now(const Unit& unit) const {
    uint32_t& started = w_.started[unit.row_block];
    const int32_t* tokens = w_.tokens + unit.row_block * kRows;
    const uint32_t* q = queries(unit);
    for (int v = 0; v < 2 * unit.blocks && started != ~0u; ++v) {
      const uint32_t* k = unit.chunk->keys + v * (kSteps * kTile);
      Tiles::template zero<0>();
      Tiles::template zero<1>();
      for (int i = 0; i < kSteps; ++i) {
        Tiles::template stream<6>(k + i * kTile);
        Tiles::template load<4>(q + i * kTile);
        Tiles::template dot<0, 4, 6>();
        Tiles::template load<5>(q + (kSteps + i) * kTile);
        Tiles::template dot<1, 5, 6>();
      }
      Tiles::template store<0>(w_.spare);
      Tiles::template store<1>(w_.spare + kTile);
      for (uint32_t left = ~started; left != 0; left &= left - 1) {
        const int r = __builtin_ctz(left);
        const float m = S::reduce_max(S::hide_after(S::load(w_.spare + r * kLanes),
                                                    unit.chunk->index + v * kLanes, tokens[r]));
        if (m == -__builtin_inff()) continue;
        S::store(minus_m(unit) + r * kLanes, S::set1(-m));
        started |= 1u << r;
      }
    }
  }

  /// The unit's weights are complete: adds them to l.
  RILLKV_INLINE void finish_unit(const Unit& unit) {
    S::F most = S::zero();
    for (int r = 0; r < kRows; ++r) most = S::max(S::load(w_.unit_sums + r * kLanes), most);
    // NaN, which only an infinite m can bring about, is nothing to repair.
    if (S::reduce_max(most) > kLimit) [[unlikely]]
      repair(unit);
    float* l = weight_sum(unit);
    for (int i = 0; i < kRows * kLanes; i += kLanes) {
      S::store(l + i, S::add(S::load(l + i), S::load(w_.unit_sums + i)));
      S::store(w_.unit_sums + i, S::zero());
    }
  }

  /// The unit again with m at least its rows' maxima; what came before it shrinks. All earlier
  /// units are in o by now.
  __attribute__((noinline)) void repair(const Unit& unit) const {
    const auto no_more = [] {};
    float most[kRows] = {};  // relative to the old m
    for (int j = 0; j < unit.blocks; ++j) {
      scores_block(queries(unit), keys(unit, j), minus_m(unit), w_.spare, no_more);
      for (int r = 0; r < kRows; ++r) {
        const int32_t* index = unit.chunk->index + j * kKeys;
        const int32_t token = w_.tokens[unit.row_block * kRows + r];
        const float* x = w_.spare + r * kKeys;
        const float m =
            S::reduce_max(S::max(S::hide_after(S::load(x), index, token),
                                 S::hide_after(S::load(x + kLanes), index + kLanes, token)));
        if (m > most[r]) most[r] = m;
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const S::F shrink = S::exp2(S::set1(-most[r]));
      float *m = minus_m(unit) + r * kLanes, *l = weight_sum(unit) + r * kLanes;
      S::store(m, S::sub(S::load(m), S::set1(most[r])));
      S::store(l, S::mul(S::load(l), shrink));
      float* o = sums(unit) + r / kTileRows * (D / 16 * kTile) + r % kTileRows * kLanes;
      for (int i = 0; i < D / 16; ++i, o += kTile) S::store(o, S::mul(S::load(o), shrink));
    }
    tiled::clear_row<S>(w_.unit_sums, kRows * kLanes);
    for (int j = 0; j < unit.blocks; ++j) {
      scores_block(queries(unit), keys(unit, j), minus_m(unit), w_.spare, no_more);
      Softmax softmax = {w_.spare,
                         unit.weights + j * (2 * kTile),
                         w_.unit_sums,
                         unit.chunk->index + j * kKeys,
                         w_.tokens + unit.row_block * kRows,
                         kRows};
      while (softmax.rows_left > 0) softmax.advance<true, kRowsBetween>();
    }
  }

  const Workspace& w_;
  Unit last_, before_last_;
  bool odd_step_ = false, odd_unit_ = false;
};

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
