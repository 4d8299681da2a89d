// Scale, clip search and planes of one group of a token row: 16 lanes a token.
//
// The clip search compares squared errors, whose fp32 sum has one order in every back end: 16
// accumulators, element i in number i % 16, then a tree of spans 8, 4, 2, 1. Here an accumulator is
// a lane and the tree is four shuffles.
#pragma once

#include "kernels/cuda/quantise.cuh"
#include "kernels/planes.h"

namespace rillkv::kernels::cuda {

inline constexpr int kLanes = 16;  // of a token

/// The 16 lanes of this thread's half warp.
__device__ inline uint32_t half_warp_mask() {
  return threadIdx.x % 32 < kLanes ? 0xffffu : 0xffff0000u;
}

__device__ inline float squared_error(const float* x, int count, const AffineScale& scale,
                                      int width, uint32_t mask, int lane) {
  float sum = 0.0f;
  for (int i = lane; i < count; i += kLanes) {
    const float code = static_cast<float>(affine_code(x[i], scale, width));
    const float error = __fsub_rn(x[i], __fadd_rn(scale.lo, __fmul_rn(scale.step, code)));
    sum = __fadd_rn(sum, __fmul_rn(error, error));
  }
  for (int span = kLanes / 2; span > 0; span /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(mask, sum, span));
  }
  return sum;
}

/// The scale of one group; at 2 bits the range is shrunk about its middle by the factor of least
/// squared error, the wider range on a tie.
__device__ inline AffineScale group_scale(const float* x, int count, int width, uint32_t mask,
                                          int lane) {
  float lo = x[0], hi = x[0];
  for (int i = lane; i < count; i += kLanes) {
    lo = fminf(lo, x[i]);
    hi = fmaxf(hi, x[i]);
  }
  for (int span = kLanes / 2; span > 0; span /= 2) {
    lo = fminf(lo, __shfl_xor_sync(mask, lo, span));
    hi = fmaxf(hi, __shfl_xor_sync(mask, hi, span));
  }
  AffineScale best = affine_scale(lo, hi, width);
  if (width != 2) return best;
  float least = squared_error(x, count, best, width, mask, lane);
  const float middle = __fmul_rn(__fadd_rn(lo, hi), 0.5f);
  const float radius = __fmul_rn(__fsub_rn(hi, lo), 0.5f);
#pragma unroll 1
  for (int step = 1; step <= 6; ++step) {
    const float factor = step == 1   ? .95f
                         : step == 2 ? .9f
                         : step == 3 ? .85f
                         : step == 4 ? .8f
                         : step == 5 ? .75f
                                     : .7f;
    const float shrunk = __fmul_rn(radius, factor);
    const AffineScale scale =
        affine_scale(__fsub_rn(middle, shrunk), __fadd_rn(middle, shrunk), width);
    const float error = squared_error(x, count, scale, width, mask, lane);
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

__device__ inline void write_row(const format::Planes<uint8_t>& to, const uint8_t* codes,
                                 int head_dim, int width, int lane) {
  for (int i = lane; i < words_of_row(width, head_dim); i += kLanes) {
    const PlaneWord word = make_plane_word(codes, i, width, head_dim);
    uint8_t* plane = word.plane == 0 ? to.nibbles : word.plane == 1 ? to.crumbs : to.bits;
    reinterpret_cast<uint32_t*>(plane)[word.word] = word.bits;
  }
}

}  // namespace rillkv::kernels::cuda
