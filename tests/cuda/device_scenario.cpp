#include "tests/cuda/device_scenario.h"

#include <algorithm>

#include "kernels/cuda/tile_order.h"

namespace rillkv::test {

DeviceScenario::DeviceScenario(ptx::Device& device, Scenario& scenario)
    : device_(device), scenario_(scenario), params_{scenario.params()} {
  kernels::cuda::AttentionParams& p = params_;
  const Shape& shape = scenario.shape();
  const auto D = static_cast<size_t>(p.head_dim), pairs = D / 2;
  const auto heads = static_cast<size_t>(p.kv_heads);
  p.queries = activation(p.queries, p.query_count, p.heads);
  p.query_cos = array(p.query_cos, static_cast<size_t>(p.query_count) * pairs);
  p.query_sin = array(p.query_sin, static_cast<size_t>(p.query_count) * pairs);
  const size_t table = pairs * static_cast<size_t>(p.block_size);
  std::vector<uint16_t> half;
  if (p.block_size == 128) {
    half.resize(kernels::cuda::half_rotation_elements(p.head_dim));
    kernels::cuda::fill_half_rotations(p.rotations.in_block_cos, p.rotations.in_block_sin,
                                       p.head_dim, half.data());
  }
  p.rotations = {array(p.rotations.in_block_cos, table), array(p.rotations.in_block_sin, table)};
  p.in_block_half = array(half.data(), half.size());

  kernels::PackedPrefix& x = p.prefix;
  const auto capacity = static_cast<size_t>(x.sink_capacity);
  x.sink_keys = array(x.sink_keys, heads * static_cast<size_t>(x.sink_key_stride));
  x.sink_values = array(x.sink_values, heads * static_cast<size_t>(x.sink_value_stride));
  x.sink_cos = array(x.sink_cos, capacity * pairs);
  x.sink_sin = array(x.sink_sin, capacity * pairs);
  // Each block in memory of exactly its size: reading past one is out of bounds.
  std::vector<const uint8_t*> keys, values;
  std::vector<const float*> rotations;
  size_t most = 0;
  bool same_size = true;
  for (int n = 0; n < shape.blocks; ++n) {
    for (int h = 0; h < p.kv_heads; ++h) {
      const auto& key = scenario.key_block(n, h);
      const auto& value = scenario.value_block(n, h);
      same_size = same_size && (keys.empty() || key.size() == most);
      most = std::max(most, key.size());
      keys.push_back(array(key.data(), key.size()));
      values.push_back(array(value.data(), value.size()));
    }
    rotations.push_back(array(x.rotations[n], D));
  }
  x.keys = array(keys.data(), keys.size());
  x.values = array(values.data(), values.size());
  x.rotations = array(rotations.data(), rotations.size());
  // Random widths make blocks of policy "adaptive" differ, which they do not in the product.
  p.key_block_bytes = same_size || x.keys_symmetric ? static_cast<int32_t>(most) : 0;
  segment(p.tail);
  segment(p.chunk);
  const size_t out_bytes =
      static_cast<size_t>(p.query_count * p.heads) * D * dtype_bytes(shape.dtype);
  out_ = std::make_unique<DeviceActivation>(device, std::vector<uint8_t>(out_bytes, 0xff), p.heads,
                                            p.head_dim);
  p.out = out_->mutable_activation();
}

kernels::Activation DeviceScenario::activation(const kernels::Activation& host, int tokens,
                                               int heads) {
  activations_.push_back(
      DeviceActivation::copy_of(device_, host, params_.dtype, tokens, heads, params_.head_dim));
  return activations_.back().activation();
}

void DeviceScenario::segment(kernels::DenseSegment& s) {
  if (s.count == 0) return;
  const auto angles = static_cast<size_t>(s.count) * static_cast<size_t>(params_.head_dim) / 2;
  s.keys = activation(s.keys, s.count, params_.kv_heads);
  s.values = activation(s.values, s.count, params_.kv_heads);
  s.cos = array(s.cos, angles);
  s.sin = array(s.sin, angles);
}

void DeviceScenario::download() {
  const std::vector<uint8_t> bytes = out_->bytes();
  const Shape& shape = scenario_.shape();
  const size_t size = dtype_bytes(shape.dtype);
  size_t at = 0;
  for (int t = 0; t < shape.queries; ++t) {
    for (int h = 0; h < shape.heads; ++h) {
      for (int c = 0; c < shape.head_dim; ++c, at += size) {
        std::memcpy(scenario_.out().at(t, h, c), bytes.data() + at, size);
      }
    }
  }
}

// The fast paths' tiles are fp16 for bf16 models too, so those stay well inside. The generic kernel
// computes in fp32. fp16 tiles round to 11 significant bits where bf16 tiles round to 8, so their
// roundings are an eighth; a quarter is allowed.
double device_tolerance(Scenario& scenario, bool generic) {
  const Dtype dtype = scenario.shape().dtype;
  if (dtype == Dtype::kFloat32 || generic) return scenario.float32_tolerance();
  const double bf16 = scenario.bfloat16_tolerance();
  return dtype == Dtype::kBFloat16 ? bf16 : bf16 / 4 + scenario.float32_tolerance();
}

void attend_on_device(ptx::Device& device, DeviceQueue& queue,
                      const std::vector<Scenario*>& scenarios) {
  std::vector<std::unique_ptr<DeviceScenario>> on_device;
  std::vector<kernels::cuda::AttentionParams> params;
  for (Scenario* scenario : scenarios) {
    on_device.push_back(std::make_unique<DeviceScenario>(device, *scenario));
    params.push_back(on_device.back()->params());
  }
  const int count = static_cast<int>(params.size());
  const size_t bytes = kernels::cuda::attention_workspace_bytes(queue, params.data(), count);
  ptx::DeviceArray<uint8_t> workspace(device, bytes);
  kernels::cuda::attend(queue, params.data(), count, workspace.data(), bytes);
  for (auto& scenario : on_device) scenario->download();
}

}  // namespace rillkv::test
