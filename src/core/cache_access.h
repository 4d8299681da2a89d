// What a QuantizedKvCache lets the library and its tests do, and users not.
#pragma once

#include <memory>

#include "core/cuda_backend.h"
#include "rillkv/kv_cache.h"

namespace rillkv {

struct CacheAccess {
  /// A cache over a CUDA back end of the caller's: tests run the kernels without a GPU. A null
  /// back end is the CPU.
  static QuantizedKvCache over(std::shared_ptr<CudaBackend> backend, const CacheGeometry& geometry,
                               const CompressionConfig& config, at::ScalarType dtype,
                               CacheProtocol protocol = CacheProtocol::kPrefill);
};

}  // namespace rillkv
