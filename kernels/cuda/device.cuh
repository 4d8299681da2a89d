// Small device helpers: conversions by dtype, and thin names for the PTX instructions used.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/params.h"

namespace rillkv::kernels::cuda {

/// Element `i` of an activation's data as fp32, exactly.
__device__ inline float load_element(const void* data, int64_t i, Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    case Dtype::kFloat16:
      return __half2float(static_cast<const __half*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

__device__ inline void store_element(void* data, int64_t i, Dtype dtype, float value) {
  switch (dtype) {
    case Dtype::kBFloat16:
      static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(value);
      break;
    case Dtype::kFloat16:
      static_cast<__half*>(data)[i] = __float2half_rn(value);
      break;
    default:
      static_cast<float*>(data)[i] = value;
  }
}

/// f(T()) with the element type: once a kernel, since a load that chooses is consumed before the
/// next is issued.
template <typename F>
__device__ void with_type(Dtype dtype, F f) {
  if (dtype == Dtype::kBFloat16) {
    f(__nv_bfloat16());
  } else if (dtype == Dtype::kFloat16) {
    f(__half());
  } else {
    f(float());
  }
}

__device__ inline float half_bits_to_float(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};
/// f(Constant<i>()) for i from kFirst to below kEnd: a loop whose variable may be an immediate.
template <int kFirst, int kEnd, int kStep, typename F>
__device__ inline void unrolled(F f) {
  if constexpr (kFirst < kEnd) {
    f(Constant<kFirst>());
    unrolled<kFirst + kStep, kEnd, kStep>(f);
  }
}

/// The 16-bit types of the fast paths: pairs packed into one 32-bit register, low element first.
template <typename T>
struct Pair;

template <>
struct Pair<__nv_bfloat16> {
  static constexpr bool kIsHalf = false;
  __device__ static uint32_t pack(float low, float high) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
  }
  __device__ static float2 unpack(uint32_t pair) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  }
};

template <>
struct Pair<__half> {
  static constexpr bool kIsHalf = true;
  __device__ static uint32_t pack(float low, float high) {
    uint32_t out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
  }
  __device__ static float2 unpack(uint32_t pair) {
    return {__half2float(__ushort_as_half(static_cast<uint16_t>(pair & 0xffffu))),
            __half2float(__ushort_as_half(static_cast<uint16_t>(pair >> 16)))};
  }
};

/// 2^x; exact enough for a softmax (2 ulp), flushes to zero below the normal range.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// x, but the compiler cannot see it: what depends on it is computed where it is used instead of
/// being kept in registers through the loop over tiles, which has none to spare.
template <typename X>
__device__ inline X opaque(X x) {
  if constexpr (sizeof(X) == 8) {
    asm volatile("" : "+l"(x));
  } else {
    asm volatile("" : "+r"(x));
  }
  return x;
}
/// The pointer, known to be of global memory. nvcc knows that of a kernel's parameters, but not of
/// what it reads from shared memory, and loads by generic addresses take longer.
template <typename T>
__device__ inline const T* in_global(const T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}
__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x) / 32; }

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Loads and stores by 32-bit address and constant offset: with pointers into shared memory nvcc
// computes addresses in 64 bits.
__device__ inline uint32_t load_shared_2(uint32_t address) {
  uint32_t x;
  asm volatile("ld.shared.u16 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
  return x;
}
template <int kOffset = 0>
__device__ inline uint32_t load_shared_1(uint32_t address) {
  uint32_t x;
  asm volatile("ld.shared.u8 %0, [%1 + %2];" : "=r"(x) : "r"(address), "n"(kOffset) : "memory");
  return x;
}
template <int kOffset = 0>
__device__ inline uint32_t load_shared(uint32_t address) {
  uint32_t x;
  asm volatile("ld.shared.u32 %0, [%1 + %2];" : "=r"(x) : "r"(address), "n"(kOffset) : "memory");
  return x;
}
template <int kOffset = 0>
__device__ inline uint2 load_shared_8(uint32_t address) {
  uint2 x;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2 + %3];"
               : "=r"(x.x), "=r"(x.y)
               : "r"(address), "n"(kOffset)
               : "memory");
  return x;
}
template <int kOffset = 0>
__device__ inline uint4 load_shared_16(uint32_t address) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(address), "n"(kOffset)
               : "memory");
  return x;
}
template <int kOffset = 0>
__device__ inline void store_shared_16(uint32_t address, uint4 x) {
  asm volatile("st.shared.v4.u32 [%0 + %5], {%1, %2, %3, %4};" ::"r"(address), "r"(x.x), "r"(x.y),
               "r"(x.z), "r"(x.w), "n"(kOffset)
               : "memory");
}

/// Byte address of chunk `chunk` of row `row` in a swizzled tile.
__device__ inline uint32_t swizzled(int row, int chunk, int row_bytes) {
  return static_cast<uint32_t>(row * row_bytes + ((chunk ^ (row & 7)) << 4));
}

/// 16 bytes that no kernel writes, by address in global memory.
template <int kOffset = 0>
__device__ inline uint4 load_constant_16(size_t address) {
  uint4 x;
  asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4 + %5];"
      : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
      : "l"(address), "n"(kOffset));
  return x;
}

/// Asynchronous 16-byte copy from global to shared memory, past L1.
template <int kOffset = 0>
__device__ inline void copy_async_16(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %2], 16;" ::"r"(shared), "l"(global),
               "n"(kOffset)
               : "memory");
}
/// The same for 8 bytes (a pointer).
__device__ inline void copy_async_8(uint32_t shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(global) : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `kPending` of this thread's groups are still under way.
template <int kPending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

template <int kOffset = 0>
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address), "n"(kOffset)
               : "memory");
}
template <int kOffset = 0>
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address), "n"(kOffset)
               : "memory");
}

/// d += a b: a 16 x 16 (row-major fragments), b 16 x 8, fp16 with fp32 accumulation.
__device__ inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// An 8 x 8 matrix of 16-bit elements (row l / 4, columns 2 (l % 4) and the next one), transposed.
__device__ inline uint32_t transposed(uint32_t x) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(x));
  return out;
}

}  // namespace rillkv::kernels::cuda
