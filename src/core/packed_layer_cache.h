// One layer of the compressed cache: sinks, sealed blocks, the open tail, and their statistics.
// What depends on the device is left to cpu_layer_cache.cpp and cuda_layer_cache.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "core/layer_cache.h"
#include "core/rotation_table.h"
#include "kernels/params.h"
#include "rillkv/query_energy.h"
#include "rillkv/streaming_stats.h"

namespace rillkv {

class PackedLayerCache : public LayerCache {
 public:
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) final;
  int64_t length() const final { return length_; }
  LayerUsage usage() const final;
  std::vector<std::shared_ptr<const SealedBlock>> blocks() const final;
  void reset() override;

 protected:
  /// Tensors live on `device`; `rotations` hands out its pointers.
  PackedLayerCache(const CacheGeometry& geometry, Quantizer quantizer, at::ScalarType dtype,
                   CacheProtocol protocol, RotationTable& rotations, at::Device device);

  /// Rows of a chunk that are treated alike: the sinks, then the part of each block.
  struct Span {
    int64_t begin = 0, end = 0;
    int64_t count() const { return end - begin; }
  };
  /// The first of `tokens` new tokens that become sinks.
  Span sink_span(int64_t tokens) const;
  /// What each block takes of the rest, oldest first.
  std::vector<Span> block_spans(int64_t tokens) const;

  /// The values as they are stored (rotated where values are). Throws unless everything can be
  /// quantised; changes no state that outlives an exception.
  virtual at::Tensor prepare(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) = 0;
  /// Statistics of policy "ema" of the chunk's tokens after the sinks.
  virtual void update_statistics(const at::Tensor& k, const at::Tensor& v) = 0;
  /// Adds the queries of one block span; spans come in order. Policy "adaptive".
  virtual void add_energy(const at::Tensor& q) = 0;
  /// Packs tokens as sinks `length_` and on.
  virtual void pack_sinks(const at::Tensor& x, int64_t bits, at::Tensor& sinks) = 0;
  /// Packs a block and enters it as block number `index` of the kernels' tables; `keep` is false
  /// for the stress protocol's provisional block. The tally may wait for settle().
  virtual std::shared_ptr<SealedBlock> seal_adaptive(int64_t index, const at::Tensor& keys,
                                                     const at::Tensor& values,
                                                     const at::Tensor& energy, bool keep) = 0;
  struct EmaSide {
    at::Tensor absmax, outliers;  // [kv_heads, head_dim], f32 and bool, on the CPU
  };
  virtual std::shared_ptr<SealedBlock> seal_ema(int64_t index, const at::Tensor& keys,
                                                const at::Tensor& values, const EmaSide& key_side,
                                                const EmaSide& value_side, bool keep) = 0;
  /// Completes the tallies of all blocks.
  virtual void settle() const {}
  /// [blocks, kv_heads] pointers to packed keys and to packed values, the device's.
  virtual const uint8_t* const* key_table() const = 0;
  virtual const uint8_t* const* value_table() const = 0;
  virtual void run(const kernels::AttentionParams& params) = 0;

  const CacheGeometry geometry_;
  Quantizer quantizer_;
  const CompressionConfig& config_;
  const CacheProtocol protocol_;
  RotationTable& rotations_;
  const bool ema_;
  QueryEnergy energy_;
  StreamingStats key_stats_, value_stats_;

  int64_t length_ = 0;
  at::Tensor sink_keys_, sink_values_;  // [kv_heads, bytes] u8
  std::vector<std::shared_ptr<SealedBlock>> blocks_;
  at::Tensor tail_keys_, tail_values_;  // [block_size, kv_heads, head_dim], the model's dtype
  int64_t tail_count_ = 0;

 private:
  kernels::AttentionParams base_params(const at::Tensor& q, at::Tensor& out, int64_t first);
  at::Tensor attend_chunk(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
  at::Tensor attend_stressed(const at::Tensor& q, int64_t first);
  void append(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
  std::shared_ptr<SealedBlock> seal(int64_t tokens, bool keep);

  int64_t sealed_key_bytes_ = 0, sealed_value_bytes_ = 0;
  int64_t key_block_bytes_ = 0;  // of the largest, one kv head
};

}  // namespace rillkv
