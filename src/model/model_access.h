// What a LlamaModel lets the library's tests and benchmarks do, and users not.
#pragma once

#include <memory>
#include <utility>

#include "core/cache_access.h"
#include "core/cuda_backend.h"
#include "core/device_decoder.h"  // IWYU pragma: keep
#include "rillkv/llama.h"

namespace rillkv {

struct ModelAccess {
  /// Everything but the caches runs over this back end from here on: tests run kernels without a
  /// GPU.
  static void use(LlamaModelImpl& model, std::shared_ptr<CudaBackend> backend) {
    model.backend_ = std::move(backend);
    model.decoder_ = nullptr;
  }
  /// As LlamaModelImpl::make_cache, over the model's own back end.
  static QuantizedKvCache make_cache(const LlamaModelImpl& model, const CompressionConfig& config) {
    return CacheAccess::over(model.backend_, model.cache_geometry(), config, model.dtype());
  }
};

}  // namespace rillkv
