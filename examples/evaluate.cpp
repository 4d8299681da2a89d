// evaluate: how much quality a compressed cache costs, and what it saves.
#include <cstdio>

#include "rillkv/error.h"
#include "rillkv/eval/perplexity.h"
#include "rillkv/files.h"
#include "rillkv/memory.h"
#include "support/cli.h"
#include "support/progress_bar.h"

namespace {

using namespace rillkv;
using Json = nlohmann::ordered_json;

struct PerplexityArguments {
  cli::ModelOptions model;
  std::string text, token_ids, json, protocol = "prefill";
  int64_t context = 1024, windows = 2, stride = 0;
};

void run_perplexity(const PerplexityArguments& a) {
  eval::PerplexityOptions options;
  options.config = cli::make_config(a.model);
  if (a.protocol == "stress") {
    options.protocol = CacheProtocol::kStress;
  } else if (a.protocol != "prefill") {
    throw UsageError(str_cat("expected --protocol prefill or stress, got '", a.protocol, "'"));
  }
  options.context = a.context;
  options.windows = a.windows;
  options.stride = a.stride;
  cli::check_writable(a.json);
  const LlamaModel model = cli::load(a.model);
  options.config.validate_for(model->config().head_dim);
  const std::vector<int64_t> tokens =
      a.token_ids.empty()
          ? Tokenizer::load(a.model.model)->encode(read_file(a.text), /*add_bos=*/false)
          : cli::read_token_ids(a.token_ids);

  eval::PerplexityResult result;
  {
    cli::ProgressBar bar("perplexity", 1, a.model.quiet);
    std::unique_ptr<cli::ProgressBar> sized;
    options.on_progress = [&](int64_t done, int64_t total) {
      if (!sized) sized = std::make_unique<cli::ProgressBar>("perplexity", total, a.model.quiet);
      sized->update(done);
    };
    result = eval::perplexity(model, tokens, options);
  }
  Json json;
  json["perplexity"] = result.perplexity;
  json["kl_mean"] = result.kl_mean;
  json["top1_agreement"] = result.top1_agreement;
  json["kv_bits_per_element"] = cli::to_json(result.cache.kv_bits_per_element);
  json["kv_bits_sealed"] = cli::to_json(result.cache.kv_bits_sealed);
  json["baseline"] = {{"perplexity", result.perplexity_baseline}};
  json["protocol"] = a.protocol;
  json["context"] = a.context;
  json["windows"] = result.windows.size();
  json["peak_rss_bytes"] = peak_rss_bytes();
  json["config"] = Json::parse(options.config.to_json());
  if (!a.json.empty()) write_file_atomically(a.json, json.dump(2) + "\n");
  std::printf("perplexity %.4f (dense %.4f)  KL %.6f nats  top-1 %.2f %%  sealed %.3f bits (%s)\n",
              result.perplexity, result.perplexity_baseline, result.kl_mean,
              100 * result.top1_agreement, result.cache.kv_bits_sealed.total, a.protocol.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Quality of a compressed KV cache against the dense one.");
  app.require_subcommand(1);
  PerplexityArguments a;
  CLI::App* perplexity = app.add_subcommand("perplexity", "Perplexity and KL(dense || compressed)");
  cli::add_model_options(*perplexity, a.model);
  auto* input = perplexity->add_option_group("input", "What to read");
  input->add_option("--text", a.text, "A text file");
  input->add_option("--token-ids", a.token_ids, "A file of token ids separated by white space");
  input->require_option(1);
  perplexity->add_option("--context", a.context, "Tokens a window")->capture_default_str();
  perplexity->add_option("--windows", a.windows, "Windows, 0 for all")->capture_default_str();
  perplexity->add_option("--stride", a.stride, "Tokens between windows, 0 for the context")
      ->capture_default_str();
  perplexity->add_option("--protocol", a.protocol, "prefill or stress")->capture_default_str();
  perplexity->add_option("--json", a.json, "Write the report as JSON");
  return cli::run(app, argc, argv, [&] { run_perplexity(a); });
}
