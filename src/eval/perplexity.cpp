#include "rillkv/eval/perplexity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/eval/distribution.h"
#include "rillkv/eval/memory_sampler.h"
#include "rillkv/eval/progress.h"
#include "src/eval/log_record.h"

namespace rillkv::eval {
namespace {

using Json = nlohmann::json;

Json to_json(const WindowResult& w) {
  return {{"nll", w.nll},
          {"nll_baseline", w.nll_baseline},
          {"kl", w.kl},
          {"top1", w.top1},
          {"scored", w.scored},
          {"compressed", to_json(w.compressed)},
          {"dense", to_json(w.dense)}};
}

WindowResult window_from(const Json& record) {
  WindowResult w;
  w.nll = record.at("nll").get<double>();
  w.nll_baseline = record.at("nll_baseline").get<double>();
  w.kl = record.at("kl").get<double>();
  w.top1 = record.at("top1").get<double>();
  w.scored = record.at("scored").get<int64_t>();
  w.compressed = run_stats_from_json(record.at("compressed"));
  w.dense = run_stats_from_json(record.at("dense"));
  return w;
}

/// Throws Error unless every figure of a window is a number.
void check_finite(const WindowResult& w) {
  const std::pair<const char*, double> figures[] = {
      {"log-likelihood", w.nll}, {"dense log-likelihood", w.nll_baseline}, {"KL", w.kl}};
  for (const auto& [name, value] : figures) {
    RILLKV_CHECK(std::isfinite(value), "expected a finite ", name, ", got ", value);
  }
}

/// Row i of logits [T, vocab] f32 on the CPU.
Distribution row(const at::Tensor& logits, int64_t i) {
  const int64_t vocab = logits.size(1);
  return Distribution({logits.const_data_ptr<float>() + i * vocab, static_cast<size_t>(vocab)});
}

/// Runs the window's chunks through the compressed and the dense cache in step, so that only one
/// chunk's logits are ever held.
class WindowRun {
 public:
  WindowRun(const LlamaModel& model, const PerplexityOptions& options)
      : model_(model),
        options_(options),
        cache_(model->make_cache(options.config, options.protocol)) {
    if (options.baseline) dense_.emplace(model->make_cache(options.config.baseline()));
  }

  /// tokens: [context]. Those from `first_scored` on are targets.
  template <typename Step>
  WindowResult run(const int64_t* tokens, int64_t first_scored, const Step& step) {
    WindowResult result;
    const int64_t context = options_.context, chunk = options_.config.chunk_size;
    for (int64_t begin = 0; begin < context; begin += chunk) {
      const int64_t end = std::min(begin + chunk, context);
      const at::Tensor ids =
          at::from_blob(const_cast<int64_t*>(tokens + begin), {end - begin}, at::kLong);
      const at::Tensor seen = forward(ids, cache_, result.compressed);
      at::Tensor reference;
      if (dense_) reference = forward(ids, *dense_, result.dense);
      score(tokens, begin, first_scored, seen, reference, result);
      step();
    }
    result.nll /= static_cast<double>(result.scored);
    result.nll_baseline /= static_cast<double>(result.scored);
    result.kl /= static_cast<double>(context);
    result.top1 /= static_cast<double>(context);
    result.compressed.cache = cache_.report();
    if (dense_) result.dense.cache = dense_->report();
    return result;
  }

 private:
  /// All logits of a chunk; adds its time and memory to the side's.
  at::Tensor forward(const at::Tensor& ids, QuantizedKvCache& cache, RunStats& side) {
    MemorySampler memory;
    const auto start = std::chrono::steady_clock::now();
    at::Tensor logits = model_->forward(ids, cache, Logits::kAll);
    side.ttft_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    side.prompt_tokens += ids.size(0);
    side.memory.add(memory.stop());
    return logits;
  }

  void score(const int64_t* tokens, int64_t begin, int64_t first_scored, const at::Tensor& seen,
             const at::Tensor& reference, WindowResult& result) {
    for (int64_t i = 0; i < seen.size(0); ++i) {
      const Distribution q = row(seen, i);
      const int64_t target = begin + i + 1;
      const bool scored = target >= first_scored && target < options_.context;
      if (scored) {
        ++result.scored;
        result.nll -= q.log_prob(tokens[target]);
      }
      if (!reference.defined()) continue;
      const Distribution p = row(reference, i);
      if (scored) result.nll_baseline -= p.log_prob(tokens[target]);
      result.kl += kl_divergence(p, q);
      result.top1 += p.best() == q.best();
    }
  }

  const LlamaModel& model_;
  const PerplexityOptions& options_;
  QuantizedKvCache cache_;
  std::optional<QuantizedKvCache> dense_;
};

}  // namespace

PerplexityResult perplexity(const LlamaModel& model, const std::vector<int64_t>& all_tokens,
                            const PerplexityOptions& options, ResultLog* log) {
  RILLKV_CHECK(options.context >= 2, "perplexity: expected a context of at least 2 tokens, got ",
               options.context);
  const int64_t vocab = model->config().vocab_size;
  RILLKV_CHECK(options.bos >= -1 && options.bos < vocab, "perplexity: expected a BOS in 0..",
               vocab - 1, " or none, got ", options.bos);
  const bool has_bos = options.bos >= 0;
  const bool own_bos = has_bos && !all_tokens.empty() && all_tokens.front() == options.bos;
  const std::vector<int64_t> tokens(all_tokens.begin() + (own_bos ? 1 : 0), all_tokens.end());
  const int64_t count = static_cast<int64_t>(tokens.size());
  const int64_t text = options.context - (has_bos ? 1 : 0);  // tokens of it in a window
  const int64_t stride = options.stride == 0 ? text : options.stride;
  RILLKV_CHECK(stride >= 1 && stride <= text, "perplexity: expected a stride in 1..", text,
               ", got ", stride);
  const int64_t available = count < text ? 0 : (count - text) / stride + 1;
  const int64_t windows = options.windows == 0 ? available : options.windows;
  RILLKV_CHECK(windows >= 1 && windows <= available, "perplexity: expected a text of at least ",
               (std::max<int64_t>(windows, 1) - 1) * stride + text, " tokens for ",
               std::max<int64_t>(windows, 1), " windows of ", text, ", got ", count);

  // Targets index the logits before the model has seen (and checked) them as input.
  for (const int64_t id : tokens) {
    RILLKV_CHECK(id >= 0 && id < vocab, "perplexity: expected token ids in 0..", vocab - 1,
                 ", got ", id);
  }
  PerplexityResult result;
  result.windows_total = windows;
  const int64_t chunk = options.config.chunk_size;
  const int64_t steps_a_window = (options.context + chunk - 1) / chunk;
  std::vector<int64_t> window;
  for (int64_t w = 0; w < windows; ++w) {
    const std::string key = std::to_string(w);
    if (const Json* record = log == nullptr ? nullptr : log->find(key)) {
      result.windows.push_back(read_record(str_cat(log->path().string(), ": window ", w),
                                           [&] { return window_from(*record); }));
      continue;
    }
    window.assign(has_bos ? 1 : 0, options.bos);
    window.insert(window.end(), tokens.begin() + w * stride, tokens.begin() + w * stride + text);
    const int64_t first_scored = w == 0 ? 1 : std::max<int64_t>(1, options.context - stride);
    int64_t done = w * steps_a_window;
    named(str_cat("perplexity, window ", w), [&] {
      WindowRun run(model, options);
      result.windows.push_back(run.run(window.data(), first_scored, [&] {
        ++done;
        if (options.on_progress) options.on_progress(done, windows * steps_a_window);
      }));
      check_finite(result.windows.back());
    });
    if (log != nullptr) log->append(key, to_json(result.windows.back()));
    if (interrupted()) break;
  }
  const double count_done = static_cast<double>(result.windows.size());
  double nll = 0, nll_baseline = 0, scored = 0;
  for (const WindowResult& w : result.windows) {
    nll += w.nll * static_cast<double>(w.scored);
    nll_baseline += w.nll_baseline * static_cast<double>(w.scored);
    scored += static_cast<double>(w.scored);
    result.kl_mean += w.kl / count_done;
    result.top1_agreement += w.top1 / count_done;
  }
  result.perplexity = std::exp(nll / scored);
  result.perplexity_baseline = options.baseline ? std::exp(nll_baseline / scored) : 0;
  for (const double figure : {result.perplexity, result.perplexity_baseline}) {
    RILLKV_CHECK(std::isfinite(figure), "perplexity: expected a finite one, got ", figure,
                 " of windows 0..", result.windows.size() - 1);
  }
  return result;
}

}  // namespace rillkv::eval
