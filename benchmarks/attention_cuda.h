// bench_attention on a CUDA device, and what the performance model predicts for it.
//
//   bench_attention --device cuda    uploads the cases, verifies them, times them by CUDA events
//   bench_attention --predictions    the model's table (scripts/performance_model.py formats it)
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "benchmarks/attention_case.h"
#include "benchmarks/attention_model.h"
#include "kernels/cuda/tile_order.h"
#include "rillkv/device.h"
#include "rillkv/error.h"
#include "src/core/cuda_backend.h"

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

  void run() {
    kernels::cuda::attend(backend_.queue(), &params_, 1, workspace_.mutable_data_ptr(),
                          workspace_bytes_);
  }
  /// Of the last run; see Case::relative_error.
  double relative_error() {
    at::Tensor host_out = host_.out();
    host_out.copy_(out_);
    return host_.relative_error();
  }
  const kernels::cuda::AttentionParams& params() const { return params_; }

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

/// The model's figures of a device that is there. mma.sync with fp32 accumulation, an SM and clock:
/// 2048 on sm_80, 62 % of wgmma's 4096 on sm_90, no more than sm_80's assumed for sm_100; 512 on
/// the GeForce cards of the others (professional cards do twice that).
inline Gpu gpu_of(at::Device device) {
  const DeviceFigures f = device_figures(device);
  const double mma = f.compute_capability == 90                                  ? 0.62 * 4096
                     : f.compute_capability == 80 || f.compute_capability == 100 ? 2048
                                                                                 : 512;
  return {f.name, f.multiprocessors, f.clock_hz, f.memory_bytes_s, mma, 0, f.shared_memory_limit};
}

inline constexpr Shape kCudaShapes[] = {{32, 8, 128}, {9, 3, 64}};
inline constexpr int kCudaDepths[] = {4096, 8192, 16384, 32768, 65536, 131072};

inline int time_on_cuda(const std::string& name) {
  const at::Device device = open_device(name);
  const auto backend = cuda_backend(device);
  const Gpu gpu = gpu_of(device);
  std::printf("%s: %d SMs at %.2f GHz, %.0f GB/s\n", gpu.name.c_str(), gpu.multiprocessors,
              gpu.clock / 1e9, gpu.bandwidth / 1e9);
  const at::Tensor flush =
      at::empty({256 << 20}, at::TensorOptions().dtype(at::kByte).device(device));
  bool right = true;
  for (const int queries : {256, 1}) {
    for (const Shape& shape : kCudaShapes) {
      for (const int depth : kCudaDepths) {
        Case host({shape, queries, depth, mixes()[0], Dtype::kBFloat16, true});
        CudaCase on_device(host, *backend);
        on_device.run();
        const double error = on_device.relative_error();
        // The roundings of bf16 tiles, as for the CPU's kernels; these have fp16 ones.
        const bool good = error <= 2e-2;
        right = right && good;
        std::vector<double> times;
        for (int round = 0; round < 25; ++round) {
          flush.fill_(round);  // of the L2 cache, for decode; prefill hardly cares
          const double t = device_seconds(device, [&] { on_device.run(); });
          if (round >= 5) times.push_back(t);
        }
        std::sort(times.begin(), times.end());
        const double t = times[times.size() / 2];
        const double bytes = static_cast<double>(host.packed_bytes());
        const Prediction prediction = predict(gpu, on_device.params(), bytes);
        std::printf(
            "%-7s %d/%d/%d %6d %-26s %8.3f ms %7.1f TFLOP/s %7.1f GB/s | bound %.3f ms (%3.0f%%), "
            "expected %.3f ms (%3.0f%%) | error %.1e%s\n",
            queries == 1 ? "decode" : "prefill", shape.heads, shape.kv_heads, shape.head_dim, depth,
            prediction.entry.c_str(), 1e3 * t, host.flops() / t / 1e12, bytes / t / 1e9,
            1e3 * prediction.bound_s(), 100 * prediction.bound_s() / t,
            1e3 * prediction.expected_s(), 100 * prediction.expected_s() / t, error,
            good ? "" : " WRONG");
        std::fflush(stdout);
      }
    }
  }
  return right ? 0 : 1;
}

inline void print_predictions() {
  std::printf(
      "gpu,heads,kv_heads,head_dim,queries,cached,entry,ctas,splits,ctas_an_sm,cache_bytes,flops,"
      "memory_s,mma_s,issue_s,bound_s,expected_s\n");
  for (const Gpu& gpu : {a100(), h100()}) {
    for (const Shape& shape : kCudaShapes) {
      for (const int queries : {256, 1}) {
        for (const int depth : kCudaDepths) {
          const kernels::cuda::AttentionParams p =
              model_params(shape.heads, shape.kv_heads, shape.head_dim, queries, depth);
          const double bytes = model_cache_bytes(p);
          const Prediction r = predict(gpu, p, bytes);
          const double flops =
              4.0 * shape.heads * shape.head_dim * queries * (depth + (queries + 1) / 2.0);
          std::printf("%s,%d,%d,%d,%d,%d,%s,%d,%d,%d,%.0f,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g\n",
                      gpu.name.c_str(), shape.heads, shape.kv_heads, shape.head_dim, queries, depth,
                      r.entry.c_str(), r.ctas, r.splits, r.ctas_an_sm, bytes, flops, r.memory_s,
                      r.mma_s, r.issue_s, r.bound_s(), r.expected_s());
        }
      }
    }
  }
}

/// Runs what the arguments ask for here; -1 if that is nothing.
inline int cuda_command(int argc, char** argv) {
  try {
    if (argc == 2 && std::strcmp(argv[1], "--predictions") == 0) {
      print_predictions();
      return 0;
    }
    if (argc == 3 && std::strcmp(argv[1], "--device") == 0 && std::strcmp(argv[2], "cpu") != 0) {
      return time_on_cuda(argv[2]);
    }
  } catch (const UsageError& error) {
    std::fprintf(stderr, "bench_attention: error: %s\n", error.what());
    return 2;
  } catch (const Error& error) {
    std::fprintf(stderr, "bench_attention: error: %s\n", error.what());
    return 1;
  }
  return -1;
}

}  // namespace rillkv::bench
