#include <optional>

#include "rillkv/error.h"
#include "rillkv/eval/performance.h"
#include "rillkv/eval/perplexity.h"
#include "rillkv/eval/result_log.h"
#include "rillkv/files.h"
#include "rillkv/quotes.h"
#include "support/commands.h"

namespace rillkv::cli {
using nlohmann::json;

void add_perplexity_options(CLI::App& app, PerplexityArguments& a, bool input_required) {
  auto* input = app.add_option_group("input", "What to read");
  input->add_option("--text", a.text, "A text file");
  input->add_option("--token-ids", a.token_ids, "A file of token ids separated by white space");
  input->require_option(input_required ? 1 : 0, 1);
  app.add_option("--context", a.context, "Tokens a window")->capture_default_str();
  app.add_option("--windows", a.windows, "Windows, 0 for all of the text")->capture_default_str();
  app.add_option("--stride", a.stride, "Tokens between windows' starts, 0 for the context")
      ->capture_default_str();
  app.add_option("--protocol", a.protocol, "prefill or stress")->capture_default_str();
}

void check(const PerplexityArguments& a) {
  if (a.windows < 0) throw UsageError(str_cat("expected --windows >= 0, got ", a.windows));
  if (a.protocol != "prefill" && a.protocol != "stress") {
    throw UsageError(str_cat("expected --protocol prefill or stress, got ", in_quotes(a.protocol)));
  }
}

std::vector<int64_t> perplexity_tokens(Session& session, const PerplexityArguments& a) {
  if (!a.token_ids.empty()) return read_token_ids(a.token_ids);
  return session.need_tokenizer().encode(read_file(a.text), /*add_bos=*/false);
}

json perplexity_fingerprint(const Session& session, const std::vector<int64_t>& tokens,
                            const PerplexityArguments& a) {
  json fingerprint = session.fingerprint();
  fingerprint["perplexity"] = {{"tokens", tokens.size()}, {"tokens_hash", tokens_hash(tokens)},
                               {"context", a.context},    {"windows", a.windows},
                               {"stride", a.stride},      {"protocol", a.protocol}};
  return fingerprint;
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
    windows.emplace(log, perplexity_fingerprint(session, tokens, a), restart);
    windows->stamp(record_stamp());
  }
  const eval::Progress bar = bar_progress("perplexity", session.options.quiet);
  options.on_progress = [&](int64_t step, int64_t total) { bar(step, total, ""); };
  const eval::PerplexityResult result =
      eval::perplexity(session.model, tokens, options, windows ? &*windows : nullptr);

  eval::PerformanceSummary ours(session.config), theirs(session.config.baseline());
  double seconds = 0;
  for (const eval::WindowResult& window : result.windows) {
    ours.add(window.compressed);
    theirs.add(window.dense);
    seconds += window.compressed.ttft_s + window.dense.ttft_s;
  }
  const json compressed = ours.to_json();
  OrderedJson report;
  report["perplexity"] = result.perplexity;
  report["kl_mean"] = result.kl_mean;
  report["top1_agreement"] = result.top1_agreement;
  for (const char* key : {"kv_bits_per_element", "kv_bits_sealed"}) report[key] = compressed[key];
  report["baseline"] = {{"perplexity", result.perplexity_baseline}};
  report["protocol"] = a.protocol;
  report["context"] = a.context;
  report["stride"] = a.stride;
  report["windows"] = result.windows.size();
  report["complete"] = static_cast<int64_t>(result.windows.size()) == result.windows_total;
  report["text"] = a.text.empty() ? a.token_ids : a.text;
  report["text_tokens"] = tokens.size();
  report["text_hash"] = tokens_hash(tokens);
  report["seconds"] = seconds;
  report["performance"] = {{"compressed", compressed}, {"baseline", theirs.to_json()}};
  report["peak_rss_bytes"] = compressed["peak_rss_bytes"];
  report["layers"] = compressed["layers"];
  report.update(provenance(session));
  return report;
}

}  // namespace rillkv::cli
