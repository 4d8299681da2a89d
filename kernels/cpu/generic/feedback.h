// Rounding with error feedback (step 7 of feedback.h); S: see simd_concept.h. The scalar lines
// stand above the groups of vector operations that repeat them.
//
// A register holds L tokens of one channel. Channels come kPanel at a time: what all earlier errors
// add to them is summed together, kPanel rows of one load of the errors; within the panel each
// channel then takes the errors of those just before it, and is coded. Keys and errors are
// [D, block_size] in the workspace, by position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/generic/feedback_plan.h"
#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/moment.h"
#include "kernels/cpu/generic/plane_packing.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/simd_rows.h"
#include "kernels/cpu/generic/simd_scales.h"
#include "kernels/cpu/generic/statistics.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu {
namespace {

/// keys: [D, block_size] by position, zeros after the last token.
template <class S, Dtype kType>
void transpose_keys(const PackParams& p, const uint16_t* order, float* keys) {
  constexpr int L = S::kLanes;
  uint16_t position[kMaxSimdHeadDim];
  for (int k = 0; k < p.head_dim; ++k) position[order[k]] = static_cast<uint16_t>(k);
  const uint8_t* first = first_row(p);
  const int64_t stride = row_bytes(p);
  for (int t = 0; t < p.block_size; t += L) {
    for (int c = 0; c < p.head_dim; c += L) {
      const int count = p.head_dim - c < L ? p.head_dim - c : L;
      const typename S::Part part = S::part(count);
      typename S::I tile[L];
#pragma GCC unroll 16
      for (int r = 0; r < L; ++r) {
        tile[r] = t + r < p.tokens
                      ? S::as_int(load_part_as<S, kType>(first + (t + r) * stride, c, part))
                      : S::zero_int();
      }
      S::transpose(tile);
#pragma GCC unroll 16
      for (int r = 0; r < L; ++r) {
        if (r < count) S::store_int(keys + position[c + r] * p.block_size + t, tile[r]);
      }
    }
  }
}

/// Rows k .. k + kRows - 1 of x: [kRows, kBlock]: keys, plus weights[r][j] * errors[j] for j < k in
/// ascending order. weights: row k, of `head_dim` floats; keys: row k.
template <class S, int kBlock, int kRows>
void add_errors(const float* weights, int head_dim, int k, const float* errors, const float* keys,
                float* x) {
  using F = typename S::F;
  constexpr int L = S::kLanes;
  // 16 sums of 32 registers, 8 of 16.
  constexpr int kVectors = L == 16 && kBlock >= 4 * L ? 4 : 2;
  for (int t = 0; t < kBlock; t += kVectors * L) {
    F sum[kRows][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = S::load(keys + r * kBlock + t + v * L);
    }
    const float* error = errors + t;
    for (int j = 0; j < k; ++j, error += kBlock) {
      F e[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) e[v] = S::load_once(error + v * L);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const F weight = S::broadcast_float(weights + r * head_dim + j);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] = S::fma(weight, e[v], sum[r][v]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) S::store(x + r * kBlock + t + v * L, sum[r][v]);
    }
  }
}

/// The channels of a kv head by position in the plan's order, each with what the roundings before
/// it ask for.
template <class S, int kBlock>
class FedChannels {
 public:
  void open(const PackParams& p, const FeedbackPlan& plan, void* workspace) {
    plan_ = plan;
    head_dim_ = p.head_dim;
    tokens_ = p.tokens;
    keys_ = static_cast<float*>(workspace);
    errors_ = keys_ + head_dim_ * kBlock;
    with_dtype(p.dtype, [&](auto type) { transpose_keys<S, type>(p, plan.order, keys_); });
  }
  int channel(int k) const { return plan_.order[k]; }

  /// [kBlock] what is to be coded of position k, within kMaxMagnitude, and its first number again
  /// after the last token. Positions come in ascending order, each after `coded` for all before it.
  const float* next(int k) {
    const int begin = k / kPanel * kPanel;
    const float* weights = plan_.weights + static_cast<size_t>(k) * static_cast<size_t>(head_dim_);
    if (k == begin) {
      if (head_dim_ - begin >= kPanel) {
        add_errors<S, kBlock, kPanel>(weights, head_dim_, begin, errors_, keys_ + begin * kBlock,
                                      panel_);
      } else {  // D is even
        add_errors<S, kBlock, 2>(weights, head_dim_, begin, errors_, keys_ + begin * kBlock,
                                 panel_);
      }
    }
    const F most = S::set1(format::kMaxMagnitude), least = S::set1(-format::kMaxMagnitude);
    float* x = panel_ + (k - begin) * kBlock;
    for (int t = 0; t < kBlock; t += L) {
      F sum = S::load(x + t);
      for (int j = begin; j < k; ++j) {
        sum = S::fma(S::set1(weights[j]), S::load(errors_ + j * kBlock + t), sum);
      }
      S::store(x + t, S::min(S::max(sum, least), most));
    }
    for (int t = tokens_; t < kBlock; ++t) x[t] = x[0];
    return x;
  }

  /// y: [kBlock] what a reader of position k's codes will see; after the last token anything
  /// finite.
  void coded(int k, const float* y) {
    // err = x - y
    for (int t = 0; t < kBlock; t += L) {
      S::store(errors_ + k * kBlock + t, S::sub(S::load(keys_ + k * kBlock + t), S::load(y + t)));
    }
  }

 private:
  using F = typename S::F;
  static constexpr int L = S::kLanes, kPanel = 4;

  FeedbackPlan plan_;
  int head_dim_ = 0, tokens_ = 0;
  float *keys_ = nullptr, *errors_ = nullptr;  // [D, kBlock] by position
  alignas(64) float panel_[kPanel * kBlock];
};

/// The affine channels of pack_channels_affine, in any order.
template <class S, int kBlock>
class AffineCoder {
 public:
  /// Writes what does not depend on the codes.
  AffineCoder(const PackParams& p, const uint8_t* widths, uint8_t* out)
      : head_dim_(p.head_dim), tokens_(p.tokens), widths_(widths), out_(out) {
    const int D = p.head_dim;
    std::memset(out, 0, format::channel_codes_offset(D, false));
    std::memcpy(out + format::channel_widths_offset(D, false), widths, static_cast<size_t>(D) / 2);
    const format::ChannelPlanes<uint8_t> planes = format::channel_planes(out, kBlock, D, false);
    format::Planes<uint8_t> at = planes.begin;
    for (int pair = 0; pair < D / 2; ++pair) {
      pairs_[pair] = at;
      format::advance(at, kBlock, format::planes_of_pair(widths[pair]));
    }
    const size_t end = static_cast<size_t>(planes.end - out);
    std::memset(planes.end, 0, format::align_up(end) - end);
    for (int t = 0; t < kBlock; ++t) counted_[t] = t < p.tokens ? -1 : 0;
  }

  void operator()(int c, const float* x, float* y) const {
    using F = typename S::F;
    using I = typename S::I;
    F least = S::load(x), most = least;
#pragma GCC unroll 32
    for (int v = 1; v < kRegisters; ++v) {
      least = S::min(S::load(x + v * L), least);
      most = S::max(S::load(x + v * L), most);
    }
    const int width = format::channel_width(widths_, c, head_dim_);
    const F top = S::set1(max_code(width));
    typename S::H lo_bits, step_bits;
    const Scale<S> scale = make_affine_scale<S>(
        S::set1(S::reduce_min(least)), S::set1(S::reduce_max(most)), top, lo_bits, step_bits);
    store_first(lo_bits, out_ + 2 * c);
    store_first(step_bits, out_ + format::channel_step_offset(head_dim_, false) + 2 * c);
    I codes[kRegisters];
#pragma GCC unroll 32
    for (int v = 0; v < kRegisters; ++v) {
      codes[v] = affine_code<S>(S::load(x + v * L), scale, top);
      // y = fma(step, code, lo)
      S::store(y + v * L, S::fma(scale.step, S::to_float(codes[v]), scale.lo));
    }
    if (tokens_ < kBlock) {
#pragma GCC unroll 32
      for (int v = 0; v < kRegisters; ++v) {
        codes[v] = S::bit_and(codes[v], S::load_int(counted_ + v * L));
      }
    }
    format::Planes<uint8_t> at = pairs_[c < head_dim_ / 2 ? c : c - head_dim_ / 2];
    if (c >= head_dim_ / 2) {
      format::advance(at, kBlock, format::channel_width(widths_, c - head_dim_ / 2, head_dim_));
    }
    if constexpr (kBlock >= 64) {
      pack_registers<S, kBlock>([&](int v) { return codes[v]; }, width, at);
    } else {
      alignas(64) uint8_t bytes[kBlock];
      for (int v = 0; v < kRegisters; ++v) S::store_bytes(bytes + v * L, codes[v]);
      format::pack_codes(bytes, kBlock, width, at);
    }
  }

 private:
  static constexpr int L = S::kLanes, kRegisters = kBlock / L;

  static void store_first(typename S::H x, uint8_t* to) {
    uint16_t lanes[L];
    S::store_16(lanes, x);
    std::memcpy(to, lanes, 2);
  }

  int head_dim_, tokens_;
  const uint8_t* widths_;
  uint8_t* out_;
  format::Planes<uint8_t> pairs_[kMaxSimdHeadDim / 2];
  alignas(64) int32_t counted_[kBlock];  // all bits of the tokens that there are
};

template <class S>
void pack_channels_feedback_any(const PackParams& p, const FeedbackPlan& plan,
                                const uint8_t* widths, void* workspace, uint8_t* out) {
  if (p.head_dim > kMaxSimdHeadDim) {
    return scalar::kFeedback.pack_channels_feedback(p, plan, widths, workspace, out);
  }
  with_block_size(p.block_size, [&](auto size) {
    FedChannels<S, size> channels;
    channels.open(p, plan, workspace);
    const AffineCoder<S, size> coder(p, widths, out);
    alignas(64) float y[size];
    for (int k = 0; k < p.head_dim; ++k) {
      coder(channels.channel(k), channels.next(k), y);
      channels.coded(k, y);
    }
  });
}

/// The entries of KernelTable.
template <class S>
constexpr FeedbackKernels feedback_kernels() {
  return {
      .add_moment = add_moment_any<S>,
      .plan_feedback = plan_feedback_any<S>,
      .variance = variance_any<S>,
      .pack_channels_feedback = pack_channels_feedback_any<S>,
  };
}

}  // namespace
}  // namespace rillkv::kernels::cpu
