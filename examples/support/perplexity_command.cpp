#include <chrono>
#include <optional>

#include "rillkv/error.h"
#include "rillkv/eval/perplexity.h"
#include "rillkv/eval/result_log.h"
#include "rillkv/files.h"
#include "rillkv/memory.h"
#include "support/commands.h"

namespace rillkv::cli {
namespace {

using nlohmann::json;

json to_json(const eval::WindowResult& w) {
  return {{"nll", w.nll},
          {"nll_baseline", w.nll_baseline},
          {"kl", w.kl},
          {"top1", w.top1},
          {"scored", w.scored}};
}

eval::WindowResult window_from(const json& record) {
  return {record.at("nll"), record.at("nll_baseline"), record.at("kl"), record.at("top1"),
          record.at("scored")};
}

OrderedJson performance(const CacheReport& cache, double seconds, int64_t tokens) {
  OrderedJson out;
  out["seconds"] = seconds;
  out["tokens_per_s"] = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  out["kv_bytes"] = cache.kv_bytes;
  out["kv_bytes_bf16"] = cache.kv_bytes_bf16;
  out["compression_ratio"] = cache.compression_ratio;
  out["estimated_memory_savings"] = cache.estimated_bits.total > 0
                                        ? OrderedJson(1 - cache.estimated_bits.total / 16)
                                        : OrderedJson();
  out["outlier_rate"] = {{"key", cache.outlier_rate.key}, {"value", cache.outlier_rate.value}};
  out["clip_rate"] = {{"key", cache.clip_rate.key}, {"value", cache.clip_rate.value}};
  out["sink_tokens"] = cache.sink_tokens;
  out["peak_rss_bytes"] = peak_rss_bytes();
  return out;
}

}  // namespace

void add_perplexity_options(CLI::App& app, PerplexityArguments& a, bool input_required) {
  auto* input = app.add_option_group("input", "What to read");
  input->add_option("--text", a.text, "A text file");
  input->add_option("--token-ids", a.token_ids, "A file of token ids separated by white space");
  input->require_option(input_required ? 1 : 0, 1);
  app.add_option("--context", a.context, "Tokens a window")->capture_default_str();
  app.add_option("--windows", a.windows, "Windows, 0 for all")->capture_default_str();
  app.add_option("--stride", a.stride, "Tokens between windows, 0 for the context")
      ->capture_default_str();
  app.add_option("--protocol", a.protocol, "prefill or stress")->capture_default_str();
}

void check(const PerplexityArguments& a) {
  if (a.protocol != "prefill" && a.protocol != "stress") {
    throw UsageError(str_cat("expected --protocol prefill or stress, got '", a.protocol, "'"));
  }
}

std::vector<int64_t> perplexity_tokens(Session& session, const PerplexityArguments& a) {
  if (!a.token_ids.empty()) return read_token_ids(a.token_ids);
  return session.need_tokenizer().encode(read_file(a.text), /*add_bos=*/false);
}

OrderedJson run_perplexity(Session& session, const std::vector<int64_t>& tokens,
                           const PerplexityArguments& a, const std::filesystem::path& log,
                           bool restart) {
  check(a);
  eval::PerplexityOptions options;
  options.config = session.config;
  options.protocol = a.protocol == "stress" ? CacheProtocol::kStress : CacheProtocol::kPrefill;
  options.context = a.context;
  options.windows = a.windows;
  options.stride = a.stride;

  std::optional<eval::ResultLog> windows;
  if (!log.empty()) {
    json fingerprint = session.fingerprint();
    fingerprint["perplexity"] = {{"text", a.text + a.token_ids}, {"tokens", tokens.size()},
                                 {"context", a.context},         {"windows", a.windows},
                                 {"stride", a.stride},           {"protocol", a.protocol}};
    windows.emplace(log, fingerprint, restart);
    for (const json& record : windows->records()) options.finished.push_back(window_from(record));
  }
  // The cache's own figures come from the last window, which is run again if only they are missing.
  const int64_t all = a.windows > 0 ? a.windows : -1;
  if (static_cast<int64_t>(options.finished.size()) == all) options.finished.pop_back();
  const int64_t resumed = static_cast<int64_t>(options.finished.size());

  bool stopped = false;
  int64_t done = resumed;
  options.on_window = [&](const eval::WindowResult& window) {
    const std::string key = std::to_string(done++);
    if (windows && windows->find(key) == nullptr) windows->append(key, to_json(window));
    stopped = eval::interrupted();
    return !stopped;
  };
  const eval::Progress bar = bar_progress("perplexity", session.options.quiet);
  options.on_progress = [&](int64_t step, int64_t total) { bar(step, total, ""); };
  const auto start = std::chrono::steady_clock::now();
  const eval::PerplexityResult result = eval::perplexity(session.model, tokens, options);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  const int64_t expected = a.windows > 0 ? a.windows : static_cast<int64_t>(result.windows.size());
  OrderedJson report;
  report["perplexity"] = result.perplexity;
  report["kl_mean"] = result.kl_mean;
  report["top1_agreement"] = result.top1_agreement;
  report["kv_bits_per_element"] = to_json(result.cache.kv_bits_per_element);
  report["kv_bits_sealed"] = to_json(result.cache.kv_bits_sealed);
  report["baseline"] = {{"perplexity", result.perplexity_baseline}};
  report["protocol"] = a.protocol;
  report["context"] = a.context;
  report["windows"] = result.windows.size();
  report["complete"] = !stopped || static_cast<int64_t>(result.windows.size()) == expected;
  if (stopped && a.windows == 0) report["complete"] = false;
  report["text"] = a.text.empty() ? a.token_ids : a.text;
  report["performance"] = performance(
      result.cache, seconds, a.context * (static_cast<int64_t>(result.windows.size()) - resumed));
  report["peak_rss_bytes"] = peak_rss_bytes();
  report["layers"] = layers_json(result.cache);
  report.update(provenance(session));
  return report;
}

}  // namespace rillkv::cli
