// Two tokens through a compressed cache and one call into the evaluations, with nothing but what is
// installed.
#include <ATen/ATen.h>

#include <cstdio>
#include <exception>

#include "all_headers.h"

int main() {
  try {
    rillkv::CacheGeometry geometry;
    geometry.heads = 2;
    geometry.head_dim = 8;
    geometry.inverse_frequencies = {1.0, 0.5, 0.25, 0.125};
    rillkv::QuantizedKvCache cache(geometry, rillkv::CompressionConfig::preset("balanced"),
                                   at::kFloat);
    at::manual_seed(1);
    const at::Tensor q = at::randn({2, 2, 8}), k = at::randn({2, 1, 8}), v = at::randn({2, 1, 8});
    const at::Tensor out = cache.attend(0, q, k, v);
    if (!at::isfinite(out).all().item<bool>() || cache.length() != 2) return 1;
    if (rillkv::eval::token_f1("the red fox", "a red fox") != 1) return 1;
    std::printf("rillkv %s: %ld tokens cached\n", rillkv::version(),
                static_cast<long>(cache.length()));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
