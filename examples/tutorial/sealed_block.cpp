// What is in the cache: the widths of a sealed block's codes, its bytes, and the keys and values
// that attention reads out of them.
#include <ATen/ATen.h>
#include <rillkv/kv_cache.h>
#include <rillkv/quantizer.h>

#include <cstdio>
#include <memory>

int main() {
  at::manual_seed(1);
  rillkv::CacheGeometry geometry;
  geometry.heads = geometry.kv_heads = 2;
  geometry.head_dim = 8;
  geometry.inverse_frequencies = {1.0, 0.1, 0.01, 0.001};  // RoPE's
  const auto config = rillkv::CompressionConfig::preset("balanced");
  rillkv::QuantizedKvCache cache(geometry, config, at::kFloat);
  const at::Tensor q = at::randn({200, 2, 8}), k = at::randn({200, 2, 8}),
                   v = at::randn({200, 2, 8});
  cache.attend(/*layer=*/0, q, k, v);

  // The first tokens are attention sinks; the next block_size tokens are the first sealed block.
  // What is left of the 200 is the open tail, in full precision until it fills a block.
  const std::shared_ptr<const rillkv::SealedBlock> block = cache.blocks(/*layer=*/0).front();
  std::printf("%lld tokens in %lld + %lld bytes\n", static_cast<long long>(block->tokens),
              static_cast<long long>(block->key_bytes), static_cast<long long>(block->value_bytes));
  for (size_t width = 1; width <= 8; ++width) {
    std::printf("  %zu bits: %lld key channels, %lld value channels\n", width,
                static_cast<long long>(block->tally.key_widths[width]),
                static_cast<long long>(block->tally.value_widths[width]));
  }

  // A quantiser holds no data: any one of the same shape and configuration reads the block.
  const rillkv::Quantizer quantizer(rillkv::QuantizerOptions{2, 8, config});
  const auto read = quantizer->dequantize(*block);  // [tokens, kv_heads, head_dim]
  // Values were rotated before they were quantised; the rotation is its own inverse.
  const at::Tensor values = quantizer->rotate_values(read.values);

  const auto error = [&](const at::Tensor& got, const at::Tensor& all) {
    const at::Tensor want = all.slice(0, config.attention_sink_size).slice(0, 0, block->tokens);
    return 100 * ((got - want).norm() / want.norm()).item<double>();
  };
  std::printf("off by %.1f %% (keys), %.1f %% (values)\n", error(read.keys, k), error(values, v));
}
