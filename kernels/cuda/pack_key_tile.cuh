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
// ldmatrix.trans reads 8 x 8 elements, two rows (tokens) of a column (channel) to a lane. Chunk c
// of token t lies at place c ^ (bits 3, 2 and 0 of t), so that the eight rows it reads meet no bank
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

inline constexpr int kTileTokens = 128;

/// Called by all threads of a CTA, whose registers hold the tile between both steps.
template <typename T, int D>
class KeyTile {
 public:
  static constexpr int kTokens = kTileTokens, kRowBytes = 2 * D, kChunks = D / 8, kPairs = D / 2;

  __device__ KeyTile(const PackParams& p, const VirtualRows<T>& rows, int first)
      : p_(p), s_(shared_memory, D) {
    load(rows, first);
    if (idle()) return;
    const uint32_t token = lane() / 16 * 16 + lane() % 8 / 2 * 4 + lane() / 8 % 2 * 2 + lane() % 2;
    const uint32_t from =
        shared_address(s_.tile) + token * kRowBytes + ((warp() ^ lane() % 8) << 4);
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
    float pair_energy[kOwnPairs];
#pragma unroll
    for (int k = 0; k < kOwnPairs; ++k) {
      const uint32_t pair = lane() + 32 * k;
      pair_energy[k] = warp() == 0 ? __fadd_rn(energy[pair], energy[pair + kPairs]) : 0.0f;
    }
    float lo = 0.0f, hi = 0.0f;
    if (!idle()) {
      LaneRange<T> range(extremes<T>(x_));
      range.join(kWarp, 1);
      range.join(kWarp, 2);
      lo = range.lo();
      hi = range.hi();
      const float span = __fsub_rn(hi, lo);
      if (lane() % 4 == 0) s_.squares[channel()] = __fmul_rn(span, span);
    }
    __syncthreads();
    if (warp() == 0) write_widths(pair_energy, out);
    // The other warps, meanwhile. The condition holds, but ptxas does not know that: of code that
    // is always run it puts these differences after the barrier.
    float distances[32] = {};
    if (!idle() && p_.class_count != 0) {
      const float from = __half2float(stored_lo(lo));
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float2 x = Pair<T>::unpack(x_[i]);
        distances[2 * i] = __fsub_rn(x.x, from);
        distances[2 * i + 1] = __fsub_rn(x.y, from);
      }
    }
    __syncthreads();
    if (idle()) return;
    const int width = s_.widths[channel() % kPairs];
    const AffineScale scale = affine_scale(lo, hi, width);
    if (lane() % 4 == 0) {
      reinterpret_cast<uint16_t*>(out)[channel()] = scale.lo_bits;
      reinterpret_cast<uint16_t*>(out + format::channel_step_offset(D, false))[channel()] =
          scale.step_bits;
    }
    const auto [before, total] = count_planes(width);
    uint8_t* codes_out = out + format::channel_codes_offset(D, false);
    write_codes(distances, scale, width, plane_offsets(before, total, kTokens), codes_out);
    if (warp() == 0) {
      const uint32_t end = plane_offsets(total, total, kTokens).bits;
      const auto aligned = static_cast<uint32_t>(format::align_up(end));
      for (uint32_t i = end + lane(); i < aligned; i += 32) codes_out[i] = 0;
    }
  }

 private:
  static constexpr uint32_t kWarp = 0xffffffffu;
  static constexpr int kOwnPairs = PairGains<D>::kOwn;

  __device__ static uint32_t lane() { return threadIdx.x % 32; }
  __device__ static uint32_t warp() { return threadIdx.x / 32; }
  __device__ static uint32_t channel() { return threadIdx.x / 4; }
  /// Warps without channels.
  __device__ static bool idle() { return kChunks < kPackBlockThreads / 32 && warp() >= kChunks; }

  __device__ void load(const VirtualRows<T>& rows, int first) const {
    constexpr int kRows = kPackBlockThreads / kChunks;  // at a time
    static_assert(kRows % 16 == 0, "a thread's rows have one place for its chunk");
    const uint32_t row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    const uint32_t place = row / 4 % 4 * 2 + row % 2;
    const uint32_t to = shared_address(s_.tile) + row * kRowBytes + ((chunk ^ place) << 4);
    rows.template each_row<kTokens, kRows>(
        first + static_cast<int>(row), 8 * chunk,
        [&](auto r, const T* from) { copy_async_16(to + r.value * kRowBytes, from); });
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
  }

  __device__ void write_widths(const float (&energy)[kOwnPairs], uint8_t* out) const {
    int levels[kOwnPairs];
    PairGains<D>(p_, s_.squares, energy).choose(p_.increments, s_.keys, levels);
    uint8_t* widths = out + format::channel_widths_offset(D, false);
#pragma unroll
    for (int k = 0; k < kOwnPairs; ++k) {
      const uint32_t pair = lane() + 32 * k;
      const int width = p_.classes[levels[k]];
      s_.widths[pair] = static_cast<uint8_t>(width);
      widths[pair] = format::pair_widths(width, width);
    }
    constexpr size_t kPadding =
        format::channel_codes_offset(D, false) - format::channel_widths_offset(D, false) - kPairs;
    static_assert(kPadding == 0 || kPadding == 32, "a byte a lane");
    if constexpr (kPadding != 0) widths[kPairs + lane()] = 0;
  }

  /// plane_counts of the channels before this thread's, which has `width`, and of all. A pair's
  /// channels have one width, so that planes are counted by pair.
  struct Counts {
    uint32_t before, total;
  };
  __device__ Counts count_planes(int width) const {
    const uint32_t first_pair = 8 * warp() % kPairs;
    uint32_t of_lane = 0;
#pragma unroll
    for (int k = 0; k < kOwnPairs; ++k) of_lane += plane_counts(s_.widths[lane() * kOwnPairs + k]);
    const uint32_t all = __reduce_add_sync(kWarp, of_lane);
    const uint32_t of_others =
        __reduce_add_sync(kWarp, lane() * kOwnPairs < first_pair ? of_lane : 0);
    const uint32_t own = plane_counts(static_cast<uint32_t>(width));
    uint32_t sum = own;
#pragma unroll
    for (uint32_t span = 4; span < 32; span *= 2) {
      const uint32_t other = __shfl_up_sync(kWarp, sum, span);
      if (lane() >= span) sum += other;
    }
    return {2 * (of_others + sum - own) + (channel() >= kPairs ? own : 0), 2 * all};
  }

  __device__ static void write_codes(const float (&distances)[32], const AffineScale& scale,
                                     int width, const format::PlaneOffsets& at, uint8_t* out) {
    EightCodes codes[4];  // of word 4 i + v of a nibble plane
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      // No quotient rounds to more than the largest code: the step is rounded up.
      const auto code = [&](int q, int odd) {
        const int i = 2 * (4 * q + 2 * odd + v / 2) + v % 2;
        return code_byte(quotient(distances[i], scale));
      };
      codes[v].even = four_bytes(code(0, 0), code(1, 0), code(2, 0), code(3, 0));
      codes[v].odd = four_bytes(code(0, 1), code(1, 1), code(2, 1), code(3, 1));
    }
    const uint32_t i = lane() % 4;
    if (width >= 4) {
      auto* nibbles = reinterpret_cast<uint4*>(out + at.nibbles) + i;
      *nibbles = {codes[0].nibbles(width), codes[1].nibbles(width), codes[2].nibbles(width),
                  codes[3].nibbles(width)};
      if (width == 8) {
        nibbles[kTokens / 32] = {codes[0].low_nibbles(), codes[1].low_nibbles(),
                                 codes[2].low_nibbles(), codes[3].low_nibbles()};
      }
    }
    const bool crumbs = format::crumb_planes(width) != 0, bits = format::bit_planes(width) != 0;
    if (__any_sync(kWarp, crumbs)) {
      // Word e is those of nibble words e and e + 8: of lanes i and i ^ 2.
      const bool upper = i >= 2;
      uint32_t words[2];
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        const uint32_t first = codes[v].crumbs(width), second = codes[v + 2].crumbs(width);
        const uint32_t other = __shfl_xor_sync(kWarp, upper ? first : second, 2);
        words[v] = upper ? other | second << 2 : first | other << 2;
      }
      if (crumbs) {
        reinterpret_cast<uint2*>(out + at.crumbs)[i % 2 * 2 + i / 2] = {words[0], words[1]};
      }
    }
    if (__any_sync(kWarp, bits)) {
      // Bit i of a nibble of word e is lane i's bit of word 4 i + e: a transposition.
      uint32_t x =
          codes[0].bits() + 2 * codes[1].bits() + 4 * codes[2].bits() + 8 * codes[3].bits();
      x = exchange_bits<1>(x, 0x55555555u);
      x = exchange_bits<2>(x, 0x33333333u);
      if (bits) reinterpret_cast<uint32_t*>(out + at.bits)[i] = x;
    }
  }
  /// Lanes and bits that differ in kSpan's bit change places; `kept`: bits without it.
  template <int kSpan>
  __device__ static uint32_t exchange_bits(uint32_t x, uint32_t kept) {
    const uint32_t other = __shfl_xor_sync(kWarp, x, kSpan);
    return (lane() & kSpan) != 0 ? (x & ~kept) | (other >> kSpan & kept)
                                 : (x & kept) | (other << kSpan & ~kept);
  }

  const PackParams& p_;
  KeyTileShared s_;
  uint32_t x_[16];  // [4 q + 2 odd + h]: tokens 32 q + 16 odd + 4 i + 2 h and the next
};

}  // namespace
}  // namespace rillkv::kernels::cuda
