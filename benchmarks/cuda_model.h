// The whole model on a CUDA device, for bench_cuda.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/clock.h"
#include "benchmarks/counting_backend.h"
#include "rillkv/compression_config.h"
#include "rillkv/kv_cache.h"
#include "rillkv/llama.h"
#include "src/model/model_access.h"

namespace rillkv::bench {

struct ModelRun {
  int64_t depth = 0;                 // tokens before what is timed
  int64_t batch = 1;                 // sequences at a time
  int64_t prompt = 512;              // timed, in chunks
  int64_t tokens = 48, untimed = 8;  // decoded after it, of which the first are not timed
};

/// Prompts after `depth`, then decoded tokens. Logits come to the host, so each forward ends when
/// the device is done. What the host did is that of the prompt, and of the last token alone: one in
/// 128 also packs a block. The model must run over `backend`.
inline nlohmann::ordered_json time_model_at(const LlamaModel& model,
                                            const CompressionConfig& config, const ModelRun& run,
                                            const CountingBackend& backend) {
  std::vector<QuantizedKvCache> caches;
  std::vector<SequenceChunk> batch;
  for (int64_t i = 0; i < run.batch; ++i) {
    caches.push_back(ModelAccess::make_cache(*model, config));
  }
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
  const auto prefill = [&](int64_t tokens) {
    double time = 0;
    for (int64_t done = 0; done < tokens; done += config.chunk_size) {
      time += forward(std::min(config.chunk_size, tokens - done));
    }
    return time;
  };
  prefill(run.depth);
  Traffic before = backend.traffic();
  const double prompt = prefill(run.prompt);
  const Traffic of_prompt = backend.traffic() - before;
  std::vector<double> tokens;
  for (int64_t i = 0; i < run.tokens; ++i) {
    before = backend.traffic();
    const double t = forward(1);
    if (i >= run.untimed) tokens.push_back(t);
  }
  const double token = median(tokens);
  return {{"depth", run.depth},
          {"batch", run.batch},
          {"prefill_tokens_per_s", static_cast<double>(run.prompt * run.batch) / prompt},
          {"decode_tokens_per_s", static_cast<double>(run.batch) / token},
          {"token_s", token},
          {"prompt_did", of_prompt.json()},
          {"token_did", (backend.traffic() - before).json()}};
}

/// Each with CUDA graphs and without, beside policy "dense" (LibTorch's FlashAttention).
inline void time_model(const std::string& folder, at::Device device,
                       const std::function<void(const nlohmann::ordered_json&)>& take) {
  LlamaModel model = load_model(folder, {at::kBFloat16, device});
  const auto backend = std::make_shared<CountingBackend>(cuda_backend(device));
  ModelAccess::use(*model, backend);
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
      if (depth == 0) time_model_at(model, config, {.depth = 256}, *backend);  // what is made once
      nlohmann::ordered_json result = {{"cache", side.preset},
                                       {"graphs", std::string(side.graphs) == "1"},
                                       {"prefill", side.prefill}};
      result.update(time_model_at(model, config, {.depth = depth, .batch = count}, *backend));
      take(result);
    }
  }
  unsetenv("RILLKV_CUDA_GRAPHS");
  unsetenv("RILLKV_PREFILL");
}

}  // namespace rillkv::bench
