// The whole model on a CUDA device, for bench_cuda.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
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

/// Each with CUDA graphs and without, beside policy "dense" (LibTorch's FlashAttention).
inline void time_model(const std::string& folder, at::Device device,
                       const std::function<void(const nlohmann::ordered_json&)>& take) {
  const LlamaModel model = load_model(folder, {at::kBFloat16, device});
  /// A cache, and settings that are read when it is made or when a pass begins.
  struct Side {
    const char *preset, *graphs, *prefill;
  };
  constexpr Side kSides[] = {{"balanced", "1", "fused"},
                             {"balanced", "0", "fused"},
                             {"dense", "1", "fused"},
                             {"balanced", "1", "slices"},
                             {"balanced", "1", "slices-flash"}};
  for (const auto& [depth, count] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {4096, 1}, {512, 8}, {512, 32}}) {
    for (const Side& side : kSides) {
      const bool slices = std::string(side.prefill) != "fused";
      if (slices && depth < 4096) continue;
      setenv("RILLKV_CUDA_GRAPHS", side.graphs, 1);
      setenv("RILLKV_PREFILL", side.prefill, 1);
      const CompressionConfig config = CompressionConfig::preset(side.preset);
      if (depth == 0) time_model_at(model, config, 256, 1);  // what is made once
      nlohmann::ordered_json result = {{"cache", side.preset},
                                       {"graphs", std::string(side.graphs) == "1"},
                                       {"prefill", side.prefill}};
      result.update(time_model_at(model, config, depth, count));
      take(result);
    }
  }
  unsetenv("RILLKV_CUDA_GRAPHS");
  unsetenv("RILLKV_PREFILL");
}

}  // namespace rillkv::bench
