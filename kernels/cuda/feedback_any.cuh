// A key block of rillkv_pack_feedback_* or rillkv_pack_trellis_* of any shape and dtype
// (kernels/feedback.h; feedback_tile.cuh has the usual ones): the matrix and the errors in global
// memory, position by position. One CTA; a token's errors are its thread's.
#pragma once

#include "kernels/cuda/channel_planes.cuh"
#include "kernels/cuda/feedback_order.cuh"
#include "kernels/cuda/feedback_scale.cuh"
#include "kernels/cuda/pack_keys.cuh"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

/// Called by all threads of a CTA. Its blocks are those of policy "adaptive" (TrellisAny: of policy
/// "trellis").
template <typename T>
class FeedbackAny {
 public:
  /// tokens: 1 .. block_size. moment: of the kv head and block; scratch: feedback_scratch_floats.
  __device__ FeedbackAny(const PackParams& p, const VirtualRows<T>& rows, int first, int tokens,
                         const float* moment, float* scratch, uint8_t* out)
      : p_(p),
        rows_(rows),
        first_(first),
        tokens_(tokens),
        dim_(p.head_dim),
        half_(p.head_dim / 2),
        moment_(moment),
        matrix_(scratch),
        errors_(scratch + p.head_dim * p.head_dim),
        out_(out),
        s_(shared_memory, p.head_dim, p.block_size) {}

  __device__ void pack() {
    plan();
    scan_plane_counts(s_.codes.widths, dim_, s_.codes.offsets);
    for (int k = 0; k < dim_; ++k) round(k);
    __syncthreads();
    write_planes(dim_, p_.block_size, s_.codes, false, out_);
  }

 protected:
  /// Steps 1 to 6.
  __device__ void plan() {
    for (int c = thread(); c < dim_; c += kPackBlockThreads) s_.spread[c] = variance(c);
    const PairOrder order = {s_.energies, s_.damping, s_.pairs, s_.ranks, s_.usable};
    if (warp_id() == 0) order_pairs(moment_, p_.distances, half_, order);
    __syncthreads();
    for (int unit = thread(); unit < half_ * half_; unit += kPackBlockThreads) {
      if (unit % half_ > unit / half_) continue;
      ordered_hessian(moment_, p_.distances, half_, order, unit / half_, unit % half_,
                      [&](int i, int j, float x, float y) {
                        matrix_[i * dim_ + j] = x;
                        matrix_[i * dim_ + j + 1] = y;
                      });
    }
    for (int k = dim_ - 1; k >= 0; --k) eliminate(k);
    __syncthreads();
    fill_widths(p_, s_.codes, [&](int pair) {
      const int rank = s_.ranks[pair];
      return __fmul_rn(__fadd_rn(s_.spread[pair], s_.spread[pair + half_]),
                       __fadd_rn(s_.sensitivities[2 * rank], s_.sensitivities[2 * rank + 1]));
    });
  }
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ float key(int token, int channel) const {
    return to_float(rows_.row(first_ + token)[channel]);
  }

  __device__ float variance(int channel) const {
    const auto count = static_cast<float>(tokens_);
    float sum = 0.0f, squares = 0.0f;
#pragma unroll 8
    for (int t = 0; t < tokens_; ++t) sum = __fadd_rn(sum, key(t, channel));
    const float mean = __fdiv_rn(sum, count);
#pragma unroll 8
    for (int t = 0; t < tokens_; ++t) {
      const float from_mean = __fsub_rn(key(t, channel), mean);
      squares = __fmaf_rn(from_mean, from_mean, squares);
    }
    return __fdiv_rn(squares, count);
  }

  /// Step 5 of position k.
  __device__ void eliminate(int k) const {
    __syncthreads();
    float* row = matrix_ + k * dim_;
    const float pivot = fmaxf(row[k], __fmul_rn(kLeastSensitivity, s_.damping[s_.pairs[k / 2]]));
    if (thread() == 0) s_.sensitivities[k] = pivot;
    for (int j = thread(); j < k; j += kPackBlockThreads) {
      s_.row[j] = row[j];
      row[j] = s_.weights[j] = __fdiv_rn(row[j], pivot);
    }
    __syncthreads();
    for (int i = warp_id(); i < k; i += kPackBlockThreads / 32) {
      float* to = matrix_ + i * dim_;
      const float weight = -s_.weights[i];
      for (int j = lane_id(); j <= i; j += 32) to[j] = __fmaf_rn(weight, s_.row[j], to[j]);
    }
  }

  /// Step 7: what is coded of position k and this thread's token, which has one; and its key.
  struct Coded {
    float x, as_is;
  };
  __device__ Coded fed_back(int k, int channel) const {
    const int token = thread();
    const float as_is = key(token, channel);
    const float *weights = matrix_ + k * dim_, *errors = errors_ + token;
    float x = as_is;
#pragma unroll 8
    for (int j = 0; j < k; ++j) x = __fmaf_rn(weights[j], errors[j * p_.block_size], x);
    return {within_magnitude(x), as_is};
  }

  const PackParams& p_;
  const VirtualRows<T>& rows_;
  const int first_, tokens_, dim_, half_;
  const float* moment_;
  float *matrix_, *errors_;  // [dim, dim]; [dim, block_size], by position
  uint8_t* out_;
  const FeedbackShared s_;

 private:
  /// Step 7 of position k.
  __device__ void round(int k) const {
    const int channel = ordered_channel(s_.pairs, k, half_), token = thread();
    const int width = format::channel_width(s_.codes.widths, channel, dim_);
    const bool own = token < tokens_;
    float least = HUGE_VALF, most = -HUGE_VALF, as_is = 0.0f, x = 0.0f;
    if (own) {
      const Coded coded = fed_back(k, channel);
      as_is = coded.as_is;
      least = most = x = coded.x;
    }
    const AffineScale scale = affine_scale_of_all(k, least, most, width);
    if (thread() == 0) {
      reinterpret_cast<uint16_t*>(out_)[channel] = scale.lo_bits;
      reinterpret_cast<uint16_t*>(out_ + format::channel_step_offset(dim_, false))[channel] =
          scale.step_bits;
    }
    if (token >= p_.block_size) return;
    uint32_t code = 0;
    if (own) {
      code = affine_code(x, scale, width);
      const float read = __fmaf_rn(scale.step, static_cast<float>(code), scale.lo);
      errors_[k * p_.block_size + token] = __fsub_rn(as_is, read);
    }
    s_.codes.codes[channel * (p_.block_size + 4) + token] = static_cast<uint8_t>(code);
  }
  /// The scale of all threads' extremes; one barrier.
  __device__ AffineScale affine_scale_of_all(int k, float least, float most, int width) const {
    constexpr int kWarps = kPackBlockThreads / 32;
    constexpr uint32_t kAll = 0xffffffffu;
    float* minima = s_.extremes + k % 2 * 2 * kWarps;
    float* maxima = minima + kWarps;
    const float lo = unordered(__reduce_min_sync(kAll, ordered(least)));
    const float hi = unordered(__reduce_max_sync(kAll, ordered(most)));
    if (lane_id() == 0) {
      minima[warp_id()] = lo;
      maxima[warp_id()] = hi;
    }
    __syncthreads();
    least = minima[0];
    most = maxima[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      least = fminf(least, minima[w]);
      most = fmaxf(most, maxima[w]);
    }
    return affine_scale(least, most, width);
  }
};

}  // namespace
}  // namespace rillkv::kernels::cuda
