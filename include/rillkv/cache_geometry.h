// What a cache is made for: the model's shape, and what queries may read.
#pragma once

#include <cstdint>
#include <vector>

namespace rillkv {

/// The model's shape as the cache needs it.
struct CacheGeometry {
  int64_t layers = 1;
  int64_t heads = 1;
  int64_t kv_heads = 1;                     ///< divides heads
  int64_t head_dim = 64;                    ///< even
  std::vector<double> inverse_frequencies;  ///< [head_dim / 2] RoPE, scaling included
};

/// What a query may read of its own chunk.
enum class CacheProtocol {
  /// The product: sealed blocks quantised, the open tail and the chunk in full precision.
  kPrefill,
  /// Every key and value has been through the quantiser, the chunk's own too.
  kStress,
};

}  // namespace rillkv
