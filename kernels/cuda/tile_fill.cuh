// Fast paths: a tile of 128 keys or values from its packed or dense form to 16-bit shared memory,
// dequantised and rotated in registers, by the 8 warps of a CTA.
//
// A tile in shared memory is rows of 16-byte chunks, chunk k of row r stored at k ^ (r & 7), so
// that both the writes here and ldmatrix (8 rows at the same k) meet every bank once. A packed
// channel block becomes [channel][token] rows, everything else [token][channel] rows: the form in
// which a lane's four consecutive elements are one 8-byte store. ldmatrix transposes where needed.
//
// Codes turn into floats without integer conversion: code bits are rotated into the top of the
// mantissa of 1.0, which gives m = 1 + code / 2^width, and value = lo + step * code is
// (lo - 2^width step) + (2^width step) m. The rounding error of that is 2^-16 of a step.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {

inline constexpr int kFastWarps = kFastThreads / 32;

/// x, but the compiler cannot see it: what depends on it is computed where it is used instead of
/// being kept in registers through the loop over tiles, which has none to spare.
__device__ inline int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x) / 32; }

/// Byte address of chunk `chunk` of row `row` in a swizzled tile.
__device__ inline uint32_t swizzled(int row, int chunk, int row_bytes) {
  return static_cast<uint32_t>(row * row_bytes + ((chunk ^ (row & 7)) << 4));
}

/// Rotates four words right by `turn` and merges the bits of `mask` into m.
__device__ inline void merge_plane(uint32_t (&m)[4], uint4 words, int turn, uint32_t mask) {
  const auto amount = static_cast<uint32_t>(turn);  // modulo 32
  m[0] |= __funnelshift_r(words.x, words.x, amount) & mask;
  m[1] |= __funnelshift_r(words.y, words.y, amount) & mask;
  m[2] |= __funnelshift_r(words.z, words.z, amount) & mask;
  m[3] |= __funnelshift_r(words.w, words.w, amount) & mask;
}

/// The first plane: m = 1.0 with the rotated words' bits of `mask`. One LOP3 with a register
/// for 1.0 instead of the two that nvcc makes of two constants.
__device__ inline void start_plane(uint32_t (&m)[4], uint4 words, int turn, uint32_t mask) {
  const auto amount = static_cast<uint32_t>(turn);
  const auto place = [&](uint32_t word) {
    uint32_t out;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;"  // (a & b) | c
        : "=r"(out)
        : "r"(__funnelshift_r(word, word, amount)), "r"(mask), "r"(0x3f800000u));
    return out;
  };
  m[0] = place(words.x);
  m[1] = place(words.y);
  m[2] = place(words.z);
  m[3] = place(words.w);
}

/// Four words holding elements 4 q .. 4 q + 3 of a plane of kWords words.
template <int kWords>
__device__ inline uint4 plane_words_at(const uint8_t* plane, int q) {
  return *reinterpret_cast<const uint4*>(plane + 16 * (q & (kWords / 4 - 1)));
}

struct RowPlanes {
  const uint8_t *nibbles, *crumbs, *bit_plane;
};

/// Codes 4 q .. 4 q + 3 of kRows rows of kCount (64 or 128) codes of one width, as 1 + code /
/// 2^width: the first plane of a width is at the top of the mantissa (bits 22 down), the next
/// below.
template <int kCount, int kRows>
__device__ inline void unpack_four(float4 (&out)[kRows], const RowPlanes (&rows)[kRows], int width,
                                   int q) {
  uint32_t m[kRows][4];
  if (width >= 4) {
    constexpr int kWords = kCount / 8;
    const int shift = 4 * (4 * q / kWords);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      start_plane(m[r], plane_words_at<kWords>(rows[r].nibbles, q), shift - 19, 15u << 19);
    }
    if (width == 8) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        merge_plane(m[r], plane_words_at<kWords>(rows[r].nibbles + kCount / 2, q), shift - 15,
                    15u << 15);
      }
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) m[r][0] = m[r][1] = m[r][2] = m[r][3] = 0x3f800000u;
  }
  if (format::crumb_planes(width)) {
    constexpr int kWords = kCount / 16;
    const int at = width < 4 ? 21 : 17;
    const uint32_t mask = width < 4 ? 3u << 21 : 3u << 17;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      merge_plane(m[r], plane_words_at<kWords>(rows[r].crumbs, q), 2 * (4 * q / kWords) - at, mask);
    }
  }
  if (format::bit_planes(width)) {
    const int at = 23 - width;
    const uint32_t mask = 1u << at;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kCount == 128) {
        merge_plane(m[r], *reinterpret_cast<const uint4*>(rows[r].bit_plane), q - at, mask);
      } else {  // two words: elements 0, 1 at bit 2 q, elements 2, 3 at bit 2 q + 1
        const uint2 words = *reinterpret_cast<const uint2*>(rows[r].bit_plane);
        merge_plane(m[r], {words.x, words.y, words.x >> 1, words.y >> 1}, 2 * q - at, mask);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    out[r] = {__uint_as_float(m[r][0]), __uint_as_float(m[r][1]), __uint_as_float(m[r][2]),
              __uint_as_float(m[r][3])};
  }
}

template <typename T>
__device__ inline void store_four(uint8_t* at, float4 x) {
  *reinterpret_cast<uint2*>(at) = {Pair<T>::pack(x.x, x.y), Pair<T>::pack(x.z, x.w)};
}

/// Affine map of m = 1 + code / 2^width: value = base + unit * m.
struct CodeScale {
  float base, unit;
};
__device__ inline CodeScale code_scale(const uint16_t* lo, const uint16_t* step, int i, int width,
                                       bool symmetric) {
  const float s = half_bits_to_float(step[i]);
  const float offset =
      symmetric ? -s * static_cast<float>(1 << (width - 1)) : half_bits_to_float(lo[i]);
  const float unit = s * static_cast<float>(1 << width);  // exact
  return {offset - unit, unit};
}
__device__ inline float4 scale_codes(CodeScale s, float4 m) {
  return {fmaf(s.unit, m.x, s.base), fmaf(s.unit, m.y, s.base), fmaf(s.unit, m.z, s.base),
          fmaf(s.unit, m.w, s.base)};
}

/// What a warp needs for a pair of channels, prepared once a tile by one lane a pair:
///   x = x_base + xa ma + xb mb,  y = y_base + ya ma + yb mb    with ma, mb = 1 + code / 2^width
/// which dequantises and applies R(t0); `low` and `high` tell where the planes are. In shared
/// memory the two halves of a warp's pairs lie apart, so that lanes store 16 bytes side by side.
struct ChannelPair {
  float x_base, y_base, xa, xb;
  float ya, yb;
  uint32_t low, high;
};
static_assert(sizeof(ChannelPair) == kChannelPairBytes);
__device__ inline void store_pair(float4* pairs, int count, int i, const ChannelPair& p) {
  pairs[i] = {p.x_base, p.y_base, p.xa, p.xb};
  pairs[count + i] = {p.ya, p.yb, __uint_as_float(p.low), __uint_as_float(p.high)};
}
__device__ inline ChannelPair load_pair(const float4* pairs, int count, int i) {
  const float4 a = pairs[i], b = pairs[count + i];
  return {a.x, a.y, a.z, a.w, b.x, b.y, __float_as_uint(b.z), __float_as_uint(b.w)};
}

/// Offsets of planes of 128 tokens are multiples of 64, 32 and 16 bytes up to 16 KB, in 9, 11 and
/// 12 bits.
__device__ inline uint32_t pack_offsets(const PlaneOffsets& at) {
  return at.nibbles / 64 | at.crumbs / 32 << 9 | at.bit_plane / 16 << 20;
}
__device__ inline RowPlanes unpack_offsets(const uint8_t* codes, uint32_t at) {
  return {codes + (at & 511) * 64, codes + (at >> 9 & 2047) * 32, codes + (at >> 20) * 16};
}

/// A channel block of 128 tokens to [channel][token] rows of 256 bytes. A warp takes a channel pair
/// at a time, a lane four tokens of it, so widths are uniform in a warp. kRotate: keys; `start` is
/// cos[D/2], sin[D/2] of R(t0) and is folded into the affine map, the tables hold R(j). `pairs`
/// [D/2] is scratch.
template <int D, typename T, bool kRotate>
__device__ void fill_channel_block(uint8_t* tile, const uint8_t* block, bool symmetric,
                                   const float* start, const Rotations& tables, float4* pairs) {
  constexpr int kHalf = D / 2, kEach = kHalf / 32;  // channel pairs a lane scans
  const int thread = opaque(static_cast<int>(threadIdx.x));
  const int lane = thread % 32, warp = thread / 32;
  const uint8_t* widths = block + format::channel_widths_offset(D, symmetric);
  const uint8_t* codes = block + format::channel_codes_offset(D, symmetric);

  // Planes before each channel: a scan over the lower channels, then over the upper ones.
  uint32_t low = 0, high = 0, low_first = 0, high_first = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int pair = widths[lane * kEach + i];
    low += plane_counts(pair & 15);
    high += plane_counts(pair >> 4);
    if (i == 0) {
      low_first = low;
      high_first = high;
    }
  }
  uint32_t low_before = low, high_before = high;
#pragma unroll
  for (int span = 1; span < 32; span *= 2) {
    const uint32_t a = __shfl_up_sync(0xffffffffu, low_before, span);
    const uint32_t b = __shfl_up_sync(0xffffffffu, high_before, span);
    if (lane >= span) {
      low_before += a;
      high_before += b;
    }
  }
  const uint32_t low_total = __shfl_sync(0xffffffffu, low_before, 31);
  const uint32_t total = low_total + __shfl_sync(0xffffffffu, high_before, 31);
  low_before -= low;
  high_before += low_total - high;

  // Lane i prepares this warp's i-th pair.
  constexpr int kMine = kHalf / kFastWarps;
  pairs += 2 * kMine * warp;
  const int prepared = min(warp * kMine + lane, kHalf - 1);
  uint32_t at_low = __shfl_sync(0xffffffffu, low_before, prepared / kEach);
  uint32_t at_high = __shfl_sync(0xffffffffu, high_before, prepared / kEach);
  if constexpr (kEach == 2) {
    const uint32_t low_extra = __shfl_sync(0xffffffffu, low_first, prepared / kEach);
    const uint32_t high_extra = __shfl_sync(0xffffffffu, high_first, prepared / kEach);
    at_low += (prepared & 1) != 0 ? low_extra : 0;
    at_high += (prepared & 1) != 0 ? high_extra : 0;
  }
  if (lane < kMine) {
    const auto* lo = reinterpret_cast<const uint16_t*>(block);
    const auto* step =
        reinterpret_cast<const uint16_t*>(block + format::channel_step_offset(D, symmetric));
    const int width_pair = widths[prepared];
    const CodeScale a = code_scale(lo, step, prepared, width_pair & 15, symmetric);
    const CodeScale b = code_scale(lo, step, prepared + kHalf, width_pair >> 4, symmetric);
    ChannelPair p;
    if constexpr (kRotate) {
      const float c = start[prepared], s = start[kHalf + prepared];
      p = {c * a.base - s * b.base,
           s * a.base + c * b.base,
           c * a.unit,
           -s * b.unit,
           s * a.unit,
           c * b.unit};
    } else {
      p = {a.base, b.base, a.unit, 0.0f, 0.0f, b.unit};
    }
    p.low = pack_offsets(plane_offsets(at_low, total, kAttentionTile));
    p.high = pack_offsets(plane_offsets(at_high, total, kAttentionTile));
    store_pair(pairs, kMine, lane, p);
  }
  __syncwarp();

  const uint32_t inside = 8 * (lane & 1);
#pragma unroll 1
  for (int i = 0; i < kMine; ++i) {
    const int pair = warp * kMine + i;
    float4 cosine, sine;
    if constexpr (kRotate) {
      const int table = pair * kAttentionTile + 4 * lane;
      cosine = __ldg(reinterpret_cast<const float4*>(tables.in_block_cos + table));
      sine = __ldg(reinterpret_cast<const float4*>(tables.in_block_sin + table));
    }
    const ChannelPair p = load_pair(pairs, kMine, i);
    const int width_pair = widths[pair], width = width_pair & 15;
    float4 m[2];
    const RowPlanes planes[2] = {unpack_offsets(codes, p.low), unpack_offsets(codes, p.high)};
    if (width == width_pair >> 4) {
      unpack_four<kAttentionTile, 2>(m, planes, width, lane);
    } else {  // policy "ema" widens single channels
      float4 one[1];
      unpack_four<kAttentionTile, 1>(one, {planes[0]}, width, lane);
      m[0] = one[0];
      unpack_four<kAttentionTile, 1>(one, {planes[1]}, width_pair >> 4, lane);
      m[1] = one[0];
    }
    float4 x, y;
    const float4 a = m[0], b = m[1];
    if constexpr (kRotate) {
      const auto turn = [&](float ma, float mb, float c, float s, float& out_x, float& out_y) {
        const float u = fmaf(p.xa, ma, fmaf(p.xb, mb, p.x_base));
        const float v = fmaf(p.ya, ma, fmaf(p.yb, mb, p.y_base));
        out_x = fmaf(u, c, -v * s);
        out_y = fmaf(u, s, v * c);
      };
      turn(a.x, b.x, cosine.x, sine.x, x.x, y.x);
      turn(a.y, b.y, cosine.y, sine.y, x.y, y.y);
      turn(a.z, b.z, cosine.z, sine.z, x.z, y.z);
      turn(a.w, b.w, cosine.w, sine.w, x.w, y.w);
    } else {
      x = scale_codes({p.x_base, p.xa}, a);
      y = scale_codes({p.y_base, p.yb}, b);
    }
    uint8_t* at = tile + swizzled(pair, lane >> 1, 2 * kAttentionTile) + inside;
    store_four<T>(at, x);
    store_four<T>(at + kHalf * 2 * kAttentionTile, y);  // the same row modulo 8
  }
}

/// The planes of a row of a token block.
template <int D>
struct TokenPlanes {
  const uint8_t *nibbles, *crumbs, *bit_plane;
  int nibble_row, crumb_row, bit_row;

  __device__ TokenPlanes(const uint8_t* block, int rows, int groups, bool symmetric, int width) {
    nibble_row = format::nibble_planes(width) * (D / 2);
    crumb_row = format::crumb_planes(width) * (D / 4);
    bit_row = format::bit_planes(width) * (D / 8);
    nibbles = block + format::token_codes_offset(rows, groups, symmetric);
    crumbs = nibbles + rows * nibble_row;
    bit_plane = crumbs + rows * crumb_row;
  }
  __device__ RowPlanes row(int r) const {
    return {nibbles + r * nibble_row, crumbs + r * crumb_row, bit_plane + r * bit_row};
  }
  __device__ float4 four(int r, int width, int q) const {
    float4 out[1];
    unpack_four<D, 1>(out, {row(r)}, width, q);
    return out[0];
  }
};

/// Rows to fill, zeros past the last token: ldmatrix reads 16 or 32 tokens at a time.
__device__ inline int rows_read(int length) { return (length + 31) & ~31; }

/// Affine token block (values) of 128 rows to [token][channel] rows; a lane takes four channels. A
/// warp fills 16 tokens: its lanes fetch the scales of those (one or two groups) once and pass
/// them on by shuffles. The two groups' scales lie in the same banks: a conflict a tile and warp.
template <int D, typename T>
__device__ void fill_token_block(uint8_t* tile, const uint8_t* block, int groups, int width) {
  constexpr int kLanes = D / 4, kTokens = 32 / kLanes;  // lanes a token, tokens a warp step
  constexpr int kWarpTokens = kAttentionTile / kFastWarps;
  const int thread = opaque(static_cast<int>(threadIdx.x));
  const int lane = thread % 32, q = lane % kLanes, first = thread / 32 * kWarpTokens;
  const TokenPlanes<D> planes(block, kAttentionTile, groups, false, width);
  const auto* lo = reinterpret_cast<const uint16_t*>(block);
  const CodeScale mine =
      code_scale(lo, lo + groups * kAttentionTile,
                 min(lane / kWarpTokens, groups - 1) * kAttentionTile + first + lane % kWarpTokens,
                 width, false);
  const int source = (groups > 1 ? 4 * q / (D / groups) : 0) * kWarpTokens + lane / kLanes;
  constexpr int kRows = 4;  // at a time: their loads overlap
  uint8_t* at = tile + swizzled(first + lane / kLanes, q >> 1, 2 * D) + 8 * (q & 1);
#pragma unroll 1
  for (int i = 0; i < kWarpTokens; i += kRows * kTokens) {
    RowPlanes rows[kRows];
    float4 m[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) rows[r] = planes.row(first + i + r * kTokens + lane / kLanes);
    unpack_four<D, kRows>(m, rows, width, q);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int token = i + r * kTokens;
      const CodeScale scale = {__shfl_sync(0xffffffffu, mine.base, source + token),
                               __shfl_sync(0xffffffffu, mine.unit, source + token)};
      // Tokens are multiples of kTokens, so their swizzle is an exclusive or of the lane's.
      uint8_t* to = tile + (static_cast<uint32_t>(at - tile) ^ ((token & 7) << 4)) + token * 2 * D;
      store_four<T>(to, scale_codes(scale, m[r]));
    }
  }
}

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
template <typename T>
__device__ inline uint2 pack_four(float4 x) {
  return {Pair<T>::pack(x.x, x.y), Pair<T>::pack(x.z, x.w)};
}
template <typename T>
__device__ inline float4 unpack_four_dense(uint2 x) {
  const float2 a = Pair<T>::unpack(x.x), b = Pair<T>::unpack(x.y);
  return {a.x, a.y, b.x, b.y};
}

/// Four channels x and their partners y, rotated.
__device__ inline void rotate_four(float4& x, float4& y, float4 c, float4 s) {
  const float4 u = x, v = y;
  x = {u.x * c.x - v.x * s.x, u.y * c.y - v.y * s.y, u.z * c.z - v.z * s.z, u.w * c.w - v.w * s.w};
  y = {u.x * s.x + v.x * c.x, u.y * s.y + v.y * c.y, u.z * s.z + v.z * c.z, u.w * s.w + v.w * c.w};
}

/// Rotates four channels of a dense row and their partners, and stores them in a tile's row.
template <int D, typename T>
__device__ inline void store_rotated(uint8_t* tile, int row, int q, const T* dense,
                                     const float* cosines, const float* sines) {
  float4 x = unpack_four_dense<T>(*reinterpret_cast<const uint2*>(dense + 4 * q));
  float4 y = unpack_four_dense<T>(*reinterpret_cast<const uint2*>(dense + 4 * q + D / 2));
  rotate_four(x, y, *reinterpret_cast<const float4*>(cosines + 4 * q),
              *reinterpret_cast<const float4*>(sines + 4 * q));
  store_halves<D>(tile, row, q, pack_four<T>(x), pack_four<T>(y));
}

/// Sinks (a symmetric token block in global memory) to [token][channel] rows. Keys are rotated.
template <int D, typename T, bool kRotate>
__device__ void fill_sinks(uint8_t* tile, const uint8_t* block, int capacity, int width,
                           const float* cosines, const float* sines, int first, int length) {
  constexpr int kLanes = D / 8;  // a lane takes four channels and their partners
  const int thread = opaque(static_cast<int>(threadIdx.x));
  const int q = thread % kLanes;
  const TokenPlanes<D> planes(block, capacity, 1, true, width);
  const auto* step = reinterpret_cast<const uint16_t*>(block);
  for (int token = thread / kLanes; token < rows_read(length); token += kFastThreads / kLanes) {
    float4 x = {}, y = {};
    if (token < length) {
      const int row = first + token;
      const CodeScale scale = code_scale(step, step, row, width, true);
      x = scale_codes(scale, planes.four(row, width, q));
      y = scale_codes(scale, planes.four(row, width, q + kLanes));
      if constexpr (kRotate) {
        const int at = row * (D / 2) + 4 * q;
        rotate_four(x, y, *reinterpret_cast<const float4*>(cosines + at),
                    *reinterpret_cast<const float4*>(sines + at));
      }
    }
    store_halves<D>(tile, token, q, pack_four<T>(x), pack_four<T>(y));
  }
}

/// Dense keys, rotated, to [token][channel] rows.
template <int D, typename T>
__device__ void fill_dense_keys(uint8_t* tile, const DenseSegment& segment, int kv_head, int first,
                                int length) {
  constexpr int kItems = D / 8;  // of four channels in half a row
  const T* keys = static_cast<const T*>(segment.keys.data) + kv_head * segment.keys.head_stride;
  for (int i = opaque(static_cast<int>(threadIdx.x)); i < rows_read(length) * kItems;
       i += kFastThreads) {
    const int token = i / kItems, q = i % kItems;
    if (token < length) {
      const int64_t row = first + token, at = row * (D / 2);
      store_rotated<D, T>(tile, token, q, keys + row * segment.keys.token_stride, segment.cos + at,
                          segment.sin + at);
    } else {
      store_halves<D>(tile, token, q, {0, 0}, {0, 0});
    }
  }
}

/// Dense values to [token][channel] rows.
template <int D, typename T>
__device__ void fill_dense_values(uint8_t* tile, const DenseSegment& segment, int kv_head,
                                  int first, int length) {
  constexpr int kItems = D / 8;
  const T* values =
      static_cast<const T*>(segment.values.data) + kv_head * segment.values.head_stride;
  for (int i = opaque(static_cast<int>(threadIdx.x)); i < rows_read(length) * kItems;
       i += kFastThreads) {
    const int token = i / kItems, chunk = i % kItems;
    uint4 x = {};
    if (token < length) {
      x = *reinterpret_cast<const uint4*>(
          values + static_cast<int64_t>(first + token) * segment.values.token_stride + 8 * chunk);
    }
    *reinterpret_cast<uint4*>(tile + swizzled(token, chunk, 2 * D)) = x;
  }
}

/// Any tile of keys; `packed` holds the block, where the tile is one.
template <int D, typename T>
__device__ void fill_keys(uint8_t* tile, const Tile& t, const AttentionParams& p, int kv_head,
                          const uint8_t* packed, const float* start, float4* pairs) {
  if (t.kind == TileKind::kBlock) {
    fill_channel_block<D, T, true>(tile, packed, p.prefix.keys_symmetric, start, p.rotations,
                                   pairs);
  } else if (t.kind == TileKind::kSinks) {
    fill_sinks<D, T, true>(tile, p.prefix.sink_keys + kv_head * p.prefix.sink_key_stride,
                           p.prefix.sink_capacity, p.prefix.sink_key_bits, p.prefix.sink_cos,
                           p.prefix.sink_sin, t.number, t.length);
  } else {
    fill_dense_keys<D, T>(tile, t.kind == TileKind::kTail ? p.tail : p.chunk, kv_head, t.number,
                          t.length);
  }
}

template <int D, typename T>
__device__ void fill_values(uint8_t* tile, const Tile& t, const AttentionParams& p, int kv_head,
                            const uint8_t* packed, float4* pairs) {
  if (t.kind == TileKind::kBlock) {
    if (p.prefix.values_channel_major) {
      fill_channel_block<D, T, false>(tile, packed, true, nullptr, p.rotations, pairs);
    } else {
      fill_token_block<D, T>(tile, packed, p.prefix.value_groups, p.prefix.value_bits);
    }
  } else if (t.kind == TileKind::kSinks) {
    fill_sinks<D, T, false>(tile, p.prefix.sink_values + kv_head * p.prefix.sink_value_stride,
                            p.prefix.sink_capacity, p.prefix.sink_value_bits, nullptr, nullptr,
                            t.number, t.length);
  } else {
    fill_dense_values<D, T>(tile, t.kind == TileKind::kTail ? p.tail : p.chunk, kv_head, t.number,
                            t.length);
  }
}

}  // namespace rillkv::kernels::cuda
