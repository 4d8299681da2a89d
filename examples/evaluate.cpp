// evaluate: how much quality a compressed cache costs, and what it saves.
#include <cstdio>
#include <filesystem>

#include "rillkv/error.h"
#include "rillkv/eval/result_log.h"
#include "support/commands.h"

namespace {

using namespace rillkv;
using cli::OrderedJson;
namespace fs = std::filesystem;

struct Arguments {
  cli::ModelOptions model;
  cli::PerplexityArguments perplexity;
  cli::NeedleArguments needle;
  cli::LongBenchArguments longbench;
  std::string json, predictions, metric;
  bool restart = false;
};

/// Writes the report; an interrupted one is written too, then said to be partial.
void finish(const OrderedJson& report, const std::string& json, const fs::path& log) {
  if (!json.empty()) eval::write_json_atomically(json, report);
  if (report.value("complete", true)) return;
  if (log.empty()) throw Error("interrupted; without --json nothing is kept");
  cli::throw_interrupted(log.string());
}

void perplexity(const Arguments& a) {
  cli::check(a.perplexity);
  cli::check_writable(a.json);
  cli::Session session = cli::open_session(a.model);
  const fs::path log = a.json.empty() ? fs::path() : cli::log_path(a.json, "windows");
  const cli::PerplexityInput input = cli::perplexity_input(session, a.perplexity);
  const OrderedJson report = cli::run_perplexity(session, input, a.perplexity, log, a.restart);
  finish(report, a.json, log);
  if (!log.empty()) cli::remove_log(log);
  std::printf("perplexity %.4f (dense %.4f)  KL %.6f nats  top-1 %.2f %%  sealed %.3f bits (%s)\n",
              report["perplexity"].get<double>(), report["baseline"]["perplexity"].get<double>(),
              report["kl_mean"].get<double>(), 100 * report["top1_agreement"].get<double>(),
              report["kv_bits_sealed"]["total"].get<double>(), a.perplexity.protocol.c_str());
}

void print_needle(const OrderedJson& report) {
  const auto pair = [](const OrderedJson& side) {
    char text[48] = "       -     ";
    if (side.is_object() && side["margin"].is_number()) {
      // Without a score every reply was cut off.
      char score[16] = "    -";
      if (side["score"].is_number()) {
        std::snprintf(score, sizeof score, "%5.2f", side["score"].get<double>());
      }
      std::snprintf(text, sizeof text, "%s %+7.2f", score, side["margin"].get<double>());
    }
    return std::string(text);
  };
  bool any_cut_off = false;
  std::printf("%8s %7s   %s   %s\n", "tokens", "depth", "score  margin", "dense:  margin");
  for (const OrderedJson& cell : report["cells"]) {
    const bool unsolvable = cell["solvable"].is_boolean() && !cell["solvable"].get<bool>();
    const int64_t cut_off = cell["cut_off"].get<int64_t>();
    const int64_t dense_cut_off =
        cell["baseline"].is_object() ? cell["baseline"]["cut_off"].get<int64_t>() : 0;
    std::string note = unsolvable ? "   unsolvable for this model" : "";
    if (cut_off + dense_cut_off > 0) {
      note += str_cat("   cut off: ", cut_off, ", dense: ", dense_cut_off);
      any_cut_off = true;
    }
    std::printf("%8lld %5.0f %%   %s   %s%s\n",
                static_cast<long long>(cell["length"].get<int64_t>()), cell["depth"].get<double>(),
                pair(cell).c_str(), pair(cell["baseline"]).c_str(), note.c_str());
  }
  if (any_cut_off) {
    std::printf("cut off: replies that --needle-tokens ended before an answer, in no score\n");
  }
}

void needle(const Arguments& a) {
  if (a.json.empty()) throw UsageError("needle: expected --json, where the report goes");
  eval::check(a.needle.options);
  cli::check_writable(a.json);
  cli::Session session = cli::open_session(a.model);
  const fs::path log = cli::log_path(a.json, "cells");
  const OrderedJson report = cli::run_needle(session, a.needle, log, a.restart);
  finish(report, a.json, log);
  cli::remove_log(log);
  print_needle(report);
}

void longbench(const Arguments& a) {
  if (a.json.empty()) throw UsageError("longbench: expected --json, where the report goes");
  cli::check(a.longbench);
  cli::check_writable(a.json);
  cli::Session session = cli::open_session(a.model);
  const fs::path folder = a.predictions.empty()
                              ? fs::path(a.json).replace_extension() += "_predictions"
                              : fs::path(a.predictions);
  const OrderedJson report = cli::run_longbench(session, a.longbench, folder, a.restart);
  finish(report, a.json, folder);
  cli::print_longbench(report);
}

void longbench_score(const Arguments& a) {
  if (a.predictions.empty()) throw UsageError("longbench-score: expected --predictions DIR");
  cli::check_writable(a.json);
  const OrderedJson report = cli::score_longbench_folder(a.predictions, a.longbench.edit_ratio);
  finish(report, a.json, {});
  cli::print_longbench(report);
}

void score(const Arguments& a) {
  cli::check_writable(a.json);
  const OrderedJson report =
      cli::score_predictions(a.predictions, a.metric, a.longbench.edit_ratio);
  if (!a.json.empty()) eval::write_json_atomically(a.json, report);
  RILLKV_CHECK(report["score"].is_number(), a.predictions,
               ": the texts need word boundaries: run scripts/segment_chinese.py on it");
  std::printf("%s %.2f over %lld examples\n", a.metric.c_str(), report["score"].get<double>(),
              static_cast<long long>(report["examples"].get<int64_t>()));
}

CLI::App* add_command(CLI::App& app, const char* name, const char* about, Arguments& a) {
  CLI::App* command = app.add_subcommand(name, about);
  cli::add_model_options(*command, a.model);
  command->add_option("--json", a.json, "Write the report as JSON");
  command->add_flag("--restart", a.restart, "Forget the finished work of an interrupted run");
  return command;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Quality of a compressed KV cache against the dense one.");
  app.require_subcommand(1);
  Arguments a;
  CLI::App* perplexity_app =
      add_command(app, "perplexity", "Perplexity and KL(dense || compressed)", a);
  cli::add_perplexity_options(*perplexity_app, a.perplexity, /*input_required=*/true);
  CLI::App* needle_app = add_command(app, "needle", "Needle in a haystack, depth by length", a);
  cli::add_needle_options(*needle_app, a.needle);
  CLI::App* longbench_app = add_command(app, "longbench", "LongBench's 21 tasks", a);
  cli::add_longbench_options(*longbench_app, a.longbench);
  longbench_app->add_option("--predictions", a.predictions,
                            "Folder for predictions (default: beside the report)");
  CLI::App* score_app =
      app.add_subcommand("longbench-score", "Score LongBench predictions, without a model");
  score_app->add_option("--predictions", a.predictions, "Folder of TASK.jsonl files")->required();
  score_app->add_option("--json", a.json, "Write the report as JSON");
  score_app->add_option("--edit-ratio", a.longbench.edit_ratio, "difflib or indel")
      ->capture_default_str();
  CLI::App* metric_app =
      app.add_subcommand("score", "Score one file of predictions by a metric, without a model");
  metric_app->add_option("--metric", a.metric, "f1, exact_match, rouge_l, ...")->required();
  metric_app
      ->add_option("--predictions", a.predictions, "JSONL records with \"pred\" and \"answers\"")
      ->required();
  metric_app->add_option("--json", a.json, "Write the report as JSON");
  metric_app->add_option("--edit-ratio", a.longbench.edit_ratio, "difflib or indel")
      ->capture_default_str();
  return cli::run(app, argc, argv, [&] {
    const eval::InterruptGuard guard;
    if (perplexity_app->parsed()) return perplexity(a);
    if (needle_app->parsed()) return needle(a);
    if (longbench_app->parsed()) return longbench(a);
    if (score_app->parsed()) return longbench_score(a);
    score(a);
  });
}
