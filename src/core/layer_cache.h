// What QuantizedKvCache asks of one layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "rillkv/sealed_block.h"

namespace rillkv {

/// Bytes and counts of one layer, summed by QuantizedKvCache::report.
struct LayerUsage {
  int64_t key_bytes = 0;  // allocated
  int64_t value_bytes = 0;
  int64_t sink_tokens = 0;
  int64_t sealed_tokens = 0;
  int64_t sealed_key_bytes = 0;
  int64_t sealed_value_bytes = 0;
  int64_t sealed_blocks = 0;
  BlockTally tally;
};

/// One layer of one sequence's cache: PackedLayerCache, or dense_layer_cache.h's.
class LayerCache {
 public:
  virtual ~LayerCache() = default;
  /// See QuantizedKvCache::attend; shapes and dtype have been checked.
  virtual at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) = 0;
  virtual int64_t length() const = 0;
  virtual LayerUsage usage() const = 0;
  virtual std::vector<std::shared_ptr<const SealedBlock>> blocks() const = 0;
  virtual void reset() = 0;
  /// Memory that kernels may read or write.
  virtual std::vector<at::Tensor> tensors() const = 0;
};

}  // namespace rillkv
