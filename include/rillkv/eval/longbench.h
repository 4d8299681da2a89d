// LongBench (Bai et al., arXiv 2308.14508): prompts, truncation, prediction and scores of its 21
// tasks, step for step as the benchmark's own scripts do them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "rillkv/eval/backend.h"
#include "rillkv/eval/metrics.h"
#include "rillkv/eval/progress.h"
#include "rillkv/eval/result_log.h"

namespace rillkv::eval {

enum class LongBenchMetric {
  kF1,
  kF1Chinese,
  kRougeL,
  kRougeLChinese,
  kClassification,
  kRetrieval,
  kRetrievalChinese,
  kCount,
  kCodeSimilarity,
  kExactMatch,  ///< No task's own; reported beside kF1.
};
std::string_view to_string(LongBenchMetric metric);
/// The metric of this name. Throws UsageError that lists the names if there is none.
LongBenchMetric parse_metric(std::string_view name);

struct LongBenchTask {
  std::string name;
  LongBenchMetric metric;
  /// False for the few-shot and code tasks, which the benchmark never wraps in a chat template.
  bool chat_template;
  /// Only the prediction's first line counts.
  bool first_line_only;
  /// Generation ends at a line break (samsum: models go on with the next dialogue).
  bool stop_at_newline;
};

/// All 21 tasks in the benchmark's order.
const std::vector<LongBenchTask>& longbench_tasks();
/// Throws UsageError that lists the tasks if there is none of this name.
const LongBenchTask& find_longbench_task(std::string_view name);

/// The benchmark's two tables, dataset2prompt.json and dataset2maxlen.json.
struct LongBenchTables {
  std::map<std::string, std::string> prompts;
  std::map<std::string, int64_t> max_new_tokens;

  /// Looks in `folder` and in its `config` subfolder. Throws Error naming what is missing.
  static LongBenchTables load(const std::filesystem::path& folder);
};

struct LongBenchExample {
  std::map<std::string, std::string> fields;  ///< The record's texts: context, input, ...
  std::vector<std::string> answers;
  std::vector<std::string> classes;  ///< Empty where the task has none.
  int64_t length = 0;                ///< The benchmark's own count of words; 0 if absent.
  std::string where{};               ///< "FILE:LINE", for messages.
};

/// FOLDER/NAME.jsonl or FOLDER/data/NAME.jsonl; throws Error if neither is there.
std::filesystem::path longbench_file(const std::filesystem::path& folder, const std::string& name);

/// Reads longbench_file(folder, name). `max_samples` < 0: all. Throws Error with file and line
/// number for a record that is malformed or lacks answers.
std::vector<LongBenchExample> read_longbench(const std::filesystem::path& folder,
                                             const std::string& name, int64_t max_samples = -1);

/// Checks that every example can be predicted and scored before hours of work begin: the tables
/// have the task, the prompt's fields are there, so are the classes of a classification task and
/// the number in the answers of retrieval tasks. Throws Error with file and line.
void check_longbench(const LongBenchTask& task, const LongBenchTables& tables,
                     const std::vector<LongBenchExample>& examples);

/// Fills {field} places as Python's str.format does ("{{" and "}}" are braces). Throws Error for an
/// unknown field or a stray brace.
std::string fill_prompt(std::string_view format, const LongBenchExample& example);

/// How long prompts may get where nobody says: what a context of `max_positions` leaves beside 596
/// tokens, as the benchmark's 3500 of 4096. In a context too small for that (below 2 * 596), what
/// it leaves beside `reserved`: the new tokens of the longest task, and what a chat template adds.
/// Throws UsageError if that is less than 2 tokens.
int64_t default_prompt_tokens(int64_t max_positions, int64_t reserved);

/// If the prompt has more than `max_tokens` tokens, the decoded first max_tokens / 2 followed by
/// the decoded last max_tokens / 2: instructions stand at both ends.
std::string truncate_middle(const GenerationBackend& backend, const std::string& prompt,
                            int64_t max_tokens);

struct LongBenchOptions {
  int64_t max_prompt_tokens = 3500;  ///< The benchmark's value for a context of 4096.
  bool chat = false;                 ///< Use the back end's chat template where the task allows it.
};

/// Predicts every example that `log` does not hold yet, a record each: key (the example's index),
/// pred, answers, all_classes, length, cut_off, stats. Stops after the current example when
/// interrupted(). Returns whether all examples are done.
///
/// cut_off: the task's limit of new tokens (dataset2maxlen.json) ended the prediction. The limits
/// are part of the benchmark, and with some (64 for code, of which the first line counts) that is
/// the rule; so such a prediction is scored as every other, as published scores are, and counted.
bool predict_longbench(const LongBenchTask& task, const LongBenchTables& tables,
                       const std::vector<LongBenchExample>& examples, GenerationBackend& backend,
                       const LongBenchOptions& options, ResultLog& log,
                       const Progress& progress = {});

struct LongBenchScoring {
  EditRatio edit_ratio = EditRatio::kDifflib;
  /// Score 0 where the reference exceeds Python's recursion limit, as published scores do.
  bool python_recursion_limit = true;
};

struct LongBenchScore {
  int64_t examples = 0;
  /// Mean over the examples times 100; not-a-number without examples or with unsegmented ones.
  double score = 0;
  double exact_match = 0;  ///< The same of exact matches; for metric kF1 only.
  /// The score by the benchmark's length classes; a class without examples is absent.
  std::map<std::string, double> by_length;  ///< "0-4k", "4-8k", "8k+"
  /// Chinese records without words: run scripts/segment_chinese.py on the file.
  int64_t unsegmented = 0;
  /// Records whose prediction the limit of new tokens ended; -1 where the records do not say.
  int64_t cut_off = -1;
  /// Records that scored 0 for Python's recursion limit.
  int64_t recursion_zeros = 0;
};

/// Scores prediction records (pred, answers, all_classes, length; pred_words and answers_words for
/// Chinese). An example's score is the best over its answers. Throws Error naming the record.
LongBenchScore score_longbench(const LongBenchTask& task,
                               const std::vector<nlohmann::json>& records,
                               const LongBenchScoring& scoring = {});

/// metric, examples, score (null if not a number), exact_match (where the metric is f1), by_length,
/// cut_off (where known), unsegmented and recursion_zeros (where not 0).
nlohmann::json to_json(const LongBenchTask& task, const LongBenchScore& score);

}  // namespace rillkv::eval
