// The CUDA side of one cache of policy "adaptive" or "trellis": its layers, and what a step of all
// of them needs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/cuda_cache_state.h"
#include "core/cuda_layer_cache.h"
#include "core/device_rotation_table.h"
#include "kernels/cuda/sequence_step.h"
#include "rillkv/quantizer.h"

namespace rillkv {

/// A step is one token of every layer whose launches are the same for every token: what changes is
/// in device memory, written by rillkv_begin_pass from what begin_step returns.
class CudaSequence {
 public:
  /// `backend` must outlive it.
  CudaSequence(const CacheGeometry& geometry, const Quantizer& quantizer, at::ScalarType dtype,
               CacheProtocol protocol, CudaBackend& backend);

  /// The layers, for the cache to own; they must not outlive this.
  std::vector<std::unique_ptr<LayerCache>> take_layers();
  CudaLayerCache& layer(int64_t index) { return *layers_[index]; }
  CudaCacheState& state() { return state_; }
  const QuantizerOptions& options() const { return quantizer_->options(); }
  const CacheGeometry& geometry() const { return geometry_; }
  /// Different for every cache of the process.
  uint64_t id() const { return id_; }

  /// Whether the next token may be a step: all sinks are there, and no layer is ahead of another.
  bool can_step() const;
  /// Makes room for one token more and returns where everything is.
  kernels::cuda::SequenceStep begin_step();
  /// The device has been given the step: counts the token and packs the blocks that it completes.
  void end_step();

  void reset();
  /// What kernels may read or write besides the layers' own.
  std::vector<at::Tensor> tensors() const;

 private:
  const CacheGeometry geometry_;
  Quantizer quantizer_;
  const CacheProtocol protocol_;
  const uint64_t id_;
  DeviceRotationTable rotations_;
  CudaCacheState state_;
  std::vector<CudaLayerCache*> layers_;
  std::vector<std::unique_ptr<LayerCache>> owned_;  // until they are taken
  at::Tensor tail_cos_, tail_sin_;                  // [block_size, D/2]
  // Rows [0, count) are those of the tail that begins at this index.
  int64_t tail_first_ = -1, tail_rows_ = 0;
};

}  // namespace rillkv
