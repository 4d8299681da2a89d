// Perplexity and KL divergence of a compressed cache against the dense one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "rillkv/kv_cache.h"
#include "rillkv/llama.h"

namespace rillkv::eval {

struct PerplexityOptions {
  int64_t context = 1024;  ///< tokens a window, >= 2
  int64_t windows = 2;     ///< how many windows; 0: as many as the text has
  int64_t stride = 0;      ///< tokens between windows' starts; 0: context, no overlap
  CacheProtocol protocol = CacheProtocol::kPrefill;
  CompressionConfig config;
  bool baseline = true;  ///< also run the dense cache: KL, agreement and its perplexity
  /// After each chunk of each run: chunks done, chunks in total.
  std::function<void(int64_t, int64_t)> on_progress;
};

/// One window's sums; means over windows are the result.
struct WindowResult {
  double nll = 0;  ///< mean negative log-likelihood of the scored tokens, nats
  double nll_baseline = 0;
  double kl = 0;       ///< mean KL(dense || compressed) over all positions, nats
  double top1 = 0;     ///< share of positions whose most likely token agrees
  int64_t scored = 0;  ///< tokens whose likelihood counts
};

struct PerplexityResult {
  double perplexity = 0;
  double perplexity_baseline = 0;
  double kl_mean = 0;
  double top1_agreement = 0;
  std::vector<WindowResult> windows;
  CacheReport cache;  ///< of the last window
};

/// Windows of `context` tokens, each from an empty cache, no BOS added. With a stride below the
/// context only the last `stride` tokens of later windows are scored, as the sliding-window
/// perplexity of Hugging Face does. Log-likelihoods and KL are summed in double. Throws Error if
/// the text is too short.
PerplexityResult perplexity(const LlamaModel& model, const std::vector<int64_t>& tokens,
                            const PerplexityOptions& options);

}  // namespace rillkv::eval
