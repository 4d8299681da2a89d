// Prefill, fast path: what a warp does with a filled tile. 16 query rows a warp; accumulators and
// probabilities stay in registers in the layout of mma.m16n8k16: lane l holds rows l / 4 and
// l / 4 + 8, columns 2 (l % 4) and the next one.
//
//   s = Q K^T          keys are B operands [head_dim x tokens]
//   m' = max(m, rowmax s), p = 2^(s - m'), l = l 2^(m - m') + rowsum p, o = o 2^(m - m') + p V
//
// with scale * kScoreUnit folded into s.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/fill_trellis.cuh"
#include "kernels/cuda/tile_fill.cuh"

namespace rillkv::kernels::cuda {

/// How a tile holds an operand. by_column: its rows are the columns n of the operand, with the
/// depth k along the row; otherwise rows are k and ldmatrix transposes.
template <bool kByColumn>
struct Layout {
  static constexpr bool by_column = kByColumn;
};
/// f(Layout): one branch for all loads from a tile.
template <typename F>
__device__ inline void with_layout(bool by_column, F f) {
  if (by_column) {
    f(Layout<true>());
  } else {
    f(Layout<false>());
  }
}

/// B operands of a swizzled tile, two fragments a load; `base` is this lane's address at n = k = 0.
template <bool kByColumn, int kRowBytes>
struct Operand {
  uint32_t base;

  /// Chunks of a row that the first lacks: adding one is an exclusive or.
  template <int kN, int kK>
  __device__ void load(uint32_t (&b)[4]) const {
    if constexpr (kByColumn) {
      ldmatrix_x4<kN * kRowBytes>(b, base ^ uint32_t{2 * kK});
    } else {
      ldmatrix_x4_trans<kK * kRowBytes>(b, base ^ uint32_t{2 * kN});
    }
  }
};
/// Fragments of columns n .. n+7 and n+8 .. n+15, depth k .. k+15; n and k multiples of 16.
template <bool kByColumn, int kRowBytes>
__device__ inline Operand<kByColumn, kRowBytes> tile_operand(const uint8_t* tile) {
  const int lane = opaque(lane_id()), row = lane & 7;
  // The four 8 x 8 matrices: (k, n), (k + 8, n), (k, n + 8), (k + 8, n + 8).
  const int deeper = lane >> 3 & 1, later = lane >> 4;
  const int r = row + 8 * (kByColumn ? later : deeper);
  return {shared_address(tile) + swizzled(r, kByColumn ? deeper : later, kRowBytes)};
}
/// Whether keys or values lie in shared memory as [channel][token] rows, and the bytes of a row.
__device__ inline bool keys_by_channel(const Tile& t) { return t.kind == TileKind::kBlock; }
__device__ inline bool values_by_channel(const Tile& t, const AttentionParams& p) {
  return t.kind == TileKind::kBlock && p.prefix.values_channel_major;
}
template <int D>
__device__ constexpr int row_bytes(bool by_channel) {
  return by_channel ? 2 * kAttentionTile : 2 * D;
}

/// Scores are of halved keys.
inline constexpr float kScoreUnit = 1.4426950408889634f / kKeyUnit;  // log2(e), too

/// Running softmax of 16 rows; row r / 8 of the pair a lane holds.
struct SoftmaxState {
  float max[2] = {-INFINITY, -INFINITY};  // of s, in units of log2
  float sum[2] = {0.0f, 0.0f};            // this lane's columns only
};

/// Scores of tokens that a row does not see become -inf; token_limit[r]: the first such token of
/// the tile. The scores are at positions first_position ... of it.
template <int kTokens>
__device__ inline void mask_scores(float (&s)[kTokens / 8][4], const int (&token_limit)[2],
                                   int first_position, bool block) {
  const int end = block ? kAttentionTile : first_position + kTokens;
  if (min(token_limit[0], token_limit[1]) >= end) return;
  const int position = first_position + 2 * (lane_id() & 3);
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int at = position + 8 * j + (e & 1);
      if ((block ? token_at_position(at) : at) >= token_limit[e >> 1]) s[j][e] = -INFINITY;
    }
  }
}

/// Largest score of the row, over the quad's columns.
template <int kTokens>
__device__ inline float row_max(const float (&s)[kTokens / 8][4], int r) {
  float most = -INFINITY;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) most = fmaxf(most, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
  most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
  return fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
}

/// Row r's scores become probabilities, packed as A fragments; `most` is the largest score. Returns
/// the factor that earlier sums fade by.
template <int kTokens>
__device__ inline float softmax_row(const float (&s)[kTokens / 8][4],
                                    uint32_t (&p)[kTokens / 16][4], SoftmaxState& state, int r,
                                    float most, float scale_log2) {
  const float max = fmaxf(state.max[r], most * scale_log2);
  const float finite = max == -INFINITY ? 0.0f : max;  // no visible token yet
  const float fade = exp2_fast(state.max[r] - finite);
  state.max[r] = max;
  float sum = state.sum[r] * fade;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    const float a = exp2_fast(fmaf(s[j][2 * r], scale_log2, -finite));
    const float b = exp2_fast(fmaf(s[j][2 * r + 1], scale_log2, -finite));
    sum += a + b;
    p[j / 2][2 * (j & 1) + r] = Pair<__half>::pack(a, b);
  }
  state.sum[r] = sum;
  return fade;
}

/// o += p V; `length` tokens of the tile are filled.
template <int D, typename Values>
__device__ inline void add_values(float (&o)[D / 8][4], const uint32_t (&p)[kAttentionTile / 16][4],
                                  const Values& values, int length) {
  unrolled<0, kAttentionTile, 16>([&](auto token) {
    if (token.value >= length) return;
    unrolled<0, D, 16>([&](auto n) {
      uint32_t b[4];
      values.template load<n.value, token.value>(b);
      mma_16x8x16(o[n.value / 8], p[token.value / 16], b[0], b[1]);
      mma_16x8x16(o[n.value / 8 + 1], p[token.value / 16], b[2], b[3]);
    });
  });
}

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// Walsh-Hadamard butterflies over the D channels of the fragment's rows, spans 1, 2, 4, ....
template <int D>
__device__ inline void hadamard_rows(float (&o)[D / 8][4]) {
  const int quad = lane_id() & 3;
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {  // span 1: a lane's two channels
      const float a = o[n][2 * r], b = o[n][2 * r + 1];
      o[n][2 * r] = a + b;
      o[n][2 * r + 1] = a - b;
    }
#pragma unroll
    for (int span = 1; span <= 2; span *= 2) {  // spans 2 and 4: the neighbours in the quad
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float other = __shfl_xor_sync(0xffffffffu, o[n][e], span);
        o[n][e] = (quad & span) ? other - o[n][e] : o[n][e] + other;
      }
    }
  }
#pragma unroll
  for (int span = 1; span < D / 8; span *= 2) {  // spans 8 and up: a lane's own fragments
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      if (n & span) continue;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float a = o[n][e], b = o[n + span][e];
        o[n][e] = a + b;
        o[n + span][e] = a - b;
      }
    }
  }
}

/// 16 rotated query rows as a swizzled tile [16][D] of fp16: rows row0 .. row0 + 15 of r = t * G +
/// g, zeros past the last. Called by one warp.
template <int D, typename T>
__device__ inline void load_queries(uint8_t* tile, const AttentionParams& p, int kv_head, int row0,
                                    int rows) {
  constexpr int kItems = D / 8;
  const int group = p.heads / p.kv_heads;
  for (int i = lane_id(); i < 16 * kItems; i += 32) {
    const int row = i / kItems, item = i % kItems;
    if (row0 + row < rows) {
      const int t = (row0 + row) / group, g = (row0 + row) % group;
      const T* q = static_cast<const T*>(in_global(p.queries.data)) + t * p.queries.token_stride +
                   (kv_head * group + g) * p.queries.head_stride;
      const int64_t at = static_cast<int64_t>(t) * (D / 2);
      store_rotated<D, T>(tile, row, item, q, in_global(p.query_cos) + at,
                          in_global(p.query_sin) + at, 1.0f);
    } else {
      store_halves<D>(tile, row, item, {0, 0}, {0, 0});
    }
  }
}

/// A fragment k .. k+15 of a swizzled tile [16][D]; `base` from query_fragment_base.
template <int D>
__device__ inline uint32_t query_fragment_base(const uint8_t* tile) {
  return shared_address(tile) + swizzled(lane_id() & 15, lane_id() >> 4, 2 * D);
}
__device__ inline void load_query_fragment(uint32_t (&a)[4], uint32_t base, int k) {
  ldmatrix_x4(a, base ^ static_cast<uint32_t>(k << 1));
}

/// The end of a row: out = o / sum, rotated back if the values are rotated. Called by one warp;
/// `staging` is [16][D] 16-bit of its own.
template <int D, typename T>
__device__ inline void write_output(float (&o)[D / 8][4], const float (&total)[2], uint8_t* staging,
                                    const AttentionParams& p, int kv_head, int row0, int rows) {
  const int lane = lane_id(), group = p.heads / p.kv_heads;
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) factor[r] = total[r] > 0.0f ? 1.0f / total[r] : 0.0f;
  if (p.rotate_output) {
    hadamard_rows<D>(o);
    constexpr float kUnit = D == 64 ? 0.125f : 0.08838834764831845f;  // 1 / sqrt(D)
    factor[0] *= kUnit;
    factor[1] *= kUnit;
  }
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      *reinterpret_cast<uint32_t*>(staging + swizzled(lane / 4 + 8 * r, n, 2 * D) +
                                   4 * (lane & 3)) =
          Pair<T>::pack(o[n][2 * r] * factor[r], o[n][2 * r + 1] * factor[r]);
    }
  }
  __syncwarp();
  constexpr int kItems = D / 8;
  for (int i = lane; i < 16 * kItems; i += 32) {
    const int row = i / kItems, chunk = i % kItems;
    if (row0 + row < rows) {
      const int t = (row0 + row) / group, g = (row0 + row) % group;
      T* out = static_cast<T*>(p.out.data) + t * p.out.token_stride +
               (kv_head * group + g) * p.out.head_stride;
      *reinterpret_cast<uint4*>(out + 8 * chunk) =
          *reinterpret_cast<const uint4*>(staging + swizzled(row, chunk, 2 * D));
    }
  }
}

/// An unnormalised part of a split, still rotated, for rillkv_merge.
template <int D>
__device__ inline void write_part(const float (&o)[D / 8][4], const AttentionLaunchParams& launch,
                                  int64_t part, int row0, int rows) {
  const int lane = lane_id();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + lane / 4 + 8 * r;
    if (row >= rows) continue;
    float* to = launch.part_out + (part * launch.row_stride + row) * D;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      *reinterpret_cast<float2*>(to + 8 * n + 2 * (lane & 3)) = {o[n][2 * r], o[n][2 * r + 1]};
    }
  }
}
__device__ inline void write_part_sums(const SoftmaxState& state, const float (&total)[2],
                                       const AttentionLaunchParams& launch, int64_t part, int row0,
                                       int rows) {
  const int lane = lane_id();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + lane / 4 + 8 * r;
    if (row < rows && (lane & 3) == 0) {
      *reinterpret_cast<float2*>(launch.part_max_sum + 2 * (part * launch.row_stride + row)) = {
          state.max[r], total[r]};
    }
  }
}

// ---- packed blocks on their way to shared memory ----

/// Copies what is left of a packed block asynchronously, 16 bytes a thread at a time.
template <int kThreads, int kAt, int kMost>
__device__ inline void copy_block_async(uint32_t to, const uint8_t* from, int left) {
  if constexpr (kAt < kMost) {
    if (left <= kAt) return;
    copy_async_16<kAt>(to, from);
    copy_block_async<kThreads, kAt + 16 * kThreads, kMost>(to, from, left);
  }
}
/// All threads of the CTA; `bytes` is a multiple of 16, and of 8 bits an element at most.
template <int D, int kThreads = kFastThreads>
__device__ inline void copy_block_async(uint8_t* to, const uint8_t* from, int bytes) {
  constexpr int kMost = value_block_bytes_at_most(D);
  const int first = 16 * opaque(static_cast<int>(threadIdx.x));
  copy_block_async<kThreads, 0, kMost>(shared_address(to) + static_cast<uint32_t>(first),
                                       from + first, bytes - first);
}

/// Bytes of a channel block: `known`, or by adding its widths up (a warp of lanes each).
template <int D>
__device__ inline int channel_block_size(const uint8_t* block, bool symmetric, int known) {
  if (known > 0) return known;
  const uint8_t* widths = block + format::channel_widths_offset(D, symmetric);
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < D / 64; ++i) {
    const uint32_t pair = widths[lane_id() + 32 * i];
    sum += (pair & 15) + (pair >> 4);
  }
  sum = __reduce_add_sync(0xffffffffu, sum);
  return static_cast<int>(
      format::channel_block_bytes(D, kAttentionTile, symmetric, static_cast<int>(sum)));
}

/// A key block travels in two parts: scales, widths and R(t0), which prepare_channels reads, then
/// the codes.
template <int D, int kThreads = kFastThreads>
__device__ inline void copy_key_scales(uint8_t* to, float* start, const AttentionParams& p,
                                       const uint8_t* block, const float* rotation) {
  const int thread = opaque(static_cast<int>(threadIdx.x));
  const int bytes = static_cast<int>(format::channel_codes_offset(D, p.prefix.keys_symmetric));
  if (16 * thread < bytes) {
    copy_async_16(shared_address(to + 16 * thread), block + 16 * thread);
  } else if (thread >= kThreads - D / 4) {
    const int i = 4 * (thread - (kThreads - D / 4));
    copy_async_16(shared_address(start + i), rotation + i);
  }
}
/// Widths are read from `widths_at`: the block itself, or where its scales have come to.
template <int D, int kThreads = kFastThreads>
__device__ inline void copy_key_codes(uint8_t* to, const AttentionParams& p, const uint8_t* block,
                                      const uint8_t* widths_at) {
  const int bytes = channel_block_size<D>(widths_at, p.prefix.keys_symmetric,
                                          p.prefix.keys_symmetric ? 0 : p.key_block_bytes);
  const auto scales = static_cast<int>(format::channel_codes_offset(D, p.prefix.keys_symmetric));
  copy_block_async<D, kThreads>(to + scales, block + scales, bytes - scales);
}

/// Trellis key blocks travel in two parts, too: up to the planes of b and R(t0), then those.
template <int D>
__device__ inline void copy_trellis_key_meta(uint8_t* to, float* start, const uint8_t* block,
                                             const float* rotation) {
  const int thread = opaque(static_cast<int>(threadIdx.x));
  if (16 * thread < trellis_key_meta_bytes(D)) {
    copy_async_16(shared_address(to + 16 * thread), block + 16 * thread);
  } else if (thread >= kFastThreads - D / 4) {
    const int i = 4 * (thread - (kFastThreads - D / 4));
    copy_async_16(shared_address(start + i), rotation + i);
  }
}
template <int D>
__device__ inline void copy_trellis_key_codes(uint8_t* to, const AttentionParams& p,
                                              const uint8_t* block) {
  int bytes = p.key_block_bytes;
  if (bytes <= 0) {
    const uint8_t* widths = block + format::trellis_widths_offset(D);
    uint32_t sum = 0;  // of the lower channels, as wide as the upper ones
#pragma unroll
    for (int i = 0; i < D / 64; ++i) sum += widths[lane_id() + 32 * i] & 15;
    sum = __reduce_add_sync(0xffffffffu, sum);
    bytes =
        static_cast<int>(format::trellis_key_bytes(D, kAttentionTile, static_cast<int>(2 * sum)));
  }
  constexpr int kMeta = trellis_key_meta_bytes(D);
  copy_block_async<D>(to + kMeta, block + kMeta, bytes - kMeta);
}
template <int D>
__device__ inline void copy_trellis_value_meta(uint8_t* to, const uint8_t* block) {
  const int thread = opaque(static_cast<int>(threadIdx.x));
  if (16 * thread < trellis_value_meta_bytes(D)) {
    copy_async_16(shared_address(to + 16 * thread), block + 16 * thread);
  }
}
template <int D>
__device__ inline int trellis_value_codes(const AttentionParams& p) {
  return trellis_value_code_bytes(D, p.prefix.value_width, p.prefix.value_wide_pairs);
}

/// Bytes of a value block; 0 for policy "ema", whose blocks differ.
template <int D>
__device__ inline int value_block_size(const AttentionParams& p) {
  return p.prefix.values_channel_major
             ? 0
             : static_cast<int>(format::token_block_bytes(kAttentionTile, D, p.prefix.value_groups,
                                                          false, p.prefix.value_bits));
}
template <int D, int kThreads = kFastThreads>
__device__ inline void copy_value_block(uint8_t* to, const uint8_t* block, int bytes) {
  copy_block_async<D, kThreads>(to, block, channel_block_size<D>(block, true, bytes));
}

/// The tiles [begin, end) of a split.
__device__ inline void split_range(int tiles, int split, int splits, int& begin, int& end) {
  begin = static_cast<int>(static_cast<int64_t>(tiles) * split / splits);
  end = static_cast<int>(static_cast<int64_t>(tiles) * (split + 1) / splits);
}

}  // namespace rillkv::kernels::cuda
