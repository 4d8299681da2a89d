#include "core/block_device.h"

#include <ATen/ATen.h>

#include "kernels/packed_format.h"

namespace rillkv {

PackedSinks allocate_sinks(const QuantizerOptions& options, at::Device device) {
  const CompressionConfig& config = options.config;
  if (config.attention_sink_size == 0) return {};
  const auto side = [&](int64_t bits) {
    const size_t bytes =
        format::sink_block_bytes(static_cast<int>(config.attention_sink_size),
                                 static_cast<int>(options.head_dim), static_cast<int>(bits));
    return at::zeros({options.kv_heads, static_cast<int64_t>(bytes)},
                     at::TensorOptions().dtype(at::kByte).device(device));
  };
  return {side(config.key_bits_sink_outlier), side(config.value_bits_sink_outlier)};
}

}  // namespace rillkv
