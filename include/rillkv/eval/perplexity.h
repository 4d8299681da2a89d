// Perplexity and KL divergence of a compressed cache against the dense one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "rillkv/eval/result_log.h"
#include "rillkv/eval/run_stats.h"
#include "rillkv/kv_cache.h"
#include "rillkv/llama.h"

namespace rillkv::eval {

/// One window's means, and all that a report needs of it.
struct WindowResult {
  double nll = 0;  ///< mean negative log-likelihood of the scored tokens, nats
  double nll_baseline = 0;
  double kl = 0;       ///< mean KL(dense || compressed) over all positions, nats
  double top1 = 0;     ///< share of positions whose most likely token agrees
  int64_t scored = 0;  ///< tokens whose likelihood counts
  /// Each side's forward passes timed alone: ttft_s is their sum, the logits of all positions
  /// included. The two sides run chunk by chunk in turn, so each side's memory includes the cache
  /// of the other.
  RunStats compressed, dense;
};

struct PerplexityOptions {
  int64_t context = 1024;  ///< tokens a window, >= 2, BOS included
  int64_t windows = 2;     ///< how many windows; 0: as many whole ones as the text has
  int64_t stride = 0;      ///< text tokens between windows' starts; 0: no overlap
  int64_t bos = -1;        ///< the token put before every window's text; -1: none
  CacheProtocol protocol = CacheProtocol::kPrefill;
  CompressionConfig config;
  bool baseline = true;  ///< also run the dense cache: KL, agreement and its perplexity
  /// After each chunk of each run: chunks done, chunks in total.
  std::function<void(int64_t, int64_t)> on_progress;
};

struct PerplexityResult {
  double perplexity = 0;
  double perplexity_baseline = 0;
  double kl_mean = 0;
  double top1_agreement = 0;
  std::vector<WindowResult> windows;  ///< those finished
  int64_t windows_total = 0;          ///< those asked for
};

/// Windows of `context` tokens, each from an empty cache; what is left of the text after the last
/// whole window is not read. With a stride below a window's text only the last `stride` tokens of
/// later windows are scored, as the sliding-window perplexity of Hugging Face does. Log-likelihoods
/// and KL are summed in double.
///
/// With a BOS a window is that and context - 1 tokens of text. It stands in the cache as any token
/// does (the first of its sinks) and is no target; the first token of the text is one then, since
/// something stands before it. Without, a window's first token only serves as context. KL and
/// agreement are means over all `context` positions, that of the BOS included. A text that begins
/// with the BOS itself gives it to the windows: it is not read twice.
///
/// Windows that `log` holds are taken from it, new ones are appended to it as soon as they are
/// finished; null keeps nothing. The log's fingerprint must cover tokens and options. Stops after
/// the current window when interrupted(); the result then covers the windows so far.
///
/// Throws Error if the text is too short, a token is outside the vocabulary or a record unusable,
/// and for a window whose logits, likelihood or KL are not finite, by its number; windows before it
/// are in the log.
PerplexityResult perplexity(const LlamaModel& model, const std::vector<int64_t>& tokens,
                            const PerplexityOptions& options, ResultLog* log = nullptr);

}  // namespace rillkv::eval
