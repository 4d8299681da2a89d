// Where the time of a prompt goes: its parts, each timed apart on tensors of the model's shapes by
// the library's own code, and what is left of the whole.
//
// The cache's part runs real layers of a compressed cache over a block device that takes the time
// of what it is asked for, so that attention is told from measuring, sealing and the rest. Layers
// have caches and weights of their own, as in the model, as long as 256 MB hold them.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/clock.h"
#include "core/block_device.h"
#include "core/cpu_rotation_table.h"
#include "core/huge_page_arena.h"
#include "core/packed_layer_cache.h"
#include "model/llama_layer.h"
#include "rillkv/generation.h"
#include "rillkv/linear.h"
#include "rillkv/model_config.h"

namespace rillkv::bench {

/// Queries, keys and values of a layer, [tokens, heads, head_dim].
struct Activations {
  at::Tensor q, k, v;
};

/// Forwards to the CPU's device and adds up seconds.
class TimedDevice final : public BlockDevice {
 public:
  struct Seconds {
    double measure = 0, seal = 0, attend = 0;
  };
  TimedDevice(std::unique_ptr<BlockDevice> device, Seconds& sum)
      : device_(std::move(device)), sum_(sum) {}

  Measured measure(const Chunk& chunk, const at::Tensor& energy_sums) override {
    const Timer timer(sum_.measure);
    return device_->measure(chunk, energy_sums);
  }
  void seal_sinks(const at::Tensor& keys, const at::Tensor& values, int64_t first) override {
    const Timer timer(sum_.seal);
    device_->seal_sinks(keys, values, first);
  }
  std::shared_ptr<SealedBlock> seal(const OpenBlock& open) override {
    const Timer timer(sum_.seal);
    return device_->seal(open);
  }
  void attend(const kernels::AttentionParams& params) override {
    const Timer timer(sum_.attend);
    device_->attend(params);
  }
  void settle(const std::vector<std::shared_ptr<SealedBlock>>& blocks) override {
    device_->settle(blocks);
  }
  const PackedSinks& sinks() const override { return device_->sinks(); }
  void reset() override { device_->reset(); }

 private:
  class Timer {
   public:
    explicit Timer(double& sum) : sum_(sum), begin_(seconds()) {}
    ~Timer() { sum_ += seconds() - begin_; }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    double& sum_;
    const double begin_;
  };
  std::unique_ptr<BlockDevice> device_;
  Seconds& sum_;
};

/// Seconds of a repetition each.
struct CacheTimes {
  std::vector<double> attention, measuring, sealing, rest;
  /// Statistics, rotation, quantising, packing and bookkeeping: all but attention.
  double without_attention() const { return median(measuring) + median(sealing) + median(rest); }
};

/// A compressed cache of all layers takes in `layers` (activations of one prompt each) by chunks,
/// from empty, `repetitions` times.
inline CacheTimes time_cache(const CacheGeometry& geometry, const CompressionConfig& config,
                             at::ScalarType dtype, const std::vector<Activations>& layers,
                             int repetitions) {
  const at::InferenceMode inference;
  const Quantizer quantizer(QuantizerOptions{geometry.kv_heads, geometry.head_dim, config});
  CpuRotationTable rotations(geometry.inverse_frequencies, config.attention_sink_size,
                             config.block_size);
  HugePageArena memory;
  TimedDevice::Seconds sum;
  std::vector<std::unique_ptr<PackedLayerCache>> caches;
  for (size_t i = 0; i < layers.size(); ++i) {
    caches.push_back(std::make_unique<PackedLayerCache>(
        geometry, quantizer, dtype, CacheProtocol::kPrefill, rotations, at::kCPU,
        std::make_unique<TimedDevice>(make_cpu_block_device(quantizer, rotations, memory), sum)));
  }
  CacheTimes times;
  for (int rep = -1; rep < repetitions; ++rep) {  // the first one warms up
    for (auto& cache : caches) cache->reset();
    memory.clear();
    sum = {};
    double whole = 0;
    const int64_t tokens = layers[0].q.size(0);
    for (int64_t begin = 0; begin < tokens; begin += config.chunk_size) {
      const int64_t end = std::min(begin + config.chunk_size, tokens);
      for (size_t i = 0; i < layers.size(); ++i) {
        const at::Tensor q = layers[i].q.slice(0, begin, end), k = layers[i].k.slice(0, begin, end),
                         v = layers[i].v.slice(0, begin, end);
        const double before = seconds();
        caches[i]->attend(q, k, v);
        whole += seconds() - before;
      }
    }
    if (rep < 0) continue;
    times.attention.push_back(sum.attend);
    times.measuring.push_back(sum.measure);
    times.sealing.push_back(sum.seal);
    times.rest.push_back(whole - sum.attend - sum.measure - sum.seal);
  }
  return times;
}

struct Part {
  std::string name;
  std::vector<double> seconds;  // of a prompt, a repetition each
};

/// The parts of a prompt outside the cache. `table`: the embedding's, [vocab, hidden].
inline std::vector<Part> time_model_parts(const ModelConfig& m, at::ScalarType dtype,
                                          const at::Tensor& prompt, int64_t chunk,
                                          int repetitions) {
  const at::InferenceMode inference;
  const at::TensorOptions options(dtype);
  const int64_t tokens = prompt.size(0), hidden = m.hidden_size, inner = m.intermediate_size;
  const int64_t q = m.num_attention_heads * m.head_dim, kv = m.num_key_value_heads * m.head_dim;
  const auto random = [&](int64_t rows, int64_t columns) {
    return at::randn({rows, columns}, at::kFloat).to(dtype);
  };
  const auto linear = [&](int64_t in, int64_t out) {
    Linear layer(in, out, false, dtype, at::kCPU);
    layer->weight.fill_(0.01);
    layer->pack();
    return layer;
  };
  struct Layer {
    Linear qkv{nullptr}, o{nullptr}, gate_up{nullptr}, down{nullptr};
  };
  const int64_t layer_bytes = (hidden * (2 * q + 2 * kv) + 3 * hidden * inner) *
                              static_cast<int64_t>(at::elementSize(dtype));
  const int64_t own =
      std::clamp<int64_t>((int64_t{256} << 20) / layer_bytes, 1, m.num_hidden_layers);
  std::vector<Layer> layers;
  for (int64_t i = 0; i < own; ++i) {
    layers.push_back({linear(hidden, q + 2 * kv), linear(q, hidden), linear(hidden, 2 * inner),
                      linear(inner, hidden)});
  }
  const Linear head = linear(hidden, m.vocab_size);
  const at::Tensor table = random(m.vocab_size, hidden), weight = random(1, hidden)[0];
  at::Tensor x = random(chunk, hidden);
  const at::Tensor delta = 0.01 * random(chunk, hidden), attended = random(chunk, q),
                   gate_up = random(chunk, 2 * inner), gated = random(chunk, inner);

  using Work = std::function<void(int64_t layer, int64_t rows)>;
  std::vector<Part> parts;
  const auto time = [&](const char* name, int64_t times, const Work& work) {
    Part part{name, {}};
    for (int rep = -1; rep < repetitions; ++rep) {
      double sum = 0;
      for (int64_t begin = 0; begin < tokens; begin += chunk) {
        const int64_t rows = std::min(chunk, tokens - begin);
        const double before = seconds();
        for (int64_t i = 0; i < times; ++i) work(i % own, rows);
        sum += seconds() - before;
      }
      if (rep >= 0) part.seconds.push_back(sum);
    }
    parts.push_back(std::move(part));
  };
  const int64_t count = m.num_hidden_layers;
  time("linear layers", count, [&](int64_t layer, int64_t rows) {
    layers[layer].qkv->forward(x.slice(0, 0, rows));
    layers[layer].o->forward(attended.slice(0, 0, rows));
    layers[layer].gate_up->forward(x.slice(0, 0, rows));
    layers[layer].down->forward(gated.slice(0, 0, rows));
  });
  time("norms and residuals", 2 * count, [&](int64_t, int64_t rows) {
    at::Tensor of_chunk = x.slice(0, 0, rows);
    add_rms_norm(of_chunk, delta.slice(0, 0, rows), weight, m.rms_norm_eps);
  });
  time("gates", count, [&](int64_t, int64_t rows) { gate(gate_up.slice(0, 0, rows)); });
  time("embedding", 1,
       [&](int64_t, int64_t rows) { at::embedding(table, prompt.slice(0, 0, rows)).to(dtype); });
  Part last{"last logits and token", {}};
  for (int rep = 0; rep < repetitions; ++rep) {
    const double before = seconds();
    const at::Tensor row = rms_norm(x.slice(0, 0, 1), weight, m.rms_norm_eps);
    choose_token(head->forward(row, /*out_float32=*/true)[0], 0, 0);
    last.seconds.push_back(seconds() - before);
  }
  parts.push_back(std::move(last));
  return parts;
}

}  // namespace rillkv::bench
