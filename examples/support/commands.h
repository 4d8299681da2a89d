// The evaluations as the programs run them: options, logs that survive an interruption, reports.
// Each report has "complete": false after an interruption, when it covers what is finished.
#pragma once

#include <CLI/App.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "rillkv/eval/longbench.h"
#include "rillkv/eval/needle.h"
#include "support/session.h"

namespace rillkv::cli {

struct PerplexityArguments {
  std::string text, token_ids, protocol = "prefill", bos = "auto";
  int64_t context = 1024, windows = 2, stride = 0;
};
/// All but --text and --token-ids, which `input_required` makes one mandatory choice.
void add_perplexity_options(CLI::App& app, PerplexityArguments& arguments, bool input_required);
/// Throws UsageError for options no run could use; call before the model is loaded.
void check(const PerplexityArguments& arguments);
struct PerplexityInput {
  std::vector<int64_t> tokens;
  int64_t bos = -1;  ///< what windows begin with; -1: with the text
};
/// The tokens of --text or --token-ids, and --bos: "auto" is what the tokenizer puts before a text,
/// "yes" also one that it only knows. Throws UsageError for "yes" where there is none.
PerplexityInput perplexity_input(Session& session, const PerplexityArguments& arguments);
/// What decides the windows of a log.
nlohmann::json perplexity_fingerprint(const Session& session, const PerplexityInput& input,
                                      const PerplexityArguments& arguments);
/// Keeps finished windows in `log` unless it is empty. "performance" has the sides "compressed" and
/// "baseline", the keys of eval::PerformanceSummary each.
OrderedJson run_perplexity(Session& session, const PerplexityInput& input,
                           const PerplexityArguments& arguments, const std::filesystem::path& log,
                           bool restart);

struct NeedleArguments {
  eval::NeedleOptions options;
  std::string haystack;  // folder
  bool baseline = true;
};
void add_needle_options(CLI::App& app, NeedleArguments& arguments);
OrderedJson run_needle(Session& session, const NeedleArguments& arguments,
                       const std::filesystem::path& log, bool restart);

struct LongBenchArguments {
  std::string data;                // folder of JSONL files and the two tables
  std::vector<std::string> tasks;  // empty: all 21
  int64_t max_samples = -1;
  int64_t max_length = 0;  // 0: eval::default_prompt_tokens
  bool baseline = false;
  std::string edit_ratio = "difflib";
};
void add_longbench_options(CLI::App& app, LongBenchArguments& arguments);
/// Checks tasks and data files; throws UsageError or Error before the model is loaded.
void check(const LongBenchArguments& arguments);
/// Predictions of every task go to FOLDER/compressed/TASK.jsonl and FOLDER/dense/TASK.jsonl.
OrderedJson run_longbench(Session& session, const LongBenchArguments& arguments,
                          const std::filesystem::path& folder, bool restart);
/// Scores prediction files that are there; needs no model.
OrderedJson score_longbench_folder(const std::filesystem::path& folder,
                                   const std::string& edit_ratio);
/// Scores one file of records with "pred" and "answers" by the metric of this name; throws
/// UsageError for an unknown one.
OrderedJson score_predictions(const std::filesystem::path& file, const std::string& metric,
                              const std::string& edit_ratio);
/// One line a task on stdout.
void print_longbench(const OrderedJson& report);

}  // namespace rillkv::cli
