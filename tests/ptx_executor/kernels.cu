// Kernels that nvcc compiles for the executor's own tests: what hand-written PTX does not cover is
// the shape of the compiler's output.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace {

constexpr int kTile = 64;                // rows and columns of a block of the product
constexpr int kDepth = 32;               // of a stage
constexpr int kLeftStride = kDepth + 8;  // 8 elements of padding: no bank conflicts
constexpr int kRightStride = kTile + 8;

__device__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ void copy_16_bytes(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}

}  // namespace

struct ProductParams {
  const __half* left;   // [rows, depth]
  const __half* right;  // [depth, columns]
  float* out;           // [rows, columns]
  int rows, columns, depth;
  int missing_wait;  // seeded bugs
  int missing_barrier;
};

// A product by tiles of 64 x 64, 4 warps, two stages of cp.async, ldmatrix and mma.
extern "C" __global__ void matrix_product(const __grid_constant__ ProductParams p) {
  extern __shared__ __align__(16) __half shared[];
  __half* left = shared;
  __half* right = shared + 2 * kTile * kLeftStride;
  const int t = threadIdx.x, warp = t / 32, lane = t % 32;
  const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  const int row0 = blockIdx.y * kTile, column0 = blockIdx.x * kTile;
  const auto load = [&](int stage, int k0) {
    for (int i = t; i < kTile * kDepth / 8; i += 128) {
      copy_16_bytes(&left[(stage * kTile + i / 4) * kLeftStride + i % 4 * 8],
                    p.left + static_cast<size_t>(row0 + i / 4) * p.depth + k0 + i % 4 * 8);
    }
    for (int i = t; i < kDepth * kTile / 8; i += 128) {
      copy_16_bytes(&right[(stage * kDepth + i / 8) * kRightStride + i % 8 * 8],
                    p.right + static_cast<size_t>(k0 + i / 8) * p.columns + column0 + i % 8 * 8);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  float sum[2][4][4] = {};
  load(0, 0);
  for (int k0 = 0, stage = 0; k0 < p.depth; k0 += kDepth, stage ^= 1) {
    if (k0 + kDepth < p.depth) load(stage ^ 1, k0 + kDepth);
    if (k0 + kDepth < p.depth || p.missing_wait) {
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncthreads();
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t a[2][4], b[4][2];
      for (int i = 0; i < 2; ++i) {
        const __half* row = &left[(stage * kTile + warp_row + i * 16 + lane % 16) * kLeftStride +
                                  k + lane / 16 * 8];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(a[i][0]), "=r"(a[i][1]), "=r"(a[i][2]), "=r"(a[i][3])
                     : "r"(shared_address(row)));
      }
      for (int j = 0; j < 4; ++j) {
        const __half* row =
            &right[(stage * kDepth + k + lane % 16) * kRightStride + warp_column + j * 8];
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(b[j][0]), "=r"(b[j][1])
                     : "r"(shared_address(row)));
      }
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 4; ++j) {
          asm volatile(
              "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
              "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
              : "+f"(sum[i][j][0]), "+f"(sum[i][j][1]), "+f"(sum[i][j][2]), "+f"(sum[i][j][3])
              : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
        }
      }
    }
    if (!p.missing_barrier) __syncthreads();
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int e = 0; e < 4; ++e) {
        const int row = row0 + warp_row + i * 16 + lane / 4 + e / 2 * 8;
        p.out[static_cast<size_t>(row) * p.columns + column0 + warp_column + j * 8 + lane % 4 * 2 +
              e % 2] = sum[i][j][e];
      }
    }
  }
}

struct MixedParams {
  const float* x;  // [threads]
  float* y;        // [threads]
  int8_t weights[8];
  int count;
};

__constant__ float kFactors[7] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f};

__device__ __noinline__ float not_inlined(float x, int n) { return n > 3 ? x * n : sinf(x); }

// Local arrays, constant memory, parameters by index, a call, a switch, atomics and a block sum.
extern "C" __global__ void mixed(const __grid_constant__ MixedParams p, float* total) {
  __shared__ float sums[32];
  const int i = threadIdx.x;
  float local[8];
  for (int j = 0; j < 8; ++j) local[j] = p.x[(i + j) % p.count];
  float y = 0;
  for (int j = 0; j < p.count % 11; ++j) {
    y += local[(i * j) & 7] * p.weights[(i + j) & 7] * kFactors[j % 7];
  }
  switch (i % 5) {
    case 0:
      y = sqrtf(fabsf(y));
      break;
    case 1:
      y = __fdiv_ru(y, 3.0f);
      break;
    case 2:
      y = __half2float(__float2half_rd(y));
      break;
    case 3:
      y = __bfloat162float(__float2bfloat16_rn(y));
      break;
    default:
      y = not_inlined(y, i % 7);
      break;
  }
  p.y[i] = y;
  float sum = y;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (i % 32 == 0) sums[i / 32] = sum;
  __syncthreads();
  if (i == 0) {
    float all = 0;
    for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) all += sums[w];
    atomicAdd(total, all);
  }
}
