// experiment: evaluate one configuration on several tasks and keep everything about the run, as the
// original project's runner did.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>

#include "rillkv/error.h"
#include "rillkv/eval/result_log.h"
#include "rillkv/log.h"
#include "rillkv/quotes.h"
#include "support/commands.h"
#include "support/experiment_file.h"

namespace {

using namespace rillkv;
using cli::OrderedJson;
using nlohmann::json;
namespace fs = std::filesystem;

struct Arguments {
  cli::ModelOptions model;
  cli::PerplexityArguments perplexity;
  cli::NeedleArguments needle;
  cli::LongBenchArguments longbench;
  std::vector<std::string> tasks = {"perplexity"};
  std::map<std::string, std::string> keys;  // configuration keys given as options
  std::string output_dir = "results", name = "experiment";
  bool baseline = false, restart = false;
};

struct Plan {
  bool perplexity = false, needle = false;
  std::vector<std::string> longbench;
};

Plan make_plan(const Arguments& a) {
  Plan plan;
  for (const std::string& task : a.tasks) {
    if (task == "perplexity" || task == "wikitext2") {
      plan.perplexity = true;
    } else if (task == "needle") {
      plan.needle = true;
    } else if (task == "longbench") {
      for (const auto& t : eval::longbench_tasks()) plan.longbench.push_back(t.name);
    } else {
      try {
        plan.longbench.push_back(eval::find_longbench_task(task).name);
      } catch (const UsageError& error) {
        throw UsageError(str_cat(error.what(), ", or perplexity, needle, longbench"));
      }
    }
  }
  return plan;
}

/// Options that only the original's method has, and no word on which to use: its example runs name
/// no policy, so its method is what they mean.
void choose_preset(Arguments& a) {
  if (!a.model.config.empty()) return;
  std::vector<std::string> ema;
  for (const std::string& setting : a.model.settings) {
    const std::string key = setting.substr(0, setting.find('='));
    const bool under_ema = CompressionConfig::has_effect(key, Policy::kEma);
    const bool under_adaptive = CompressionConfig::has_effect(key, Policy::kAdaptive);
    if (key == "policy" || (under_adaptive && !under_ema)) return;
    if (under_ema && !under_adaptive) ema.push_back(key);
  }
  if (ema.empty()) return;
  a.model.config = "seed";
  cli::apply_log_level(a.model);
  log(LogLevel::kWarning,
      str_cat(in_quotes(ema.front()), " belongs to the original's method: using the ",
              "preset seed; --config chooses another"));
}

/// The run as an experiment file: `experiment --experiment` on it repeats it.
OrderedJson as_experiment_file(const Arguments& a, const cli::Session& session) {
  OrderedJson file;
  file["model"] = a.model.model;
  file["device"] = a.model.device;
  file["dtype"] = a.model.dtype;
  file["chat"] = a.model.chat;
  if (!a.model.chat_template_file.empty()) file["chat_template_file"] = a.model.chat_template_file;
  if (a.model.chat == "auto" || !a.model.chat_template_file.empty()) {
    file["chat_date"] = session.options.chat_date;
  }
  if (a.model.threads) file["threads"] = *a.model.threads;
  file["config"] = session.config.policy == Policy::kDense ? "dense" : "balanced";
  file["set"] = OrderedJson::parse(session.config.to_json());
  const OrderedJson all = file["set"];
  for (const auto& item : all.items()) {
    if (!CompressionConfig::has_effect(item.key(), session.config.policy)) {
      file["set"].erase(item.key());
    }
  }
  file["tasks"] = a.tasks;
  file["data"] = a.longbench.data.empty() ? OrderedJson() : OrderedJson(a.longbench.data);
  file["max_samples"] = a.longbench.max_samples;
  file["max_length"] = a.longbench.max_length;
  if (!a.perplexity.text.empty()) file["text"] = a.perplexity.text;
  if (!a.perplexity.token_ids.empty()) file["token_ids"] = a.perplexity.token_ids;
  file["protocol"] = a.perplexity.protocol;
  file["context"] = a.perplexity.context;
  file["windows"] = a.perplexity.windows;
  file["stride"] = a.perplexity.stride;
  file["bos"] = a.perplexity.bos;
  file["lengths"] = a.needle.options.lengths;
  file["depths"] = a.needle.options.depths;
  file["samples"] = a.needle.options.samples;
  if (!a.needle.haystack.empty()) file["haystack"] = a.needle.haystack;
  const eval::NeedleOptions& n = a.needle.options;
  if (!n.needle.fact.empty()) {
    file["needle"] = n.needle.fact;
    file["question"] = n.needle.question;
    file["lead"] = n.needle.lead;
    file["answer"] = n.needle.answer;
    file["distractor"] = n.needle.distractor;
  }
  file["needle_tokens"] = n.max_new_tokens;
  file["needle_seed"] = n.seed;
  file["solved_score"] = n.solved_score;
  if (!a.needle.baseline) file["no_baseline"] = true;
  file["edit_ratio"] = a.longbench.edit_ratio;
  file["baseline"] = a.baseline;
  file["output_dir"] = a.output_dir;
  file["experiment_name"] = a.name;
  return file;
}

void print_summary(const OrderedJson& report, const fs::path& folder) {
  const OrderedJson& tasks = report["tasks"];
  std::printf("\n%s\n", folder.string().c_str());
  if (tasks.contains("perplexity")) {
    const OrderedJson& p = tasks["perplexity"];
    const auto figure = [](const OrderedJson& v) { return v.is_number() ? v.get<double>() : NAN; };
    std::printf("  perplexity %.4f (dense %.4f), KL %.6f nats, top-1 %.2f %%, sealed %.3f bits\n",
                figure(p["perplexity"]), figure(p["baseline"]["perplexity"]), figure(p["kl_mean"]),
                100 * figure(p["top1_agreement"]), figure(p["kv_bits_sealed"]["total"]));
  }
  const auto speed = [](const OrderedJson& performance) {
    for (const char* side : {"compressed", "baseline"}) {
      const OrderedJson& p = performance[side];
      if (!p.is_object() || !p["ttft_s"].is_number()) continue;
      std::printf(
          "  %-10s  time to first token %.3f s, prefill %.1f tok/s, decode %s tok/s, "
          "cache %.2f MiB at most\n",
          side[0] == 'b' ? "dense" : side, p["ttft_s"].get<double>(),
          p["prefill_tokens_per_s"].get<double>(),
          p["decode_tokens_per_s"].is_number()
              ? std::to_string(p["decode_tokens_per_s"].get<double>()).c_str()
              : "-",
          p["kv_bytes"].get<double>() / 1048576);
    }
  };
  if (tasks.contains("perplexity")) speed(tasks["perplexity"]["performance"]);
  if (tasks.contains("needle")) {
    const OrderedJson& n = tasks["needle"];
    std::printf("  needle: score %s, margin %s nats%s\n", n["score"].dump().c_str(),
                n["margin"].dump().c_str(),
                n["cut_off"] == 0 ? "" : str_cat(", ", n["cut_off"].dump(), " cut off").c_str());
    speed(n["performance"]);
  }
  if (tasks.contains("longbench")) {
    cli::print_longbench(tasks["longbench"]);
    speed(tasks["longbench"]["performance"]);
  }
}

void experiment(Arguments a) {
  const Plan plan = make_plan(a);
  a.longbench.baseline = a.baseline;
  a.longbench.tasks = plan.longbench;
  for (const auto& [key, value] : a.keys) {
    if (!value.empty()) a.model.settings.push_back(str_cat(key, "=", value));
  }
  choose_preset(a);
  if (a.longbench.max_length > 0) {
    std::erase_if(a.needle.options.lengths, [&](int64_t n) { return n > a.longbench.max_length; });
  }
  // Everything that can be wrong is checked before the weights are read.
  if (plan.perplexity) {
    cli::check(a.perplexity);
    if (a.perplexity.text.empty() && a.perplexity.token_ids.empty()) {
      throw UsageError("task perplexity needs --text or --token-ids");
    }
  }
  if (plan.needle) eval::check(a.needle.options);
  if (!plan.longbench.empty()) cli::check(a.longbench);
  if (a.name.empty() || a.name.find('/') != std::string::npos) {
    throw UsageError(str_cat("expected --experiment-name without '/', got ", in_quotes(a.name)));
  }
  const fs::path folder = fs::path(a.output_dir) / a.name;

  cli::Session session = cli::open_session(a.model);
  OrderedJson report;
  report["experiment"] = a.name;
  report["complete"] = false;
  report["tasks"] = OrderedJson::object();
  report.update(cli::provenance(session));
  report["seed"] = a.needle.options.seed;
  eval::write_json_atomically(folder / "experiment.json", as_experiment_file(a, session));

  bool complete = true;
  const auto add = [&](const char* task, OrderedJson result) {
    complete = result.value("complete", true);
    for (const char* known : {"config", "model", "dtype", "device", "chat", "version", "commit",
                              "machine", "created"}) {
      result.erase(known);  // The report has them once.
    }
    report["tasks"][task] = std::move(result);
    eval::write_json_atomically(folder / "results.json", report);
    if (!complete) cli::throw_interrupted(folder.string());
  };
  if (plan.perplexity) {
    add("perplexity",
        cli::run_perplexity(session, cli::perplexity_input(session, a.perplexity), a.perplexity,
                            folder / "perplexity.windows.jsonl", a.restart));
  }
  if (plan.needle) {
    add("needle", cli::run_needle(session, a.needle, folder / "needle.cells.jsonl", a.restart));
  }
  if (!plan.longbench.empty()) {
    add("longbench", cli::run_longbench(session, a.longbench, folder / "longbench", a.restart));
  }
  report["complete"] = true;
  eval::write_json_atomically(folder / "results.json", report);
  print_summary(report, folder);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Evaluate one configuration on several tasks; everything goes to one folder.");
  Arguments a;
  cli::add_model_options(app, a.model);
  std::string experiment_file;
  app.add_option("--experiment", experiment_file, "Options from a JSON file (configs/experiments)");
  app.add_option("--tasks", a.tasks, "perplexity, needle, longbench or single LongBench tasks")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--output-dir", a.output_dir, "Where experiments go")->capture_default_str();
  app.add_option("--experiment-name", a.name, "Folder of this one")->capture_default_str();
  app.add_flag("--baseline", a.baseline,
               "LongBench: also run the dense cache (perplexity and needle always do)");
  app.add_flag("--restart", a.restart, "Forget the finished work of this experiment");
  cli::add_perplexity_options(*app.add_option_group("Perplexity"), a.perplexity, false);
  auto* needle = app.add_option_group("Needle in a haystack");
  cli::add_needle_options(*needle, a.needle);
  auto* longbench = app.add_option_group("LongBench");
  longbench->add_option("--data", a.longbench.data, "The benchmark's folder");
  longbench->add_option("--max-samples", a.longbench.max_samples, "Examples a task");
  longbench->add_option("--max-length", a.longbench.max_length,
                        "Prompt tokens at most; also bounds the needle's lengths");
  longbench->add_option("--edit-ratio", a.longbench.edit_ratio, "difflib or indel");
  auto* keys = app.add_option_group("Configuration", "Every configuration key is an option");
  const json defaults = json::parse(CompressionConfig().to_json());
  for (const auto& item : defaults.items()) {
    if (item.key() == "chunk_size") continue;  // --chunk-size is there already.
    std::string option = "--" + item.key();
    std::replace(option.begin(), option.end(), '_', '-');
    keys->add_option(option, a.keys[item.key()], "As --set " + item.key() + "=...");
  }
  std::vector<std::string> arguments{argv[0]};
  try {
    for (std::string& argument :
         cli::expand_experiment_file(cli::normalize_arguments(argc, argv))) {
      arguments.push_back(std::move(argument));
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "experiment: error: %s\n", error.what());
    return dynamic_cast<const UsageError*>(&error) != nullptr ? 2 : 1;
  }
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  return cli::run(app, static_cast<int>(pointers.size()), pointers.data(), [&] {
    const eval::InterruptGuard guard;
    experiment(a);
  });
}
