#include <algorithm>
#include <cmath>
#include <cstdio>

#include "rillkv/error.h"
#include "rillkv/eval/content_hash.h"
#include "rillkv/eval/performance.h"
#include "rillkv/eval/result_log.h"
#include "rillkv/files.h"
#include "rillkv/quotes.h"
#include "support/commands.h"

namespace rillkv::cli {
namespace {

namespace fs = std::filesystem;
using eval::LongBenchTask;
using nlohmann::json;

std::vector<const LongBenchTask*> tasks_of(const LongBenchArguments& a) {
  std::vector<const LongBenchTask*> tasks;
  if (a.tasks.empty()) {
    for (const LongBenchTask& task : eval::longbench_tasks()) tasks.push_back(&task);
  }
  for (const std::string& name : a.tasks) {
    const LongBenchTask* task = &eval::find_longbench_task(name);
    if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) tasks.push_back(task);
  }
  return tasks;
}

eval::LongBenchScoring scoring_of(const std::string& edit_ratio) {
  eval::LongBenchScoring scoring;
  if (edit_ratio == "indel") {
    scoring.edit_ratio = eval::EditRatio::kIndel;
  } else if (edit_ratio != "difflib") {
    throw UsageError(
        str_cat("expected --edit-ratio difflib or indel, got ", in_quotes(edit_ratio)));
  }
  return scoring;
}

/// Mean of the tasks' scores; null unless every task has one.
OrderedJson average(const OrderedJson& tasks, const char* side) {
  double sum = 0;
  int64_t count = 0;
  for (const auto& item : tasks.items()) {
    const OrderedJson& task = side ? item.value().value(side, OrderedJson()) : item.value();
    if (!task.is_object() || !task.value("score", OrderedJson()).is_number()) return {};
    sum += task["score"].get<double>();
    ++count;
  }
  return count > 0 ? OrderedJson(sum / static_cast<double>(count)) : OrderedJson();
}

int64_t default_length(Session& session, const LongBenchArguments& a,
                       const eval::LongBenchTables& tables) {
  int64_t longest = 0, added = 0;
  const std::unique_ptr<eval::ModelBackend> backend = session.backend(/*dense=*/false);
  for (const LongBenchTask* task : tasks_of(a)) {
    longest = std::max(longest, tables.max_new_tokens.at(task->name));
    const std::vector<int64_t> empty = backend->encode_prompt("", task->chat_template);
    added = std::max(added, static_cast<int64_t>(empty.size()));
  }
  return eval::default_prompt_tokens(session.model->config().max_position_embeddings,
                                     longest + added);
}

/// Predictions of an earlier run count only if they answer the same examples.
void check_same_data(const eval::ResultLog& log,
                     const std::vector<eval::LongBenchExample>& examples) {
  for (size_t i = 0; i < examples.size(); ++i) {
    const json* record = log.find(std::to_string(i));
    RILLKV_CHECK(record == nullptr || record->value("answers", json()) == json(examples[i].answers),
                 log.path().string(), ": prediction ", i, " is of other data than ",
                 examples[i].where, "; restart or choose another folder");
  }
}

}  // namespace

void add_longbench_options(CLI::App& app, LongBenchArguments& a) {
  app.add_option("--data", a.data,
                 "Folder with TASK.jsonl files, dataset2prompt.json and dataset2maxlen.json");
  app.add_option("--tasks", a.tasks, "Tasks (default: all 21)")->delimiter(',');
  app.add_option("--max-samples", a.max_samples, "Examples a task (default: all)");
  app.add_option("--max-length", a.max_length,
                 "Prompt tokens, longer ones lose their middle (default: the context less 596, "
                 "in one below 1192 less the longest answer and what --chat adds)");
  app.add_flag("--baseline", a.baseline, "Also predict with the dense cache");
  app.add_option("--edit-ratio", a.edit_ratio,
                 "Code tasks: difflib (as published scores) or indel (rapidfuzz)")
      ->capture_default_str();
}

void check(const LongBenchArguments& a) {
  if (a.data.empty()) throw UsageError("LongBench tasks need --data, the benchmark's folder");
  scoring_of(a.edit_ratio);
  if (a.max_length < 0) {
    throw UsageError(str_cat("expected --max-length above 0, got ", a.max_length));
  }
  const eval::LongBenchTables tables = eval::LongBenchTables::load(a.data);
  for (const LongBenchTask* task : tasks_of(a)) {
    eval::check_longbench(*task, tables, eval::read_longbench(a.data, task->name, a.max_samples));
  }
}

OrderedJson run_longbench(Session& session, const LongBenchArguments& a, const fs::path& folder,
                          bool restart) {
  check(a);
  const eval::LongBenchTables tables = eval::LongBenchTables::load(a.data);
  const eval::LongBenchScoring scoring = scoring_of(a.edit_ratio);
  eval::LongBenchOptions options;
  options.chat = !session.chat.is_none();
  options.max_prompt_tokens = a.max_length > 0 ? a.max_length : default_length(session, a, tables);
  OrderedJson report;
  report["benchmark"] = "longbench";
  report["complete"] = true;
  report["max_prompt_tokens"] = options.max_prompt_tokens;
  report["tasks"] = OrderedJson::object();
  eval::PerformanceSummary ours(session.config), theirs(session.config.baseline());
  for (const bool dense : {false, true}) {
    if (dense && !a.baseline) continue;
    const std::unique_ptr<eval::ModelBackend> backend = session.backend(dense);
    json fingerprint = session.fingerprint();
    if (dense) fingerprint["config"] = {{"policy", "dense"}};
    fingerprint["max_prompt_tokens"] = options.max_prompt_tokens;
    for (const LongBenchTask* task : tasks_of(a)) {
      const auto examples = eval::read_longbench(a.data, task->name, a.max_samples);
      fingerprint["data_hash"] =
          eval::content_hash(read_file(eval::longbench_file(a.data, task->name).string()));
      fingerprint["prompt_hash"] = eval::content_hash(tables.prompts.at(task->name));
      fingerprint["max_new_tokens"] = tables.max_new_tokens.at(task->name);
      eval::ResultLog log(folder / (dense ? "dense" : "compressed") / (task->name + ".jsonl"),
                          fingerprint, restart);
      log.stamp(record_stamp());
      check_same_data(log, examples);
      const bool complete = eval::predict_longbench(
          *task, tables, examples, *backend, options, log,
          bar_progress(task->name + (dense ? ", dense" : ""), session.options.quiet));
      if (!complete) report["complete"] = false;
      // An earlier run may have predicted more examples than this one asks for.
      std::vector<json> records;
      for (size_t i = 0; i < examples.size(); ++i) {
        if (const json* record = log.find(std::to_string(i))) records.push_back(*record);
      }
      for (const json& record : records) {
        (dense ? theirs : ours)
            .add(eval::run_stats_from_json(record.value("stats", json::object())));
      }
      const OrderedJson score =
          eval::to_json(*task, eval::score_longbench(*task, records, scoring));
      OrderedJson& entry = report["tasks"][task->name];
      if (dense) {
        entry["baseline"] = score;
      } else {
        entry = score;
      }
    }
  }
  report["average"] = average(report["tasks"], nullptr);
  if (a.baseline) report["baseline"] = {{"average", average(report["tasks"], "baseline")}};
  report["performance"] = {
      {"compressed", ours.to_json()},
      {"baseline", a.baseline ? OrderedJson(theirs.to_json()) : OrderedJson()}};
  report["predictions"] = folder.string();
  report.update(provenance(session));
  return report;
}

OrderedJson score_longbench_folder(const fs::path& folder, const std::string& edit_ratio) {
  const eval::LongBenchScoring scoring = scoring_of(edit_ratio);
  RILLKV_CHECK(is_folder(folder), "expected a folder of prediction files, got ",
               in_quotes(folder.string()));
  OrderedJson report;
  report["benchmark"] = "longbench";
  report["complete"] = true;
  report["tasks"] = OrderedJson::object();
  bool baseline = false;
  // Either what `evaluate longbench` left (compressed/, dense/) or plain prediction files.
  const fs::path ours = is_folder(folder / "compressed") ? folder / "compressed" : folder;
  for (const LongBenchTask& task : eval::longbench_tasks()) {
    const fs::path file = ours / (task.name + ".jsonl");
    if (!is_file(file)) continue;
    OrderedJson& entry = report["tasks"][task.name];
    entry = eval::to_json(task, eval::score_longbench(task, eval::read_jsonl(file), scoring));
    const fs::path dense = folder / "dense" / file.filename();
    if (is_file(dense)) {
      baseline = true;
      entry["baseline"] =
          eval::to_json(task, eval::score_longbench(task, eval::read_jsonl(dense), scoring));
    }
  }
  RILLKV_CHECK(!report["tasks"].empty(), "expected TASK.jsonl files in ", in_quotes(ours.string()),
               ", found none");
  report["average"] = average(report["tasks"], nullptr);
  if (baseline) report["baseline"] = {{"average", average(report["tasks"], "baseline")}};
  report["predictions"] = folder.string();
  return report;
}

OrderedJson score_predictions(const fs::path& file, const std::string& metric,
                              const std::string& edit_ratio) {
  LongBenchTask task{file.stem(), eval::parse_metric(metric), false, false, false};
  const std::vector<json> records = eval::read_jsonl(file);
  RILLKV_CHECK(!records.empty(), file.string(), ": expected at least one prediction, got none");
  OrderedJson report =
      eval::to_json(task, eval::score_longbench(task, records, scoring_of(edit_ratio)));
  report["predictions"] = file.string();
  return report;
}

void print_longbench(const OrderedJson& report) {
  const auto number = [](const OrderedJson& score) {
    char text[16] = "-";
    if (score.is_number()) std::snprintf(text, sizeof text, "%.2f", score.get<double>());
    return std::string(text);
  };
  const bool baseline = report.contains("baseline");
  // Of predictions that were made elsewhere it may be unknown.
  const bool cut_off =
      std::any_of(report["tasks"].begin(), report["tasks"].end(),
                  [](const OrderedJson& task) { return task.contains("cut_off"); });
  std::printf("%-22s %-16s %8s %8s%s%s\n", "task", "metric", "examples", "score",
              baseline ? "    dense" : "", cut_off ? "  cut off" : "");
  bool unsegmented = false;
  for (const auto& item : report["tasks"].items()) {
    const OrderedJson& task = item.value();
    std::printf(
        "%-22s %-16s %8lld %8s", item.key().c_str(), task["metric"].get<std::string>().c_str(),
        static_cast<long long>(task["examples"].get<int64_t>()), number(task["score"]).c_str());
    if (baseline) {
      const OrderedJson dense = task.value("baseline", OrderedJson::object());
      std::printf(" %8s", number(dense.value("score", OrderedJson())).c_str());
    }
    if (task.contains("cut_off")) {
      std::printf(" %8lld", static_cast<long long>(task["cut_off"].get<int64_t>()));
    }
    std::printf("\n");
    unsegmented = unsegmented || task.contains("unsegmented");
  }
  std::printf("%-22s %-16s %8s %8s", "average", "", "", number(report["average"]).c_str());
  if (baseline) std::printf(" %8s", number(report["baseline"]["average"]).c_str());
  std::printf("\n");
  if (unsegmented) {
    const std::string folder = report.value("predictions", std::string("DIR"));
    std::string files;  // Their names have no pattern: dureader, vcsum and what ends in _zh.
    for (const auto& item : report["tasks"].items()) {
      if (!item.value().contains("unsegmented")) continue;
      for (const char* side : {"", "compressed/", "dense/"}) {
        const fs::path file = fs::path(folder) / (side + item.key() + ".jsonl");
        if (is_file(file)) files += " " + file.string();
      }
    }
    std::printf(
        "Chinese tasks need word boundaries: scripts/segment_chinese.py%s, then "
        "evaluate longbench-score --predictions %s\n",
        files.c_str(), folder.c_str());
  }
}

}  // namespace rillkv::cli
