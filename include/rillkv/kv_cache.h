// The compressed KV cache of one sequence.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "rillkv/cache_geometry.h"
#include "rillkv/compression_config.h"
#include "rillkv/sealed_block.h"

namespace rillkv {

struct CacheAccess;

/// A number for keys, one for values and one for both.
struct KeyValueTotal {
  double key = 0;
  double value = 0;
  double total = 0;
};

/// What one layer's quantiser did.
struct LayerReport {
  std::array<int64_t, 9> key_widths{};  ///< [w] sealed channels of w bits, over blocks and kv heads
  std::array<int64_t, 9> value_widths{};
  double key_outlier_rate = 0;
  double value_outlier_rate = 0;
  int64_t sealed_blocks = 0;
};

/// Measured, not estimated: bytes are what was allocated.
struct CacheReport {
  int64_t tokens = 0;
  int64_t sink_tokens = 0;
  int64_t kv_bytes = 0;  ///< blocks, metadata, padding, sinks and the tail's capacity, all layers
  int64_t kv_bytes_bf16 = 0;          ///< the same tokens uncompressed at 16 bits an element
  double compression_ratio = 0;       ///< kv_bytes_bf16 / kv_bytes
  KeyValueTotal kv_bits_per_element;  ///< kv_bytes * 8 / elements of all tokens
  KeyValueTotal kv_bits_sealed;       ///< of sealed blocks alone; 0 if there is none
  KeyValueTotal estimated_bits;       ///< mean code width of sealed blocks, metadata left out
  KeyValueTotal outlier_rate;         ///< share of sealed channels; "adaptive": wider than the mean
  KeyValueTotal clip_rate;            ///< share of sealed codes beyond their range
  std::vector<LayerReport> layers;
};

/// Cache of one sequence over all layers of a model: attention sinks, sealed blocks and an open
/// tail, or dense tensors under policy "dense". Keys are stored before RoPE, so that a block's
/// position is metadata. No token is ever dropped, and no buffer that grows with the context holds
/// uncompressed keys or values.
///
/// Owns its statistics: caches are independent, and a batch is one cache a sequence. Movable, not
/// copyable, not thread-safe; different caches may be used from different threads. One that was
/// moved from may only be assigned to or destroyed.
class QuantizedKvCache {
 public:
  /// dtype: float32, bfloat16 or float16, of queries, keys and values. device: of all of them, the
  /// CPU or a CUDA device (see open_device). Throws UsageError for a configuration that does not
  /// fit the model, Error for an unusable geometry or device.
  QuantizedKvCache(const CacheGeometry& geometry, const CompressionConfig& config,
                   at::ScalarType dtype, CacheProtocol protocol = CacheProtocol::kPrefill,
                   at::Device device = at::kCPU);
  ~QuantizedKvCache();
  QuantizedKvCache(QuantizedKvCache&&) noexcept;
  QuantizedKvCache& operator=(QuantizedKvCache&&) noexcept;

  /// Attention of T new tokens over everything before them and themselves (causal), then appends
  /// them. q: [T, heads, head_dim], k, v: [T, kv_heads, head_dim], all before RoPE, of the cache's
  /// dtype, channels contiguous. Returns [T, heads, head_dim], without a gradient, an inference
  /// tensor if the caller is in inference mode. Throws Error, before the layer's state changes, on
  /// wrong shapes and on keys, values or (under "adaptive", where they count) queries that are not
  /// finite or beyond what the packed format represents; "dense" takes any.
  ///
  /// Attention weights sum to one: a caller may subtract a constant [kv_heads, head_dim], the same
  /// for every token of the layer, from all values and add it to each head's output. That is exact
  /// and takes no bit, and codes then need not cover the constant; a bias of 4.7 times the values'
  /// spread left in can multiply the error that matters by 60. LlamaModel does so with v_proj.bias.
  ///
  /// A call that throws where other layers have already taken the same tokens leaves the cache
  /// half way: it then refuses every further call with Error until `reset`.
  ///
  /// On a CUDA device the call puts its work on LibTorch's current stream and returns. Under policy
  /// "adaptive" nothing there waits for the device, so numbers that cannot be represented are noted
  /// there and said by `check`, at the latest by the next call for layer 0, by `report` or
  /// `blocks`; the cache is half way then. A call on another stream than the one before makes that
  /// stream wait for it; q, k and v must be the current stream's.
  at::Tensor attend(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

  /// Waits for a CUDA device and throws Error if keys, values or queries given since the last check
  /// could not be represented; returns at once elsewhere. LlamaModel calls it once a pass.
  void check() const;

  /// Tokens appended to a layer so far. Throws Error for a layer that is none.
  int64_t length(int64_t layer = 0) const;
  CacheReport report() const;
  /// Whether all layers hold the same number of tokens and no call was left half way.
  bool in_step() const;
  /// Sealed blocks of a layer, oldest first. Throws Error for a layer that is none.
  std::vector<std::shared_ptr<const SealedBlock>> blocks(int64_t layer) const;
  /// Forgets all tokens and statistics.
  void reset();

  const CacheGeometry& geometry() const;
  const CompressionConfig& config() const;
  at::ScalarType dtype() const;
  CacheProtocol protocol() const;
  at::Device device() const;

 private:
  friend struct CacheAccess;
  struct State;
  explicit QuantizedKvCache(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace rillkv
