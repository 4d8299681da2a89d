// Steps 2 to 4 of error feedback (kernels/feedback.h): the Hessian of two pairs of channels, what
// pairs weigh, and the order in which they are rounded.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/feedback.h"
#include "kernels/moment_layout.h"

namespace rillkv::kernels::cuda {

/// H of the channels (a, a + half) and (b, b + half).
struct PairHessian {
  float at[2][2];
};
__device__ inline PairHessian pair_hessian(const float* moment, const float* distances, int half,
                                           int a, int b) {
  const float4 g = reinterpret_cast<const float4*>(distances)[a * half + b];
  // S is symmetric, and stored where the row is the greater: that of a + half and b, of these.
  const float A = moment[moment_at(a, b)], B = moment[moment_at(b + half, a)];
  const float C = moment[moment_at(a + half, b)], E = moment[moment_at(a + half, b + half)];
  const float sum = __fadd_rn(A, E), dif = __fsub_rn(A, E);
  const float cross = __fsub_rn(C, B), both = __fadd_rn(C, B);
  const float ur = __fmaf_rn(-cross, g.y, __fmul_rn(sum, g.x));
  const float ui = __fmaf_rn(cross, g.x, __fmul_rn(sum, g.y));
  const float vr = __fmaf_rn(-both, g.w, __fmul_rn(dif, g.z));
  const float vi = __fmaf_rn(both, g.z, __fmul_rn(dif, g.w));
  return {{{__fmul_rn(0.5f, __fadd_rn(ur, vr)), __fmul_rn(0.5f, __fsub_rn(vi, ui))},
           {__fmul_rn(0.5f, __fadd_rn(ui, vi)), __fmul_rn(0.5f, __fsub_rn(ur, vr))}}};
}

/// Which pair is rounded when, in shared memory; `half` of each.
struct PairOrder {
  float* energies;  // by pair; 16-byte aligned
  float* damping;   // by pair
  uint16_t* pairs;  // by rank
  uint16_t* ranks;  // by pair
  int* usable;      // one: there is something to weigh by
};

/// By one warp.
__device__ inline void order_pairs(const float* moment, const float* distances, int half,
                                   const PairOrder& order) {
  constexpr int kAtOnce = 4;  // pairs of a lane whose loads are under way together
  for (int first = lane_id(); first < half; first += 32 * kAtOnce) {
    float energies[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int pair = min(first + 32 * n, half - 1);
      const PairHessian own = pair_hessian(moment, distances, half, pair, pair);
      energies[n] = __fmul_rn(0.5f, __fadd_rn(own.at[0][0], own.at[1][1]));
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      if (first + 32 * n < half) order.energies[first + 32 * n] = energies[n];
    }
  }
  __syncwarp();
  float sum = 0.0f;
#pragma unroll 8
  for (int p = 0; p < half; ++p) sum = __fadd_rn(sum, order.energies[p]);
  const float mean = __fdiv_rn(sum, static_cast<float>(half));
  const bool usable = mean >= kLeastEnergy && mean <= kMostEnergy;
  if (lane_id() == 0) *order.usable = usable ? 1 : 0;
  for (int pair = lane_id(); pair < half; pair += 32) {
    const float own = order.energies[pair];
    int rank = 0;
#pragma unroll 8
    for (int q = 0; q < half; ++q) {
      const float other = order.energies[q];
      rank += other > own || (other == own && q < pair) ? 1 : 0;
    }
    if (!usable) rank = pair;  // all weigh the same
    order.pairs[rank] = static_cast<uint16_t>(pair);
    order.ranks[pair] = static_cast<uint16_t>(rank);
    order.damping[pair] =
        usable ? __fmaf_rn(kDampingShare, own, __fmul_rn(kDampingFloor, mean)) : 0.0f;
  }
}

/// The channel at a position.
__device__ inline int ordered_channel(const uint16_t* pairs, int position, int half) {
  return pairs[position / 2] + (position % 2) * half;
}

/// Calls put(row, column, value) for M's elements with column <= row of the ranks row_rank >=
/// column_rank.
template <typename Put>
__device__ inline void ordered_hessian(const float* moment, const float* distances, int half,
                                       const PairOrder& order, int row_rank, int column_rank,
                                       const Put& put) {
  const int a = order.pairs[row_rank], b = order.pairs[column_rank];
  PairHessian h = pair_hessian(moment, distances, half, a, b);
  const bool diagonal = row_rank == column_rank;
  if (*order.usable == 0) h = {{{diagonal ? 1.0f : 0.0f, 0.0f}, {0.0f, diagonal ? 1.0f : 0.0f}}};
  if (diagonal) {
    h.at[0][0] = __fadd_rn(h.at[0][0], order.damping[a]);
    h.at[1][1] = __fadd_rn(h.at[1][1], order.damping[a]);
  }
  put(2 * row_rank, 2 * column_rank, h.at[0][0], h.at[0][1]);
  put(2 * row_rank + 1, 2 * column_rank, h.at[1][0], h.at[1][1]);
}

}  // namespace rillkv::kernels::cuda
