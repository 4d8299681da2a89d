// How handlers loop over lanes. With all 32 lanes active the loop is plain and the compiler
// vectorises it; otherwise the active lanes are visited one by one.
#pragma once

#include <cstdint>
#include <tuple>
#include <utility>

#include "tests/support/ptx/program.h"
#include "tests/support/ptx/warp.h"

namespace rillkv::ptx {

/// Calls f(lane) for every lane in `active`. f may write lane i of an array only from lane i of
/// others: sources and destinations are equal or disjoint arrays, which is what ivdep asserts.
template <typename F>
inline void for_lanes(uint32_t active, F f) {
  if (active == kAllLanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; ++lane) f(lane);
  } else {
    for (; active != 0; active &= active - 1) f(__builtin_ctz(active));
  }
}

/// Packs 32 bytes that are 0 or 1 into a mask.
inline uint32_t pack_mask(const uint8_t* bytes) {
  uint32_t mask = 0;
  for (int i = 0; i < 4; ++i) {
    uint64_t eight;
    __builtin_memcpy(&eight, bytes + 8 * i, 8);
    mask |= static_cast<uint32_t>((eight * 0x0102040810204080u) >> 56) << (8 * i);
  }
  return mask;
}

inline void write_predicate(Warp& warp, Ref ref, uint32_t value) {
  uint32_t& predicate = *warp.lanes<uint32_t>(ref);
  predicate = (predicate & ~warp.active) | (value & warp.active);
}

namespace internal {

/// Loops for a captureless function object F: D(S...).
template <typename F, typename D, typename... S>
struct LaneLoop {
  template <size_t... I>
  static void map(Warp& warp, const Op& op, std::index_sequence<I...>) {
    D* const d = warp.lanes<D>(op.operand[0]);
    const std::tuple<const S*...> s{warp.lanes<const S>(op.operand[I + 1])...};
    for_lanes(warp.active, [d, s](int lane) { d[lane] = F{}(std::get<I>(s)[lane]...); });
  }
  static void run(Warp& warp, const Op& op) { map(warp, op, std::index_sequence_for<S...>{}); }
};

template <typename F, typename D, typename... S>
LaneLoop<F, D, S...> loop_of(D (F::*)(S...) const);

}  // namespace internal

/// Handler of d[lane] = f(s1[lane], s2[lane], ...) for the operands in that order. `f` is a lambda
/// without captures; its parameter and result types are those of the registers.
template <typename F>
Handler map_lanes(F) {
  return decltype(internal::loop_of(&F::operator()))::run;
}

}  // namespace rillkv::ptx
