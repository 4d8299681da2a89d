#include "rillkv/kv_cache.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <mutex>
#include <set>

#include "core/block_device.h"
#include "core/cache_access.h"
#include "core/check_tensor.h"
#include "core/cpu_rotation_table.h"
#include "core/cuda_backend.h"
#include "core/cuda_sequence.h"
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

struct QuantizedKvCache::State {
  /// backend: null on the CPU.
  State(const CacheGeometry& geometry, const CompressionConfig& config, at::ScalarType dtype,
        CacheProtocol protocol, std::shared_ptr<CudaBackend> backend);
  void check_layer(int64_t layer, const char* function) const;
  /// Of every call that gives a CUDA device work: LibTorch's current stream may be another one.
  void follow_stream();
  /// Throws where the device has noted what cannot be quantised: waits for it.
  void check();
  void raise(uint64_t error);
  /// Everything of a CUDA cache that kernels may read or write.
  std::vector<at::Tensor> tensors() const;
  void check_input(const at::Tensor& x, const char* name, int64_t tokens, int64_t heads) const;

  const CacheGeometry geometry;
  const CompressionConfig config;
  const at::ScalarType dtype;
  const CacheProtocol protocol;
  const at::Device device;
  std::shared_ptr<CudaBackend> backend;      // null on the CPU
  std::unique_ptr<RotationTable> rotations;  // null where `cuda` has its own
  std::unique_ptr<HugePageArena> memory;     // of sealed blocks; null on other devices than the CPU
  std::unique_ptr<CudaSequence> cuda;        // policy "adaptive" on a CUDA device; null otherwise
  std::vector<std::unique_ptr<LayerCache>> layers;
  int64_t checked = 0;    // cuda: so many tokens are known to be without an error
  uint64_t stream = 0;    // of the last call
  bool half_way = false;  // a call threw when layers disagreed
};

QuantizedKvCache::State::State(const CacheGeometry& geometry_in, const CompressionConfig& config_in,
                               at::ScalarType dtype_in, CacheProtocol protocol_in,
                               std::shared_ptr<CudaBackend> backend_in)
    : geometry(geometry_in),
      config(config_in),
      dtype(dtype_in),
      protocol(protocol_in),
      device(backend_in == nullptr ? at::Device(at::kCPU) : backend_in->device()),
      backend(std::move(backend_in)) {
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
  for (double frequency : geometry.inverse_frequencies) {
    RILLKV_CHECK(std::isfinite(frequency),
                 "QuantizedKvCache: expected finite inverse frequencies, got ", frequency);
  }
  kernel_dtype(dtype);  // rejects what the kernels do not read
  config.validate_for(geometry.head_dim);
  const bool dense = config.policy == Policy::kDense;
  if (backend != nullptr) stream = backend->stream();
  const int64_t sinks = dense ? 0 : config.attention_sink_size;
  Quantizer quantizer(
      QuantizerOptions{geometry.kv_heads, geometry.head_dim, config, geometry.inverse_frequencies});
  std::function<std::unique_ptr<BlockDevice>()> make_device;
  if (backend == nullptr) {
    memory = std::make_unique<HugePageArena>();
    auto table =
        std::make_unique<CpuRotationTable>(geometry.inverse_frequencies, sinks, config.block_size);
    make_device = [&, &shared = *table] {
      return make_cpu_block_device(quantizer, shared, *memory);
    };
    rotations = std::move(table);
  } else if (config.follows_queries()) {
    cuda = std::make_unique<CudaSequence>(geometry, quantizer, dtype, protocol, *backend);
  } else {
    auto table = std::make_unique<DeviceRotationTable>(geometry.inverse_frequencies, sinks,
                                                       config.block_size, *backend);
    make_device = [&, &shared = *table] {
      return make_cuda_block_device(quantizer, shared, *backend);
    };
    rotations = std::move(table);
  }
  log_ineffective_keys(config);
  if (config.follows_queries()) {
    log(LogLevel::kDebug, str_cat("cache: key widths ", quantizer->key_bits_mean(),
                                  " bits in the mean (", config.key_bits_mean, " asked for), ",
                                  quantizer->rotates_values() ? "values rotated" : "values as is"));
  }
  if (cuda != nullptr) {
    layers = cuda->take_layers();
    return;
  }
  const auto mask = std::make_shared<ChunkMask>();
  for (int64_t i = 0; i < geometry.layers; ++i) {
    if (dense) {
      layers.push_back(make_dense_layer(geometry, dtype, *rotations, device, backend.get(), mask));
      continue;
    }
    layers.push_back(std::make_unique<PackedLayerCache>(geometry, quantizer, dtype, protocol,
                                                        *rotations, device, make_device()));
  }
}

void QuantizedKvCache::State::check_layer(int64_t layer, const char* function) const {
  RILLKV_CHECK(layer >= 0 && layer < geometry.layers, "QuantizedKvCache::", function,
               ": expected layer 0..", geometry.layers - 1, ", got ", layer);
}

void QuantizedKvCache::State::check_input(const at::Tensor& x, const char* name, int64_t tokens,
                                          int64_t heads) const {
  RILLKV_CHECK(x.defined() && x.dim() == 3 && x.size(0) == tokens && x.size(1) == heads &&
                   x.size(2) == geometry.head_dim,
               "QuantizedKvCache::attend: expected ", name, " of [", tokens, ", ", heads, ", ",
               geometry.head_dim, "], got ", describe(x));
  RILLKV_CHECK(x.scalar_type() == dtype, "QuantizedKvCache::attend: expected ", name, " of ", dtype,
               ", got ", x.scalar_type());
  RILLKV_CHECK(x.device() == device, "QuantizedKvCache::attend: expected ", name, " on ", device,
               ", got ", x.device());
  RILLKV_CHECK(x.stride(2) == 1, "QuantizedKvCache::attend: expected ", name,
               " with contiguous channels, got strides ", x.strides());
}

void QuantizedKvCache::State::follow_stream() {
  if (backend == nullptr) return;
  if (const uint64_t now = backend->stream(); now != stream) {
    backend->follow(stream, tensors());
    stream = now;
  }
}

void QuantizedKvCache::State::check() {
  if (cuda == nullptr || checked == cuda->layer(0).length()) return;
  uint64_t error = 0;
  backend->download({{cuda->state().error(), &error}});
  raise(error);
}

void QuantizedKvCache::State::raise(uint64_t error) {
  checked = cuda->layer(0).length();
  if (error == 0) return;
  half_way = true;
  throw Error(CudaCacheState::describe_error(error));
}

std::vector<at::Tensor> QuantizedKvCache::State::tensors() const {
  std::vector<at::Tensor> all;
  if (cuda != nullptr) all = cuda->tensors();
  for (const auto& layer : layers) {
    const std::vector<at::Tensor> own = layer->tensors();
    all.insert(all.end(), own.begin(), own.end());
  }
  return all;
}

QuantizedKvCache::QuantizedKvCache(std::unique_ptr<State> state) : state_(std::move(state)) {}

QuantizedKvCache::QuantizedKvCache(const CacheGeometry& geometry, const CompressionConfig& config,
                                   at::ScalarType dtype, CacheProtocol protocol, at::Device device)
    : state_(std::make_unique<State>(geometry, config, dtype, protocol,
                                     device.is_cpu() ? nullptr : cuda_backend(device))) {}

QuantizedKvCache CacheAccess::over(std::shared_ptr<CudaBackend> backend,
                                   const CacheGeometry& geometry, const CompressionConfig& config,
                                   at::ScalarType dtype, CacheProtocol protocol) {
  return QuantizedKvCache(std::make_unique<QuantizedKvCache::State>(geometry, config, dtype,
                                                                    protocol, std::move(backend)));
}

CudaSequence* CacheAccess::cuda(QuantizedKvCache& cache) { return cache.state_->cuda.get(); }

void CacheAccess::follow_stream(QuantizedKvCache& cache) { cache.state_->follow_stream(); }

void CacheAccess::raise(QuantizedKvCache& cache, uint64_t error) { cache.state_->raise(error); }

QuantizedKvCache::~QuantizedKvCache() = default;
QuantizedKvCache::QuantizedKvCache(QuantizedKvCache&&) noexcept = default;
QuantizedKvCache& QuantizedKvCache::operator=(QuantizedKvCache&&) noexcept = default;

const CacheGeometry& QuantizedKvCache::geometry() const { return state_->geometry; }
const CompressionConfig& QuantizedKvCache::config() const { return state_->config; }
at::ScalarType QuantizedKvCache::dtype() const { return state_->dtype; }
CacheProtocol QuantizedKvCache::protocol() const { return state_->protocol; }
at::Device QuantizedKvCache::device() const { return state_->device; }

at::Tensor QuantizedKvCache::attend(int64_t layer, const at::Tensor& q, const at::Tensor& k,
                                    const at::Tensor& v) {
  const CacheGeometry& geometry = state_->geometry;
  state_->check_layer(layer, "attend");
  RILLKV_CHECK(q.defined() && q.dim() == 3,
               "QuantizedKvCache::attend: expected q of three dimensions, got ", describe(q));
  state_->check_input(q, "q", q.size(0), geometry.heads);
  state_->check_input(k, "k", q.size(0), geometry.kv_heads);
  state_->check_input(v, "v", q.size(0), geometry.kv_heads);
  RILLKV_CHECK(!state_->half_way,
               "QuantizedKvCache::attend: expected a cache whose layers hold the same tokens, got "
               "one that an earlier error left half way: reset() it");
  if (q.size(0) == 0) return at::empty_like(q);
  // A pass begins: what the device noted in the one before is said now at the latest.
  if (layer == 0) state_->check();
  state_->follow_stream();
  at::Tensor out;
  try {
    // Torch refuses to write outside inference mode to what was made in it, so all state is written
    // in it, whatever mode the caller is in from one call to the next.
    const c10::InferenceMode inference;
    out = state_->layers[layer]->attend(q, k, v);
  } catch (...) {
    state_->half_way = !in_step();
    throw;
  }
  // The same for the caller and the result: a clone out of inference mode is a plain tensor.
  return c10::InferenceMode::is_enabled() ? out : out.clone();
}

bool QuantizedKvCache::in_step() const {
  const auto& layers = state_->layers;
  return !state_->half_way && std::all_of(layers.begin(), layers.end(), [&](const auto& layer) {
    return layer->length() == layers.front()->length();
  });
}

int64_t QuantizedKvCache::length(int64_t layer) const {
  state_->check_layer(layer, "length");
  return state_->layers[layer]->length();
}

std::vector<std::shared_ptr<const SealedBlock>> QuantizedKvCache::blocks(int64_t layer) const {
  state_->check_layer(layer, "blocks");
  if (!state_->half_way) state_->check();
  return state_->layers[layer]->blocks();
}

void QuantizedKvCache::check() const {
  RILLKV_CHECK(
      !state_->half_way,
      "QuantizedKvCache::check: expected a cache whose layers hold the same tokens, got one "
      "that an earlier error left half way: reset() it");
  state_->check();
}

void QuantizedKvCache::reset() {
  const c10::InferenceMode inference;
  state_->follow_stream();
  for (auto& layer : state_->layers) layer->reset();
  if (state_->memory != nullptr) state_->memory->clear();
  if (state_->cuda != nullptr) state_->cuda->reset();
  state_->checked = 0;
  state_->half_way = false;
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
  if (!state_->half_way) state_->check();
  const CacheGeometry& geometry = state_->geometry;
  CacheReport report;
  LayerUsage all;
  for (const auto& layer : state_->layers) {
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
        static_cast<double>(usage.sealed_blocks * geometry.kv_heads * geometry.head_dim);
    if (channels > 0) {
      one.key_outlier_rate = static_cast<double>(usage.tally.key_outliers) / channels;
      one.value_outlier_rate = static_cast<double>(usage.tally.value_outliers) / channels;
    }
    report.layers.push_back(one);
  }
  const double row = static_cast<double>(geometry.kv_heads * geometry.head_dim);
  report.tokens = length(geometry.layers - 1);
  report.sink_tokens = all.sink_tokens;
  report.kv_bytes = all.key_bytes + all.value_bytes;
  const double elements = row * static_cast<double>(geometry.layers * report.tokens);
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
