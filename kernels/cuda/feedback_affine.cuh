// Rounding of a tile's positions to affine codes (policy "adaptive"): feedback_tile.cuh, step 4.
#pragma once

#include "kernels/cuda/channel_planes.cuh"
#include "kernels/cuda/feedback_tile.cuh"

namespace rillkv::kernels::cuda {
namespace {

/// CHANNEL BLOCK of packed_format.h.
struct AffineBlock {
  static constexpr int kLess = 0;  // bits that a plane's code has less than a width

  __device__ static size_t widths_offset(int head_dim) {
    return format::channel_widths_offset(head_dim, false);
  }
  /// Where what comes after the widths begins, and the planes of codes.
  __device__ static size_t planes_offset(int head_dim) {
    return format::channel_codes_offset(head_dim, false);
  }
  __device__ static size_t codes_offset(int head_dim, int) { return planes_offset(head_dim); }
};

/// Called by all threads of a CTA.
template <typename T, int D>
class FeedbackAffine : FeedbackTile<T, D, AffineBlock> {
  using Base = FeedbackTile<T, D, AffineBlock>;
  using Shared = typename Base::Shared;
  using Base::add_error;
  using Base::add_errors;
  using Base::channel_at_position;
  using Base::codes;
  using Base::errors;
  using Base::has_positions;
  using Base::kErrors;
  using Base::keys;
  using Base::kHalf;
  using Base::kPanel;
  using Base::kParts;
  using Base::kTokens;
  using Base::kTurns;
  using Base::kWarp;
  using Base::out_;
  using Base::plane_place;
  using Base::token_mask;
  using Base::x_;

 public:
  using Base::Base;
  __device__ void pack() {
    this->prepare();
    take_turns();
  }

 private:
  __device__ void take_turns() {
#pragma unroll 1
    for (int turn = 0; turn < kTurns; ++turn) {
      unrolled<0, kParts, 1>([&](auto part) {
        constexpr int kFirst = part.value * kErrors;  // of the turn's positions
        __syncthreads();
        const int position = kPanel * turn + kFirst;
        if (!has_positions()) return;
        // The warp has its own errors already.
        if (position > 0 && (warp_id() > turn || (warp_id() == turn && kFirst == 0))) {
          add_errors(position - kErrors);
        }
        if (warp_id() == turn) {
          unrolled<kFirst, kFirst + kErrors, 1>([&](auto i) { round<i.value>(kPanel * turn); });
        }
        if (warp_id() == turn - 1) {
          unrolled<kFirst, kFirst + kErrors, 1>(
              [&](auto i) { write<i.value>(kPanel * (turn - 1)); });
        }
      });
    }
    __syncthreads();  // the planes' places are known, if this is the first turn
    if (warp_id() == kTurns - 1) {
      unrolled<0, kPanel, 1>([&](auto i) { write<i.value>(D - kPanel); });
    }
  }

  /// Position i of this warp's, whose first is `first`: of this warp's number less were known than
  /// of the turn's, and more computed before the turns and kept.
  template <int i>
  __device__ void round(int first) {
    const int position = first + i;
    const int channel = channel_at_position(position);
    const TopCode top = shared_at<const TopCode>(Shared::kTops)[channel % kHalf];
    const auto* row = shared_at<const float>(Shared::kWeights) + Shared::weight_at(position, first);
    float weights[kPanel];
#pragma unroll
    for (int n = i + 1; n < kPanel; ++n) weights[n] = row[n];

    float x[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) x[t] = within_magnitude(x_[i][t]);
    const float least = fminf(fminf(x[0], x[1]), fminf(x[2], x[3]));
    const float most = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    const float lo = unordered(__reduce_min_sync(kWarp, ordered(least)));
    const float hi = unordered(__reduce_max_sync(kWarp, ordered(most)));
    const ChainScale scale(lo, hi, top);
    float key[4], error[4];
    keys(i, key);
    uint32_t bits[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      bits[t] = code_byte(scale.quotient(x[t]));
      const float code = __fsub_rn(__uint_as_float(bits[t]), kCodeShift);
      error[t] = __fsub_rn(key[t], __fmaf_rn(scale.step, code, scale.lo));
    }
#pragma unroll
    for (int n = i + 1; n < kPanel; ++n) {
      add_error(n, weights[n], {error[0], error[1], error[2], error[3]});
    }
    static_assert(2 * kErrors == kPanel);
    reinterpret_cast<float4*>(errors(i))[lane_id()] = {error[0], error[1], error[2], error[3]};
    codes(position) = four_bytes(bits[0], bits[1], bits[2], bits[3]);
    if (lane_id() == 0) {
      auto* lo_out = reinterpret_cast<__half*>(out_);
      auto* step_out = reinterpret_cast<__half*>(out_ + format::channel_step_offset(D, false));
      lo_out[channel] = __float2half_rn(scale.lo);  // exactly
      step_out[channel] = __float2half_rn(scale.step);
    }
  }

  /// The planes of the same.
  template <int i>
  __device__ void write(int first) const {
    const int position = first + i;
    const int channel = channel_at_position(position);
    const int width = shared_at<const uint8_t>(Shared::kWidths)[channel % kHalf];
    const auto [before, all] = plane_place(channel, width);
    write_channel_planes(codes(position) & token_mask(), width, plane_offsets(before, all, kTokens),
                         out_ + AffineBlock::planes_offset(D));
  }
};

}  // namespace
}  // namespace rillkv::kernels::cuda
