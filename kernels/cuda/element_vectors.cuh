// Activations 16 bytes at a time, the element type a template parameter: a load whose type is
// chosen at run time is consumed before the next is issued.
#pragma once

#include <type_traits>

#include "kernels/cuda/device.cuh"

namespace rillkv::kernels::cuda {

template <typename T>
inline constexpr int kVectorElements = 16 / static_cast<int>(sizeof(T));

template <typename T>
__device__ inline float to_float(T x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __half2float(x);
  } else {
    return __bfloat162float(x);
  }
}

/// Rounds to nearest even.
template <typename T>
__device__ inline T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return __float2bfloat16_rn(x);
  }
}

/// The elements of 16 bytes, exactly.
template <typename T>
__device__ inline void expand(const uint4& bits, float (&out)[kVectorElements<T>]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      out[i] = __uint_as_float(words[i]);
    } else {
      const float2 pair = Pair<T>::unpack(words[i]);
      out[2 * i] = pair.x;
      out[2 * i + 1] = pair.y;
    }
  }
}

/// Rounds to nearest even.
template <typename T>
__device__ inline uint4 contract(const float (&x)[kVectorElements<T>]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      words[i] = __float_as_uint(x[i]);
    } else {
      words[i] = Pair<T>::pack(x[2 * i], x[2 * i + 1]);
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

/// True if all may be read and written 16 bytes at a time.
template <typename... Pointers>
__device__ inline bool aligned_16(Pointers... pointers) {
  return ((reinterpret_cast<size_t>(pointers) | ...) & 15) == 0;
}

}  // namespace rillkv::kernels::cuda
