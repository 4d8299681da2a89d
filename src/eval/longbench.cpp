#include "rillkv/eval/longbench.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "rillkv/python_json.h"
#include "rillkv/quotes.h"
#include "src/eval/log_record.h"

namespace rillkv::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

fs::path first_existing(const std::vector<fs::path>& candidates, const std::string& what) {
  for (const fs::path& path : candidates) {
    if (is_file(path)) return path;
  }
  std::string tried;
  for (const fs::path& path : candidates) tried += (tried.empty() ? "" : " or ") + path.string();
  throw Error(str_cat(what, ": expected ", tried, ", found neither"));
}

std::vector<std::string> strings_of(const Json& array, const std::string& where,
                                    const std::string& key) {
  RILLKV_CHECK(array.is_array(), where, ": expected \"", key, "\" to be a list of texts, got ",
               array.type_name());
  std::vector<std::string> out;
  for (const Json& item : array) {
    RILLKV_CHECK(item.is_string(), where, ": expected \"", key, "\" to hold texts, got ",
                 item.type_name());
    out.push_back(item);
  }
  return out;
}

LongBenchExample parse_example(const std::string& line, const std::string& where) {
  Json record;
  try {
    record = Json::parse(standard_json(line));
  } catch (const Json::parse_error& error) {
    throw Error(str_cat(where, ": not JSON: ", error.what()));
  }
  RILLKV_CHECK(record.is_object(), where, ": expected a JSON object, got ", record.type_name());
  LongBenchExample example;
  example.where = where;
  for (const auto& item : record.items()) {
    if (item.value().is_string()) example.fields[item.key()] = item.value();
  }
  RILLKV_CHECK(example.fields.count("context") == 1, where, ": expected a text \"context\"");
  RILLKV_CHECK(record.contains("answers"), where, ": expected a list \"answers\"");
  example.answers = strings_of(record["answers"], where, "answers");
  RILLKV_CHECK(!example.answers.empty(), where, ": expected at least one answer, got none");
  if (record.contains("all_classes") && !record["all_classes"].is_null()) {
    example.classes = strings_of(record["all_classes"], where, "all_classes");
  }
  if (record.contains("length")) {
    RILLKV_CHECK(record["length"].is_number_integer(), where,
                 ": expected \"length\" to be an integer, got ", record["length"].dump());
    example.length = record["length"];
  }
  return example;
}

/// The task's prompt format; its number of new tokens is there, too.
const std::string& prompt_of(const LongBenchTask& task, const LongBenchTables& tables) {
  const auto prompt = tables.prompts.find(task.name);
  RILLKV_CHECK(prompt != tables.prompts.end(), "dataset2prompt.json: no prompt for task ",
               task.name);
  RILLKV_CHECK(tables.max_new_tokens.count(task.name) == 1,
               "dataset2maxlen.json: no length for task ", task.name);
  return prompt->second;
}

bool is_chinese(LongBenchMetric metric) {
  return metric == LongBenchMetric::kF1Chinese || metric == LongBenchMetric::kRougeLChinese;
}

std::string first_line(const std::string& text) {
  const size_t begin = std::min(text.find_first_not_of('\n'), text.size());
  return text.substr(begin, text.find('\n', begin) - begin);
}

struct ExampleScore {
  double best = 0;
  bool exact = false;
  bool recursion_exceeded = false;
};

ExampleScore score_record(const LongBenchTask& task, const Json& record, const std::string& where,
                          const LongBenchScoring& scoring) {
  RILLKV_CHECK(record.contains("pred") && record["pred"].is_string(), where,
               ": expected a text \"pred\"");
  RILLKV_CHECK(record.contains("answers"), where, ": expected a list \"answers\"");
  std::string pred = record["pred"];
  if (task.first_line_only) pred = first_line(pred);
  const std::vector<std::string> answers = strings_of(record["answers"], where, "answers");
  const RougeOptions rouge{scoring.python_recursion_limit ? kLongBenchRougeSteps : 0};
  const RougeOptions rouge_zh{scoring.python_recursion_limit ? kLongBenchRougeStepsZh : 0};
  std::vector<std::string> pred_words;
  if (is_chinese(task.metric)) {
    pred_words = strings_of(record["pred_words"], where, "pred_words");
    RILLKV_CHECK(record.contains("answers_words") && record["answers_words"].is_array() &&
                     record["answers_words"].size() == answers.size(),
                 where, ": expected \"answers_words\" with a list for each of the ", answers.size(),
                 " answers");
  }
  ExampleScore result;
  for (size_t i = 0; i < answers.size(); ++i) {
    const std::string& truth = answers[i];
    double score = 0;
    const auto take_rouge = [&](const RougeScore& r) {
      score = r.f1;
      result.recursion_exceeded |= r.recursion_exceeded;
    };
    const auto words = [&] {
      return strings_of(record["answers_words"][i], where, "answers_words");
    };
    switch (task.metric) {
      case LongBenchMetric::kF1:
        score = token_f1(pred, truth);
        result.exact |= exact_match(pred, truth) == 1;
        break;
      case LongBenchMetric::kF1Chinese:
        score = token_f1_words(pred_words, words());
        break;
      case LongBenchMetric::kRougeL:
        take_rouge(rouge_l(pred, truth, rouge));
        break;
      case LongBenchMetric::kRougeLChinese:
        take_rouge(rouge_l_words(pred_words, words(), rouge_zh));
        break;
      case LongBenchMetric::kClassification: {
        RILLKV_CHECK(record.contains("all_classes"), where, ": expected a list \"all_classes\"");
        score = classification_score(pred, truth,
                                     strings_of(record["all_classes"], where, "all_classes"));
        break;
      }
      case LongBenchMetric::kRetrieval:
        score = retrieval_score(pred, truth);
        break;
      case LongBenchMetric::kRetrievalChinese:
        score = retrieval_score_chinese(pred, truth);
        break;
      case LongBenchMetric::kCount:
        score = count_score(pred, truth);
        break;
      case LongBenchMetric::kCodeSimilarity:
        score = code_similarity(pred, truth, scoring.edit_ratio);
        break;
      case LongBenchMetric::kExactMatch:
        score = exact_match(pred, truth);
        break;
    }
    result.best = std::max(result.best, score);
  }
  return result;
}

}  // namespace

std::string_view to_string(LongBenchMetric metric) {
  switch (metric) {
    case LongBenchMetric::kF1:
      return "f1";
    case LongBenchMetric::kF1Chinese:
      return "f1_zh";
    case LongBenchMetric::kRougeL:
      return "rouge_l";
    case LongBenchMetric::kRougeLChinese:
      return "rouge_l_zh";
    case LongBenchMetric::kClassification:
      return "classification";
    case LongBenchMetric::kRetrieval:
      return "retrieval";
    case LongBenchMetric::kRetrievalChinese:
      return "retrieval_zh";
    case LongBenchMetric::kCount:
      return "count";
    case LongBenchMetric::kCodeSimilarity:
      return "code_similarity";
    case LongBenchMetric::kExactMatch:
      return "exact_match";
  }
  return "unknown";
}

LongBenchMetric parse_metric(std::string_view name) {
  std::string known;
  for (int i = 0; i <= static_cast<int>(LongBenchMetric::kExactMatch); ++i) {
    const auto metric = static_cast<LongBenchMetric>(i);
    if (to_string(metric) == name) return metric;
    known += (known.empty() ? "" : ", ") + std::string(to_string(metric));
  }
  throw UsageError(str_cat("unknown metric ", in_quotes(name), ": expected one of ", known));
}

const std::vector<LongBenchTask>& longbench_tasks() {
  using M = LongBenchMetric;
  static const std::vector<LongBenchTask> tasks = {
      // name, metric, chat template, first line only, stop at a line break
      {"narrativeqa", M::kF1, true, false, false},
      {"qasper", M::kF1, true, false, false},
      {"multifieldqa_en", M::kF1, true, false, false},
      {"multifieldqa_zh", M::kF1Chinese, true, false, false},
      {"hotpotqa", M::kF1, true, false, false},
      {"2wikimqa", M::kF1, true, false, false},
      {"musique", M::kF1, true, false, false},
      {"dureader", M::kRougeLChinese, true, false, false},
      {"gov_report", M::kRougeL, true, false, false},
      {"qmsum", M::kRougeL, true, false, false},
      {"multi_news", M::kRougeL, true, false, false},
      {"vcsum", M::kRougeLChinese, true, false, false},
      {"trec", M::kClassification, false, true, false},
      {"triviaqa", M::kF1, false, true, false},
      {"samsum", M::kRougeL, false, true, true},
      {"lsht", M::kClassification, false, true, false},
      {"passage_count", M::kCount, true, false, false},
      {"passage_retrieval_en", M::kRetrieval, true, false, false},
      {"passage_retrieval_zh", M::kRetrievalChinese, true, false, false},
      {"lcc", M::kCodeSimilarity, false, false, false},
      {"repobench-p", M::kCodeSimilarity, false, false, false},
  };
  return tasks;
}

const LongBenchTask& find_longbench_task(std::string_view name) {
  std::string known;
  for (const LongBenchTask& task : longbench_tasks()) {
    if (task.name == name) return task;
    known += (known.empty() ? "" : ", ") + task.name;
  }
  throw UsageError(str_cat("unknown LongBench task \"", name, "\": expected one of ", known));
}

LongBenchTables LongBenchTables::load(const fs::path& folder) {
  const auto locate = [&](const char* name) {
    return first_existing({folder / name, folder / "config" / name}, name);
  };
  const fs::path prompt_path = locate("dataset2prompt.json");
  const fs::path length_path = locate("dataset2maxlen.json");
  const Json prompts = read_json(prompt_path), lengths = read_json(length_path);
  LongBenchTables tables;
  RILLKV_CHECK(prompts.is_object(), prompt_path.string(), ": expected an object of prompts, got ",
               prompts.type_name());
  RILLKV_CHECK(lengths.is_object(), length_path.string(), ": expected an object of lengths, got ",
               lengths.type_name());
  for (const auto& item : prompts.items()) {
    RILLKV_CHECK(item.value().is_string(), prompt_path.string(), ": ", item.key(),
                 ": expected a text, got ", item.value().type_name());
    tables.prompts[item.key()] = item.value();
  }
  for (const auto& item : lengths.items()) {
    RILLKV_CHECK(item.value().is_number_integer() && item.value() > 0, length_path.string(), ": ",
                 item.key(), ": expected a positive integer, got ", item.value().dump());
    tables.max_new_tokens[item.key()] = item.value();
  }
  return tables;
}

fs::path longbench_file(const fs::path& folder, const std::string& name) {
  const std::string file_name = name + ".jsonl";
  return first_existing({folder / file_name, folder / "data" / file_name}, name);
}

std::vector<LongBenchExample> read_longbench(const fs::path& folder, const std::string& name,
                                             int64_t max_samples) {
  const fs::path path = longbench_file(folder, name);
  std::ifstream in(path, std::ios::binary);
  RILLKV_CHECK(in, "cannot read ", path.string());
  std::vector<LongBenchExample> examples;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (max_samples >= 0 && static_cast<int64_t>(examples.size()) >= max_samples) break;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    examples.push_back(parse_example(line, str_cat(path.string(), ":", number)));
  }
  RILLKV_CHECK(!examples.empty() || max_samples == 0, path.string(),
               ": expected at least one record, got none");
  return examples;
}

void check_longbench(const LongBenchTask& task, const LongBenchTables& tables,
                     const std::vector<LongBenchExample>& examples) {
  const std::string& prompt = prompt_of(task, tables);
  for (const LongBenchExample& example : examples) {
    try {
      fill_prompt(prompt, example);
      // What the metric demands of an answer it only says when it meets one.
      for (const std::string& answer : example.answers) {
        if (task.metric == LongBenchMetric::kRetrieval) retrieval_score("", answer);
        if (task.metric == LongBenchMetric::kRetrievalChinese) retrieval_score_chinese("", answer);
      }
      RILLKV_CHECK(task.metric != LongBenchMetric::kClassification || !example.classes.empty(),
                   "expected a list \"all_classes\" with the classes of task ", task.name);
    } catch (const Error& error) {
      throw Error(str_cat(example.where, ": ", error.what()));
    }
  }
}

std::string fill_prompt(std::string_view format, const LongBenchExample& example) {
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    const char c = format[i];
    if (c != '{' && c != '}') {
      out.push_back(c);
    } else if (i + 1 < format.size() && format[i + 1] == c) {
      out.push_back(c);
      ++i;
    } else {
      const size_t end = c == '{' ? format.find('}', i) : std::string_view::npos;
      RILLKV_CHECK(end != std::string_view::npos, "prompt format: expected {field}, got a stray '",
                   c, "' at byte ", i);
      const std::string field(format.substr(i + 1, end - i - 1));
      const auto it = example.fields.find(field);
      RILLKV_CHECK(it != example.fields.end(), "prompt format: the example has no text \"", field,
                   "\"");
      out += it->second;
      i = end;
    }
  }
  return out;
}

int64_t default_prompt_tokens(int64_t max_positions, int64_t reserved) {
  constexpr int64_t kReserved = 4096 - 3500;
  if (max_positions >= 2 * kReserved) return max_positions - kReserved;
  if (max_positions - reserved < 2) {
    throw UsageError(str_cat("LongBench: expected a context that holds a prompt beside the ",
                             reserved, " tokens of answer and chat template, got one of ",
                             max_positions, "; choose tasks with shorter answers or --max-length"));
  }
  return max_positions - reserved;
}

std::string truncate_middle(const GenerationBackend& backend, const std::string& prompt,
                            int64_t max_tokens) {
  RILLKV_CHECK(max_tokens >= 2, "middle truncation: expected at least 2 tokens, got ", max_tokens);
  const std::vector<int64_t> ids = backend.encode_prompt(prompt, false);
  if (static_cast<int64_t>(ids.size()) <= max_tokens) return prompt;
  const int64_t half = max_tokens / 2;
  return backend.decode({ids.begin(), ids.begin() + half}) +
         backend.decode({ids.end() - half, ids.end()});
}

bool predict_longbench(const LongBenchTask& task, const LongBenchTables& tables,
                       const std::vector<LongBenchExample>& examples, GenerationBackend& backend,
                       const LongBenchOptions& options, ResultLog& log, const Progress& progress) {
  const std::string& prompt = prompt_of(task, tables);
  const auto total = static_cast<int64_t>(examples.size());
  for (int64_t i = 0; i < total; ++i) {
    const std::string key = std::to_string(i);
    if (log.find(key) == nullptr) {
      if (interrupted()) return false;
      const LongBenchExample& example = examples[static_cast<size_t>(i)];
      const std::string text =
          truncate_middle(backend, fill_prompt(prompt, example), options.max_prompt_tokens);
      GenerationRequest request;
      request.prompt = backend.encode_prompt(text, options.chat && task.chat_template);
      request.max_new_tokens = tables.max_new_tokens.at(task.name);
      request.stop_at_newline = task.stop_at_newline;
      named(str_cat(task.name, ", example ", i), [&] {
        const Generation generation = backend.run(request);
        // As the benchmark's own program does: the new tokens alone, without what stands before.
        log.append(key, {{"pred", backend.decode(generation.tokens)},
                         {"answers", example.answers},
                         {"all_classes", example.classes.empty() ? Json() : Json(example.classes)},
                         {"length", example.length},
                         {"cut_off", generation.reached_limit},
                         {"stats", to_json(generation.stats)}});
      });
      if (progress) progress(i + 1, total, task.name);
    }
  }
  return true;
}

LongBenchScore score_longbench(const LongBenchTask& task, const std::vector<Json>& records,
                               const LongBenchScoring& scoring) {
  LongBenchScore result;
  double sum = 0, exact = 0;
  std::map<std::string, std::pair<double, int64_t>> buckets;
  for (size_t i = 0; i < records.size(); ++i) {
    const Json& record = records[i];
    std::string where = str_cat(task.name, ", prediction ", i);
    RILLKV_CHECK(record.is_object(), where, ": expected a JSON object");
    if (record.contains("key") && record["key"].is_string()) {
      where = str_cat(task.name, ", prediction ", record["key"].get<std::string>());
    }
    ++result.examples;
    if (const auto cut = record.find("cut_off"); cut != record.end()) {
      RILLKV_CHECK(cut->is_boolean(), where, ": expected \"cut_off\" to be true or false, got ",
                   cut->dump());
      result.cut_off = std::max<int64_t>(result.cut_off, 0) + cut->get<bool>();
    }
    if (is_chinese(task.metric) && !record.contains("pred_words")) {
      ++result.unsegmented;
      continue;
    }
    const ExampleScore scored = score_record(task, record, where, scoring);
    sum += scored.best;
    exact += scored.exact;
    result.recursion_zeros += scored.recursion_exceeded && scored.best == 0;
    if (record.contains("length") && record["length"].is_number_integer()) {
      const int64_t length = record["length"];
      auto& [bucket_sum, count] = buckets[length < 4000 ? "0-4k" : length < 8000 ? "4-8k" : "8k+"];
      bucket_sum += scored.best;
      ++count;
    }
  }
  if (result.examples == 0 || result.unsegmented > 0) {
    result.score = result.exact_match = std::numeric_limits<double>::quiet_NaN();
    return result;
  }
  result.score = 100 * sum / static_cast<double>(result.examples);
  result.exact_match = 100 * exact / static_cast<double>(result.examples);
  for (const auto& [name, bucket] : buckets) {
    result.by_length[name] = 100 * bucket.first / static_cast<double>(bucket.second);
  }
  return result;
}

Json to_json(const LongBenchTask& task, const LongBenchScore& score) {
  Json json = {{"metric", to_string(task.metric)},
               {"examples", score.examples},
               {"score", std::isfinite(score.score) ? Json(score.score) : Json()},
               {"by_length", score.by_length}};
  if (task.metric == LongBenchMetric::kF1) {
    json["exact_match"] = std::isfinite(score.exact_match) ? Json(score.exact_match) : Json();
  }
  if (score.cut_off >= 0) json["cut_off"] = score.cut_off;
  if (score.unsegmented > 0) json["unsegmented"] = score.unsegmented;
  if (score.recursion_zeros > 0) json["recursion_zeros"] = score.recursion_zeros;
  return json;
}

}  // namespace rillkv::eval
