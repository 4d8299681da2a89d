// The cases of bench_attention on a CUDA device.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "benchmarks/attention_case.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tile_order.h"
#include "src/core/cuda_backend.h"
#include "src/core/slice_attention.h"

namespace rillkv::bench {

/// A Case on a device: the same bytes, every pointer the device's.
class CudaCase {
 public:
  CudaCase(Case& host, CudaBackend& backend)
      : host_(host), backend_(backend), params_{host.params()} {
    kernels::cuda::AttentionParams& p = params_;
    const int64_t pairs = p.head_dim / 2, heads = p.kv_heads;
    p.queries = activation(p.queries, p.query_count, p.heads);
    p.query_cos = up(p.query_cos, p.query_count * pairs);
    p.query_sin = up(p.query_sin, p.query_count * pairs);
    std::vector<uint16_t> half(kernels::cuda::half_rotation_elements(p.head_dim));
    kernels::cuda::fill_half_rotations(p.rotations.in_block_cos, p.rotations.in_block_sin,
                                       p.head_dim, half.data());
    p.rotations = {up(p.rotations.in_block_cos, pairs * p.block_size),
                   up(p.rotations.in_block_sin, pairs * p.block_size)};
    p.in_block_half = up(half.data(), static_cast<int64_t>(half.size()));
    kernels::PackedPrefix& x = p.prefix;
    if (x.sink_count > 0) {
      x.sink_keys = up(x.sink_keys, heads * x.sink_key_stride);
      x.sink_values = up(x.sink_values, heads * x.sink_value_stride);
    }
    x.sink_cos = up(x.sink_cos, std::max(x.sink_capacity, 1) * pairs);
    x.sink_sin = up(x.sink_sin, std::max(x.sink_capacity, 1) * pairs);
    std::vector<const uint8_t*> keys, values;
    std::vector<const float*> rotations;
    for (int64_t i = 0; i < x.block_count * heads; ++i) {
      const int64_t bytes = channel_bytes(x.keys[i], x.keys_symmetric);
      p.key_block_bytes = std::max(p.key_block_bytes, static_cast<int32_t>(bytes));
      keys.push_back(up(x.keys[i], bytes));
      values.push_back(up(
          x.values[i], x.values_channel_major
                           ? channel_bytes(x.values[i], true)
                           : static_cast<int64_t>(format::token_block_bytes(
                                 p.block_size, p.head_dim, x.value_groups, false, x.value_bits))));
    }
    for (int n = 0; n < x.block_count; ++n) rotations.push_back(up(x.rotations[n], p.head_dim));
    x.keys = up(keys.data(), static_cast<int64_t>(keys.size()));
    x.values = up(values.data(), static_cast<int64_t>(values.size()));
    x.rotations = up(rotations.data(), static_cast<int64_t>(rotations.size()));
    segment(p.tail);
    segment(p.chunk);
    out_ = at::empty_like(host.out(), host.out().options().device(backend.device()));
    p.out.data = out_.data_ptr();
    workspace_bytes_ = kernels::cuda::attention_workspace_bytes(backend.queue(), &params_, 1);
    workspace_ = at::empty({static_cast<int64_t>(workspace_bytes_)}, bytes_on_device());
  }

  void run() { run(backend_.queue()); }
  void run(kernels::cuda::Queue& queue) {
    kernels::cuda::attend(queue, &params_, 1, workspace_.mutable_data_ptr(), workspace_bytes_);
  }
  /// As core does it: by slices where `options` and the case have some, else by the fused kernel.
  /// Whether it was by slices.
  bool run(const SliceOptions& options) {
    if (attend_by_slices(backend_, params_, options)) return true;
    run();
    return false;
  }
  /// Of the last run; see Case::relative_error.
  double relative_error() {
    at::Tensor host_out = host_.out();
    host_out.copy_(out_);
    return host_.relative_error(backend_.device());
  }
  const kernels::cuda::AttentionParams& params() const { return params_; }
  const at::Tensor& out() const { return out_; }

 private:
  at::TensorOptions bytes_on_device() const {
    return at::TensorOptions().dtype(at::kByte).device(backend_.device());
  }
  template <typename T>
  const T* up(const T* host, int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    kept_.push_back(at::empty({std::max<int64_t>(bytes, 1)}, bytes_on_device()));
    if (bytes > 0) {
      kept_.back().copy_(at::from_blob(const_cast<void*>(static_cast<const void*>(host)), {bytes},
                                       at::TensorOptions().dtype(at::kByte)));
    }
    return static_cast<const T*>(kept_.back().const_data_ptr());
  }
  kernels::Activation activation(kernels::Activation x, int64_t tokens, int64_t heads) {
    const int64_t elements =
        (tokens - 1) * x.token_stride + (heads - 1) * x.head_stride + params_.head_dim;
    const int64_t size = params_.dtype == Dtype::kFloat32 ? 4 : 2;
    x.data = up(static_cast<const uint8_t*>(x.data), elements * size);
    return x;
  }
  void segment(kernels::DenseSegment& s) {
    if (s.count == 0) return;
    s.keys = activation(s.keys, s.count, params_.kv_heads);
    s.values = activation(s.values, s.count, params_.kv_heads);
    const int64_t angles = static_cast<int64_t>(s.count) * params_.head_dim / 2;
    s.cos = up(s.cos, angles);
    s.sin = up(s.sin, angles);
  }
  int64_t channel_bytes(const uint8_t* block, bool symmetric) const {
    const int dim = params_.head_dim;
    const uint8_t* widths = block + format::channel_widths_offset(dim, symmetric);
    int sum = 0;
    for (int c = 0; c < dim; ++c) sum += format::channel_width(widths, c, dim);
    return static_cast<int64_t>(
        format::channel_block_bytes(dim, params_.block_size, symmetric, sum));
  }

  Case& host_;
  CudaBackend& backend_;
  kernels::cuda::AttentionParams params_;
  std::vector<at::Tensor> kept_;
  at::Tensor out_, workspace_;
  size_t workspace_bytes_ = 0;
};

}  // namespace rillkv::bench
