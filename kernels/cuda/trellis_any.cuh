// A key block of rillkv_pack_trellis_* of any shape and dtype (feedback_any.cuh): a thread a token
// adds up errors, one warp codes the position (trellis_coder.cuh).
#pragma once

#include "kernels/cuda/feedback_any.cuh"
#include "kernels/cuda/feedback_trellis.cuh"
#include "kernels/cuda/trellis_planes.cuh"

namespace rillkv::kernels::cuda {
namespace {

/// Called by all threads of a CTA.
template <typename T>
class TrellisAny : FeedbackAny<T> {
  using Base = FeedbackAny<T>;
  using Coder = TrellisCoder<256>;
  using Base::dim_;
  using Base::half_;
  using Base::out_;
  using Base::p_;
  using Base::s_;
  using Base::tokens_;

 public:
  using Base::Base;
  __device__ void pack() {
    this->plan();
    if (warp_id() == 0) Coder::prepare(scratch());
    for (int pair = thread(); pair < half_; pair += kPackBlockThreads) {
      out_[format::trellis_widths_offset(dim_) + static_cast<size_t>(pair)] = s_.codes.widths[pair];
      s_.codes.widths[pair] -= 0x11;  // of b
    }
    __syncthreads();
    scan_plane_counts(s_.codes.widths, dim_, s_.codes.offsets);
    for (int k = 0; k < dim_; ++k) round(k);
    __syncthreads();
    write();
  }

 private:
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ typename Coder::Scratch& scratch() const {
    return *reinterpret_cast<typename Coder::Scratch*>(shared_memory + s_.trellis);
  }
  __device__ uint8_t* codes(int channel) const {
    return s_.codes.codes + channel * (p_.block_size + 4);
  }

  __device__ void round(int k) const {
    const int channel = ordered_channel(s_.pairs, k, half_), token = thread();
    typename Base::Coded coded = {0.0f, 0.0f};
    if (token < tokens_) coded = this->fed_back(k, channel);
    if (token < 256) scratch().x[token] = coded.x;
    __syncthreads();
    if (warp_id() == 0) {
      const int width = format::channel_width(s_.codes.widths, channel, dim_) + 1;
      Coder coder(scratch());
      coder.code(width, top_code(width), tokens_);
#pragma unroll
      for (int g = 0; g < Coder::kGroups; ++g) {
        const int first = 128 * g + 4 * lane_id();
        float y[4];
        const uint32_t code = coder.codes(g, tokens_, y);
        reinterpret_cast<float4*>(scratch().x)[first / 4] = {y[0], y[1], y[2], y[3]};
        if (first < p_.block_size) {
          *reinterpret_cast<uint32_t*>(codes(channel) + first) =
              code & first_bytes(tokens_ - first);
        }
      }
      if (lane_id() == 0) TrellisKeyBlock::write_lattice(coder.lattice(), channel, dim_, out_);
    }
    __syncthreads();
    if (token < tokens_) {
      this->errors_[k * p_.block_size + token] = __fsub_rn(coded.as_is, scratch().x[token]);
    }
  }

  __device__ void write() const {
    const int size = p_.block_size;
    uint8_t* path = out_ + TrellisKeyBlock::planes_offset(dim_);
    uint8_t* planes = out_ + TrellisKeyBlock::codes_offset(dim_, size);
    fill_zero(out_ + format::trellis_widths_offset(dim_) + half_, path);
    const uint32_t all = s_.codes.offsets[dim_];
    fill_zero(planes + plane_offsets(all, all, size).bits, out_ + p_.key_bytes);
    for (int n = warp_id(); n < dim_; n += kPackBlockThreads / 32) {
      const int channel = format::channel_at(n, dim_);
      const uint8_t* own = codes(channel);
      write_trellis_planes(
          [own](int t) { return own[t]; }, format::channel_width(s_.codes.widths, channel, dim_),
          size, path + n * (size / 8), planes, plane_offsets(s_.codes.offsets[n], all, size));
    }
  }
};

}  // namespace
}  // namespace rillkv::kernels::cuda
