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

/// Elements of a group that a lane has: the lane's, and every kLanes-th from there.
struct StridedElements {
  const float* group;
  int lane, count;  // count: of the whole group

  __device__ int size() const { return (count - lane + kLanes - 1) / kLanes; }
  __device__ float operator[](int k) const { return group[lane + k * kLanes]; }
  /// Of the group, whether this lane has any or not.
  __device__ float any() const { return group[0]; }
};
/// The same in registers; every lane has kCount.
template <int kCount>
struct OwnElements {
  float x[kCount];

  __device__ static constexpr int size() { return kCount; }
  __device__ float operator[](int k) const { return x[k]; }
  __device__ float any() const { return x[0]; }
};

template <typename Elements>
__device__ inline float squared_error(const Elements& x, const AffineScale& scale, int width,
                                      uint32_t mask) {
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < x.size(); ++k) {
    const float code = static_cast<float>(affine_code(x[k], scale, width));
    const float error = __fsub_rn(x[k], __fadd_rn(scale.lo, __fmul_rn(scale.step, code)));
    sum = __fadd_rn(sum, __fmul_rn(error, error));
  }
  for (int span = kLanes / 2; span > 0; span /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(mask, sum, span));
  }
  return sum;
}

/// The least squared error of `first`, the scale of the whole range, and of those of the range
/// shrunk about its middle; the wider range on a tie.
template <typename Elements>
__device__ inline AffineScale best_scale(const Elements& x, const AffineScale& first, float lo,
                                         float hi, int width, uint32_t mask) {
  AffineScale best = first;
  float least = squared_error(x, best, width, mask);
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
    const float error = squared_error(x, scale, width, mask);
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

/// The scale of one group; at 2 bits that of the least squared error.
template <typename Elements>
__device__ inline AffineScale group_scale(const Elements& x, int width, uint32_t mask) {
  float lo = x.any(), hi = lo;
#pragma unroll
  for (int k = 0; k < x.size(); ++k) {
    lo = fminf(lo, x[k]);
    hi = fmaxf(hi, x[k]);
  }
  for (int span = kLanes / 2; span > 0; span /= 2) {
    lo = fminf(lo, __shfl_xor_sync(mask, lo, span));
    hi = fmaxf(hi, __shfl_xor_sync(mask, hi, span));
  }
  const AffineScale scale = affine_scale(lo, hi, width);
  return width == 2 ? best_scale(x, scale, lo, hi, width, mask) : scale;
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
