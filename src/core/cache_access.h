// What a QuantizedKvCache lets the library and its tests do, and users not.
#pragma once

#include <cstdint>
#include <memory>

#include "core/cuda_backend.h"
#include "rillkv/kv_cache.h"

namespace rillkv {

class CudaSequence;

struct CacheAccess {
  /// A cache over a CUDA back end of the caller's: tests run the kernels without a GPU. A null
  /// back end is the CPU.
  static QuantizedKvCache over(std::shared_ptr<CudaBackend> backend, const CacheGeometry& geometry,
                               const CompressionConfig& config, at::ScalarType dtype,
                               CacheProtocol protocol = CacheProtocol::kPrefill);
  /// Null unless the cache is a CUDA device's under policy "adaptive".
  static CudaSequence* cuda(QuantizedKvCache& cache);
  /// To be called before work is given to the device past the cache.
  static void follow_stream(QuantizedKvCache& cache);
  /// Of an error word that was read after all work so far: throws what it says, and leaves the
  /// cache half way.
  static void raise(QuantizedKvCache& cache, uint64_t error);
};

}  // namespace rillkv
