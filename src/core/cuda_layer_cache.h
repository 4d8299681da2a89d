// One layer of a CUDA cache of policy "adaptive" or "trellis": everything that is decided from the
// numbers is decided on the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/adaptive_layout.h"
#include "core/cuda_backend.h"
#include "core/cuda_cache_state.h"
#include "core/device_rotation_table.h"
#include "core/packed_layer.h"
#include "core/slice_attention.h"
#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/ingest_params.h"

namespace rillkv {

/// The same bytes as a PackedLayerCache on the CPU makes, in a few launches a chunk and without
/// waiting for the device: ingest (values, statistics, tail), attention, and where blocks are
/// completed one launch that packs them. What cannot be quantised is therefore not refused before
/// the layer changes: it is noted in the state's error word.
class CudaLayerCache final : public PackedLayer {
 public:
  /// rotations, state and backend must outlive the layer; a sequence's layers share them. Throws
  /// Error for a head_dim that no CUDA kernel takes.
  CudaLayerCache(const CacheGeometry& geometry, Quantizer quantizer, at::ScalarType dtype,
                 CacheProtocol protocol, int64_t layer, DeviceRotationTable& rotations,
                 CudaCacheState& state, CudaBackend& backend);

  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override;
  void reset() override;

  /// Of a step (cuda_step.h), which ingests one token and attends with launches of its own: what is
  /// the same for every sequence, with this one's counts now. q, out: [sequences, heads, head_dim].
  kernels::cuda::AttentionParams step_params(const at::Tensor& q, at::Tensor& out) const;
  /// The device has taken a token as row tail_count of the tail: counts it, and packs the block
  /// that it completes.
  void count_token();

  int64_t block_count() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t tail_count() const { return tail_count_; }
  std::vector<at::Tensor> tensors() const override;

 private:
  const PackedSinks& sinks() const override { return sinks_; }
  int64_t statistics_bytes() const override {
    const auto bytes = static_cast<int64_t>(sizeof(float));
    return state_.error_feedback() ? geometry_.kv_heads * statistics_ * bytes : 0;
  }
  void settle() const override;

  /// What the widths of blocks, and with error feedback their roundings, are chosen by.
  struct QueryStatistics {
    float* numbers = nullptr;  // [blocks, kv_heads, statistics_]
    float decay = 1;           // of moments that are the open block's: see PackParams
  };
  /// Values as stored. statistics: room for those of the blocks that the chunk completes.
  at::Tensor ingest(const Chunk& chunk, const at::Tensor& statistics);
  void append(const Chunk& chunk, const at::Tensor& values, const at::Tensor& statistics);
  /// Packs blocks of the tail's first tail_count rows and of `keys`, `values`, [tokens, kv_heads,
  /// head_dim]. The rest becomes the tail.
  void pack(int64_t tail_count, const at::Tensor& keys, const at::Tensor& values,
            QueryStatistics statistics);
  /// The tail as a short block after the last one.
  std::shared_ptr<SealedBlock> pack_provisional();
  std::shared_ptr<SealedBlock> allocate(int64_t tokens) const;
  kernels::cuda::PackParams pack_params() const;
  void launch_pack(kernels::cuda::PackParams& params, const QueryStatistics& statistics);
  void attend_on_device(const kernels::AttentionParams& params);

  const int64_t layer_;
  const AdaptiveLayout layout_;
  DeviceRotationTable& device_rotations_;
  CudaCacheState& state_;
  CudaBackend& backend_;
  const int64_t statistics_;  // floats of a kv head and block: energies, or a moment
  const SliceOptions slices_ = {.path = prefill_path()};
  PackedSinks sinks_;
  at::Tensor sink_pointers_;     // [2, kv_heads] i64: keys, values
  mutable int64_t settled_ = 0;  // blocks whose tally is complete
};

}  // namespace rillkv
