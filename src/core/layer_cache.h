// What QuantizedKvCache asks of one layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "rillkv/kv_cache.h"
#include "rillkv/quantizer.h"

namespace rillkv {

class CudaBackend;
class HugePageArena;
class RotationTable;

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

class LayerCache {
 public:
  virtual ~LayerCache() = default;
  /// See QuantizedKvCache::attend; shapes and dtype have been checked.
  virtual at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) = 0;
  virtual int64_t length() const = 0;
  virtual LayerUsage usage() const = 0;
  virtual std::vector<std::shared_ptr<const SealedBlock>> blocks() const = 0;
  virtual void reset() = 0;
};

/// `rotations`, `memory` (of sealed blocks) and `backend` must outlive the layer; layers of one
/// sequence share them. Pointers of `rotations` are those of the layer's device.
std::unique_ptr<LayerCache> make_cpu_layer(const CacheGeometry& geometry, Quantizer quantizer,
                                           at::ScalarType dtype, CacheProtocol protocol,
                                           RotationTable& rotations, HugePageArena& memory);
std::unique_ptr<LayerCache> make_cuda_layer(const CacheGeometry& geometry, Quantizer quantizer,
                                            at::ScalarType dtype, CacheProtocol protocol,
                                            RotationTable& rotations, CudaBackend& backend);
/// The causal mask of the chunk at hand, made by the first layer that asks for it and shared by the
/// others.
struct ChunkMask {
  int64_t past = -1;
  at::Tensor additive;  // [tokens, past + tokens], 0 or -infinity
};
std::unique_ptr<LayerCache> make_dense_layer(const CacheGeometry& geometry, at::ScalarType dtype,
                                             RotationTable& rotations, at::Device device,
                                             std::shared_ptr<ChunkMask> mask);

}  // namespace rillkv
