// The tile unit (AMX) as the kernels of this folder see it: the seam between them and the hardware.
//
// A tile is 16 rows of 64 bytes; there are eight, named by template parameter. A `TileUnit` has
//
//   Session                       an object a call that uses tiles holds from its start to its end
//   load<T>(p, stride)            row r of tile T from p + r * stride (bytes)
//   stream<T>(p, stride)          the same, for what is read once from L2: keeps out of L1's way
//   store<T>(p, stride)           the tile's rows to memory
//   zero<T>()
//   dot<C, A, B>()                C[m][n] += A[m][2k] B[k][2n] + A[m][2k+1] B[k][2n+1] over k < 16:
//                                 bf16 pairs into fp32; subnormal operands count as zero
//   dot_bytes<C, A, B>()          C[m][n] += sum_b A[m][4k+b] B[k][4n+b]: signed bytes into int32
//
// HardwareTiles is the instruction set, PlainTiles the same in plain C++, so that any AVX-512
// machine runs and tests the kernels (as RILLKV_ISA=amx_plain, slowly).
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/inline.h"

namespace rillkv::kernels::cpu::amx {

inline constexpr int kTileRows = 16;
inline constexpr size_t kTileRowBytes = 64;

// Assembly, not GCC 12's intrinsics: their tile loads have no memory clobber, so that stores which
// a load should see are moved past it, and their tile numbers cannot be template parameters.
struct HardwareTiles {
  /// Eight tiles of full size while it lives. Once a call, because other libraries (oneDNN under
  /// Torch) load shapes of their own into the same register of the same thread; about 50 ns.
  /// Released at the end, so that a context switch saves no 8 KB. The kernel's permission to use
  /// tiles has been asked for before (tile_permission.h).
  class Session {
   public:
    RILLKV_INLINE Session() {
      static constexpr Configuration kConfiguration = {
          1,
          0,
          {},
          {64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0},
          {16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0}};
      asm volatile("ldtilecfg %0" ::"m"(kConfiguration) : "memory");
    }
    RILLKV_INLINE ~Session() { asm volatile("tilerelease" ::: "memory"); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

   private:
    struct alignas(64) Configuration {
      uint8_t palette, start_row, reserved[14];
      uint16_t bytes_a_row[16];
      uint8_t rows[16];
    };
    static_assert(sizeof(Configuration) == 64);
  };

  template <int T>
  static RILLKV_INLINE void load(const void* p, size_t stride = kTileRowBytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  static RILLKV_INLINE void stream(const void* p, size_t stride = kTileRowBytes) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  static RILLKV_INLINE void store(void* p, size_t stride = kTileRowBytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  static RILLKV_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int C, int A, int B>
  static RILLKV_INLINE void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
  template <int C, int A, int B>
  static RILLKV_INLINE void dot_bytes() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

// Internal linkage: the linker must not lend a copy that was compiled for AVX-512 to other files.
namespace {
struct PlainTiles {
  struct Session {
    Session() {}  // not trivial: an object of it is no unused variable
    ~Session() {}
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
  };

  template <int T>
  static void load(const void* p, size_t stride = kTileRowBytes) {
    for (int r = 0; r < kTileRows; ++r) {
      __builtin_memcpy(tiles_[T][r], static_cast<const char*>(p) + static_cast<size_t>(r) * stride,
                       kTileRowBytes);
    }
  }
  template <int T>
  static void stream(const void* p, size_t stride = kTileRowBytes) {
    load<T>(p, stride);
  }
  template <int T>
  static void store(void* p, size_t stride = kTileRowBytes) {
    for (int r = 0; r < kTileRows; ++r) {
      __builtin_memcpy(static_cast<char*>(p) + static_cast<size_t>(r) * stride, tiles_[T][r],
                       kTileRowBytes);
    }
  }
  template <int T>
  static void zero() {
    __builtin_memset(tiles_[T], 0, sizeof tiles_[T]);
  }
  // The unit sums even and odd products apart and adds each sum to the accumulator in turn.
  template <int C, int A, int B>
  static void dot() {
    for (int m = 0; m < kTileRows; ++m) {
      float even[kTileRows] = {}, odd[kTileRows] = {};
      for (int k = 0; k < kTileRows; ++k) {
        const float a_even = low_half(tiles_[A][m][k]), a_odd = high_half(tiles_[A][m][k]);
        for (int n = 0; n < kTileRows; ++n) {
          even[n] += a_even * low_half(tiles_[B][k][n]);
          odd[n] += a_odd * high_half(tiles_[B][k][n]);
        }
      }
      for (int n = 0; n < kTileRows; ++n) {
        const float sum = as_float(tiles_[C][m][n]) + even[n] + odd[n];
        __builtin_memcpy(&tiles_[C][m][n], &sum, sizeof sum);
      }
    }
  }
  template <int C, int A, int B>
  static void dot_bytes() {
    for (int m = 0; m < kTileRows; ++m) {
      for (int n = 0; n < kTileRows; ++n) {
        uint32_t sum = tiles_[C][m][n];
        for (int k = 0; k < 4 * kTileRows; ++k) {
          sum += static_cast<uint32_t>(byte_of(tiles_[A][m][k / 4], k % 4) *
                                       byte_of(tiles_[B][k / 4][n], k % 4));
        }
        tiles_[C][m][n] = sum;
      }
    }
  }

 private:
  static RILLKV_INLINE float as_float(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
  }
  static RILLKV_INLINE float normal(uint32_t bits) {
    return as_float((bits & 0x7f800000u) == 0 ? bits & 0x80000000u : bits);
  }
  static RILLKV_INLINE float low_half(uint32_t x) { return normal(x << 16); }
  static RILLKV_INLINE float high_half(uint32_t x) { return normal(x & 0xffff0000u); }
  static RILLKV_INLINE int byte_of(uint32_t x, int i) { return static_cast<int8_t>(x >> 8 * i); }

  static inline thread_local uint32_t tiles_[8][kTileRows][kTileRows];
};
}  // namespace

template <class T>
concept TileUnit = requires(void* p, const void* q, size_t stride) {
  typename T::Session;
  T::template load<0>(q, stride);
  T::template stream<0>(q, stride);
  T::template store<0>(p, stride);
  T::template zero<0>();
  T::template dot<0, 1, 2>();
  T::template dot_bytes<0, 1, 2>();
};
static_assert(TileUnit<HardwareTiles> && TileUnit<PlainTiles>);

}  // namespace rillkv::kernels::cpu::amx
