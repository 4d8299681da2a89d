// The whole model on a CUDA device, for bench_cuda.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/run_context.h"
#include "rillkv/compression_config.h"
#include "rillkv/kv_cache.h"
#include "rillkv/llama.h"

namespace rillkv::bench {

/// Prompts of 512 tokens after `depth`, then decoded tokens, of `count` sequences at a time. Logits
/// come to the host, so each forward ends when the device is done.
inline nlohmann::ordered_json time_model_at(const LlamaModel& model,
                                            const CompressionConfig& config, int64_t depth,
                                            int64_t count) {
  constexpr int64_t kPrompt = 512, kTokens = 48, kUntimed = 8;
  std::vector<QuantizedKvCache> caches;
  std::vector<SequenceChunk> batch;
  for (int64_t i = 0; i < count; ++i) caches.push_back(model->make_cache(config));
  at::Generator generator = at::detail::createCPUGenerator(7);
  const auto random_tokens = [&](int64_t tokens) {
    return at::randint(3, model->config().vocab_size, {tokens}, generator,
                       at::TensorOptions(at::kLong));
  };
  const auto forward = [&](int64_t tokens) {
    batch.clear();
    for (QuantizedKvCache& cache : caches) batch.push_back({random_tokens(tokens), &cache});
    const double begin = seconds();
    model->forward(batch, Logits::kLast);
    return seconds() - begin;
  };
  const int64_t chunk = config.chunk_size;
  for (int64_t done = 0; done < depth; done += chunk) forward(std::min(chunk, depth - done));
  double prefill = 0;
  for (int64_t done = 0; done < kPrompt; done += chunk) prefill += forward(chunk);
  std::vector<double> tokens;
  for (int64_t i = 0; i < kTokens; ++i) {
    const double t = forward(1);
    if (i >= kUntimed) tokens.push_back(t);
  }
  const double token = median(tokens);
  return {{"depth", depth},
          {"batch", count},
          {"prefill_tokens_per_s", static_cast<double>(kPrompt * count) / prefill},
          {"decode_tokens_per_s", static_cast<double>(count) / token},
          {"token_s", token}};
}

inline void time_model(const std::string& folder, at::Device device,
                       const std::function<void(const nlohmann::ordered_json&)>& take) {
  const LlamaModel model = load_model(folder, {at::kBFloat16, device});
  const CompressionConfig balanced = CompressionConfig::preset("balanced");
  time_model_at(model, balanced, 256, 1);  // what is made once
  for (const auto& [depth, count] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {4096, 1}, {512, 8}, {512, 32}}) {
    nlohmann::ordered_json result = {{"cache", "balanced"}};
    result.update(time_model_at(model, balanced, depth, count));
    take(result);
  }
}

}  // namespace rillkv::bench
