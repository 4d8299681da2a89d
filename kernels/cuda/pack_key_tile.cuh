// A channel block of rillkv_pack_* whose rows are 128 tokens of 64 or 128 elements of 16 bits in
// 16-byte chunks; pack_keys.cuh has what takes any shape. One CTA, as there.
//
//   1. The tile to shared memory, all of its loads under way at once, then to registers, once: warp
//      w has channels 8 w .. 8 w + 7, four lanes each. Lane i of a channel has what becomes words
//      4 i .. 4 i + 3 of a nibble plane (packed_format.h): tokens 16 j + 4 i .. 16 j + 4 i + 3.
//   2. lo and hi of each channel; warp 0 chooses the widths (choose_widths.cuh).
//   3. Each warp adds up the planes before its own, codes its tokens and writes their planes: of a
//      nibble plane a lane has whole words; crumbs and bits are exchanged by the four lanes.
//
// ldmatrix.trans reads 8 x 8 elements, two rows (tokens) of a column (channel) to a lane. Chunk c of
// token t lies at place c ^ (bits 3, 2 and 0 of t), so that the eight rows it reads meet no bank
// twice.
#pragma once

#include "kernels/cuda/choose_widths.cuh"
#include "kernels/cuda/code_planes.cuh"
#include "kernels/cuda/extremes.cuh"
#include "kernels/cuda/pack_rows.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

/// Where a warp's channels have their planes, in bytes from the start of the codes.
struct ChannelPlanes {
  int width;
  format::PlaneOffsets at;
  uint32_t total;  // plane_counts of the block
};

inline constexpr int kTileTokens = 128;

template <typename T, int D>
class KeyTile {
 public:
  static constexpr int kTokens = kTileTokens, kRowBytes = 2 * D, kChunks = D / 8, kPairs = D / 2;

  __device__ KeyTile(const PackParams& p, const VirtualRows<T>& rows, int first)
      : p_(p), s_(shared_memory, D) {
    const int lane = lane_id();
    load(rows, first);
    const int token = lane / 16 * 16 + lane % 8 / 2 * 4 + lane / 8 % 2 * 2 + lane % 2;
    if (idle()) return;
    const uint32_t from = shared_address(s_.tile) +
                          static_cast<uint32_t>(token * kRowBytes + ((warp_id() ^ lane % 8) << 4));
    unrolled<0, 4, 1>([&](auto q) {
      uint32_t x[4];
      ldmatrix_x4_trans<q.value * 32 * kRowBytes>(x, from);
#pragma unroll
      for (int m = 0; m < 4; ++m) x_[4 * q.value + m] = x[m];
    });
  }

  /// By all threads.
  __device__ void pack(const float* energy, uint8_t* out) {
    // Of warp 0: under way while the ranges are found.
    float pair_energy[PairGains<D>::kOwn];
#pragma unroll
    for (int k = 0; k < PairGains<D>::kOwn; ++k) {
      const int pair = lane_id() + 32 * k;
      pair_energy[k] = warp_id() == 0 ? __fadd_rn(energy[pair], energy[pair + kPairs]) : 0.0f;
    }
    float lo = 0.0f, hi = 0.0f;
    if (!idle()) {
      LaneRange<T> range(extremes<T>(x_));
      range.join(0xffffffffu, 1);
      range.join(0xffffffffu, 2);
      lo = range.lo();
      hi = range.hi();
      const float span = __fsub_rn(hi, lo);
      if (lane_id() % 4 == 0) s_.squares[channel()] = __fmul_rn(span, span);
    }
    __syncthreads();
    if (warp_id() == 0) write_widths(pair_energy, out);
    __syncthreads();
    if (idle()) return;
    const ChannelPlanes planes = find_planes();
    const AffineScale scale = affine_scale(lo, hi, planes.width);
    if (lane_id() % 4 == 0) {
      reinterpret_cast<uint16_t*>(out)[channel()] = scale.lo_bits;
      reinterpret_cast<uint16_t*>(out + format::channel_step_offset(D, false))[channel()] =
          scale.step_bits;
    }
    uint8_t* codes = out + format::channel_codes_offset(D, false);
    write_codes(scale, planes, codes);
    const uint32_t end = plane_offsets(planes.total, planes.total, kTokens).bits;
    fill_zero(codes + end, codes + format::align_up(end));
  }

 private:
  /// Warps without channels.
  __device__ static bool idle() { return kChunks < kPackBlockThreads / 32 && warp_id() >= kChunks; }
  __device__ static int channel() { return 8 * warp_id() + lane_id() / 4; }

  __device__ void load(const VirtualRows<T>& rows, int first) const {
    constexpr int kRows = kPackBlockThreads / kChunks;  // at a time
    static_assert(kRows % 16 == 0, "a thread's rows have one place for its chunk");
    const int thread = static_cast<int>(threadIdx.x), row = thread / kChunks;
    const int chunk = thread % kChunks, place = row / 4 % 4 * 2 + row % 2;
    const uint32_t to =
        shared_address(s_.tile) + static_cast<uint32_t>(row * kRowBytes + ((chunk ^ place) << 4));
    unrolled<0, kTokens, kRows>([&](auto r) {
      copy_async_16(to + r.value * kRowBytes, rows.row(first + row + r.value) + 8 * chunk);
    });
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
  }

  __device__ void write_widths(const float (&energy)[PairGains<D>::kOwn], uint8_t* out) const {
    int levels[PairGains<D>::kOwn];
    PairGains<D>(p_, s_.squares, energy).choose(p_.increments, s_.keys, levels);
    uint8_t* widths = out + format::channel_widths_offset(D, false);
#pragma unroll
    for (int k = 0; k < PairGains<D>::kOwn; ++k) {
      const int pair = lane_id() + 32 * k, width = p_.classes[levels[k]];
      s_.widths[pair] = static_cast<uint8_t>(width);
      widths[pair] = format::pair_widths(width, width);
    }
    constexpr size_t kPadding =
        format::channel_codes_offset(D, false) - format::channel_widths_offset(D, false) - kPairs;
    for (int i = lane_id(); i < static_cast<int>(kPadding); i += 32) widths[kPairs + i] = 0;
  }

  /// A pair's channels have one width, so that planes are counted by pair.
  __device__ ChannelPlanes find_planes() const {
    constexpr int kOwn = kPairs / 32;
    const int lane = lane_id(), first_pair = 8 * warp_id() % kPairs;
    uint32_t own = 0;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) own += plane_counts(s_.widths[lane * kOwn + k]);
    const uint32_t total = 2 * __reduce_add_sync(0xffffffffu, own);
    uint32_t before = __reduce_add_sync(0xffffffffu, lane * kOwn < first_pair ? own : 0);
    const int width = s_.widths[first_pair + lane / 4];
    const uint32_t counts = plane_counts(static_cast<uint32_t>(width));
    uint32_t sum = counts;
#pragma unroll
    for (int span = 4; span < 32; span *= 2) {
      const uint32_t other = __shfl_up_sync(0xffffffffu, sum, span);
      if (lane >= span) sum += other;
    }
    before = 2 * (before + sum - counts) + (8 * warp_id() >= kPairs ? counts : 0);
    return {width, plane_offsets(before, total, kTokens), total};
  }

  __device__ void write_codes(const AffineScale& scale, const ChannelPlanes& planes,
                              uint8_t* out) const {
    EightCodes codes[4];  // of word 4 i + v of a nibble plane
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        uint32_t low[4], high[4];
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const float2 x = Pair<T>::unpack(x_[4 * q + 2 * odd + h]);
          // No quotient rounds to more than the largest code: the step is rounded up.
          low[q] = code_byte(quotient(__fsub_rn(x.x, scale.lo), scale));
          high[q] = code_byte(quotient(__fsub_rn(x.y, scale.lo), scale));
        }
        const uint32_t lows = four_bytes(low[0], low[1], low[2], low[3]);
        const uint32_t highs = four_bytes(high[0], high[1], high[2], high[3]);
        (odd != 0 ? codes[2 * h].odd : codes[2 * h].even) = lows;
        (odd != 0 ? codes[2 * h + 1].odd : codes[2 * h + 1].even) = highs;
      }
    }
    const int width = planes.width, i = lane_id() % 4;
    if (width >= 4) {
      auto* nibbles = reinterpret_cast<uint4*>(out + planes.at.nibbles) + i;
      *nibbles = {codes[0].nibbles(width), codes[1].nibbles(width), codes[2].nibbles(width),
                  codes[3].nibbles(width)};
      if (width == 8) {
        nibbles[kTokens / 32] = {codes[0].low_nibbles(), codes[1].low_nibbles(),
                                 codes[2].low_nibbles(), codes[3].low_nibbles()};
      }
    }
    const bool crumbs = format::crumb_planes(width) != 0, bits = format::bit_planes(width) != 0;
    if (__any_sync(0xffffffffu, crumbs)) {
      // Word e is those of nibble words e and e + 8: of lanes i and i ^ 2.
      const bool upper = i >= 2;
      uint32_t words[2];
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        const uint32_t first = codes[v].crumbs(width), second = codes[v + 2].crumbs(width);
        const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? first : second, 2);
        words[v] = upper ? other | second << 2 : first | other << 2;
      }
      if (crumbs) {
        reinterpret_cast<uint2*>(out + planes.at.crumbs)[i % 2 * 2 + i / 2] = {words[0], words[1]};
      }
    }
    if (__any_sync(0xffffffffu, bits)) {
      // Bit i of a nibble of word e is lane i's bit of word 4 i + e: a transposition.
      uint32_t x =
          codes[0].bits() + 2 * codes[1].bits() + 4 * codes[2].bits() + 8 * codes[3].bits();
      x = exchange_bits<1>(x, 0x55555555u);
      x = exchange_bits<2>(x, 0x33333333u);
      if (bits) reinterpret_cast<uint32_t*>(out + planes.at.bits)[i] = x;
    }
  }
  /// Lanes and bits that differ in kSpan's bit change places; `kept`: bits without it.
  template <int kSpan>
  __device__ static uint32_t exchange_bits(uint32_t x, uint32_t kept) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, x, kSpan);
    return (lane_id() & kSpan) != 0 ? (x & ~kept) | (other >> kSpan & kept)
                                    : (x & kept) | (other << kSpan & ~kept);
  }

  const PackParams& p_;
  KeyTileShared s_;
  uint32_t x_[16];  // [4 q + 2 odd + h]: tokens 32 q + 16 odd + 4 i + 2 h and the next
};

}  // namespace
}  // namespace rillkv::kernels::cuda
