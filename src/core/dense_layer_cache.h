// One layer of the uncompressed baseline.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "core/layer_cache.h"
#include "core/rotation_table.h"
#include "rillkv/cache_geometry.h"

namespace rillkv {

class CudaBackend;

/// The causal mask of the chunk at hand, made by the first layer that asks for it and shared by the
/// others.
struct ChunkMask {
  int64_t past = -1;
  at::Tensor additive;  // [tokens, past + tokens], 0 or -infinity
};

/// `rotations`, whose pointers are those of `device`, and `backend`, which is null on the CPU, must
/// outlive the layer; layers of one sequence share them and `mask`.
std::unique_ptr<LayerCache> make_dense_layer(const CacheGeometry& geometry, at::ScalarType dtype,
                                             RotationTable& rotations, at::Device device,
                                             CudaBackend* backend, std::shared_ptr<ChunkMask> mask);

}  // namespace rillkv
