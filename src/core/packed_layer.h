// One layer of the compressed cache, whatever device computes its statistics: which token goes
// where, and what attention is given.
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

namespace rillkv {

/// Sinks, sealed blocks and the open tail of one layer, and their counts. PackedLayerCache keeps
/// the statistics on the CPU, CudaLayerCache on the device.
class PackedLayer : public LayerCache {
 public:
  int64_t length() const override { return length_; }
  LayerUsage usage() const override;
  std::vector<std::shared_ptr<const SealedBlock>> blocks() const override;
  std::vector<at::Tensor> tensors() const override;

 protected:
  /// The tail lives on `device`; `rotations` hands out its pointers and must outlive the layer, as
  /// a sequence's layers share it.
  PackedLayer(const CacheGeometry& geometry, Quantizer quantizer, at::ScalarType dtype,
              CacheProtocol protocol, RotationTable& rotations, at::Device device);

  virtual const PackedSinks& sinks() const = 0;
  /// Of statistics that are as large as some hundred tokens and so are counted with the keys.
  virtual int64_t statistics_bytes() const { return 0; }
  /// Completes the tallies of sealed blocks.
  virtual void settle() const = 0;

  /// Which of the new tokens become sinks, and what each block takes of the rest.
  Chunk divide(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const;
  /// Prefill protocol: the chunk and the open tail are read in full precision. values: the chunk's,
  /// as stored. All is given but the tables of blocks.
  kernels::AttentionParams chunk_params(const Chunk& chunk, const at::Tensor& values,
                                        at::Tensor& out);
  /// Stress protocol: the chunk, whose first token is `first`, has been appended; what is unsealed
  /// is read as one provisional short block where there is any.
  kernels::AttentionParams stress_params(const at::Tensor& q, int64_t first, at::Tensor& out);
  /// What is the same for every sequence and token: no counts, no places.
  kernels::AttentionParams shared_params(const at::Tensor& q, at::Tensor& out) const;
  void add_block(std::shared_ptr<SealedBlock> block);
  /// Every token is in exactly one place.
  bool counts_agree() const;
  /// Forgets tokens and blocks.
  void clear();

  const CacheGeometry geometry_;
  Quantizer quantizer_;
  const CompressionConfig& config_;  // the quantiser's
  const CacheProtocol protocol_;
  RotationTable& rotations_;

  int64_t length_ = 0;
  std::vector<std::shared_ptr<SealedBlock>> blocks_;
  at::Tensor tail_keys_, tail_values_;  // [block_size, kv_heads, head_dim], the model's dtype
  int64_t tail_count_ = 0;              // < block_size between calls

 private:
  /// Sinks and blocks alone.
  kernels::AttentionParams base_params(const at::Tensor& q, at::Tensor& out, int64_t first);

  int64_t sealed_key_bytes_ = 0, sealed_value_bytes_ = 0;
};

}  // namespace rillkv
