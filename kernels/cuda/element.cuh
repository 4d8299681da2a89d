// Elements of the model's dtype when it is a template parameter: loads do not branch on it, so that
// many of them can be under way before the first is used.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace rillkv::kernels::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

/// The magnitude's fp32 bits: they compare as integers, and NaN is above every number.
__device__ inline uint32_t magnitude_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

/// One NaN for all, whatever the input's payload, as on the CPU.
__device__ inline uint32_t canonical_magnitude(uint32_t bits) {
  return bits > 0x7f800000u ? 0x7fc00000u : bits;
}

/// 16 bytes of elements.
template <typename T>
struct Chunk {
  static constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  uint4 bits;
  __device__ float element(int i) const { return to_float(reinterpret_cast<const T*>(&bits)[i]); }
};

/// True if rows of `head_dim` elements at these strides are 16-byte chunks that are aligned.
template <typename T>
__device__ inline bool chunks_fit(const void* data, int64_t token_stride, int64_t head_stride,
                                  int head_dim) {
  constexpr int kElements = Chunk<T>::kElements;
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && token_stride % kElements == 0 &&
         head_stride % kElements == 0 && head_dim % kElements == 0;
}

}  // namespace rillkv::kernels::cuda
