// A block of values of policy "trellis" (kernels/trellis.h, VALUES), by one CTA: channels are coded
// along the tokens, and independently of one another.
//
//   1. A half warp a token finds its scale: lane l has the channels of accumulator l.
//   2. A thread a channel walks along the tokens with all states in registers, and leaves which
//      predecessors won in shared memory, four tokens a word; then back, and leaves codes there.
//   3. The planes, a warp a channel.
//
// At 128 tokens of 128 channels, by count: 2. 11500 cycles there, 4 warps on a scheduler each and
// about 85 instructions a token, and 4500 back, a chain of 30 a token. 1. was 10000 when it
// compared errors of a scalar quantiser; what it computes now is less and has not been counted.
// Together about a tenth of what the keys take beside it.
#pragma once

#include "kernels/cuda/pack_rows.cuh"
#include "kernels/cuda/token_rows.cuh"
#include "kernels/cuda/trellis_planes.cuh"
#include "kernels/cuda/trellis_steps.cuh"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

/// Of a half warp's lanes, one each in turn: 8 apart, 4, 2, 1.
__device__ inline float fold_half_warp(float sum) {
#pragma unroll
  for (int span = kLanes / 2; span > 0; span /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, span));
  }
  return sum;
}

/// Step 1: the scale of a token whose channels lane + 16 k are x[k], zero from the last on. Called
/// by whole warps, a token each half.
template <int kOwn>
__device__ inline int search_value_scale(const PackParams& p, const float (&x)[kOwn], int lane) {
  const int pairs = p.head_dim / 2;
  float most = 0.0f;
#pragma unroll
  for (int k = 0; k < kOwn; ++k) most = fmaxf(most, fabsf(x[k]));
#pragma unroll
  for (int span = kLanes / 2; span > 0; span /= 2) {
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, span));
  }
  const int widest = format::nearest8(__fdiv_rn(most, p.reaches[0]));
  uint32_t wide = 0;  // a bit a channel
#pragma unroll
  for (int n = 0; n < kOwn; ++n) {
    const int channel = lane + kLanes * n, pair = channel < pairs ? channel : channel - pairs;
    wide |= pair < p.wide_pairs ? 1u << n : 0u;
  }
  int best = 0;
  float least = HUGE_VALF;
  bool falls = true;  // of this half; both go on as long as one does
#pragma unroll 1
  for (int k = 0; k < kValueCandidates; ++k) {
    const int scale = max(widest - k, 0);
    const float size = power8(scale);
    float squares = 0.0f;
#pragma unroll
    for (int n = 0; n < kOwn; ++n) {
      const float reach = (wide & 1u << n) != 0 ? p.reaches[1] : p.reaches[0];
      const float beyond = fmaxf(__fmaf_rn(-size, reach, fabsf(x[n])), 0.0f);
      squares = __fmaf_rn(beyond, beyond, squares);
    }
    const float error =
        __fadd_rn(fold_half_warp(squares), __fmul_rn(p.granular, __fmul_rn(size, size)));
    falls = falls && error < least;
    if (!__any_sync(0xffffffffu, falls)) break;
    best = falls ? scale : best;
    least = falls ? error : least;
  }
  return best;
}

/// Called by all threads of a CTA.
template <typename T>
class TrellisValues {
 public:
  __device__ TrellisValues(const PackParams& p, const VirtualRows<T>& rows, int first, int tokens,
                           uint8_t* out)
      : p_(p),
        rows_(rows),
        first_(first),
        tokens_(tokens),
        out_(out),
        s_(p.head_dim, p.block_size),
        inverses_(reinterpret_cast<float*>(shared_memory)),
        weights_(reinterpret_cast<float*>(shared_memory + s_.weights)),
        codes_(reinterpret_cast<uint32_t*>(shared_memory + s_.codes)) {}

  __device__ void pack() const {
    if (p_.head_dim <= 128) {
      scales<8>();
    } else {
      scales<16>();
    }
    __syncthreads();
    const int channel = static_cast<int>(threadIdx.x);
    if (channel < p_.head_dim) code(channel);
    __syncthreads();
    write();
  }

 private:
  __device__ T element(int token, int channel) const { return rows_.row(first_ + token)[channel]; }

  template <int kOwn>
  __device__ void scales() const {
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const int half = static_cast<int>(threadIdx.x) / kLanes;
#pragma unroll 1
    for (int base = 0; base < p_.block_size; base += kPackBlockRows) {  // multiples of 32
      const int token = base + half;
      float x[kOwn];
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        const int channel = lane + kLanes * k;
        const bool there = token < tokens_ && channel < p_.head_dim;
        x[k] = there ? to_float(element(token, channel)) : 0.0f;
      }
      const int scale = search_value_scale<kOwn>(p_, x, lane);
      if (lane == 0) {
        const float size = power8(scale);
        out_[token] = static_cast<uint8_t>(token < tokens_ ? scale : 0);
        inverses_[token] = inverse_power8(scale);
        weights_[token] = __fmul_rn(size, size);
      }
    }
  }

  /// What a channel's search is for.
  struct Unit {
    float unit, middle, top;
    __device__ Unit(const PackParams& p, int channel)
        : unit(is_wide(p, channel) ? p.units[1] : p.units[0]) {
      const int width = p.value_bits + (is_wide(p, channel) ? 1 : 0);
      middle = __fmul_rn(0.5f, max_code(width + 1));
      top = max_code(width - 1);
    }
    __device__ float of(float x, float inverse) const {
      return __fmaf_rn(x, __fmul_rn(inverse, unit), middle);
    }
  };
  __device__ static bool is_wide(const PackParams& p, int channel) {
    const int pairs = p.head_dim / 2;
    return (channel < pairs ? channel : channel - pairs) < p.wide_pairs;
  }

  /// Step 2 of a channel, by this thread.
  __device__ void code(int channel) const {
    const Unit unit(p_, channel);
    uint32_t* words = codes_ + channel;
    float metrics[kTrellisStates];
#pragma unroll
    for (int n = 0; n < kTrellisStates; ++n) metrics[n] = n == 0 ? 0.0f : kUnreached;
    // A word's elements are under way while those before them are coded.
    T next[4];
    const auto load = [&](int first) {
#pragma unroll
      for (int i = 0; i < 4; ++i) next[i] = element(min(first + i, tokens_ - 1), channel);
    };
    load(0);
#pragma unroll 1
    for (int first = 0; first < tokens_; first += 4) {
      const T now[4] = {next[0], next[1], next[2], next[3]};
      load(first + 4);
      uint32_t word = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (first + i >= tokens_) continue;
        const float v = unit.of(to_float(now[i]), inverses_[first + i]);
        const float weight = weights_[first + i];
        float distances[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          distances[j] = __fmul_rn(subset_distance(v, static_cast<float>(j), unit.top), weight);
        }
        word |= step(metrics, distances) << 8 * i;
      }
      words[first / 4 * s_.code_stride] = word;
    }
    int state = 0;
    float least = metrics[0];
#pragma unroll
    for (int n = 1; n < kTrellisStates; ++n) {
      state = metrics[n] < least ? n : state;
      least = fminf(metrics[n], least);
    }
    trace(unit, words, channel, static_cast<uint32_t>(state));
  }

  /// One token; returns trellis_choices.
  __device__ static uint32_t step(float (&metrics)[kTrellisStates], const float (&distances)[4]) {
    float next[kTrellisStates];
    uint32_t chosen = 0;
#pragma unroll
    for (int n = 0; n < kTrellisStates; ++n) {
      const int from = n / 2, other = n / 2 + 4;
      const float here = __fadd_rn(metrics[from], distances[subset_between(from, n)]);
      const float there = __fadd_rn(metrics[other], distances[subset_between(other, n)]);
      chosen |= there < here ? 1u << n : 0u;
      next[n] = fminf(here, there);
    }
#pragma unroll
    for (int n = 0; n < kTrellisStates; ++n) metrics[n] = next[n];
    return chosen;
  }

  /// From the state after the last token: codes in the choices' place, and zeros after the last.
  __device__ void trace(const Unit& unit, uint32_t* words, int channel, uint32_t state) const {
    int first = p_.block_size - 4;
    for (; first >= tokens_; first -= 4) words[first / 4 * s_.code_stride] = 0;
    T next[4];
    const auto load = [&](int from) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        next[i] = element(max(min(from + i, tokens_ - 1), 0), channel);
      }
    };
    load(first);
#pragma unroll 1
    for (; first >= 0; first -= 4) {
      const T now[4] = {next[0], next[1], next[2], next[3]};
      load(first - 4);
      const uint32_t choices = words[first / 4 * s_.code_stride];
      uint32_t word = 0;
#pragma unroll
      for (int i = 3; i >= 0; --i) {
        if (first + i >= tokens_) continue;
        const uint32_t from = state >> 1 | (choices >> (8 * i + state) & 1) << 2;
        const auto subset =
            static_cast<float>(subset_between(static_cast<int>(from), static_cast<int>(state)));
        const float v = unit.of(to_float(now[i]), inverses_[first + i]);
        const float z = nearest_of_subset(v, subset, unit.top);
        word |= ((code_byte(z) & 0x7f) | (state & 1) << 7) << 8 * i;
        state = from;
      }
      words[first / 4 * s_.code_stride] = word;
    }
  }

  __device__ void write() const {
    const int size = p_.block_size, dim = p_.head_dim, width = p_.value_bits;
    const size_t path_at = format::trellis_value_path_offset(size);
    uint8_t* planes = out_ + format::trellis_codes_offset(path_at, dim, size);
    const format::PlaneCounts all = format::trellis_value_planes(dim / 2, width, p_.wide_pairs);
    fill_zero(out_ + size, out_ + path_at);
    fill_zero(planes + format::codes_bytes(size, all), out_ + p_.value_bytes);
    for (int n = warp_id(); n < dim; n += kPackBlockThreads / 32) {
      const int channel = format::channel_at(n, dim);
      const int own = format::trellis_value_width(n / 2, width, p_.wide_pairs) - 1;
      const format::PlaneCounts before = format::trellis_value_planes(n / 2, width, p_.wide_pairs) +
                                         static_cast<uint32_t>(n % 2) * format::planes_of(own);
      const format::PlaneOffsets at = format::plane_offsets(before, all, size);
      uint8_t* path = out_ + path_at + n * (size / 8);
      const uint32_t* words = codes_ + channel;
      const int stride = s_.code_stride;
      if (size == kTransposedTokens) {
        write_trellis_planes(words[lane_id() * stride], own, path, planes, at);
      } else {
        write_trellis_planes([=](int t) { return words[t / 4 * stride] >> 8 * (t % 4) & 0xff; },
                             own, size, path, planes, at);
      }
    }
  }

  const PackParams& p_;
  const VirtualRows<T>& rows_;
  const int first_, tokens_;
  uint8_t* out_;
  const TrellisValuesShared s_;
  float *inverses_, *weights_;
  uint32_t* codes_;
};

}  // namespace
}  // namespace rillkv::kernels::cuda
