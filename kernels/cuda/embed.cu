// Rows of the embedding table, one CTA a row, and the ids that name them.
#include <cuda_runtime.h>

#include "kernels/cuda/entry_params.h"

namespace rillkv::kernels::cuda {
namespace {

constexpr int kInFlight = 4;

template <typename Unit>
__device__ void copy_row(const void* from, void* to, int units) {
  const Unit* source = static_cast<const Unit*>(from);
  Unit* target = static_cast<Unit*>(to);
  const int step = static_cast<int>(blockDim.x);
  for (int first = static_cast<int>(threadIdx.x); first < units; first += kInFlight * step) {
    Unit values[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i * step < units) values[i] = __ldg(source + first + i * step);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i * step < units) target[first + i * step] = values[i];
    }
  }
}

__device__ void embed(const EmbedParams& p) {
  const int64_t bytes = static_cast<int64_t>(p.columns) * p.element_bytes;
  const uint8_t* from = static_cast<const uint8_t*>(p.table) + p.ids[blockIdx.x] * bytes;
  uint8_t* to = static_cast<uint8_t*>(p.out) + blockIdx.x * bytes;
  const size_t low = reinterpret_cast<size_t>(p.table) | reinterpret_cast<size_t>(p.out) |
                     static_cast<size_t>(bytes);
  if (low % 16 == 0) {
    copy_row<uint4>(from, to, static_cast<int>(bytes / 16));
  } else if (low % 4 == 0) {
    copy_row<uint32_t>(from, to, static_cast<int>(bytes / 4));
  } else {
    copy_row<uint16_t>(from, to, static_cast<int>(bytes / 2));
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kEmbedThreads)
    rillkv_embed(const __grid_constant__ rillkv::kernels::cuda::EmbedParams p) {
  rillkv::kernels::cuda::embed(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kIdThreads)
    rillkv_set_ids(const __grid_constant__ rillkv::kernels::cuda::SetIdsParams p) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < p.count) p.out[i] = p.ids[i];
}
