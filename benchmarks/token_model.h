// What a decoded token of a whole model should take on a GPU: the kernels' times of the other
// models, the weights' bytes, and what launching them costs (launch_model.h).
#pragma once

#include <string>

#include "benchmarks/attention_model.h"
#include "benchmarks/launch_model.h"

namespace rillkv::bench {

/// A LLaMA-shaped model, bf16.
struct TokenShape {
  std::string name;
  int layers, hidden, inner, heads, kv_heads, head_dim, vocabulary;

  double weight_bytes() const {
    const double attention = 2.0 * hidden * (heads + kv_heads) * head_dim;
    return 2.0 *
           (layers * (attention + 3.0 * hidden * inner) + static_cast<double>(vocabulary) * hidden);
  }
};
inline TokenShape smollm2() { return {"SmolLM2-135M", 30, 576, 1536, 9, 3, 64, 49152}; }

/// How a token reaches the device. Launches a layer: two norms, four matrix products, the gate,
/// ingest, attention and merge; a token: steps and ids, embedding, last norm, head.
struct TokenPath {
  const char* name;
  int launches, synchronisations;
  bool graph;
};
inline int launches_a_layer() { return 10; }
inline int launches_a_token(const TokenShape& s) { return s.layers * launches_a_layer() + 4; }

struct TokenPrediction {
  double device_s = 0;  // of the kernels alone
  double token_s = 0;
};

inline TokenPrediction predict_token(const Gpu& gpu, const TokenShape& s, const TokenPath& path,
                                     int depth) {
  const auto p = model_params(s.heads, s.kv_heads, s.head_dim, 1, depth);
  TokenPrediction result;
  // Launches are counted below, that of the merge, too.
  const double attention =
      predict(gpu, p, model_cache_bytes(p)).expected_s() - kernels::cuda::kLaunchCycles / gpu.clock;
  result.device_s = s.weight_bytes() / gpu.bandwidth + s.layers * attention;
  result.token_s = path.graph
                       ? graph_token_seconds(path.launches, path.synchronisations, result.device_s)
                       : eager_token_seconds(path.launches, path.synchronisations, result.device_s);
  return result;
}

}  // namespace rillkv::bench
