#include <optional>

#include "rillkv/error.h"
#include "rillkv/eval/performance.h"
#include "rillkv/eval/perplexity.h"
#include "rillkv/eval/result_log.h"
#include "rillkv/files.h"
#include "rillkv/log.h"
#include "rillkv/quotes.h"
#include "support/commands.h"

namespace rillkv::cli {
using nlohmann::json;

void add_perplexity_options(CLI::App& app, PerplexityArguments& a, bool input_required) {
  auto* input = app.add_option_group("input", "What to read");
  input->add_option("--text", a.text, "A text file");
  input->add_option("--token-ids", a.token_ids, "A file of token ids separated by white space");
  input->require_option(input_required ? 1 : 0, 1);
  app.add_option("--context", a.context, "Tokens a window, BOS included")->capture_default_str();
  app.add_option("--windows", a.windows, "Windows, 0 for all of the text")->capture_default_str();
  app.add_option("--stride", a.stride, "Text tokens between windows' starts, 0 for a window's")
      ->capture_default_str();
  app.add_option("--bos", a.bos,
                 "BOS before every window: auto (where the tokenizer adds one to texts), yes or no")
      ->capture_default_str();
  app.add_option("--protocol", a.protocol, "prefill or stress")->capture_default_str();
}

void check(const PerplexityArguments& a) {
  if (a.windows < 0) throw UsageError(str_cat("expected --windows >= 0, got ", a.windows));
  if (a.protocol != "prefill" && a.protocol != "stress") {
    throw UsageError(str_cat("expected --protocol prefill or stress, got ", in_quotes(a.protocol)));
  }
  if (a.bos != "auto" && a.bos != "yes" && a.bos != "no") {
    throw UsageError(str_cat("expected --bos auto, yes or no, got ", in_quotes(a.bos)));
  }
}

namespace {

int64_t find_bos(Session& session, const PerplexityArguments& a) {
  if (a.bos == "no") return -1;
  const bool asked = a.bos == "yes";
  try {
    const Tokenizer& tokenizer = session.need_tokenizer();
    const std::vector<int64_t> added = tokenizer.encode("", /*add_bos=*/true);
    if (!added.empty()) return added.front();
    if (!asked) return -1;
    if (tokenizer.bos_id() >= 0) return tokenizer.bos_id();
  } catch (const std::exception& error) {  // token ids need no tokenizer
    if (!asked) {
      log(LogLevel::kWarning, str_cat("--bos auto: no BOS without a tokenizer: ", error.what()));
      return -1;
    }
  }
  const int64_t configured = session.model->config().bos_token_id;
  if (configured < 0) {
    throw UsageError(str_cat("--bos yes: expected a BOS token in the tokenizer or config.json of ",
                             in_quotes(session.options.model), ", found none"));
  }
  return configured;
}

json bos_json(const PerplexityInput& input) { return input.bos < 0 ? json() : json(input.bos); }

}  // namespace

PerplexityInput perplexity_input(Session& session, const PerplexityArguments& a) {
  PerplexityInput input;
  input.tokens = !a.token_ids.empty()
                     ? read_token_ids(a.token_ids)
                     : session.need_tokenizer().encode(read_file(a.text), /*add_bos=*/false);
  input.bos = find_bos(session, a);
  return input;
}

json perplexity_fingerprint(const Session& session, const PerplexityInput& input,
                            const PerplexityArguments& a) {
  json fingerprint = session.fingerprint();
  fingerprint["perplexity"] = {
      {"tokens", input.tokens.size()}, {"tokens_hash", tokens_hash(input.tokens)},
      {"bos", bos_json(input)},        {"context", a.context},
      {"windows", a.windows},          {"stride", a.stride},
      {"protocol", a.protocol}};
  return fingerprint;
}

OrderedJson run_perplexity(Session& session, const PerplexityInput& input,
                           const PerplexityArguments& a, const std::filesystem::path& log,
                           bool restart) {
  check(a);
  eval::PerplexityOptions options;
  options.config = session.config;
  options.protocol = a.protocol == "stress" ? CacheProtocol::kStress : CacheProtocol::kPrefill;
  options.context = a.context;
  options.windows = a.windows;
  options.stride = a.stride;
  options.bos = input.bos;

  std::optional<eval::ResultLog> windows;
  if (!log.empty()) {
    windows.emplace(log, perplexity_fingerprint(session, input, a), restart);
    windows->stamp(record_stamp());
  }
  const eval::Progress bar = bar_progress("perplexity", session.options.quiet);
  options.on_progress = [&](int64_t step, int64_t total) { bar(step, total, ""); };
  const eval::PerplexityResult result =
      eval::perplexity(session.model, input.tokens, options, windows ? &*windows : nullptr);

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
  report["bos"] = bos_json(input);
  report["windows"] = result.windows.size();
  report["complete"] = static_cast<int64_t>(result.windows.size()) == result.windows_total;
  report["text"] = a.text.empty() ? a.token_ids : a.text;
  report["text_tokens"] = input.tokens.size();
  report["text_hash"] = tokens_hash(input.tokens);
  report["seconds"] = seconds;
  report["performance"] = {{"compressed", compressed}, {"baseline", theirs.to_json()}};
  report["peak_rss_bytes"] = compressed["peak_rss_bytes"];
  report["layers"] = compressed["layers"];
  report.update(provenance(session));
  return report;
}

}  // namespace rillkv::cli
