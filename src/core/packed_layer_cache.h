// One layer of the compressed cache whose statistics are kept on the CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "core/packed_layer.h"
#include "rillkv/query_energy.h"
#include "rillkv/query_moment.h"
#include "rillkv/streaming_stats.h"

namespace rillkv {

/// Decides when a block freezes and keeps the statistics; packed bytes and arithmetic are the
/// BlockDevice's. A chunk is measured, attends, and is appended.
class PackedLayerCache final : public PackedLayer {
 public:
  /// The tail lives on `device`, where `blocks` computes; see PackedLayer.
  PackedLayerCache(const CacheGeometry& geometry, Quantizer quantizer, at::ScalarType dtype,
                   CacheProtocol protocol, RotationTable& rotations, at::Device device,
                   std::unique_ptr<BlockDevice> blocks);

  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override;
  void reset() override;

 private:
  const PackedSinks& sinks() const override { return device_->sinks(); }
  void settle() const override { device_->settle(blocks_); }

  void append(const Chunk& chunk, const Measured& measured);
  std::shared_ptr<SealedBlock> seal(const at::Tensor& keys, const at::Tensor& values, bool keep);
  /// Of the queries of the open block.
  const at::Tensor& query_sums() const { return feedback_ ? moment_->moments() : energy_->sums(); }
  void add_queries(const Chunk& chunk, const Measured& measured, size_t block);

  std::unique_ptr<BlockDevice> device_;
  const bool ema_, feedback_;
  QueryEnergy energy_{nullptr};             // policy "adaptive"
  QueryMoment moment_{nullptr};             // the same, with error feedback
  StreamingStats key_stats_, value_stats_;  // policy "ema"
};

}  // namespace rillkv
