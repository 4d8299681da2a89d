// A key block of rillkv_pack_feedback_* or rillkv_pack_trellis_* that is a tile: up to 128 tokens
// of 64 or 128 elements of 16 bits (kernels/feedback.h). One CTA: positions wait for one another.
//
//   1. The keys, transposed, to shared memory; then a thread a channel sums its variance, while one
//      warp weighs the pairs and puts them in order.
//   2. The keys to registers: warp w has the positions 8 w .. 8 w + 7, and lane l the tokens 4 l ..
//      4 l + 3 of them. M to shared memory, in the tile's place; its factors (feedback_factor.cuh).
//   3. One warp chooses the widths (choose_widths.cuh).
//   4. The warps take turns, kErrors positions from barrier to barrier: the one whose turn it is
//      codes its positions and leaves their errors in shared memory, those after it add the errors
//      that were left before, the one before it writes its planes. (feedback_affine.cuh,
//      feedback_trellis.cuh)
//
// A turn is a chain: a position's range is known when the errors before it are.
#pragma once

#include "kernels/cuda/choose_widths.cuh"
#include "kernels/cuda/code_planes.cuh"
#include "kernels/cuda/feedback_factor.cuh"
#include "kernels/cuda/feedback_order.cuh"
#include "kernels/cuda/feedback_scale.cuh"
#include "kernels/cuda/pack_rows.cuh"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

template <typename X>
__device__ X* shared_at(int offset) {
  return reinterpret_cast<X*>(shared_memory + offset);
}

/// All but the rounding, step 4. Block: where a block has its widths and planes (AffineBlock,
/// TrellisKeyBlock). Called by all threads of a CTA.
template <typename T, int D, typename Block>
class FeedbackTile {
 public:
  using Shared = FeedbackTileShared<D>;

  /// tokens: 1 .. 128. moment: of the kv head and block.
  __device__ FeedbackTile(const PackParams& p, const VirtualRows<T>& rows, int first, int tokens,
                          const float* moment, uint8_t* out)
      : p_(p), rows_(rows), first_(first), tokens_(tokens), moment_(moment), out_(out) {}

 protected:
  /// Ends without a barrier: where planes lie is known behind the next.
  __device__ void prepare() {
    load();
    __syncthreads();
    if (warp_id() < D / 32) {
      sum_variance(static_cast<int>(threadIdx.x));
    } else if (warp_id() == D / 32) {
      order_pairs(moment_, p_.distances, kHalf, order());
      __syncwarp();
      for (int k = lane_id(); k < D; k += 32) {
        const int pair = order().pairs[k / 2];
        shared_at<float>(Shared::kLeast)[k] = __fmul_rn(kLeastSensitivity, order().damping[pair]);
      }
    }
    __syncthreads();
    if (has_positions()) read_keys();
    __syncthreads();
    make_matrix();
    FeedbackFactor<D>::run(shared_memory);
    __syncthreads();
    if (warp_id() == 0) choose_widths();
    __syncthreads();
    if (warp_id() == kWarps - 1) count_planes();
#pragma unroll
    for (int i = 0; i < kPanel; ++i) keys(i, x_[i]);
  }

  static constexpr uint32_t kWarp = 0xffffffffu;
  static constexpr int kHalf = Shared::kHalf, kPanel = Shared::kPanel, kTurns = D / kPanel;
  static constexpr int kErrors = Shared::kErrors, kParts = kPanel / kErrors;
  static constexpr int kWarps = kPackBlockThreads / 32, kTokens = Shared::kTokens;
  static constexpr int kOwnPairs = PairGains<D>::kOwn;
  static_assert(kTurns <= kWarps && D / 32 < kWarps);

  __device__ static PairOrder order() {
    return {shared_at<float>(Shared::kEnergies), shared_at<float>(Shared::kDamping),
            shared_at<uint16_t>(Shared::kPairs), shared_at<uint16_t>(Shared::kRanks),
            shared_at<int>(Shared::kUsable)};
  }
  __device__ static bool has_positions() { return warp_id() < kTurns; }
  __device__ static int channel_at_position(int k) {
    return ordered_channel(order().pairs, k, kHalf);
  }

  // ---- keys ----

  /// Channel c's tokens to a row of the tile. Rows past the last token are the first's: they change
  /// no extreme.
  __device__ void load() const {
    auto* tile = shared_at<T>(Shared::kTile);
    const int token = static_cast<int>(threadIdx.x) % kTokens;
    const int from = first_ + (token < tokens_ ? token : 0);
    constexpr int kAtOnce = kPackBlockThreads / kTokens;
    const int part = static_cast<int>(threadIdx.x) / kTokens;
    if (rows_.wide(D)) {
      constexpr int kChunks = D / 8 / kAtOnce;
      const auto* row = reinterpret_cast<const uint4*>(rows_.row(from)) + part;
      Chunk<T> x[kChunks];
#pragma unroll
      for (int n = 0; n < kChunks; ++n) x[n].bits = row[n * kAtOnce];
#pragma unroll
      for (int n = 0; n < kChunks; ++n) {
        T* to = tile + 8 * (n * kAtOnce + part) * Shared::kTokenStride + token;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          to[i * Shared::kTokenStride] = reinterpret_cast<const T*>(&x[n].bits)[i];
        }
      }
    } else {
      const T* row = rows_.row(from);
#pragma unroll 8
      for (int c = part; c < D; c += kAtOnce) tile[c * Shared::kTokenStride + token] = row[c];
    }
  }

  /// use(x) for the tokens of a channel, in order.
  template <typename Use>
  __device__ void each_token(int channel, const Use& use) const {
    const T* row = shared_at<T>(Shared::kTile) + channel * Shared::kTokenStride;
    int t = 0;
#pragma unroll 4
    for (; t + 8 <= tokens_; t += 8) {
      const Chunk<T> eight = {*reinterpret_cast<const uint4*>(row + t)};
#pragma unroll
      for (int i = 0; i < 8; ++i) use(eight.element(i));
    }
    for (; t < tokens_; ++t) use(to_float(row[t]));
  }
  __device__ void sum_variance(int channel) const {
    const auto count = static_cast<float>(tokens_);
    float sum = 0.0f, squares = 0.0f;
    each_token(channel, [&](float x) { sum = __fadd_rn(sum, x); });
    const float mean = __fdiv_rn(sum, count);
    each_token(channel, [&](float x) {
      const float from_mean = __fsub_rn(x, mean);
      squares = __fmaf_rn(from_mean, from_mean, squares);
    });
    shared_at<float>(Shared::kVariances)[channel] = __fdiv_rn(squares, count);
  }
  __device__ void read_keys() {
#pragma unroll
    for (int i = 0; i < kPanel; ++i) {
      const int channel = channel_at_position(kPanel * warp_id() + i);
      keys_[i] = *reinterpret_cast<const uint2*>(shared_at<T>(Shared::kTile) +
                                                 channel * Shared::kTokenStride + 4 * lane_id());
    }
  }
  /// Position i of this warp's, as they are. Unpacked where they are used: there are no registers
  /// to keep them in from what is coded first to its error.
  __device__ void keys(int i, float (&x)[4]) const {
    const float2 low = Pair<T>::unpack(opaque(keys_[i].x));
    const float2 high = Pair<T>::unpack(opaque(keys_[i].y));
    x[0] = low.x;
    x[1] = low.y;
    x[2] = high.x;
    x[3] = high.y;
  }

  // ---- the plan ----

  /// Ranks r and half - 1 - r have half + 1 pairs of ranks together.
  __device__ void make_matrix() const {
    constexpr int kLength = kHalf + 1;
    auto* matrix = shared_at<float>(Shared::kMatrix);
#pragma unroll 2
    for (int unit = static_cast<int>(threadIdx.x); unit < kHalf / 2 * kLength;
         unit += kPackBlockThreads) {
      const int line = unit / kLength, place = unit % kLength;
      const int row = place <= line ? line : kHalf - 1 - line;
      const int column = place <= line ? place : place - line - 1;
      ordered_hessian(moment_, p_.distances, kHalf, order(), row, column,
                      [&](int i, int j, float x, float y) {
                        *reinterpret_cast<float2*>(matrix + Shared::matrix_row(i) + j) = {x, y};
                      });
      // What the factorisation reads together with what it needs.
      if (row / (kMomentTile / 2) == column / (kMomentTile / 2) && row != column) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          *reinterpret_cast<float2*>(matrix + Shared::matrix_row(2 * column + i) + 2 * row) = {0,
                                                                                               0};
        }
      }
    }
  }

  __device__ void choose_widths() const {
    const auto* sensitivities = shared_at<const float>(Shared::kSensitivities);
    float weight[kOwnPairs];
#pragma unroll
    for (int k = 0; k < kOwnPairs; ++k) {
      const int rank = order().ranks[lane_id() + 32 * k];
      weight[k] = __fadd_rn(sensitivities[2 * rank], sensitivities[2 * rank + 1]);
    }
    int levels[kOwnPairs];
    PairGains<D>(p_, shared_at<float>(Shared::kVariances), weight)
        .choose(p_.increments, shared_at<uint32_t>(Shared::kKeys), levels);
    uint8_t* widths = out_ + Block::widths_offset(D);
#pragma unroll
    for (int k = 0; k < kOwnPairs; ++k) {
      const int pair = lane_id() + 32 * k, width = p_.classes[levels[k]];
      shared_at<uint8_t>(Shared::kWidths)[pair] = static_cast<uint8_t>(width);
      shared_at<TopCode>(Shared::kTops)[pair] = top_code(width);
      widths[pair] = format::pair_widths(width, width);
    }
    fill_padding(widths + kHalf, out_ + Block::planes_offset(D));
  }
  __device__ static void fill_padding(uint8_t* begin, uint8_t* end) {
    for (uint8_t* to = begin + lane_id(); to < end; to += 32) *to = 0;
  }

  /// plane_counts of the pairs before each, of which a channel has half.
  __device__ void count_planes() const {
    const auto* widths = shared_at<const uint8_t>(Shared::kWidths);
    auto* planes = shared_at<uint32_t>(Shared::kPlanes);
    uint32_t own[kOwnPairs], sum = 0;
#pragma unroll
    for (int k = 0; k < kOwnPairs; ++k) {
      own[k] = 2 * plane_counts(widths[lane_id() * kOwnPairs + k] - Block::kLess);
      sum += own[k];
    }
    const uint32_t of_lane = sum;
#pragma unroll
    for (int span = 1; span < 32; span *= 2) {
      const uint32_t other = __shfl_up_sync(kWarp, sum, span);
      if (lane_id() >= span) sum += other;
    }
    uint32_t before = sum - of_lane;
#pragma unroll
    for (int k = 0; k < kOwnPairs; ++k) {
      planes[lane_id() * kOwnPairs + k] = before;
      before += own[k];
    }
    const uint32_t total = __shfl_sync(kWarp, sum, 31);
    if (lane_id() == 0) planes[kHalf] = total;
    const size_t end = Block::codes_offset(D, kTokens) + plane_offsets(total, total, kTokens).bits;
    fill_padding(out_ + end, out_ + format::align_up(end));
  }

  // ---- rounding ----

  /// Errors of a position, [128].
  __device__ static float* errors(int position) {
    return shared_at<float>(Shared::kErrorsAt) + position % (2 * kErrors) * kTokens;
  }
  /// This lane's codes of a position of this warp's, a byte each.
  __device__ static uint32_t& codes(int position) {
    return shared_at<uint32_t>(Shared::kCodes)[position * 32 + lane_id()];
  }
  /// Of positions first .. first + kErrors - 1, to all of this warp's.
  __device__ void add_errors(int first) {
#pragma unroll
    for (int n = 0; n < kErrors; ++n) {
      const float4 error = reinterpret_cast<const float4*>(errors(first + n))[lane_id()];
      const auto* row = reinterpret_cast<const float4*>(
          shared_at<float>(Shared::kWeights) + Shared::weight_at(first + n, kPanel * warp_id()));
      const float4 low = row[0], high = row[1];
      const float weights[kPanel] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int i = 0; i < kPanel; ++i) add_error(i, weights[i], error);
    }
  }
  __device__ void add_error(int i, float weight, float4 error) {
    x_[i][0] = __fmaf_rn(weight, error.x, x_[i][0]);
    x_[i][1] = __fmaf_rn(weight, error.y, x_[i][1]);
    x_[i][2] = __fmaf_rn(weight, error.z, x_[i][2]);
    x_[i][3] = __fmaf_rn(weight, error.w, x_[i][3]);
  }

  /// Planes of codes before a channel's, and those of all.
  struct PlanePlace {
    uint32_t before, all;
  };
  __device__ static PlanePlace plane_place(int channel, int code_width) {
    const auto* planes = shared_at<const uint32_t>(Shared::kPlanes);
    return {planes[channel % kHalf] +
                (channel < kHalf ? 0 : plane_counts(static_cast<uint32_t>(code_width))),
            planes[kHalf]};
  }
  /// Bytes of codes() that are a token's.
  __device__ uint32_t token_mask() const { return first_bytes(tokens_ - 4 * lane_id()); }

  const PackParams& p_;
  const VirtualRows<T>& rows_;
  const int first_, tokens_;
  const float* moment_;
  uint8_t* out_;
  uint2 keys_[kPanel];
  float x_[kPanel][4];  // what is coded: keys, and what errors before add to them
};

}  // namespace
}  // namespace rillkv::kernels::cuda
