#include "rillkv/generation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <random>

#include "model/non_finite.h"
#include "rillkv/error.h"
#include "rillkv/log.h"

namespace rillkv {
namespace {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

at::Tensor token_tensor(const int64_t* tokens, int64_t count) {
  return at::from_blob(const_cast<int64_t*>(tokens), {count}, at::kLong);
}

/// Index of the first largest of count > 0 numbers, in lanes that a compiler can vectorise.
int64_t first_largest(const float* x, int64_t count) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, -std::numeric_limits<float>::infinity());
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  }
  float most = *std::max_element(lanes, lanes + kLanes);
  for (int64_t i = whole; i < count; ++i) most = std::max(most, x[i]);
  const float* found = std::find(x, x + count, most);
  return found == x + count ? 0 : found - x;
}

/// choose_token of logits that a model gave, which has looked at them.
int64_t choose(const at::Tensor& logits, double temperature, double uniform) {
  const at::Tensor row = logits.contiguous();
  const float* data = row.const_data_ptr<float>();
  const int64_t vocab = row.numel();
  const int64_t best = first_largest(data, vocab);
  if (temperature <= 0) return best;
  // exp relative to the largest logit: no overflow, and the best token has weight 1.
  std::vector<double> weights(vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    weights[i] = std::exp((static_cast<double>(data[i]) - data[best]) / temperature);
    sum += weights[i];
  }
  double left = uniform * sum;
  for (int64_t i = 0; i < vocab; ++i) {
    left -= weights[i];
    if (left < 0) return i;
  }
  return best;
}

/// A prompt that begins with two BOS tokens is most often text that spells one out and a tokenizer
/// that adds another, and models answer it worse. Said once a process: evaluations have many.
void warn_of_doubled_bos(const std::vector<int64_t>& prompt, int64_t bos) {
  static std::atomic<bool> said{false};
  if (bos < 0 || prompt.size() < 2 || prompt[0] != bos || prompt[1] != bos) return;
  if (said.exchange(true)) return;
  log(LogLevel::kWarning, str_cat("the prompt begins with two BOS tokens (id ", bos,
                                  "): expected one; does its text, chat template or token file "
                                  "hold the one that is added?"));
}

}  // namespace

int64_t choose_token(const at::Tensor& logits, double temperature, double uniform) {
  RILLKV_CHECK(logits.scalar_type() == at::kFloat && logits.device().is_cpu() &&
                   logits.dim() == 1 && logits.numel() > 0,
               "choose_token: expected logits [vocab] in float32 on the CPU, got ",
               c10::toString(logits.scalar_type()), " ", logits.sizes(), " on ", logits.device());
  RILLKV_CHECK(
      usable_logits(logits.contiguous().const_data_ptr<float>(), logits.numel()),
      "choose_token: expected finite logits, or -inf beside some, got NaN, +inf or nothing "
      "but -inf");
  return choose(logits, temperature, uniform);
}

GenerationResult generate(const LlamaModel& model, const std::vector<int64_t>& prompt,
                          QuantizedKvCache& cache, const GenerationOptions& options) {
  RILLKV_CHECK(!prompt.empty(), "expected a prompt of at least one token, got an empty one");
  const int64_t vocab = model->config().vocab_size;
  for (int64_t id : prompt) {
    RILLKV_CHECK(id >= 0 && id < vocab, "expected token ids in 0..", vocab - 1, ", got ", id);
  }
  RILLKV_CHECK(options.max_new_tokens >= 0, "expected max_new_tokens >= 0, got ",
               options.max_new_tokens);
  RILLKV_CHECK(options.temperature >= 0, "expected a temperature >= 0, got ", options.temperature);
  const int64_t count = static_cast<int64_t>(prompt.size());
  const int64_t limit = model->config().max_position_embeddings;
  const int64_t reached = cache.length() + count + options.max_new_tokens;
  // The last new token is never fed back.
  RILLKV_CHECK(reached - (options.max_new_tokens > 0) <= model->config().position_limit(),
               "expected prompt and new tokens within max_position_embeddings (", limit,
               "), beyond which dynamic scaling of RoPE is not computed, got ", reached);
  if (reached > limit) {
    log(LogLevel::kWarning, str_cat("prompt and new tokens reach position ", reached,
                                    ", beyond the model's max_position_embeddings ", limit));
  }
  if (cache.length() == 0) warn_of_doubled_bos(prompt, model->config().bos_token_id);
  GenerationResult result;
  result.prompt_tokens = count;
  std::mt19937_64 random(options.seed);
  const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1.0p-53; };

  double extra = 0;  // seconds spent on prompt_top1
  const Stopwatch prefill;
  for (int64_t begin = 0; begin < count;) {
    const int64_t end = std::min(begin + cache.config().chunk_size, count);
    const Stopwatch chunk;
    const at::Tensor tokens = token_tensor(prompt.data() + begin, end - begin);
    if (options.prompt_top1) {
      const at::Tensor hidden = model->hidden_states({SequenceChunk{tokens, &cache}});
      if (end == count) result.last_logits = model->logits(hidden.slice(0, end - begin - 1))[0];
      const Stopwatch top1;
      const at::Tensor best = model->logits(hidden).argmax(-1);
      const int64_t* ids = best.const_data_ptr<int64_t>();
      result.prompt_top1.insert(result.prompt_top1.end(), ids, ids + best.numel());
      extra += top1.seconds();
    } else if (end < count) {
      model->forward(tokens, cache, Logits::kNone);
    } else {
      result.last_logits = model->forward(tokens, cache, Logits::kLast)[0];
    }
    log(LogLevel::kDebug,
        str_cat("prefill: tokens ", begin, "..", end - 1, " in ", chunk.seconds() * 1e3, " ms"));
    begin = end;
    if (options.on_prefill) options.on_prefill(end);
  }
  int64_t next =
      options.max_new_tokens > 0 ? choose(result.last_logits, options.temperature, uniform()) : -1;
  result.ttft_s = prefill.seconds() - extra;
  result.prefill_tokens_per_s = static_cast<double>(count) / result.ttft_s;

  const Stopwatch decode;
  int64_t steps = 0;
  while (static_cast<int64_t>(result.tokens.size()) < options.max_new_tokens) {
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), next) !=
        options.stop_ids.end()) {
      break;
    }
    result.tokens.push_back(next);
    if (options.on_token && !options.on_token(next)) break;
    if (static_cast<int64_t>(result.tokens.size()) == options.max_new_tokens) break;
    const at::Tensor logits = model->forward(token_tensor(&next, 1), cache, Logits::kLast);
    next = choose(logits[0], options.temperature, uniform());
    ++steps;
  }
  if (steps > 0) result.decode_tokens_per_s = static_cast<double>(steps) / decode.seconds();
  return result;
}

}  // namespace rillkv
