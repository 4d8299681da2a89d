// Fast paths: a packed token block (values of policy "adaptive") to a tile of [token][channel] rows
// of fp16, tokens in the order of tile_order.h.
//
// A warp takes 16 tokens, a lane half the channels of one: eight words of nibbles i .. i + 7 (and
// what belongs to them), whose nibbles e are eight consecutive channels, so one chunk of the row.
// PRMT brings the words of channels that are neighbours together, and then it is as with keys.
//
// Eight lanes that access shared memory together must meet eight different 16-byte columns, both
// when they read packed rows and when they store chunks. Bits of the lane number:
//
//   0..2   position modulo 8, which the swizzle adds to the chunk: the stores differ by that
//   0 ^ 3  parity of the token: rows of 64 bytes (D = 128), their halves by
//   1 ^ 4  which half of the channels, and
//   2      which half of the words is read first
//
// and tokens of one warp are spread so that their scales, 2 bytes each, lie in different banks.
//
// With 8 bits a row of nibbles is two planes, so twice as long, and one of these bits no longer
// tells columns apart: 0 ^ 3 for D = 128, and bit 1, of the token too, for D = 64. That bit says
// which of the planes is read first.
#pragma once

#include <cstdint>

#include "kernels/cuda/fill_channels.cuh"

namespace rillkv::kernels::cuda {

/// Where a token block's planes are; row r of a plane at r * row bytes.
struct TokenPlanes : format::Planes<const uint8_t> {
  format::PlaneOffsets row;  // bytes

  __device__ TokenPlanes(const uint8_t* block, int head_dim, int rows, int groups, bool symmetric,
                         int width)
      : Planes(format::token_planes(block, rows, 0, head_dim, groups, symmetric, width)),
        row(format::plane_extents(format::planes_of(width), head_dim)) {}
};

/// 32 bytes of a row, of which lanes with `swap` read the second half first.
__device__ inline void load_eight_words(uint32_t (&words)[8], uint32_t row, bool swap) {
  const uint4 a = load_shared_16(row ^ (swap ? 16u : 0u));
  const uint4 b = load_shared_16(row ^ (swap ? 0u : 16u));
  const uint4 low = swap ? b : a, high = swap ? a : b;
  words[0] = low.x;
  words[1] = low.y;
  words[2] = low.z;
  words[3] = low.w;
  words[4] = high.x;
  words[5] = high.y;
  words[6] = high.z;
  words[7] = high.w;
}

template <int D>
struct TokenLane {
  static constexpr int kChunks = D == 128 ? 8 : 4;  // of this lane
  int position, token;
  uint32_t half;  // D = 128: words 8 half ..; D = 64: nibbles 4 half ..
  bool swap;
  bool swap_planes;

  __device__ explicit TokenLane(int thread) {
    const int warp = thread / 32;
    const int e = (thread >> 1 & 3) + 4 * (thread & 1);  // token = word + 16 e
    const int word = 2 * ((warp + e) & 7) + ((thread ^ thread >> 3) & 1);
    position = 8 * word + (thread & 7);
    token = word + 16 * e;
    half = D == 128 ? (thread >> 1 ^ thread >> 4) & 1 : thread >> 4 & 1;
    swap = (thread & 4) != 0;
    swap_planes = ((D == 128 ? thread ^ thread >> 3 : thread >> 1) & 1) != 0;
  }

  /// The words of one plane, the lane's elements at the top of the nibbles.
  __device__ void load_nibbles(uint32_t (&words)[8], const uint8_t* row) const {
    load_eight_words(words, shared_address(row) + (D == 128 ? 32 * half : 0), swap);
  }
  /// Both planes of 8 bits.
  __device__ void load_nibble_planes(uint32_t (&high)[8], uint32_t (&low)[8],
                                     const uint8_t* row) const {
    uint32_t a[8], b[8];
    load_nibbles(a, row + (swap_planes ? D / 2 : 0));
    load_nibbles(b, row + (swap_planes ? 0 : D / 2));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      high[i] = swap_planes ? b[i] : a[i];
      low[i] = swap_planes ? a[i] : b[i];
    }
  }
  __device__ void load_crumbs(uint32_t (&words)[8], const uint8_t* row) const {
    if constexpr (D == 128) {
      load_eight_words(words, shared_address(row), swap);
#pragma unroll
      for (int i = 0; i < 8; ++i) words[i] <<= 2 - 2 * half;
    } else {
      const uint4 x = load_shared_16(shared_address(row));
      const uint32_t four[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) words[i] = i < 4 ? four[i] << 2 : four[i - 4];
    }
  }
  __device__ void load_bits(uint32_t (&words)[8], const uint8_t* row) const {
    if constexpr (D == 128) {
      const uint4 x = load_shared_16(shared_address(row));
      const uint32_t four[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) words[i] = four[i & 3] << (3 - 2 * half - (i >> 2));
    } else {
      const uint2 x = load_shared_8(shared_address(row));
#pragma unroll
      for (int i = 0; i < 8; ++i) words[i] = ((i & 1) != 0 ? x.y : x.x) << (3 - (i >> 1));
    }
  }
};

template <int D, int kWidth>
__device__ inline void fill_token_rows(uint8_t* tile, const uint8_t* block, int groups,
                                       int thread) {
  constexpr int kPasses = D == 128 ? 2 : 1;  // low halves of words, high halves
  const TokenLane<D> lane(thread);
  const auto* lo = reinterpret_cast<const uint16_t*>(block);
  const auto* step = lo + groups * kAttentionTile;
  uint32_t centre[kPasses], unit[kPasses];
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int at = lane.token + (groups > 1 ? pass : 0) * kAttentionTile;
    const CodeScale scale = code_scale(lo, step, at, kWidth, false);
    centre[pass] = twice(scale.centre);
    unit[pass] = twice(scale.unit);
  }

  const TokenPlanes planes(block, D, kAttentionTile, groups, false, kWidth);
  uint32_t nibbles[8] = {}, second[8] = {}, crumbs[8] = {}, bits[8] = {};
  const uint8_t* nibble_row = planes.nibbles + lane.token * planes.row.nibbles;
  if constexpr (format::nibble_planes(kWidth) == 1) lane.load_nibbles(nibbles, nibble_row);
  if constexpr (format::nibble_planes(kWidth) == 2) {
    lane.load_nibble_planes(nibbles, second, nibble_row);
  }
  if constexpr (format::crumb_planes(kWidth) > 0) {
    lane.load_crumbs(crumbs, planes.crumbs + lane.token * planes.row.crumbs);
  }
  if constexpr (format::bit_planes(kWidth) > 0) {
    lane.load_bits(bits, planes.bits + lane.token * planes.row.bits);
  }
  uint32_t high[8], low[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    merge_planes<kWidth>(high[i], low[i], nibbles[i], second[i], crumbs[i], bits[i]);
  }

  const ExpandConstants constants;
  // Chunk numbers only differ from the first in bits that it has not, and rows are aligned to
  // their size: adding a chunk is an exclusive or with the address.
  const uint32_t first_chunk =
      shared_address(tile) +
      swizzled(lane.position, static_cast<int>(D == 128 ? lane.half : 4 * lane.half), 2 * D);
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const uint32_t halves = (D == 128 ? pass : lane.half) != 0 ? 0x7632 : 0x5410;
    uint32_t z[4][4];  // [channels 2 m, 2 m + 1][chunk]
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      expand_codes<kWidth>(z[m], __byte_perm(high[2 * m], high[2 * m + 1], halves),
                           kWidth > 4 ? __byte_perm(low[2 * m], low[2 * m + 1], halves) : 0,
                           constants);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint32_t later = static_cast<uint32_t>(D == 128 ? 8 * pass + 2 * k : k);
      store_shared_16(
          first_chunk ^ later << 4,
          {hfma2(unit[pass], z[0][k], centre[pass]), hfma2(unit[pass], z[1][k], centre[pass]),
           hfma2(unit[pass], z[2][k], centre[pass]), hfma2(unit[pass], z[3][k], centre[pass])});
    }
  }
}

/// Called by the CTA, `thread` its thread.
template <int D>
__device__ inline void fill_token_block(uint8_t* tile, const uint8_t* block, int groups, int width,
                                        int thread) {
  for_width(static_cast<uint32_t>(width),
            [&](auto w) { fill_token_rows<D, w.value>(tile, block, groups, thread); });
}

}  // namespace rillkv::kernels::cuda
