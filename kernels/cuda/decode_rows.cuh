// Decode attention: tiles that are not packed blocks, sinks and uncompressed tokens. They are few,
// so they go through shared memory: 64 tokens of fp16 [token][channel] at a time (tile_fill.cuh),
// 16 for each warp.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_values.cuh"
#include "kernels/cuda/tile_fill.cuh"

namespace rillkv::kernels::cuda {

/// Scores of the warp's 16 rows of a tile of rotated keys, over all channels. `queries`: [8] rows
/// of float2 (channels p and p + D/2) [D/2], `stride` apart.
template <int D>
__device__ inline void add_row_scores(float (&s)[4], const uint8_t* tile, uint32_t queries,
                                      int stride) {
  const int lane = opaque(lane_id()), row = 16 * warp_id() + (lane & 15);
  const uint32_t keys = shared_address(tile) + swizzled(row, lane >> 4, 2 * D);
  uint32_t from = queries + static_cast<uint32_t>((lane >> 2) * stride + 16 * (lane & 3));
  // Channels 16 k .. 16 k + 15 and those D / 2 further on; both are in a pair of queries.
#pragma unroll
  for (int k = 0; k < D / 32; ++k) {
    uint32_t a[4], b[4];
    const uint4 first = load_shared_16(from), later = load_shared_16<64>(from);
    from += 128;
    const auto pack = [](uint32_t x, uint32_t y) {
      return Pair<__half>::pack(__uint_as_float(x), __uint_as_float(y));
    };
    b[0] = pack(first.x, first.z), b[1] = pack(later.x, later.z);
    b[2] = pack(first.y, first.w), b[3] = pack(later.y, later.w);
    ldmatrix_x4(a, keys ^ static_cast<uint32_t>(32 * k));
    mma_16x8x16(s, a, b[0], b[1]);
    ldmatrix_x4(a, keys ^ static_cast<uint32_t>(32 * k + D));
    mma_16x8x16(s, a, b[2], b[3]);
  }
}

/// o += V^T p over the warp's 16 rows of a tile of values.
template <int D>
__device__ inline void add_row_values(float (&o)[D / 16][4], const Probabilities& p,
                                      const uint8_t* tile) {
  const int lane = opaque(lane_id()), row = 16 * warp_id() + (lane & 7) + 8 * (lane >> 4);
  const uint32_t values = shared_address(tile) + swizzled(row, lane >> 3 & 1, 2 * D);
#pragma unroll
  for (int m = 0; m < D / 16; ++m) {
    uint32_t a[4];
    ldmatrix_x4_trans(a, values ^ static_cast<uint32_t>(32 * m));
    mma_16x8x16(o[m], a, p.b[0], p.b[1]);
  }
}

}  // namespace rillkv::kernels::cuda
