// prefill: run a LLaMA checkpoint over a text with a compressed KV cache and report memory, speed
// and quality.
#include <ATen/ATen.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "rillkv/device.h"
#include "rillkv/error.h"
#include "rillkv/eval/distribution.h"
#include "rillkv/eval/memory_sampler.h"
#include "rillkv/eval/performance.h"
#include "rillkv/files.h"
#include "rillkv/generation.h"
#include "rillkv/log.h"
#include "rillkv/memory.h"
#include "rillkv/safetensors.h"
#include "support/cli.h"
#include "support/machine.h"
#include "support/progress_bar.h"

namespace {

using namespace rillkv;
using Json = nlohmann::ordered_json;

struct Options {
  cli::ModelOptions model;
  std::string prompt, prompt_file, token_ids, messages, logits_out, json;
  std::optional<std::string> system;
  int64_t max_new_tokens = 32;
  double temperature = 0;
  uint64_t seed = 0;
  bool baseline = false;
};

struct Run {
  GenerationResult generation;
  CacheReport cache;
  eval::MemoryUse memory;
  int64_t device_peak_bytes = 0;
  std::string text;
};

struct Prompt {
  std::vector<int64_t> ids;
  std::unique_ptr<Tokenizer> tokenizer;  // null: token ids in, token ids out
  std::vector<int64_t> stop_ids;
};

/// Of the text options; nothing for token ids. Before the weights are read.
std::optional<Conversation> read_conversation(const Options& o, const ChatTemplate& chat) {
  if (!o.token_ids.empty()) {
    if (!chat.is_none()) throw UsageError("--chat needs a text, not --token-ids");
    return std::nullopt;
  }
  if (!o.messages.empty()) {
    if (chat.is_none()) throw UsageError("--messages needs a chat template: --chat auto");
    if (o.system) throw UsageError("--messages holds the system prompt: leave --system out");
    return Conversation::from_json(read_file(o.messages), o.messages);
  }
  if (o.system && chat.is_none()) throw UsageError("--system needs a chat template: --chat auto");
  const std::string text = o.prompt_file.empty() ? o.prompt : read_file(o.prompt_file);
  RILLKV_CHECK(!text.empty(), "expected a prompt of at least one token, got an empty one");
  return Conversation::of(text, o.system);
}

Prompt read_prompt(const Options& o, const LlamaModel& model, const ChatTemplate& chat,
                   const std::optional<Conversation>& conversation) {
  Prompt prompt;
  prompt.stop_ids = model->config().eos_token_ids;
  if (!conversation) {
    prompt.ids = cli::read_token_ids(o.token_ids);
  }
  try {
    prompt.tokenizer = Tokenizer::load(o.model.model);
  } catch (const std::exception& e) {
    if (conversation) throw;
    log(LogLevel::kWarning, str_cat("no text, only token ids: ", e.what()));
  }
  if (conversation) {
    prompt.ids = encode_chat(*prompt.tokenizer, chat, *conversation);
    prompt.stop_ids = stop_ids(*prompt.tokenizer, chat, std::move(prompt.stop_ids));
  }
  RILLKV_CHECK(!prompt.ids.empty(), "expected a prompt of at least one token, got an empty one");
  return prompt;
}

Run run_once(const Options& o, const LlamaModel& model, const Prompt& prompt,
             const CompressionConfig& config, const char* label) {
  release_freed_memory();  // What the other side left is not this one's.
  eval::MemorySampler memory;
  QuantizedKvCache cache = model->make_cache(config);
  GenerationOptions options;
  options.max_new_tokens = o.max_new_tokens;
  options.temperature = o.temperature;
  options.seed = o.seed;
  options.stop_ids = prompt.stop_ids;
  options.prompt_top1 = o.baseline;
  Run run;
  {
    cli::ProgressBar bar(label, static_cast<int64_t>(prompt.ids.size()), o.model.quiet);
    options.on_prefill = [&](int64_t done) { bar.update(done); };
    run.generation = generate(model, prompt.ids, cache, options);
  }
  run.cache = cache.report();
  run.memory = memory.stop();
  run.device_peak_bytes = device_peak_bytes(cache.device());
  if (prompt.tokenizer != nullptr) {
    run.text = prompt.tokenizer->decode_generated(run.generation.tokens, prompt.ids);
  }
  return run;
}

Json to_json(const CompressionConfig& config, const Run& run) {
  const GenerationResult& g = run.generation;
  eval::RunStats stats;
  stats.prompt_tokens = g.prompt_tokens;
  stats.new_tokens = static_cast<int64_t>(g.tokens.size());
  stats.ttft_s = g.ttft_s;
  stats.cache = run.cache;
  stats.memory = run.memory;
  stats.device_peak_bytes = run.device_peak_bytes;
  Json json;
  json.update(Json(eval::performance_json(config, stats)));
  json.erase("runs");
  json["decode_tokens_per_s"] = g.decode_tokens_per_s;  // 0 without a second token
  json["token_ids"] = g.tokens;
  json["text"] = run.text;
  return json;
}

/// What follows the prompt.
eval::Distribution next_token(const Run& run) {
  const at::Tensor& logits = run.generation.last_logits;
  return eval::Distribution({logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel())});
}

std::string mebibytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f MiB", bytes / 1048576);
  return text;
}

void print_report(const Options& o, const LlamaModel& model, const CompressionConfig& config,
                  const Run& run, const Run* dense, const Json& json) {
  const auto& m = model->config();
  std::printf("\n%s\n", o.model.model.c_str());
  std::printf(
      "  %lld layers, %lld heads / %lld kv heads of %lld, %s; policy %s, chunks of %lld\n\n",
      static_cast<long long>(m.num_hidden_layers), static_cast<long long>(m.num_attention_heads),
      static_cast<long long>(m.num_key_value_heads), static_cast<long long>(m.head_dim),
      c10::toString(model->dtype()), std::string(to_string(config.policy)).c_str(),
      static_cast<long long>(config.chunk_size));
  std::printf("  %-28s %14s%s\n", "", "compressed", dense ? "          dense" : "");
  const auto row = [&](const char* name, auto&& format) {
    std::printf("  %-28s %14s", name, format(run).c_str());
    if (dense != nullptr) std::printf(" %14s", format(*dense).c_str());
    std::printf("\n");
  };
  const auto number = [](const char* format, double value) {
    char text[48];
    std::snprintf(text, sizeof text, format, value);
    return std::string(text);
  };
  row("prompt tokens", [&](const Run& r) { return number("%.0f", r.generation.prompt_tokens); });
  row("time to first token", [&](const Run& r) { return number("%.3f s", r.generation.ttft_s); });
  row("prefill",
      [&](const Run& r) { return number("%.1f tok/s", r.generation.prefill_tokens_per_s); });
  row("decode", [&](const Run& r) {
    return r.generation.decode_tokens_per_s > 0
               ? number("%.1f tok/s", r.generation.decode_tokens_per_s)
               : std::string("-");
  });
  row("cache, allocated",
      [&](const Run& r) { return mebibytes(static_cast<double>(r.cache.kv_bytes)); });
  row("the same tokens in bf16",
      [&](const Run& r) { return mebibytes(static_cast<double>(r.cache.kv_bytes_bf16)); });
  row("compression", [&](const Run& r) { return number("%.2f x", r.cache.compression_ratio); });
  const auto pair = [&](const KeyValueTotal& t) {
    return number("%.3f", t.key) + " / " + number("%.3f", t.value);
  };
  row("bits an element, key / value",
      [&](const Run& r) { return pair(r.cache.kv_bits_per_element); });
  if (run.cache.kv_bits_sealed.total > 0) {
    const auto percent = [&](const KeyValueTotal& t) {
      return number("%.2f %%", 100 * t.key) + " / " + number("%.2f %%", 100 * t.value);
    };
    std::printf("  %-28s %14s\n", "  of sealed blocks", pair(run.cache.kv_bits_sealed).c_str());
    if (config.follows_queries()) {
      std::printf("  %-28s %14s\n", "  key width, mean (asked for)",
                  str_cat(number("%.3f", run.cache.estimated_bits.key), " (",
                          number("%g", config.key_bits_mean), ")")
                      .c_str());
    }
    std::printf("  %-28s %14s\n", "outlier channels, k / v",
                percent(run.cache.outlier_rate).c_str());
    std::printf("  %-28s %14s\n", "clipped codes, k / v", percent(run.cache.clip_rate).c_str());
  }
  std::printf("  %-28s %14lld\n", "sink tokens", static_cast<long long>(run.cache.sink_tokens));
  row("memory, peak",
      [&](const Run& r) { return mebibytes(static_cast<double>(r.memory.peak_bytes)); });
  row("memory, mean", [&](const Run& r) { return mebibytes(r.memory.mean_bytes); });
  if (dense != nullptr) {
    std::printf("\n  KL(dense || compressed) at the last prompt token  %.3g nats\n",
                json["kl_last"].get<double>());
    std::printf("  most likely next token agrees at                 %.2f %% of prompt positions\n",
                100 * json["top1_agreement"].get<double>());
  }
  if (!run.generation.tokens.empty()) std::printf("\n%s\n", run.text.c_str());
}

void prefill(const Options& o) {
  const int inputs =
      !o.prompt.empty() + !o.prompt_file.empty() + !o.token_ids.empty() + !o.messages.empty();
  if (inputs > 1) {
    throw UsageError("give one of --prompt, --prompt-file, --messages and --token-ids");
  }
  if (o.max_new_tokens < 0) {
    throw UsageError(str_cat("expected --max-new-tokens >= 0, got ", o.max_new_tokens));
  }
  if (!(o.temperature >= 0)) {
    throw UsageError(str_cat("expected --temperature >= 0, got ", o.temperature));
  }
  const CompressionConfig config = cli::make_config(o.model);
  cli::check_writable(o.json);
  cli::check_writable(o.logits_out);
  const ChatTemplate chat = cli::open_chat(o.model);
  const std::optional<Conversation> conversation = read_conversation(o, chat);
  const LlamaModel model = cli::load(o.model);
  config.validate_for(model->config().head_dim);
  const Prompt prompt = read_prompt(o, model, chat, conversation);

  const Run run = run_once(o, model, prompt, config, "prefill");
  Json json = to_json(config, run);
  std::optional<Run> dense;
  if (o.baseline) {
    dense = run_once(o, model, prompt, config.baseline(), "prefill, dense");
    json["baseline"] = to_json(config.baseline(), *dense);
    json["kl_last"] = eval::kl_divergence(next_token(*dense), next_token(run));
    RILLKV_CHECK(std::isfinite(json["kl_last"].get<double>()),
                 "KL(dense || compressed) at the last prompt token: expected a finite number, got ",
                 json["kl_last"].get<double>());
    json["top1_agreement"] =
        eval::agreement(dense->generation.prompt_top1, run.generation.prompt_top1);
  }
  json["machine"] = cli::machine_json();
  json["process_peak_rss_bytes"] = peak_rss_bytes();  // Reading the weights included.
  if (!o.logits_out.empty()) {
    write_safetensors(o.logits_out, {{"logits", run.generation.last_logits}});
  }
  if (!o.json.empty()) write_file_atomically(o.json, json.dump(2) + "\n");
  if (!o.model.quiet) {
    print_report(o, model, config, run, dense ? &*dense : nullptr, json);
  } else if (prompt.tokenizer != nullptr) {
    std::printf("%s\n", run.text.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app("Prefill a LLaMA checkpoint in chunks with a compressed KV cache, then generate.");
  cli::add_model_options(app, o.model);
  auto* input = app.add_option_group("prompt", "What to read");
  input->add_option("--prompt", o.prompt, "The text itself");
  input->add_option("--prompt-file", o.prompt_file, "A text file");
  input->add_option(
      "--messages", o.messages,
      "A conversation as JSON: a list of messages, or an object with messages, tools");
  input->add_option("--token-ids", o.token_ids, "A file of token ids separated by white space");
  input->require_option(1);
  app.add_option("--system", o.system, "System prompt of the chat template");
  app.add_option("--max-new-tokens", o.max_new_tokens, "Tokens to generate")->capture_default_str();
  app.add_option("--temperature", o.temperature, "0 is greedy")->capture_default_str();
  app.add_option("--seed", o.seed, "Of the sampling")->capture_default_str();
  app.add_flag("--baseline", o.baseline, "Also run the uncompressed cache and compare");
  app.add_option("--logits-out", o.logits_out,
                 "Write the last prompt position's logits (safetensors)");
  app.add_option("--json", o.json, "Write the report as JSON");
  return cli::run(app, argc, argv, [&] { prefill(o); });
}
