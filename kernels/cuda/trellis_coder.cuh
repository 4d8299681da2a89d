// A key channel of policy "trellis" by one warp (kernels/trellis.h, KEYS): what error feedback does
// to a position once its keys are known. Everything here is waited for, position by position.
//
//   search  Two ranges at a time, a half warp each: lane l has the tokens of accumulator l % 16.
//   walk    The metrics, token by token: lanes 0 and 1 (the others do the same) have four states
//           each, and exchange them every third token. With all eight states before token t, four
//           are what four after t, t + 1 and t + 2 follow from:
//
//             lane p   before t     after t          after t + 1           after t + 2
//             states   all eight    p, p+2, p+4, p+6 2p, 2p+1, 2p+4, 2p+5  4p, 4p+1, 4p+2, 4p+3
//
//           Three additions and minima and one shuffle in turn: about 55 cycles on an H100, in
//           which 51 instructions are issued, 18 a token. (A lane a state and a shuffle a token:
//           32; a thread with all states: 27 instructions; with choices kept: 5 to 8 more.)
//   choose  From the metrics that walk left, a token a lane: which predecessor won.
//   trace   Four tokens backwards are a map of eight states, which a lane composes of four lookups
//           of bytes; maps are followed one after the other, two instructions each (10 cycles).
//
// At 128 tokens and widths of 4 to 7 bits, by count: search 250 cycles, distances 170, walk 2350,
// choose 230, maps 110, following them 350, codes 80: 3500 a position.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/trellis_scratch.h"
#include "kernels/cuda/trellis_steps.cuh"

namespace rillkv::kernels::cuda {

/// Called by all lanes of a warp. kTokens: 128, or 256 for any block.
template <int kTokens>
class TrellisCoder {
 public:
  using Scratch = TrellisScratch<kTokens>;
  static constexpr int kGroups = kTokens / 128;  // four tokens of each of a lane's

  __device__ explicit TrellisCoder(Scratch& scratch) : s_(scratch) {}

  /// Once, before the first channel.
  __device__ static void prepare(Scratch& s) {
    const int lane = lane_id();
    if (lane < Scratch::kPastEnd) {
      *reinterpret_cast<float4*>(s.distances[kTokens + lane]) = {0, 0, 0, 0};
    }
    if (lane < kTrellisStates) s.metrics[0][lane] = lane == 0 ? 0.0f : kUnreached;
  }

  /// The channel in scratch.x, [count] and after it zeros, which it takes the place of. Begins with
  /// a barrier of the warp.
  __device__ void code(int width, TopCode top, int count) {
    __syncwarp();
    const KeySteps steps = steps_of(width, top, count);
    lattice_ = steps.trellis(search(steps, width, top.top, count));
    top_ = __fmul_rn(__fsub_rn(top.top, 1.0f), 0.5f);  // 2^(w-1) - 1
    __syncwarp();
    measure();
    __syncwarp();
    walk(count);
    __syncwarp();
    choose(count);
    __syncwarp();
    make_maps(count);
    __syncwarp();
    trace(count);
  }
  __device__ const KeySteps::Lattice& lattice() const { return lattice_; }

  /// Of the tokens 128 g + 4 lane + (0 .. 3): codes, b and in bit 7 u, a byte each, and what they
  /// are read as; unspecified past the last token.
  __device__ uint32_t codes(int g, int count, float (&y)[4]) const {
    const int own = count - 128 * g - 4 * lane_id();
    const float4 four = reinterpret_cast<const float4*>(s_.x)[32 * g + lane_id()];
    const float v[4] = {four.x, four.y, four.z, four.w};
    const uint32_t choices = reinterpret_cast<const uint32_t*>(s_.choices)[32 * g + lane_id()];
    const float size = power8(lattice_.step);
    uint32_t state = ends_[g], out = 0;
#pragma unroll
    for (int t = 3; t >= 0; --t) {
      const uint32_t from = state >> 1 | (choices >> (8 * t + state) & 1) << 2;
      const auto subset =
          static_cast<float>(subset_between(static_cast<int>(from), static_cast<int>(state)));
      const float z = nearest_of_subset(v[t], subset, top_);
      const float level = __fmaf_rn(4.0f, z, subset);
      y[t] = __fmul_rn(size, __fadd_rn(lattice_.zero, level));
      out = out << 8 | (code_byte(z) & 0x7f) | (state & 1) << 7;
      state = t < own ? from : state;
    }
    return out;
  }

 private:
  static constexpr uint32_t kWarp = 0xffffffffu;
  static constexpr int kPasses = kTokens / 32, kTerms = kTokens / 16;

  /// The sum of 16 accumulators, one a lane of each half warp.
  __device__ static float fold(float sum) {
#pragma unroll
    for (int span = 8; span > 0; span /= 2) {
      sum = __fadd_rn(sum, __shfl_xor_sync(kWarp, sum, span));
    }
    return sum;
  }

  __device__ KeySteps steps_of(int width, TopCode top, int count) const {
    float least = HUGE_VALF, most = -HUGE_VALF;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int t = lane_id() + 32 * i;
      const float x = s_.x[t];
      least = fminf(least, t < count ? x : least);
      most = fmaxf(most, t < count ? x : most);
    }
    const float lo = unordered(__reduce_min_sync(kWarp, ordered(least)));
    const float hi = unordered(__reduce_max_sync(kWarp, ordered(most)));
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kTerms; ++i) sum = __fadd_rn(sum, s_.x[lane_id() % 16 + 16 * i]);
    const float average = __fdiv_rn(fold(sum), static_cast<float>(count));
    return {__fadd_rn(lo, 0.0f), __fadd_rn(hi, 0.0f), average, width, top};
  }

  /// The range of least scalar error.
  __device__ KeySteps::Range search(const KeySteps& steps, int width, float top, int count) const {
    const int candidates = key_candidates(width);
    float x[kTerms];
#pragma unroll
    for (int i = 0; i < kTerms; ++i) x[i] = s_.x[lane_id() % 16 + 16 * i];
    float least = HUGE_VALF;
    int best = 0;
#pragma unroll 1
    for (int first = 0; first < candidates; first += 2) {
      const int k = min(first + lane_id() / 16, candidates - 1);  // one twice, where they are odd
      const KeySteps::Lattice lattice = steps.scalar(steps.candidate(k));
      float squares = 0.0f;
#pragma unroll
      for (int i = 0; i < kTerms; ++i) {
        const float v = __fmaf_rn(x[i], lattice.scale, lattice.offset);
        const float error = __fsub_rn(v, fminf(fmaxf(to_integer(v), 0.0f), top));
        const float square = __fmul_rn(error, error);
        squares = __fadd_rn(squares, lane_id() % 16 + 16 * i < count ? square : 0.0f);
      }
      const float size = power8(lattice.step);
      const float error = __fmul_rn(fold(squares), __fmul_rn(size, size));
      best = error < least ? k : best;
      least = fminf(error, least);
    }
    const float other = __shfl_xor_sync(kWarp, least, 16);
    const int of_other = __shfl_xor_sync(kWarp, best, 16);
    const bool take = other < least || (other == least && of_other < best);
    return steps.candidate(take ? of_other : best);
  }

  /// v in x's place, and distances: of every third token the second and the third change places,
  /// for walk.
  __device__ void measure() {
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int t = lane_id() + 32 * i;
      const float v = __fmaf_rn(s_.x[t], lattice_.scale, lattice_.offset);
      s_.x[t] = v;
      float d[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) d[j] = subset_distance(v, static_cast<float>(j), top_);
      const bool swap = t % 3 == 2;
      *reinterpret_cast<float4*>(s_.distances[t]) = {d[0], swap ? d[2] : d[1], swap ? d[1] : d[2],
                                                     d[3]};
    }
  }

  /// Distances of three tokens as lane p reads them: of the second with j ^ 2 p in j's place, of
  /// the third those of j = p and 2 + p.
  struct Three {
    float4 first;
    float2 second[2], third;

    /// at, own, other: of the first token, from its j = 0, 2 p and 2 - 2 p on.
    __device__ void load(const float* at, const float* own, const float* other) {
      first = *reinterpret_cast<const float4*>(at);
      second[0] = *reinterpret_cast<const float2*>(own + 4);
      second[1] = *reinterpret_cast<const float2*>(other + 4);
      third = *reinterpret_cast<const float2*>(own + 8);
    }
  };
  /// Metrics of this lane's four states and of the other's, before a token.
  struct States {
    float own[4], other[4];

    /// Three tokens on. single, twos, four: of the first one's metrics, where the states p, 2 p and
    /// 4 p are written, if `writes`.
    __device__ void step(const Three& now, bool writes, float* single, float* twos, float* four) {
      // State 2 i + p, from i and i + 4: one of them is this lane's.
      const float d[4] = {now.first.x, now.first.y, now.first.z, now.first.w};
      float a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = 2 * (i & 1) + (i >> 1);
        a[i] = lesser(own[i], d[j], other[i], d[j ^ 2]);
        if (writes) single[kTrellisStates + 2 * i] = a[i];
      }
      // State 4 h + 2 p + l, from 2 h + p and that + 4: a[h] and a[h + 2].
      const float e[4] = {now.second[0].x, now.second[0].y, now.second[1].x, now.second[1].y};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int l = 0; l < 2; ++l) {
          b[2 * h + l] = lesser(a[h], e[2 * l + h], a[h + 2], e[2 * (1 - l) + h]);
        }
        if (writes) {
          *reinterpret_cast<float2*>(twos + 2 * kTrellisStates + 4 * h) = {b[2 * h], b[2 * h + 1]};
        }
      }
      // State 4 p + 2 h + l, from 2 p + h and that + 4: b[h] and b[h + 2].
      const float f[2] = {now.third.x, now.third.y};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int l = 0; l < 2; ++l) {
          own[2 * h + l] = lesser(b[h], f[h ^ l], b[h + 2], f[1 ^ h ^ l]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) other[i] = __shfl_xor_sync(kWarp, own[i], 1);
      if (writes) {
        *reinterpret_cast<float4*>(four + 3 * kTrellisStates) = {own[0], own[1], own[2], own[3]};
      }
    }
    __device__ static float lesser(float a, float x, float b, float y) {
      return fminf(__fadd_rn(a, x), __fadd_rn(b, y));
    }
  };
  /// Leaves the metrics before every token, and before some past the last. Six at a time: the
  /// distances of three are loaded while three are walked.
  __device__ void walk(int count) {
    const int p = lane_id() & 1;
    const bool writes = lane_id() < 2;
    States states;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      states.own[i] = i == 0 && p == 0 ? 0.0f : kUnreached;
      states.other[i] = i == 0 && p == 1 ? 0.0f : kUnreached;
    }
    const float *at = s_.distances[0], *own = at + 2 * p, *other = at + 2 - 2 * p;
    float* to = s_.metrics[0];
    float *single = to + p, *twos = to + 2 * p, *four = to + 4 * p;
    constexpr int kFrom = 3 * 4, kTo = 3 * kTrellisStates;
    Three even, odd;
    even.load(at, own, other);
#pragma unroll 1
    for (int left = count; left > 0; left -= 6) {
      odd.load(at + kFrom, own + kFrom, other + kFrom);
      states.step(even, writes, single, twos, four);
      even.load(at + 2 * kFrom, own + 2 * kFrom, other + 2 * kFrom);
      states.step(odd, writes, single + kTo, twos + kTo, four + kTo);
      at += 2 * kFrom;
      own += 2 * kFrom;
      other += 2 * kFrom;
      single += 2 * kTo;
      twos += 2 * kTo;
      four += 2 * kTo;
    }
  }

  __device__ void choose(int count) {
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int t = lane_id() + 32 * i;
      uint32_t chosen = 0;
      if (t < count) {
        const auto* rows = reinterpret_cast<const float4*>(s_.metrics[t]);
        const float4 low = rows[0], high = rows[1];
        const float4 four = *reinterpret_cast<const float4*>(s_.distances[t]);
        const bool swap = t % 3 == 2;
        chosen = trellis_choices({low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w},
                                 {four.x, swap ? four.z : four.y, swap ? four.y : four.z, four.w});
      }
      s_.choices[t] = static_cast<uint8_t>(chosen);
    }
  }

  /// Of four tokens, the state before them for each after them: a nibble each, two bits further up.
  __device__ void make_maps(int count) {
    constexpr uint32_t kSpread = 0x00204081u << 2, kPlace = 0x04040404u;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int first = 128 * g + 4 * lane_id();
      const uint32_t choices = reinterpret_cast<const uint32_t*>(s_.choices)[32 * g + lane_id()];
      uint32_t map = 0x76543210u;
#pragma unroll
      for (int t = 3; t >= 0; --t) {
        // Predecessors of the states 0 .. 3 and 4 .. 7, a byte each.
        const uint32_t low = (choices >> (8 * t) & 15) * kSpread & kPlace | 0x01010000u;
        const uint32_t high = (choices >> (8 * t + 4) & 15) * kSpread & kPlace | 0x03030202u;
        uint32_t a = __byte_perm(low, high, map), b = __byte_perm(low, high, map >> 16);
        a |= a >> 4;
        b |= b >> 4;
        if (first + t < count) map = __byte_perm(a, b, 0x6420);
      }
      s_.maps[32 * g + lane_id()] = map << 2 | map >> 30;
    }
  }

  /// Leaves the states after each lane's tokens.
  __device__ void trace(int count) {
    // Metrics are not negative: their bits compare as they do.
    const uint32_t metric = __float_as_uint(s_.metrics[count][lane_id() % kTrellisStates]);
    const uint32_t least = __reduce_min_sync(kWarp, metric);
    const int last = __ffs(static_cast<int>(__ballot_sync(kWarp, metric == least))) - 1;
    uint32_t shift = 4 * static_cast<uint32_t>(last);
#pragma unroll
    for (int g = kGroups - 1; g >= 0; --g) {
      uint32_t mine = 0;
#pragma unroll 2
      for (int n = 7; n >= 0; --n) {
        const uint4 maps = reinterpret_cast<const uint4*>(s_.maps)[8 * g + n];
        const uint32_t four[4] = {maps.x, maps.y, maps.z, maps.w};
#pragma unroll
        for (int i = 3; i >= 0; --i) {
          mine = lane_id() == 4 * n + i ? shift : mine;
          shift = __funnelshift_r(four[i], four[i], shift) & 0x1c;
        }
      }
      ends_[g] = mine >> 2;
    }
  }

  Scratch& s_;
  KeySteps::Lattice lattice_;
  float top_;
  uint32_t ends_[kGroups];
};

}  // namespace rillkv::kernels::cuda
