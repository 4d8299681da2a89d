// Chunked prefill and token-by-token generation.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "rillkv/kv_cache.h"
#include "rillkv/llama.h"

namespace rillkv {

struct GenerationOptions {
  int64_t max_new_tokens = 0;
  double temperature = 0;         ///< 0: greedy; otherwise softmax(logits / temperature)
  uint64_t seed = 0;              ///< of the sampling
  std::vector<int64_t> stop_ids;  ///< generation ends before such a token
  bool prompt_top1 = false;  ///< also return the most likely next token of every prompt position
  /// After each prefill chunk: prompt tokens done.
  std::function<void(int64_t)> on_prefill;
  /// After each new token; false ends the generation.
  std::function<bool(int64_t)> on_token;
};

struct GenerationResult {
  std::vector<int64_t> tokens;       ///< new tokens, without the stop token
  at::Tensor last_logits;            ///< [vocab] f32, of the last prompt position
  std::vector<int64_t> prompt_top1;  ///< [prompt], if asked for
  int64_t prompt_tokens = 0;
  double ttft_s = 0;  ///< start of prefill to the first new token's choice
  double prefill_tokens_per_s = 0;
  double decode_tokens_per_s = 0;  ///< of the tokens after the first; 0 if there is none
};

/// Prefills `prompt` in chunks of the cache's chunk_size, then generates. The cache may already
/// hold a prefix. Greedy generation is deterministic; sampled generation is, given the seed. Times
/// leave out what prompt_top1 adds. Throws Error, before the cache changes, for an empty prompt, a
/// token outside the vocabulary, and a negative temperature or number of tokens; later as
/// LlamaModelImpl::forward does. A prompt that begins with two of the configuration's BOS tokens in
/// an empty cache is warned about, once a process.
GenerationResult generate(const LlamaModel& model, const std::vector<int64_t>& prompt,
                          QuantizedKvCache& cache, const GenerationOptions& options);

/// The next token for logits [vocab] f32: the largest (lowest id among equals), or a draw from
/// softmax(logits / temperature) with `uniform` in [0, 1). A token of -inf is never chosen. Throws
/// Error for other logits, for NaN, +inf and nothing but -inf.
int64_t choose_token(const at::Tensor& logits, double temperature, double uniform);

}  // namespace rillkv
