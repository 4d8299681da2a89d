// Rounding of a tile's positions to trellis codes (policy "trellis"): feedback_tile.cuh, step 4,
// each position by trellis_coder.cuh. The other warps wait: of a position's 3500 cycles they could
// share the 500 of the search for a range and of distances, at a barrier of 40 each way.
#pragma once

#include "kernels/cuda/feedback_tile.cuh"
#include "kernels/cuda/trellis_coder.cuh"
#include "kernels/cuda/trellis_planes.cuh"

namespace rillkv::kernels::cuda {
namespace {

/// TRELLIS KEY BLOCK of packed_format.h.
struct TrellisKeyBlock {
  static constexpr int kLess = 1;  // bits that a plane's code has less than a width

  __device__ static size_t widths_offset(int head_dim) {
    return format::trellis_widths_offset(head_dim);
  }
  /// Where what comes after the widths begins, and the planes of codes.
  __device__ static size_t planes_offset(int head_dim) {
    return format::trellis_key_path_offset(head_dim);
  }
  __device__ static size_t codes_offset(int head_dim, int block_size) {
    return format::trellis_codes_offset(planes_offset(head_dim), head_dim, block_size);
  }
  /// By one thread.
  __device__ static void write_lattice(const KeySteps::Lattice& lattice, int channel, int head_dim,
                                       uint8_t* out) {
    reinterpret_cast<int16_t*>(out)[channel] =
        static_cast<int16_t>(__float2int_rn(lattice.zero));  // exactly
    out[format::trellis_step_offset(head_dim) + static_cast<size_t>(channel)] =
        static_cast<uint8_t>(lattice.step);
  }
};

/// Called by all threads of a CTA.
template <typename T, int D>
class FeedbackTrellis : FeedbackTile<T, D, TrellisKeyBlock> {
  using Base = FeedbackTile<T, D, TrellisKeyBlock>;
  using Shared = typename Base::Shared;
  using Coder = TrellisCoder<Shared::kTokens>;
  using Base::add_errors;
  using Base::channel_at_position;
  using Base::codes;
  using Base::errors;
  using Base::has_positions;
  using Base::kErrors;
  using Base::keys;
  using Base::kHalf;
  using Base::kPanel;
  using Base::kTokens;
  using Base::kTurns;
  using Base::out_;
  using Base::plane_place;
  using Base::token_mask;
  using Base::tokens_;
  using Base::x_;

 public:
  using Base::Base;
  __device__ void pack() {
    this->prepare();
    if (warp_id() == 0) Coder::prepare(scratch());
    take_turns();
  }

 private:
  __device__ static typename Coder::Scratch& scratch() {
    return *shared_at<typename Coder::Scratch>(Shared::kTrellis);
  }

  /// As FeedbackAffine's, but a position's code is too long to be there for each.
  __device__ void take_turns() {
#pragma unroll 1
    for (int position = 0; position < D; position += kErrors) {
      const int turn = position / kPanel, own = position % kPanel;
      __syncthreads();
      if (!has_positions()) continue;
      if (position > 0 && (warp_id() > turn || (warp_id() == turn && own == 0))) {
        add_errors(position - kErrors);
      }
      if (warp_id() == turn) {
#pragma unroll 1
        for (int i = own; i < own + kErrors; ++i) round(i, kPanel * turn);
      }
      if (warp_id() == turn - 1) {
#pragma unroll 1
        for (int i = own; i < own + kErrors; ++i) write(kPanel * (turn - 1) + i);
      }
    }
    __syncthreads();  // the planes' places are known, if this is the first turn
    if (warp_id() == kTurns - 1) {
#pragma unroll 1
      for (int i = 0; i < kPanel; ++i) write(D - kPanel + i);
    }
  }

  /// Position i of this warp's, whose first is `first`.
  __device__ void round(int i, int first) {
    const int position = first + i, channel = channel_at_position(position);
    const TopCode top = shared_at<const TopCode>(Shared::kTops)[channel % kHalf];
    const int width = shared_at<const uint8_t>(Shared::kWidths)[channel % kHalf];
    float x[4], key[4];
#pragma unroll
    for (int n = 0; n < kPanel; ++n) {  // a register's number is no variable
      float key_of[4];
      keys(n, key_of);
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        x[t] = n == 0 || n == i ? x_[n][t] : x[t];
        key[t] = n == 0 || n == i ? key_of[t] : key[t];
      }
    }
    const int left = tokens_ - 4 * lane_id();
#pragma unroll
    for (int t = 0; t < 4; ++t) x[t] = t < left ? within_magnitude(x[t]) : 0.0f;
    reinterpret_cast<float4*>(scratch().x)[lane_id()] = {x[0], x[1], x[2], x[3]};
    Coder coder(scratch());
    coder.code(width, top, tokens_);
    float y[4];
    codes(position) = coder.codes(0, tokens_, y);
    const float4 error = {__fsub_rn(key[0], y[0]), __fsub_rn(key[1], y[1]), __fsub_rn(key[2], y[2]),
                          __fsub_rn(key[3], y[3])};
    // Of positions up to this one the weights are 0.
    const auto* row = reinterpret_cast<const float4*>(shared_at<float>(Shared::kWeights) +
                                                      Shared::weight_at(position, first));
    const float4 low = row[0], high = row[1];
    const float weights[kPanel] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int n = 1; n < kPanel; ++n) this->add_error(n, weights[n], error);
    static_assert(2 * kErrors == kPanel);
    reinterpret_cast<float4*>(errors(i))[lane_id()] = error;
    if (lane_id() == 0) TrellisKeyBlock::write_lattice(coder.lattice(), channel, D, out_);
    __syncwarp();  // what of the scratch is read is read
  }

  /// Its planes.
  __device__ void write(int position) const {
    const int channel = channel_at_position(position);
    const int width = shared_at<const uint8_t>(Shared::kWidths)[channel % kHalf];
    const auto [before, all] = plane_place(channel, width - 1);
    const uint32_t own = codes(position) & token_mask();
    uint8_t* path = out_ + TrellisKeyBlock::planes_offset(D) +
                    static_cast<size_t>(format::channel_position(channel, D)) * (kTokens / 8);
    write_trellis_planes(own, width - 1, path, out_ + TrellisKeyBlock::codes_offset(D, kTokens),
                         plane_offsets(before, all, kTokens));
  }
};

}  // namespace
}  // namespace rillkv::kernels::cuda
