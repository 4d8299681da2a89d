// One layer of the compressed cache: sinks, sealed blocks, the open tail, and their statistics.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/block_device.h"
#include "core/layer_cache.h"
#include "core/rotation_table.h"
#include "kernels/params.h"
#include "rillkv/cache_geometry.h"
#include "rillkv/query_energy.h"
#include "rillkv/streaming_stats.h"

namespace rillkv {

/// Decides which token goes where and when a block freezes, and keeps the statistics; packed bytes
/// and arithmetic are the BlockDevice's. A chunk is measured, attends, and is appended.
class PackedLayerCache final : public LayerCache {
 public:
  /// The tail lives on `device`, where `blocks` computes; `rotations` hands out its pointers and
  /// must outlive the layer, as a sequence's layers share it.
  PackedLayerCache(const CacheGeometry& geometry, Quantizer quantizer, at::ScalarType dtype,
                   CacheProtocol protocol, RotationTable& rotations, at::Device device,
                   std::unique_ptr<BlockDevice> blocks);

  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override;
  int64_t length() const override { return length_; }
  LayerUsage usage() const override;
  std::vector<std::shared_ptr<const SealedBlock>> blocks() const override;
  void reset() override;

 private:
  /// Which of the new tokens become sinks, and what each block takes of the rest.
  Chunk divide(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const;
  at::Tensor attend_chunk(const Chunk& chunk, const at::Tensor& values);
  at::Tensor attend_stressed(const at::Tensor& q, int64_t first);
  kernels::AttentionParams base_params(const at::Tensor& q, at::Tensor& out, int64_t first);
  void append(const Chunk& chunk, const Measured& measured);
  std::shared_ptr<SealedBlock> seal(const at::Tensor& keys, const at::Tensor& values, bool keep);

  const CacheGeometry geometry_;
  Quantizer quantizer_;
  const CompressionConfig& config_;  // the quantiser's
  const CacheProtocol protocol_;
  RotationTable& rotations_;
  std::unique_ptr<BlockDevice> device_;
  const bool ema_;
  QueryEnergy energy_;                      // policy "adaptive"
  StreamingStats key_stats_, value_stats_;  // policy "ema"

  int64_t length_ = 0;
  std::vector<std::shared_ptr<SealedBlock>> blocks_;
  at::Tensor tail_keys_, tail_values_;  // [block_size, kv_heads, head_dim], the model's dtype
  int64_t tail_count_ = 0;              // < block_size between calls
  int64_t sealed_key_bytes_ = 0, sealed_value_bytes_ = 0;
};

}  // namespace rillkv
