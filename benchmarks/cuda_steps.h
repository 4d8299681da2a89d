// Decoded tokens of several sequences for bench_cuda: attention by value (a launch for every six
// sequences, whose parameters the host writes) and by steps in device memory (one launch whatever
// the batch), and the ingest of such a batch. Sequences have the same content, each in memory of
// its own, so that nothing is read twice.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/attention_cuda.h"
#include "benchmarks/cuda_works.h"
#include "kernels/cuda/sequence_step.h"
#include "src/core/cuda_runner.h"
#include "src/core/kernel_views.h"

namespace rillkv::bench {

/// `count` sequences of `depth` cached tokens, each with one new token.
class DecodeBatch {
 public:
  DecodeBatch(const Shape& shape, int depth, int count, CudaBackend& backend)
      : shape_(shape),
        host_({shape, 1, depth, mixes()[0], Dtype::kBFloat16, true}),
        memory_(backend.device()) {
    for (int i = 0; i < count; ++i) {
      copies_.push_back(std::make_unique<CudaCase>(host_, backend));
      by_value_.push_back(copies_.back()->params());
    }
    values_bytes_ =
        kernels::cuda::attention_workspace_bytes(backend.queue(), by_value_.data(), count);
    values_memory_ = workspace(values_bytes_);
    make_steps(backend.queue());
  }

  void attend_values(kernels::cuda::Queue& queue) {
    kernels::cuda::attend(queue, by_value_.data(), count(), values_memory_.mutable_data_ptr(),
                          values_bytes_);
  }
  void attend_steps(kernels::cuda::Queue& queue) {
    kernels::cuda::attend_steps(queue, step_shape_, steps_, count(), 0,
                                steps_memory_.mutable_data_ptr(), steps_bytes_);
  }
  /// The largest of the sequences.
  double values_error() {
    double worst = 0;
    for (auto& copy : copies_) worst = larger(worst, difference(copy->out(), expected()));
    return worst;
  }
  double steps_error() {
    double worst = 0;
    for (int i = 0; i < count(); ++i) {
      worst = larger(worst, difference(steps_out_.slice(0, i, i + 1), expected()));
    }
    return worst;
  }

  /// One new token of each sequence into its tail, row tail_count.
  void ingest_steps(kernels::cuda::Queue& queue) { kernels::cuda::ingest(queue, ingest_, count()); }
  /// Of the rows of the tails.
  double ingest_error() {
    if (error_.cpu().item<int64_t>() != 0) return std::nan("");
    double worst = 0;
    for (int i = 0; i < count(); ++i) {
      const size_t at = static_cast<size_t>(i);
      worst = larger(worst, difference(ingested_keys_[at][tail_count()], new_keys_[i]));
      worst = larger(worst, difference(ingested_values_[at][tail_count()],
                                       hadamard_reference(new_values_[i])));
    }
    return worst;
  }

  int count() const { return static_cast<int>(copies_.size()); }
  const Case& host() const { return host_; }
  double cache_bytes() const { return static_cast<double>(host_.packed_bytes()) * count(); }
  const kernels::cuda::AttentionParams& params() const { return by_value_.front(); }

 private:
  static double larger(double worst, double here) {
    return here <= worst ? worst : here;
  }  // NaN stays

  const at::Tensor& expected() {
    if (!expected_.defined()) expected_ = host_.reference();
    return expected_;
  }
  at::Tensor workspace(size_t bytes) {
    return memory_.zeros({static_cast<int64_t>(std::max<size_t>(bytes, 1))}, at::kByte);
  }
  int tail_count() const { return host_.params().tail.count; }

  /// The tail and the new token of the host's case as a tail in one piece: [128, kv_heads, D].
  at::Tensor tail_of(const kernels::DenseSegment& tail, const kernels::DenseSegment& chunk,
                     bool keys) const {
    at::Tensor rows = at::zeros({128, shape_.kv_heads, shape_.head_dim}, at::kBFloat16);
    int64_t row = 0;
    for (const kernels::DenseSegment* part : {&tail, &chunk}) {
      if (part->count == 0) continue;
      const kernels::Activation& x = keys ? part->keys : part->values;
      rows.slice(0, row, row + part->count)
          .copy_(at::from_blob(
              const_cast<void*>(x.data), {part->count, shape_.kv_heads, shape_.head_dim},
              {x.token_stride, x.head_stride, 1}, at::TensorOptions().dtype(at::kBFloat16)));
      row += part->count;
    }
    return rows;
  }
  at::Tensor angles_of(const float* tail, const float* chunk) const {
    const int64_t half = shape_.head_dim / 2;
    at::Tensor rows = at::zeros({128, half}, at::kFloat);
    const auto copy = [&](const float* from, int64_t first, int64_t count) {
      if (count == 0) return;
      rows.slice(0, first, first + count)
          .copy_(at::from_blob(const_cast<float*>(from), {count, half}, at::kFloat));
    };
    copy(tail, 0, tail_count());
    copy(chunk, tail_count(), 1);
    return rows;
  }

  void make_steps(kernels::cuda::Queue& queue) {
    using namespace kernels::cuda;
    const kernels::AttentionParams& host = host_.params();
    RILLKV_CHECK(tail_count() + 1 < 128, "expected a depth that leaves room in the tail, got ",
                 tail_count(), " tokens in it");
    const at::Tensor keys = tail_of(host.tail, host.chunk, true);
    const at::Tensor values = tail_of(host.tail, host.chunk, false);
    const at::Tensor cosines = angles_of(host.tail.cos, host.chunk.cos);
    const at::Tensor sines = angles_of(host.tail.sin, host.chunk.sin);
    const at::Tensor query = at::from_blob(const_cast<void*>(host.queries.data),
                                           {1, shape_.heads, shape_.head_dim}, at::kBFloat16);
    const at::Tensor queries = memory_.keep(query.expand({count(), -1, -1}));
    steps_out_ = memory_.zeros({count(), shape_.heads, shape_.head_dim}, at::kBFloat16);
    error_ = memory_.zeros({1}, at::kLong);

    std::vector<SequenceStep> attending, ingesting;
    for (const kernels::cuda::AttentionParams& p : by_value_) {
      LayerState layer;
      layer.key_blocks = p.prefix.keys;
      layer.value_blocks = p.prefix.values;
      layer.sink_keys = p.prefix.sink_keys;
      layer.sink_values = p.prefix.sink_values;
      layer.tail_keys = memory_.keep(keys.clone()).mutable_data_ptr();
      layer.tail_values = memory_.keep(values.clone()).mutable_data_ptr();
      SequenceStep step;
      step.layers = memory_.up(std::vector<LayerState>{layer});
      step.block_rotations = p.prefix.rotations;
      step.tail_cos = memory_.keep(cosines.clone()).mutable_data_ptr<float>();
      step.tail_sin = memory_.keep(sines.clone()).mutable_data_ptr<float>();
      step.error = static_cast<unsigned long long*>(error_.mutable_data_ptr());
      step.length = host_.problem().cached;
      step.block_count = p.prefix.block_count;
      step.tail_count = tail_count();
      attending.push_back(step);
      // Ingest writes to tails and sums of its own, so that attention's stay what they are.
      const auto floats = [&](int64_t rows) {
        return memory_.zeros({rows, shape_.head_dim}, at::kFloat).mutable_data_ptr<float>();
      };
      ingested_keys_.push_back(memory_.zeros(keys.sizes(), at::kBFloat16));
      ingested_values_.push_back(memory_.zeros(keys.sizes(), at::kBFloat16));
      layer.tail_keys = ingested_keys_.back().mutable_data_ptr();
      layer.tail_values = ingested_values_.back().mutable_data_ptr();
      layer.energy_sums = floats(shape_.heads);
      layer.energy_ema = floats(shape_.kv_heads);
      layer.energies = floats(shape_.kv_heads);
      step.layers = memory_.up(std::vector<LayerState>{layer});
      ingesting.push_back(step);
    }
    steps_ = memory_.up(attending);

    step_shape_ = by_value_.front();
    step_shape_.queries = activation(queries);
    step_shape_.out = {steps_out_.mutable_data_ptr(), steps_out_.stride(0), steps_out_.stride(1)};
    step_shape_.tail = {};
    step_shape_.tail.count = tail_count() + 1;
    step_shape_.chunk = {};
    steps_bytes_ = attend_steps_workspace_bytes(queue, step_shape_, count());
    steps_memory_ = workspace(steps_bytes_);

    new_keys_ = memory_.keep(random_bf16({count(), shape_.kv_heads, shape_.head_dim}, 21));
    new_values_ = memory_.keep(random_bf16({count(), shape_.kv_heads, shape_.head_dim}, 22));
    ingest_ = ingest_params(queries, new_keys_, new_values_, 128, /*rotates_values=*/true);
    ingest_.keep = 0.9f;
    ingest_.take = 0.1f;
    ingest_.steps = memory_.up(ingesting);
  }

  Shape shape_;
  Case host_;
  DeviceMemory memory_;
  std::vector<std::unique_ptr<CudaCase>> copies_;
  std::vector<kernels::cuda::AttentionParams> by_value_;
  kernels::cuda::AttentionParams step_shape_;
  const kernels::cuda::SequenceStep* steps_ = nullptr;
  kernels::cuda::IngestParams ingest_;
  at::Tensor expected_, steps_out_, error_, values_memory_, steps_memory_, new_keys_, new_values_;
  std::vector<at::Tensor> ingested_keys_, ingested_values_;
  size_t values_bytes_ = 0, steps_bytes_ = 0;
};

/// Attention by value and by steps, and ingest, of one batch.
inline std::vector<Work> decode_works(const Shape& shape, int depth, int count,
                                      CudaBackend& backend) {
  auto batch = std::make_shared<DecodeBatch>(shape, depth, count, backend);
  const std::string name =
      name_of(shape) + " after " + std::to_string(depth) + ", batch of " + std::to_string(count);
  Work values;
  values.group = "decode";
  values.name = "decode " + name;
  values.run = [batch](kernels::cuda::Queue& queue) { batch->attend_values(queue); };
  values.error = [batch] { return batch->values_error(); };
  values.allowed = 2e-2;  // the roundings of bf16 tiles, as bench_attention allows
  values.bytes = batch->cache_bytes();
  Work steps = values;
  steps.name = "decode by steps " + name;
  steps.run = [batch](kernels::cuda::Queue& queue) { batch->attend_steps(queue); };
  steps.error = [batch] { return batch->steps_error(); };
  Work ingest;
  ingest.group = "ingest";
  ingest.name = "ingest by steps " + name;
  ingest.run = [batch](kernels::cuda::Queue& queue) { batch->ingest_steps(queue); };
  ingest.error = [batch] { return batch->ingest_error(); };
  ingest.allowed = 4e-3;
  ingest.bytes = 2.0 * count * (shape.heads + 4 * shape.kv_heads) * shape.head_dim;
  return {values, steps, ingest};
}

inline Work prefill_work(const Shape& shape, int depth, int queries, CudaBackend& backend) {
  auto host =
      std::make_shared<Case>(Problem{shape, queries, depth, mixes()[0], Dtype::kBFloat16, true});
  auto on_device = std::make_shared<CudaCase>(*host, backend);
  Work work;
  work.group = "prefill";
  work.name = "prefill of " + std::to_string(queries) + ", " + name_of(shape) + " after " +
              std::to_string(depth);
  work.run = [host, on_device](kernels::cuda::Queue& queue) { on_device->run(queue); };
  work.error = [on_device] { return on_device->relative_error(); };
  work.allowed = 2e-2;
  work.bytes = static_cast<double>(host->packed_bytes());
  return work;
}

}  // namespace rillkv::bench
