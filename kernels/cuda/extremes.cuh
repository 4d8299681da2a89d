// Least and largest of 16-bit elements, two at a time, and of lanes with one shuffle for both: as a
// pair (least, -largest), of which the smaller of each is kept.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/element.cuh"

namespace rillkv::kernels::cuda {

template <typename T>
struct Packed16;
template <>
struct Packed16<__nv_bfloat16> {
  using Two = __nv_bfloat162;
};
template <>
struct Packed16<__half> {
  using Two = __half2;
};

/// The smaller, and the larger, of both elements of two pairs.
template <typename T>
__device__ inline uint32_t smaller(uint32_t a, uint32_t b) {
  using Two = typename Packed16<T>::Two;
  const Two least = __hmin2(reinterpret_cast<const Two&>(a), reinterpret_cast<const Two&>(b));
  return reinterpret_cast<const uint32_t&>(least);
}
template <typename T>
__device__ inline uint32_t larger(uint32_t a, uint32_t b) {
  using Two = typename Packed16<T>::Two;
  const Two most = __hmax2(reinterpret_cast<const Two&>(a), reinterpret_cast<const Two&>(b));
  return reinterpret_cast<const uint32_t&>(most);
}

/// (least, -largest) of all elements of pairs.
template <typename T, int kCount>
__device__ inline uint32_t extremes(const uint32_t (&x)[kCount]) {
  uint32_t low = x[0], high = x[0];
#pragma unroll
  for (int i = 1; i < kCount; ++i) {
    low = smaller<T>(low, x[i]);
    high = larger<T>(high, x[i]);
  }
  low = smaller<T>(low, low >> 16);
  high = larger<T>(high, high << 16);
  return __byte_perm(low, high, 0x7610) ^ 0x80000000u;
}

/// The range of elements of type T that several lanes have, for shuffles.
template <typename T>
class LaneRange {
 public:
  __device__ static LaneRange of(float lo, float hi) { return LaneRange(Pair<T>::pack(lo, -hi)); }
  __device__ explicit LaneRange(uint32_t pair) : pair_(pair) {}
  __device__ void join(uint32_t mask, int span) {
    pair_ = smaller<T>(pair_, __shfl_xor_sync(mask, pair_, span));
  }
  __device__ float lo() const { return Pair<T>::unpack(pair_).x; }
  __device__ float hi() const { return -Pair<T>::unpack(pair_).y; }

 private:
  uint32_t pair_;
};
template <>
class LaneRange<float> {
 public:
  __device__ static LaneRange of(float lo, float hi) { return {lo, hi}; }
  __device__ LaneRange(float lo, float hi) : lo_(lo), hi_(hi) {}
  __device__ void join(uint32_t mask, int span) {
    lo_ = fminf(lo_, __shfl_xor_sync(mask, lo_, span));
    hi_ = fmaxf(hi_, __shfl_xor_sync(mask, hi_, span));
  }
  __device__ float lo() const { return lo_; }
  __device__ float hi() const { return hi_; }

 private:
  float lo_, hi_;
};

}  // namespace rillkv::kernels::cuda
