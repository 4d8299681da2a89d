// Fast paths: a tile of 128 keys or values from its packed or dense form to shared memory, by the
// warps of a CTA. Packed blocks have files of their own (fill_channels.cuh, fill_tokens.cuh); here
// are sinks and uncompressed tokens.
//
// Tiles are fp16 whatever the model's dtype: what was packed has fp16 scales, and eleven bits of a
// bf16 model's tokens are more than it gave. Larger numbers than fp16 has are clamped: the packers
// refuse such tokens. Keys are halved (kKeyUnit).
//
// A tile in shared memory is rows of 16-byte chunks, chunk k of row r stored at k ^ (r & 7), so
// that both the writes here and ldmatrix (8 rows at the same k) meet every bank once. A packed
// channel block becomes [channel][token] rows, everything else [token][channel] rows: the form in
// which a lane's elements lie together. ldmatrix transposes where needed.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/fill_channels.cuh"
#include "kernels/cuda/fill_tokens.cuh"

namespace rillkv::kernels::cuda {

/// Merges the bits of `mask` of four words, rotated right by `turn`, into m.
__device__ inline void merge_plane(uint32_t (&m)[4], uint4 words, int turn, uint32_t mask) {
  const auto amount = static_cast<uint32_t>(turn);  // modulo 32
  m[0] |= __funnelshift_r(words.x, words.x, amount) & mask;
  m[1] |= __funnelshift_r(words.y, words.y, amount) & mask;
  m[2] |= __funnelshift_r(words.z, words.z, amount) & mask;
  m[3] |= __funnelshift_r(words.w, words.w, amount) & mask;
}

/// Four words holding elements 4 q .. 4 q + 3 of a plane of kWords words.
template <int kWords>
__device__ inline uint4 plane_words_at(const uint8_t* plane, int q) {
  return *reinterpret_cast<const uint4*>(plane + 16 * (q & (kWords / 4 - 1)));
}

template <typename T>
__device__ inline float4 unpack_four_dense(uint2 x) {
  const float2 a = Pair<T>::unpack(x.x), b = Pair<T>::unpack(x.y);
  return {a.x, a.y, b.x, b.y};
}

/// Elements 4 q .. 4 q + 3 of row `row` of sinks. Code bits go to the top of the mantissa of 1.0,
/// which gives m = 1 + code / 2^width.
template <int D>
__device__ inline float4 sink_four(const uint8_t* block, int rows, int row, int width, int q) {
  if (width == format::kRowBits) {
    return unpack_four_dense<__half>(
        *reinterpret_cast<const uint2*>(block + format::sink_row_offset(row, D) + 8 * q));
  }
  const TokenPlanes planes(block, D, rows, 1, true, width);
  uint32_t m[4] = {0x3f800000u, 0x3f800000u, 0x3f800000u, 0x3f800000u};
  if (width >= 4) {
    constexpr int kWords = D / 8;
    const uint8_t* nibbles = planes.nibbles + row * planes.row.nibbles;
    const int shift = 4 * (4 * q / kWords);
    merge_plane(m, plane_words_at<kWords>(nibbles, q), shift - 19, 15u << 19);
    if (width == 8) {
      merge_plane(m, plane_words_at<kWords>(nibbles + D / 2, q), shift - 15, 15u << 15);
    }
  }
  if (format::crumb_planes(width)) {
    constexpr int kWords = D / 16;
    const int at = width < 4 ? 21 : 17;
    merge_plane(m, plane_words_at<kWords>(planes.crumbs + row * planes.row.crumbs, q),
                2 * (4 * q / kWords) - at, 3u << at);
  }
  if (format::bit_planes(width)) {
    const int at = 23 - width;
    const uint8_t* bits = planes.bits + row * planes.row.bits;
    if constexpr (D == 128) {
      merge_plane(m, *reinterpret_cast<const uint4*>(bits), q - at, 1u << at);
    } else {  // two words: elements 0, 1 at bit 2 q, elements 2, 3 at bit 2 q + 1
      const uint2 words = *reinterpret_cast<const uint2*>(bits);
      merge_plane(m, {words.x, words.y, words.x >> 1, words.y >> 1}, 2 * q - at, 1u << at);
    }
  }
  // step (code - 2^(width - 1))
  const float unit = half_bits_to_float(reinterpret_cast<const uint16_t*>(block)[row]) *
                     static_cast<float>(1 << width);
  const auto value = [&](uint32_t x) { return unit * (__uint_as_float(x) - 1.5f); };
  return {value(m[0]), value(m[1]), value(m[2]), value(m[3])};
}

/// Rows to fill, zeros past the last token: ldmatrix reads 16 or 32 tokens at a time.
__device__ inline int rows_read(int length) { return (length + 31) & ~31; }

/// Four channels of the lower half of a row and their partners. Where half a row is only half the
/// banks (D = 64), odd rows store the halves in the other order, so that two rows never meet.
template <int D>
__device__ inline void store_halves(uint8_t* tile, int row, int q, uint2 low, uint2 high) {
  const bool swap = D == 64 && (row & 1) != 0;
  uint8_t* low_at = tile + swizzled(row, q >> 1, 2 * D) + 8 * (q & 1);
  uint8_t* high_at = tile + swizzled(row, (q + D / 8) >> 1, 2 * D) + 8 * (q & 1);
  *reinterpret_cast<uint2*>(swap ? high_at : low_at) = swap ? high : low;
  *reinterpret_cast<uint2*>(swap ? low_at : high_at) = swap ? low : high;
}
/// Two numbers as fp16, the largest of its numbers if they are beyond it.
__device__ inline uint32_t pack_clamped(float low, float high) {
  const __half2 most = __half2half2(__ushort_as_half(0x7bff));
  const uint32_t packed = Pair<__half>::pack(low, high);
  const __half2 x =
      __hmax2(__hmin2(*reinterpret_cast<const __half2*>(&packed), most), __hneg2(most));
  return *reinterpret_cast<const uint32_t*>(&x);
}
__device__ inline uint2 pack_four(float4 x) {
  return {pack_clamped(x.x, x.y), pack_clamped(x.z, x.w)};
}
/// Four channels x and their partners y, rotated and multiplied by `unit`.
__device__ inline void rotate_four(float4& x, float4& y, float4 c, float4 s, float unit) {
  const float4 u = {unit * x.x, unit * x.y, unit * x.z, unit * x.w};
  const float4 v = {unit * y.x, unit * y.y, unit * y.z, unit * y.w};
  x = {u.x * c.x - v.x * s.x, u.y * c.y - v.y * s.y, u.z * c.z - v.z * s.z, u.w * c.w - v.w * s.w};
  y = {u.x * s.x + v.x * c.x, u.y * s.y + v.y * c.y, u.z * s.z + v.z * c.z, u.w * s.w + v.w * c.w};
}

/// Rotates four channels of a dense row and their partners, and stores them in a tile's row.
template <int D, typename T>
__device__ inline void store_rotated(uint8_t* tile, int row, int q, const T* dense,
                                     const float* cosines, const float* sines, float unit) {
  float4 x = unpack_four_dense<T>(*reinterpret_cast<const uint2*>(dense + 4 * q));
  float4 y = unpack_four_dense<T>(*reinterpret_cast<const uint2*>(dense + 4 * q + D / 2));
  rotate_four(x, y, *reinterpret_cast<const float4*>(cosines + 4 * q),
              *reinterpret_cast<const float4*>(sines + 4 * q), unit);
  store_halves<D>(tile, row, q, pack_four(x), pack_four(y));
}

/// Sinks (in global memory) to [token][channel] rows. Keys are rotated.
template <int D, bool kRotate, int kThreads>
__device__ void fill_sinks(uint8_t* tile, const uint8_t* block, int capacity, int width,
                           const float* cosines, const float* sines, int first, int length) {
  constexpr int kLanes = D / 8;  // a lane takes four channels and their partners
  const int thread = opaque(static_cast<int>(threadIdx.x));
  const int q = thread % kLanes;
  for (int token = thread / kLanes; token < rows_read(length); token += kThreads / kLanes) {
    float4 x = {}, y = {};
    if (token < length) {
      const int row = first + token;
      x = sink_four<D>(block, capacity, row, width, q);
      y = sink_four<D>(block, capacity, row, width, q + kLanes);
      if constexpr (kRotate) {
        const int at = row * (D / 2) + 4 * q;
        rotate_four(x, y, *reinterpret_cast<const float4*>(cosines + at),
                    *reinterpret_cast<const float4*>(sines + at), kKeyUnit);
      }
    }
    store_halves<D>(tile, token, q, pack_four(x), pack_four(y));
  }
}

/// Dense keys, rotated, to [token][channel] rows.
template <int D, typename T, int kThreads>
__device__ void fill_dense_keys(uint8_t* tile, const DenseSegment& segment, int kv_head, int first,
                                int length) {
  constexpr int kItems = D / 8;  // of four channels in half a row
  const T* keys =
      static_cast<const T*>(in_global(segment.keys.data)) + kv_head * segment.keys.head_stride;
  for (int i = opaque(static_cast<int>(threadIdx.x)); i < rows_read(length) * kItems;
       i += kThreads) {
    const int token = i / kItems, q = i % kItems;
    if (token < length) {
      const int64_t row = first + token, at = row * (D / 2);
      store_rotated<D, T>(tile, token, q, keys + row * segment.keys.token_stride,
                          in_global(segment.cos) + at, in_global(segment.sin) + at, kKeyUnit);
    } else {
      store_halves<D>(tile, token, q, {0, 0}, {0, 0});
    }
  }
}

/// Dense values to [token][channel] rows.
template <int D, typename T, int kThreads>
__device__ void fill_dense_values(uint8_t* tile, const DenseSegment& segment, int kv_head,
                                  int first, int length) {
  constexpr int kItems = D / 8;
  const T* values =
      static_cast<const T*>(in_global(segment.values.data)) + kv_head * segment.values.head_stride;
  for (int i = opaque(static_cast<int>(threadIdx.x)); i < rows_read(length) * kItems;
       i += kThreads) {
    const int token = i / kItems, chunk = i % kItems;
    uint4 x = {};
    if (token < length) {
      x = *reinterpret_cast<const uint4*>(
          values + static_cast<int64_t>(first + token) * segment.values.token_stride + 8 * chunk);
      if constexpr (!Pair<T>::kIsHalf) {
        const uint2 low = pack_four(unpack_four_dense<T>({x.x, x.y}));
        const uint2 high = pack_four(unpack_four_dense<T>({x.z, x.w}));
        x = {low.x, low.y, high.x, high.y};
      }
    }
    *reinterpret_cast<uint4*>(tile + swizzled(token, chunk, 2 * D)) = x;
  }
}

/// Keys of a tile that is not a block, `length` from token `first` of its segment on.
template <int D, typename T, int kThreads>
__device__ void fill_row_keys(uint8_t* tile, TileKind kind, const AttentionParams& p, int kv_head,
                              int first, int length) {
  if (kind == TileKind::kSinks) {
    fill_sinks<D, true, kThreads>(
        tile, in_global(p.prefix.sink_keys) + kv_head * p.prefix.sink_key_stride,
        p.prefix.sink_capacity, p.prefix.sink_key_bits, in_global(p.prefix.sink_cos),
        in_global(p.prefix.sink_sin), first, length);
  } else {
    fill_dense_keys<D, T, kThreads>(tile, kind == TileKind::kTail ? p.tail : p.chunk, kv_head,
                                    first, length);
  }
}
/// The same of values.
template <int D, typename T, int kThreads>
__device__ void fill_row_values(uint8_t* tile, TileKind kind, const AttentionParams& p, int kv_head,
                                int first, int length) {
  if (kind == TileKind::kSinks) {
    fill_sinks<D, false, kThreads>(
        tile, in_global(p.prefix.sink_values) + kv_head * p.prefix.sink_value_stride,
        p.prefix.sink_capacity, p.prefix.sink_value_bits, nullptr, nullptr, first, length);
  } else {
    fill_dense_values<D, T, kThreads>(tile, kind == TileKind::kTail ? p.tail : p.chunk, kv_head,
                                      first, length);
  }
}

/// Any tile of keys. `packed` holds the block and `table` what prepare_channels made of it, where
/// the tile is one. `thread` is the CTA's thread, opaque if what depends on it must not be kept.
template <int D, typename T>
__device__ void fill_keys(uint8_t* tile, const Tile& t, const AttentionParams& p, int kv_head,
                          const uint8_t* packed, uint8_t* table, int thread) {
  if (t.kind == TileKind::kBlock) {
    fill_channel_block<D, true>(tile,
                                packed + format::channel_codes_offset(D, p.prefix.keys_symmetric),
                                table, p.in_block_half, thread);
  } else {
    fill_row_keys<D, T, kFastThreads>(tile, t.kind, p, kv_head, t.number, t.length);
  }
}

/// Any tile of values; `table` as above where blocks are channel-major.
template <int D, typename T>
__device__ void fill_values(uint8_t* tile, const Tile& t, const AttentionParams& p, int kv_head,
                            const uint8_t* packed, uint8_t* table, int thread) {
  if (t.kind != TileKind::kBlock) {
    fill_row_values<D, T, kFastThreads>(tile, t.kind, p, kv_head, t.number, t.length);
  } else if (p.prefix.values_channel_major) {
    fill_channel_block<D, false>(tile, packed + format::channel_codes_offset(D, true), table,
                                 nullptr, thread);
  } else {
    fill_token_block<D>(tile, packed, p.prefix.value_groups, p.prefix.value_bits, thread);
  }
}

}  // namespace rillkv::kernels::cuda
