// The cache inside a model of your own: `attend` takes the place of RoPE, of the stored keys and
// values, and of the attention over them.
#include <ATen/ATen.h>
#include <rillkv/kv_cache.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

constexpr int64_t kHeads = 8, kKvHeads = 2, kHeadDim = 64;
constexpr int64_t kHidden = kHeads * kHeadDim, kKvHidden = kKvHeads * kHeadDim;

struct Attention {
  int64_t layer;  // of the model, and of its caches
  at::Tensor q = at::randn({kHidden, kHidden}) / std::sqrt(kHidden);
  at::Tensor k = at::randn({kHidden, kKvHidden}) / std::sqrt(kHidden);
  at::Tensor v = at::randn({kHidden, kKvHidden}) / std::sqrt(kHidden);
  at::Tensor o = at::randn({kHidden, kHidden}) / std::sqrt(kHidden);

  // x: [tokens, hidden], the tokens that follow those of the cache: a chunk, or a decoded one.
  at::Tensor forward(const at::Tensor& x, rillkv::QuantizedKvCache& cache) const {
    const auto heads = [&](const at::Tensor& weight) {
      return at::matmul(x, weight).view({x.size(0), -1, kHeadDim});
    };
    // No RoPE here: the cache keeps keys as they are and rotates them where it reads them.
    return at::matmul(cache.attend(layer, heads(q), heads(k), heads(v)).flatten(1), o);
  }
};

int main() {
  at::manual_seed(1);
  const Attention attention{.layer = 0};
  rillkv::CacheGeometry geometry;
  geometry.heads = kHeads;
  geometry.kv_heads = kKvHeads;
  geometry.head_dim = kHeadDim;
  for (int64_t i = 0; i < kHeadDim / 2; ++i) {  // RoPE's frequencies, with the usual base
    geometry.inverse_frequencies.push_back(std::pow(10000.0, -2.0 * i / kHeadDim));
  }
  const auto config = rillkv::CompressionConfig::preset("balanced");
  rillkv::QuantizedKvCache cache(geometry, config, at::kFloat);
  rillkv::QuantizedKvCache dense(geometry, config.baseline(), at::kFloat);  // to compare with

  // In place of hidden states: tokens that differ, around what they have in common.
  const at::Tensor tokens = at::randn({1024, kHidden}) + at::randn({1, kHidden});
  double error = 0;
  // The cache takes any number of tokens a call. Chunks keep what is in full precision small.
  for (int64_t begin = 0; begin < tokens.size(0); begin += config.chunk_size) {
    const at::Tensor x = tokens.slice(0, begin, begin + config.chunk_size);
    const at::Tensor exact = attention.forward(x, dense);
    const at::Tensor off = attention.forward(x, cache) - exact;
    error = std::max(error, (off.norm() / exact.norm()).item<double>());
  }
  std::printf("%lld tokens: %lld bytes for %lld, outputs off by %.2f %%\n",
              static_cast<long long>(cache.length()),
              static_cast<long long>(cache.report().kv_bytes),
              static_cast<long long>(dense.report().kv_bytes), 100 * error);
}
