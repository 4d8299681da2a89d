#include "rillkv/kv_cache.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <mutex>
#include <set>

#include "core/block_device.h"
#include "core/cuda_backend.h"
#include "core/dense_layer_cache.h"
#include "core/device_rotation_table.h"
#include "core/huge_page_arena.h"
#include "core/kernel_views.h"
#include "core/layer_cache.h"
#include "core/packed_layer_cache.h"
#include "core/rotation_table.h"
#include "rillkv/error.h"
#include "rillkv/log.h"

namespace rillkv {
namespace {

/// Names each key that was given but does nothing under the policy, once in the process's life.
void log_ineffective_keys(const CompressionConfig& config) {
  static std::mutex mutex;
  static std::set<std::string> named;
  for (const std::string& key : config.ineffective_keys()) {
    const std::string line = str_cat("configuration key '", key, "' has no effect under policy '",
                                     to_string(config.policy), "'");
    const std::lock_guard<std::mutex> lock(mutex);
    if (named.insert(line).second) log(LogLevel::kWarning, line);
  }
}

}  // namespace

QuantizedKvCache::QuantizedKvCache(const CacheGeometry& geometry, const CompressionConfig& config,
                                   at::ScalarType dtype, CacheProtocol protocol, at::Device device)
    : QuantizedKvCache(geometry, config, dtype, protocol,
                       device.is_cpu() ? nullptr : cuda_backend(device)) {}

QuantizedKvCache::QuantizedKvCache(const CacheGeometry& geometry, const CompressionConfig& config,
                                   at::ScalarType dtype, CacheProtocol protocol,
                                   std::shared_ptr<CudaBackend> backend)
    : geometry_(geometry),
      config_(config),
      dtype_(dtype),
      protocol_(protocol),
      device_(backend == nullptr ? at::Device(at::kCPU) : backend->device()),
      backend_(std::move(backend)) {
  RILLKV_CHECK(geometry.layers >= 1 && geometry.kv_heads >= 1 &&
                   geometry.heads % geometry.kv_heads == 0 && geometry.heads > 0,
               "QuantizedKvCache: expected layers >= 1 and heads a multiple of kv_heads, got ",
               geometry.layers, " layers, ", geometry.heads, " heads, ", geometry.kv_heads,
               " kv heads");
  RILLKV_CHECK(geometry.head_dim >= 2 && geometry.head_dim % 2 == 0,
               "QuantizedKvCache: expected an even head_dim, got ", geometry.head_dim);
  RILLKV_CHECK(static_cast<int64_t>(geometry.inverse_frequencies.size()) == geometry.head_dim / 2,
               "QuantizedKvCache: expected ", geometry.head_dim / 2, " inverse frequencies, got ",
               geometry.inverse_frequencies.size());
  kernel_dtype(dtype);  // rejects what the kernels do not read
  config_.validate_for(geometry.head_dim);
  const bool dense = config_.policy == Policy::kDense;
  const int64_t sinks = dense ? 0 : config_.attention_sink_size;
  if (backend_ == nullptr) {
    memory_ = std::make_unique<HugePageArena>();
    rotations_ =
        std::make_unique<RotationTable>(geometry.inverse_frequencies, sinks, config_.block_size);
  } else {
    rotations_ = std::make_unique<DeviceRotationTable>(geometry.inverse_frequencies, sinks,
                                                       config_.block_size, device_);
  }
  Quantizer quantizer(QuantizerOptions{geometry.kv_heads, geometry.head_dim, config_});
  log_ineffective_keys(config_);
  if (config_.policy == Policy::kAdaptive) {
    log(LogLevel::kDebug, str_cat("cache: key widths ", quantizer->key_bits_mean(),
                                  " bits in the mean (", config_.key_bits_mean, " asked for), ",
                                  quantizer->rotates_values() ? "values rotated" : "values as is"));
  }
  const auto mask = std::make_shared<ChunkMask>();
  for (int64_t i = 0; i < geometry.layers; ++i) {
    if (dense) {
      layers_.push_back(make_dense_layer(geometry_, dtype, *rotations_, device_, mask));
      continue;
    }
    layers_.push_back(std::make_unique<PackedLayerCache>(
        geometry_, quantizer, dtype, protocol, *rotations_, device_,
        backend_ == nullptr ? make_cpu_block_device(quantizer, *memory_)
                            : make_cuda_block_device(quantizer, *backend_)));
  }
}

QuantizedKvCache::~QuantizedKvCache() = default;
QuantizedKvCache::QuantizedKvCache(QuantizedKvCache&&) noexcept = default;
QuantizedKvCache& QuantizedKvCache::operator=(QuantizedKvCache&&) noexcept = default;

at::Tensor QuantizedKvCache::attend(int64_t layer, const at::Tensor& q, const at::Tensor& k,
                                    const at::Tensor& v) {
  RILLKV_CHECK(layer >= 0 && layer < geometry_.layers,
               "QuantizedKvCache::attend: expected layer 0..", geometry_.layers - 1, ", got ",
               layer);
  const auto check = [&](const at::Tensor& x, const char* name, int64_t heads) {
    RILLKV_CHECK(x.dim() == 3 && x.size(0) == q.size(0) && x.size(1) == heads &&
                     x.size(2) == geometry_.head_dim,
                 "QuantizedKvCache::attend: expected ", name, " of [", q.size(0), ", ", heads, ", ",
                 geometry_.head_dim, "], got ", x.sizes());
    RILLKV_CHECK(x.scalar_type() == dtype_, "QuantizedKvCache::attend: expected ", name, " of ",
                 dtype_, ", got ", x.scalar_type());
    RILLKV_CHECK(x.device() == device_, "QuantizedKvCache::attend: expected ", name, " on ",
                 device_, ", got ", x.device());
    RILLKV_CHECK(x.stride(2) == 1, "QuantizedKvCache::attend: expected ", name,
                 " with contiguous channels, got strides ", x.strides());
  };
  RILLKV_CHECK(q.dim() == 3, "QuantizedKvCache::attend: expected q of three dimensions, got ",
               q.sizes());
  check(q, "q", geometry_.heads);
  check(k, "k", geometry_.kv_heads);
  check(v, "v", geometry_.kv_heads);
  RILLKV_CHECK(!half_way_,
               "QuantizedKvCache::attend: expected a cache whose layers hold the same tokens, got "
               "one that an earlier error left half way: reset() it");
  if (q.size(0) == 0) return at::empty_like(q);
  at::Tensor out;
  try {
    // Torch refuses to write outside inference mode to what was made in it, so all state is written
    // in it, whatever mode the caller is in from one call to the next.
    const c10::InferenceMode inference;
    out = layers_[layer]->attend(q, k, v);
  } catch (...) {
    half_way_ = !in_step();
    throw;
  }
  // The same for the caller and the result: a clone out of inference mode is a plain tensor.
  return c10::InferenceMode::is_enabled() ? out : out.clone();
}

bool QuantizedKvCache::in_step() const {
  return !half_way_ && std::all_of(layers_.begin(), layers_.end(), [&](const auto& layer) {
    return layer->length() == layers_.front()->length();
  });
}

int64_t QuantizedKvCache::length(int64_t layer) const { return layers_.at(layer)->length(); }

std::vector<std::shared_ptr<const SealedBlock>> QuantizedKvCache::blocks(int64_t layer) const {
  return layers_.at(layer)->blocks();
}

void QuantizedKvCache::reset() {
  const c10::InferenceMode inference;
  for (auto& layer : layers_) layer->reset();
  if (memory_ != nullptr) memory_->clear();
  half_way_ = false;
}

namespace {

KeyValueTotal rates(double key, double value, double count) {
  if (count == 0) return {};
  return {key / count, value / count, (key + value) / (2 * count)};
}

void add(std::array<int64_t, 9>& sum, const std::array<int64_t, 9>& part) {
  for (size_t w = 0; w < sum.size(); ++w) sum[w] += part[w];
}

double weighted(const std::array<int64_t, 9>& widths) {
  double sum = 0;
  for (size_t w = 0; w < widths.size(); ++w) sum += static_cast<double>(w) * widths[w];
  return sum;
}

}  // namespace

CacheReport QuantizedKvCache::report() const {
  CacheReport report;
  LayerUsage all;
  for (const auto& layer : layers_) {
    const LayerUsage usage = layer->usage();
    all.key_bytes += usage.key_bytes;
    all.value_bytes += usage.value_bytes;
    all.sealed_tokens += usage.sealed_tokens;
    all.sealed_blocks += usage.sealed_blocks;
    all.sealed_key_bytes += usage.sealed_key_bytes;
    all.sealed_value_bytes += usage.sealed_value_bytes;
    all.sink_tokens = usage.sink_tokens;
    add(all.tally.key_widths, usage.tally.key_widths);
    add(all.tally.value_widths, usage.tally.value_widths);
    all.tally.key_outliers += usage.tally.key_outliers;
    all.tally.value_outliers += usage.tally.value_outliers;
    all.tally.key_clipped += usage.tally.key_clipped;
    all.tally.value_clipped += usage.tally.value_clipped;

    LayerReport one;
    one.key_widths = usage.tally.key_widths;
    one.value_widths = usage.tally.value_widths;
    one.sealed_blocks = usage.sealed_blocks;
    const double channels =
        static_cast<double>(usage.sealed_blocks * geometry_.kv_heads * geometry_.head_dim);
    if (channels > 0) {
      one.key_outlier_rate = static_cast<double>(usage.tally.key_outliers) / channels;
      one.value_outlier_rate = static_cast<double>(usage.tally.value_outliers) / channels;
    }
    report.layers.push_back(one);
  }
  const double row = static_cast<double>(geometry_.kv_heads * geometry_.head_dim);
  report.tokens = length(geometry_.layers - 1);
  report.sink_tokens = all.sink_tokens;
  report.kv_bytes = all.key_bytes + all.value_bytes;
  const double elements = row * static_cast<double>(geometry_.layers * report.tokens);
  report.kv_bytes_bf16 = static_cast<int64_t>(2 * 2 * elements);
  if (report.kv_bytes > 0) {
    report.compression_ratio =
        static_cast<double>(report.kv_bytes_bf16) / static_cast<double>(report.kv_bytes);
  }
  report.kv_bits_per_element = rates(8.0 * all.key_bytes, 8.0 * all.value_bytes, elements);
  const double sealed = row * static_cast<double>(all.sealed_tokens);
  report.kv_bits_sealed = rates(8.0 * all.sealed_key_bytes, 8.0 * all.sealed_value_bytes, sealed);
  const double channels = row * static_cast<double>(all.sealed_blocks);
  report.estimated_bits =
      rates(weighted(all.tally.key_widths), weighted(all.tally.value_widths), channels);
  report.outlier_rate = rates(all.tally.key_outliers, all.tally.value_outliers, channels);
  report.clip_rate = rates(all.tally.key_clipped, all.tally.value_clipped, sealed);
  return report;
}

}  // namespace rillkv
