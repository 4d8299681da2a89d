// Attention for every shape the fast paths do not take: float32, any even head_dim up to 256, any
// block size, groups of any size. Correct and simple, fp32 throughout, without tensor cores.
//
// A CTA owns 16 query rows of one kv head, 8 threads a row. A tile of 16 or 32 keys and values is
// dequantised and rotated into shared memory; then every row's threads share its tokens (scores)
// and its channels (sum of values). Rows of shared memory are head_dim + 1 floats long, so that
// threads at different tokens meet different banks.
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t generic_shared[];

constexpr int kRowThreads = kGenericThreads / kGenericRows;

__device__ float row_max(float x) {
  for (int span = 1; span < kRowThreads; span *= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, span));
  }
  return x;
}
__device__ float row_sum(float x) {
  for (int span = 1; span < kRowThreads; span *= 2) x += __shfl_xor_sync(0xffffffffu, x, span);
  return x;
}

__device__ void rotate_pair(float& x, float& y, float cosine, float sine) {
  const float u = x * cosine - y * sine;
  y = x * sine + y * cosine;
  x = u;
}

/// Reads (token, channel) of a tile's keys and values, keys rotated.
struct TileReader {
  const AttentionParams& p;
  const Tile& tile;
  int kv_head;
  const uint32_t* key_offsets;
  const uint32_t* value_offsets;
  const uint8_t* key_block = nullptr;
  const uint8_t* value_block = nullptr;
  const float* start = nullptr;  // cos[D/2], sin[D/2] of R(t0)
  int first_in_block = 0;

  __device__ void key_pair(int token, int c, float& x, float& y) const {
    const int D = p.head_dim, half = D / 2;
    float cosine, sine;
    if (tile.kind == TileKind::kBlock) {
      const int j = first_in_block + token;
      x = block_key(j, c);
      y = block_key(j, c + half);
      const float cj = p.rotations.in_block_cos[c * p.block_size + j];
      const float sj = p.rotations.in_block_sin[c * p.block_size + j];
      cosine = start[c] * cj - start[half + c] * sj;
      sine = start[half + c] * cj + start[c] * sj;
    } else if (tile.kind == TileKind::kSinks) {
      const uint8_t* block = p.prefix.sink_keys + kv_head * p.prefix.sink_key_stride;
      const int row = tile.number + token;
      x = sink_value(block, row, c, p.prefix.sink_capacity, D, p.prefix.sink_key_bits);
      y = sink_value(block, row, c + half, p.prefix.sink_capacity, D, p.prefix.sink_key_bits);
      cosine = p.prefix.sink_cos[row * half + c];
      sine = p.prefix.sink_sin[row * half + c];
    } else {
      const DenseSegment& segment = tile.kind == TileKind::kTail ? p.tail : p.chunk;
      const int64_t row = tile.number + token;
      const int64_t at = row * segment.keys.token_stride + kv_head * segment.keys.head_stride + c;
      x = load_element(segment.keys.data, at, p.dtype);
      y = load_element(segment.keys.data, at + half, p.dtype);
      cosine = segment.cos[row * half + c];
      sine = segment.sin[row * half + c];
    }
    rotate_pair(x, y, cosine, sine);
  }

  __device__ float block_key(int j, int c) const {
    return p.prefix.trellis
               ? trellis_key_value(key_block, key_offsets, j, c, p.block_size, p.head_dim)
               : channel_block_value(key_block, key_offsets, j, c, p.block_size, p.head_dim,
                                     p.prefix.keys_symmetric);
  }

  __device__ float value(int token, int c) const {
    const int D = p.head_dim;
    if (tile.kind == TileKind::kBlock) {
      const int j = first_in_block + token;
      if (p.prefix.trellis) {
        return trellis_value(value_block, j, c, p.block_size, D, p.prefix.value_width,
                             p.prefix.value_wide_pairs);
      }
      if (p.prefix.values_channel_major) {
        return channel_block_value(value_block, value_offsets, j, c, p.block_size, D, true);
      }
      return token_block_value(value_block, j, c, p.block_size, D, p.prefix.value_groups, false,
                               p.prefix.value_bits);
    }
    if (tile.kind == TileKind::kSinks) {
      return sink_value(p.prefix.sink_values + kv_head * p.prefix.sink_value_stride,
                        tile.number + token, c, p.prefix.sink_capacity, D,
                        p.prefix.sink_value_bits);
    }
    const DenseSegment& segment = tile.kind == TileKind::kTail ? p.tail : p.chunk;
    return load_element(segment.values.data,
                        (tile.number + token) * segment.values.token_stride +
                            kv_head * segment.values.head_stride + c,
                        p.dtype);
  }
};

__device__ void attend(const AttentionLaunchParams& launch) {
  const AttentionParams& p = launch.sequences[blockIdx.z];
  const int D = p.head_dim, half = D / 2, group = p.heads / p.kv_heads;
  const int kv_head = static_cast<int>(blockIdx.y), rows = p.query_count * group;
  const int row0 = static_cast<int>(blockIdx.x) * kGenericRows;
  if (row0 >= rows) return;
  const GenericShared s(generic_shared, D);
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / kRowThreads, sub = thread % kRowThreads;
  const int my_row = min(row0 + row, rows - 1);  // rows past the last repeat it and store nothing
  const int t = my_row / group, h = kv_head * group + my_row % group;

  float* q = s.queries + row * s.stride;
  float* o = s.sums + row * s.stride;
  for (int c = sub; c < half; c += kRowThreads) {
    const int64_t at = t * p.queries.token_stride + h * p.queries.head_stride + c;
    float x = load_element(p.queries.data, at, p.dtype);
    float y = load_element(p.queries.data, at + half, p.dtype);
    rotate_pair(x, y, p.query_cos[t * half + c], p.query_sin[t * half + c]);
    q[c] = x;
    q[c + half] = y;
    o[c] = o[c + half] = 0.0f;
  }
  float max = -INFINITY, sum = 0.0f;
  const int last_index = static_cast<int>(p.first_query_index) + t;
  const int cta_last =
      static_cast<int>(p.first_query_index) + (min(row0 + kGenericRows, rows) - 1) / group;
  const VisibleTiles visible(p, cta_last, s.tile_tokens);

  for (int i = 0; i < visible.count(); ++i) {
    const Tile tile = tile_at(p, visible, i, s.tile_tokens);
    TileReader reader = {p, tile, kv_head, s.key_offsets, s.value_offsets};
    if (tile.kind == TileKind::kBlock) {
      const int first = tile.number * s.tile_tokens, block = first / p.block_size;
      reader.first_in_block = first % p.block_size;
      reader.key_block = p.prefix.keys[static_cast<int64_t>(block) * p.kv_heads + kv_head];
      reader.value_block = p.prefix.values[static_cast<int64_t>(block) * p.kv_heads + kv_head];
      reader.start = p.prefix.rotations[block];
      if (p.prefix.trellis) {
        scan_plane_counts(reader.key_block + format::trellis_widths_offset(D), D, s.key_offsets, 1);
      } else {
        scan_plane_counts(
            reader.key_block + format::channel_widths_offset(D, p.prefix.keys_symmetric), D,
            s.key_offsets);
      }
      if (p.prefix.values_channel_major) {
        scan_plane_counts(reader.value_block + format::channel_widths_offset(D, true), D,
                          s.value_offsets);
      }
    }
    for (int item = thread; item < tile.length * half; item += kGenericThreads) {
      const int token = item / half, c = item % half;
      float x, y;
      reader.key_pair(token, c, x, y);
      s.keys[token * s.stride + c] = x;
      s.keys[token * s.stride + c + half] = y;
      s.values[token * s.stride + c] = reader.value(token, c);
      s.values[token * s.stride + c + half] = reader.value(token, c + half);
    }
    __syncthreads();

    float most = -INFINITY;
    for (int token = sub; token < tile.length; token += kRowThreads) {
      float score = 0.0f;
      for (int c = 0; c < D; ++c) score = fmaf(q[c], s.keys[token * s.stride + c], score);
      score = tile.first_index + token <= last_index ? score * p.scale : -INFINITY;
      s.weights[row * (s.tile_tokens + 1) + token] = score;
      most = fmaxf(most, score);
    }
    const float new_max = fmaxf(max, row_max(most));
    const float finite = new_max == -INFINITY ? 0.0f : new_max;
    const float fade = expf(max - finite);
    float part = 0.0f;
    for (int token = sub; token < tile.length; token += kRowThreads) {
      float& weight = s.weights[row * (s.tile_tokens + 1) + token];
      weight = expf(weight - finite);
      part += weight;
    }
    sum = sum * fade + row_sum(part);
    max = new_max;
    __syncwarp();
    for (int c = sub; c < D; c += kRowThreads) {
      float acc = o[c] * fade;
      for (int token = 0; token < tile.length; ++token) {
        acc =
            fmaf(s.weights[row * (s.tile_tokens + 1) + token], s.values[token * s.stride + c], acc);
      }
      o[c] = acc;
    }
    __syncthreads();
  }

  float factor = sum > 0.0f ? 1.0f / sum : 0.0f;
  if (p.rotate_output) {
    factor *= rsqrtf(static_cast<float>(D));
    for (int span = 1; span < D; span *= 2) {
      __syncwarp();
      for (int i = sub; i < half; i += kRowThreads) {
        const int low = i / span * 2 * span + i % span;
        const float a = o[low], b = o[low + span];
        o[low] = a + b;
        o[low + span] = a - b;
      }
    }
    __syncwarp();
  }
  if (row0 + row < rows) {
    for (int c = sub; c < D; c += kRowThreads) {
      store_element(p.out.data, t * p.out.token_stride + h * p.out.head_stride + c, p.dtype,
                    o[c] * factor);
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kGenericThreads)
    rillkv_attention_generic(
        const __grid_constant__ rillkv::kernels::cuda::AttentionLaunchParams p) {
  rillkv::kernels::cuda::attend(p);
}
