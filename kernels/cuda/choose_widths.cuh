// Widths of a channel block's pairs by one warp that holds all gains in registers, for head_dim 64
// and 128. pack_keys.cuh has what takes any head_dim, and says what is computed.
//
// The gains compare as integers. Their exponents are searched bit by bit. Of the gains whose
// exponent decides, a pair has one (a class gains less than half of what the one below does), and
// the place of each among those of all pairs is counted at once instead of 23 more bits. Where a
// pair has several (gains of zero, denormal or infinite), the search goes on.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ingest_params.h"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cuda {

/// A lane has the pairs lane and lane + 32; gain (class s, pair p) has the number s * pairs + p,
/// and the lower number wins a tie.
template <int D>
class PairGains {
 public:
  static constexpr int kPairs = D / 2, kOwn = kPairs / 32, kSteps = 7;

  /// squares: [D] ranges squared, in shared memory; energy: of both channels of the lane's pairs.
  __device__ PairGains(const PackParams& p, const float* squares, const float (&energy)[kOwn])
      : steps_(p.class_count - 1) {
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const uint32_t pair = lane() + 32 * k;
      // Not negative: search() looks at the signs of differences.
      const float score =
          fabsf(__fmul_rn(__fadd_rn(squares[pair], squares[pair + kPairs]), energy[k]));
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        gains_[k][s] = s < steps_ ? __float_as_uint(__fmul_rn(score, p.drops[s])) : 0;
      }
    }
  }

  /// How many classes above the lowest each pair gets when the best `wanted` gains are taken.
  /// `keys`: [kPairs] words of shared memory, 16-byte aligned, of this warp.
  __device__ void choose(int wanted, uint32_t* keys, int (&levels)[kOwn]) const {
    int taken = kPairs * steps_;
    if (wanted >= taken) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) levels[k] = steps_;
      return;
    }
    uint32_t least = 0;
    search(1u << 30, 1u << 23, wanted, least, taken);
    if (taken == wanted) {
      count_own(least, levels);
      return;
    }
    // Those of greater exponents are all taken.
    const uint32_t greater_exponent = least + (1u << 23);
    const int above = count_own(greater_exponent, levels);
    bool one = true;
    uint32_t own[kOwn];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const uint32_t pair = lane() + 32 * k;
      own[k] = 0;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const bool decides = s < steps_ && gains_[k][s] - least < 1u << 23;
        if (!decides) continue;
        one = one && own[k] == 0;
        // The lower number is the greater key; no key is 0.
        own[k] = gains_[k][s] << 9 | (511 - (s * kPairs + pair));
      }
      keys[pair] = own[k];
    }
    static_assert(kSteps * kPairs < 511, "a number has 9 bits");
    if (__all_sync(kWarp, one)) {
      int better[kOwn] = {};
      __syncwarp();
#pragma unroll 4
      for (int i = 0; i < kPairs; i += 4) {
        const uint4 other = *reinterpret_cast<const uint4*>(keys + i);
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
          better[k] += other.x > own[k] ? 1 : 0;
          better[k] += other.y > own[k] ? 1 : 0;
          better[k] += other.z > own[k] ? 1 : 0;
          better[k] += other.w > own[k] ? 1 : 0;
        }
      }
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        if (own[k] != 0 && above + better[k] < wanted) ++levels[k];
      }
      return;
    }
    search(1u << 22, 1, wanted, least, taken);
    if (taken == wanted) {
      count_own(least, levels);
      return;
    }
    // Room for gains that equal the least. (Those that are not there, of 0, come last.)
    int room = wanted - count_own(least + 1, levels);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        const bool equal = gains_[k][s] == least;
        const uint32_t all = __ballot_sync(kWarp, equal);
        if (equal && __popc(all & ((1u << lane()) - 1)) < room) ++levels[k];
        room -= __popc(all);
      }
    }
  }

 private:
  static constexpr uint32_t kWarp = 0xffffffffu;
  __device__ static uint32_t lane() { return threadIdx.x % 32; }

  /// Gains of at least `from`, which is not 0, of each pair of this lane and, returned, of all.
  __device__ int count_own(uint32_t from, int (&counts)[kOwn]) const {
    int sum = 0;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      counts[k] = 0;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        counts[k] += gains_[k][s] >= from ? 1 : 0;
      }
      sum += counts[k];
    }
    return __reduce_add_sync(kWarp, sum);
  }
  /// Bits first .. last of the greatest `least` that `wanted` gains reach; `taken` reach it. Ends
  /// early where they are exactly those wanted.
  __device__ void search(uint32_t first, uint32_t last, int wanted, uint32_t& least,
                         int& taken) const {
#pragma unroll 1
    for (uint32_t bit = first; bit >= last && taken != wanted; bit >>= 1) {
      uint32_t below[2] = {};  // by a difference's sign: two instructions a gain, a choice is three
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          below[s % 2] += gains_[k][s] - (least | bit) >> 31;
        }
      }
      const int all =
          kOwn * kSteps * 32 - static_cast<int>(__reduce_add_sync(kWarp, below[0] + below[1]));
      if (all >= wanted) {
        least |= bit;
        taken = all;
      }
    }
  }

  uint32_t gains_[kOwn][kSteps];  // 0 from steps_ on
  int steps_;                     // of a pair
};

}  // namespace rillkv::kernels::cuda
