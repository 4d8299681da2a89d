// LongBench's mechanics, with a scripted model: what is asked, how it is cut, what is kept and how
// it is scored.
#include "rillkv/eval/longbench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/support/error_of.h"
#include "tests/support/fake_backend.h"
#include "tests/support/temporary_folder.h"

namespace rillkv::eval {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using testing::error_of;
using testing::FakeBackend;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

LongBenchExample example(const std::string& context, const std::string& input) {
  return {{{"context", context}, {"input", input}}, {"right"}, {}, 0};
}

LongBenchTables tables_for(const std::string& task, const std::string& prompt) {
  return {{{task, prompt}}, {{task, 16}}};
}

TEST(LongBench, KnowsAll21Tasks) {
  std::set<std::string> names, plain, first_line;
  for (const LongBenchTask& task : longbench_tasks()) {
    names.insert(task.name);
    if (!task.chat_template) plain.insert(task.name);
    if (task.first_line_only) first_line.insert(task.name);
  }
  EXPECT_EQ(names.size(), 21u);
  EXPECT_EQ(plain,
            (std::set<std::string>{"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}));
  EXPECT_EQ(first_line, (std::set<std::string>{"trec", "triviaqa", "samsum", "lsht"}));
  EXPECT_EQ(find_longbench_task("dureader").metric, LongBenchMetric::kRougeLChinese);
  EXPECT_EQ(find_longbench_task("repobench-p").metric, LongBenchMetric::kCodeSimilarity);
  EXPECT_TRUE(find_longbench_task("samsum").stop_at_newline);
}

TEST(LongBench, UnknownTaskListsTheKnown) {
  EXPECT_THROW(find_longbench_task("narrative"), UsageError);
  EXPECT_THAT(error_of([] { find_longbench_task("narrative"); }),
              AllOf(HasSubstr("\"narrative\""), HasSubstr("narrativeqa, qasper")));
}

TEST(LongBench, PromptsAreFilledAsPythonDoes) {
  EXPECT_EQ(fill_prompt("{{x}} {context}|{input}{context}", example("C", "I")), "{x} C|IC");
  // Braces of the inserted text are text.
  EXPECT_EQ(fill_prompt("{context}", example("{input}", "I")), "{input}");
  EXPECT_THAT(error_of([] { fill_prompt("{contxt}", example("C", "I")); }), HasSubstr("contxt"));
  EXPECT_NE(error_of([] { fill_prompt("a { b", example("C", "I")); }), "");
  EXPECT_NE(error_of([] { fill_prompt("a } b", example("C", "I")); }), "");
}

TEST(LongBench, TruncatesInTheMiddle) {
  FakeBackend backend([](const std::string&) { return ""; });
  const std::string text = "one two three four five six seven";  // 7 tokens and the first
  EXPECT_EQ(truncate_middle(backend, text, 8), text);
  // 7 / 2 = 3 at each end; the first token of all is special and decodes to nothing.
  EXPECT_EQ(truncate_middle(backend, text, 7), "one two five six seven");
  EXPECT_EQ(truncate_middle(backend, text, 4), "one six seven");
}

TEST(LongBench, PredictsWithTheTasksRules) {
  TemporaryFolder folder;
  FakeBackend backend([](const std::string&) { return "right"; });
  LongBenchOptions options;
  options.chat = true;
  options.max_prompt_tokens = 6;
  for (const char* name : {"qasper", "samsum"}) {
    ResultLog log(folder / (std::string(name) + ".jsonl"), {});
    EXPECT_TRUE(predict_longbench(find_longbench_task(name),
                                  tables_for(name, "Q {context} {input}"),
                                  {example("a b c d e", "end")}, backend, options, log));
    EXPECT_EQ(log.records().at(0).at("pred"), "right");
    EXPECT_EQ(log.records().at(0).at("stats").at("kv_bytes"), 100);
  }
  ASSERT_EQ(backend.requests.size(), 2u);
  const GenerationRequest &chat = backend.requests[0], &plain = backend.requests[1];
  EXPECT_EQ(backend.decode(chat.prompt), "Q a d e end");  // 3 + 3 tokens, one of them special
  EXPECT_EQ(chat.prompt.at(1), FakeBackend::kUser);
  EXPECT_FALSE(chat.stop_at_newline);
  EXPECT_EQ(chat.max_new_tokens, 16);
  EXPECT_NE(plain.prompt.at(1), FakeBackend::kUser);  // samsum never gets a template
  EXPECT_TRUE(plain.stop_at_newline);
}

TEST(LongBench, ResumesAfterAnInterruption) {
  TemporaryFolder folder;
  const LongBenchTask& task = find_longbench_task("qasper");
  const LongBenchTables tables = tables_for("qasper", "{context}");
  const std::vector<LongBenchExample> examples = {example("a", ""), example("b", ""),
                                                  example("c", "")};
  FakeBackend first([](const std::string& prompt) {
    if (prompt == "b") set_interrupted(true);  // Ctrl-C while the second example runs
    return "right " + prompt;
  });
  {
    ResultLog log(folder / "qasper.jsonl", {});
    EXPECT_FALSE(predict_longbench(task, tables, examples, first, {}, log));
    EXPECT_EQ(log.records().size(), 2u);
  }
  set_interrupted(false);
  FakeBackend second([](const std::string& prompt) { return "right " + prompt; });
  ResultLog log(folder / "qasper.jsonl", {});
  EXPECT_TRUE(predict_longbench(task, tables, examples, second, {}, log));
  EXPECT_EQ(second.requests.size(), 1u);  // only what was missing
  ASSERT_EQ(log.records().size(), 3u);
  EXPECT_EQ(log.records()[2].at("pred"), "right c");
}

TEST(LongBench, PredictionsThatTheLimitEndedAreCountedAndScored) {
  TemporaryFolder folder;
  const LongBenchTask& task = find_longbench_task("qasper");
  const LongBenchTables tables = {{{"qasper", "{context}"}}, {{"qasper", 3}}};
  FakeBackend backend([](const std::string& prompt) {
    return prompt == "a" ? "right" : prompt == "b" ? "one two three" : "right and much more";
  });
  ResultLog log(folder / "qasper.jsonl", {});
  EXPECT_TRUE(predict_longbench(
      task, tables, {example("a", ""), example("b", ""), example("c", "")}, backend, {}, log));
  EXPECT_EQ(log.records()[1].at("cut_off"), false);
  EXPECT_EQ(log.records()[2].at("cut_off"), true);
  EXPECT_EQ(log.records()[2].at("pred"), "right and much");
  const LongBenchScore score = score_longbench(task, log.records());
  EXPECT_EQ(score.cut_off, 1);
  // 1, 0 and P = 1/3, R = 1: F = 1/2. The cut one counts as the benchmark counts it.
  EXPECT_DOUBLE_EQ(score.score, 50);
  EXPECT_EQ(to_json(task, score).at("cut_off"), 1);
  std::vector<Json> elsewhere = log.records();
  for (Json& record : elsewhere) record.erase("cut_off");
  EXPECT_FALSE(to_json(task, score_longbench(task, elsewhere)).contains("cut_off"));
  elsewhere[1]["cut_off"] = 1;
  EXPECT_THAT(error_of([&] { score_longbench(task, elsewhere); }),
              AllOf(HasSubstr("prediction 1"), HasSubstr("\"cut_off\" to be true or false")));
}

TEST(LongBench, AFailingExampleIsNamed) {
  TemporaryFolder folder;
  FakeBackend backend([](const std::string& prompt) -> std::string {
    if (prompt == "b") throw Error("expected finite logits");
    return "right";
  });
  ResultLog log(folder / "qasper.jsonl", {});
  const auto predict = [&] {
    predict_longbench(find_longbench_task("qasper"), tables_for("qasper", "{context}"),
                      {example("a", ""), example("b", "")}, backend, {}, log);
  };
  EXPECT_THAT(error_of(predict), HasSubstr("qasper, example 1: expected finite logits"));
  EXPECT_EQ(log.records().size(), 1u);
}

TEST(LongBench, DefaultLengthLeavesRoomForTheAnswer) {
  EXPECT_EQ(default_prompt_tokens(4096, 512), 3500);
  EXPECT_EQ(default_prompt_tokens(32768, 2000), 32172);  // the benchmark's rule, whatever the tasks
  EXPECT_EQ(default_prompt_tokens(1192, 512), 596);
  EXPECT_EQ(default_prompt_tokens(1191, 512), 679);
  EXPECT_EQ(default_prompt_tokens(514, 512), 2);
  for (const int64_t context : {513, 512, 1}) {
    EXPECT_THROW(default_prompt_tokens(context, 512), UsageError);
  }
  EXPECT_THAT(error_of([] { default_prompt_tokens(513, 512); }),
              AllOf(HasSubstr("512 tokens"), HasSubstr("513")));
}

TEST(LongBench, MissingPromptOrLengthIsNamed) {
  TemporaryFolder folder;
  FakeBackend backend([](const std::string&) { return ""; });
  ResultLog log(folder / "x.jsonl", {});
  const auto predict = [&](const LongBenchTables& tables) {
    predict_longbench(find_longbench_task("qasper"), tables, {}, backend, {}, log);
  };
  EXPECT_THAT(error_of([&] { predict({}); }), HasSubstr("dataset2prompt.json"));
  EXPECT_THAT(error_of([&] {
                predict({{{"qasper", "x"}}, {}});
              }),
              HasSubstr("dataset2maxlen.json"));
}

Json record(const std::string& pred, const std::vector<std::string>& answers, int64_t length = 0) {
  return {{"pred", pred}, {"answers", answers}, {"all_classes", nullptr}, {"length", length}};
}

TEST(LongBench, ScoresTheBestAnswerAndAverages) {
  // 1 for the second answer, 0 for the other example: 50.
  const auto score = score_longbench(
      find_longbench_task("qasper"),
      {record("the red fox", {"blue", "Red fox."}, 1000), record("x", {"y"}, 9000)});
  EXPECT_DOUBLE_EQ(score.score, 50);
  EXPECT_EQ(score.by_length, (std::map<std::string, double>{{"0-4k", 100}, {"8k+", 0}}));
}

TEST(LongBench, FirstLineOnlyWhereTheBenchmarkSaysSo) {
  const Json said = record("\n\nred fox\nDialogue: blue", {"red fox"});
  EXPECT_DOUBLE_EQ(score_longbench(find_longbench_task("triviaqa"), {said}).score, 100);
  // 2 of 4 predicted words, both wanted: P = 1/2, R = 1, F = 2/3.
  EXPECT_DOUBLE_EQ(score_longbench(find_longbench_task("qasper"), {said}).score, 200.0 / 3);
}

TEST(LongBench, ClassesDecideClassification) {
  Json said = record("Type: Number", {"Number"});
  EXPECT_THAT(error_of([&] { score_longbench(find_longbench_task("trec"), {said}); }),
              HasSubstr("all_classes"));
  said["all_classes"] = {"Number", "Date"};
  EXPECT_DOUBLE_EQ(score_longbench(find_longbench_task("trec"), {said}).score, 100);
}

TEST(LongBench, RecordsNeedNoKeyAndAnyKeyIsHarmless) {
  Json said = record("red fox", {"red fox"});
  said.erase("pred");
  said["key"] = "seven";
  const auto message = [&] {
    return error_of([&] { score_longbench(find_longbench_task("qasper"), {said}); });
  };
  EXPECT_THAT(message(), HasSubstr("prediction seven: expected a text \"pred\""));
  said["key"] = 7;
  EXPECT_THAT(message(), HasSubstr("prediction 0: expected a text \"pred\""));
}

TEST(LongBench, ChineseNeedsSegmentedText) {
  const LongBenchTask& task = find_longbench_task("multifieldqa_zh");
  Json said = record("王小明", {"王小明"});
  const auto unsegmented = score_longbench(task, {said});
  EXPECT_TRUE(std::isnan(unsegmented.score));
  EXPECT_EQ(unsegmented.unsegmented, 1);
  EXPECT_TRUE(to_json(task, unsegmented).at("score").is_null());
  said["pred_words"] = {"王小明", "。"};
  said["answers_words"] = Json::parse(R"([["王小明"]])");
  EXPECT_DOUBLE_EQ(score_longbench(task, {said}).score, 100);
}

TEST(LongBench, EveryTaskScores) {
  for (const LongBenchTask& task : longbench_tasks()) {
    Json said = record("Paragraph 3 段落3", {"Paragraph 3 段落3"});
    said["all_classes"] = {"Paragraph 3 段落3"};
    said["pred_words"] = {"段落", "3"};
    said["answers_words"] = Json::parse(R"([["段落", "3"]])");
    if (task.name == "passage_count") said = record("3", {"3"});
    const double score = score_longbench(task, {said}).score;
    EXPECT_TRUE(score > 99.99 && score <= 100) << task.name << " " << score;
  }
}

TEST(LongBench, TablesAreReadFromTheFolderOrItsConfig) {
  TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { LongBenchTables::load(folder.path()); }),
              HasSubstr("dataset2prompt.json"));
  folder.write("config/dataset2prompt.json", R"({"lcc": "{context}"})");
  folder.write("config/dataset2maxlen.json", R"({"lcc": 64})");
  EXPECT_EQ(LongBenchTables::load(folder.path()).max_new_tokens.at("lcc"), 64);
  folder.write("dataset2maxlen.json", R"({"lcc": -1})");
  EXPECT_THAT(error_of([&] { LongBenchTables::load(folder.path()); }),
              AllOf(HasSubstr("lcc"), HasSubstr("-1")));
}

TEST(LongBench, ReadsTheOfficialRecords) {
  TemporaryFolder folder;
  folder.write(
      "data/trec.jsonl",
      R"({"input": "Q", "context": "C", "answers": ["Date"], "length": 5, )"
      R"("all_classes": ["Date", "City"], "dataset": "trec", "language": "en", "_id": "1"})"
      "\n\n"
      R"({"input": "Q2", "context": "C2", "answers": ["City"], "all_classes": null})"
      "\n");
  const auto examples = read_longbench(folder.path(), "trec");
  ASSERT_EQ(examples.size(), 2u);
  EXPECT_EQ(examples[0].classes, (std::vector<std::string>{"Date", "City"}));
  EXPECT_EQ(examples[0].length, 5);
  EXPECT_EQ(examples[1].fields.at("input"), "Q2");
  EXPECT_EQ(read_longbench(folder.path(), "trec", 1).size(), 1u);
}

// NaN where nobody reads it, and a surrogate without its other half.
TEST(LongBench, ReadsLinesThatOnlyPythonWrites) {
  const TemporaryFolder folder;
  folder.write("lcc.jsonl",
               R"({"context":"half \ud83d of it","answers":["\ud83d\ude00"],"score":NaN})"
               "\n");
  const auto examples = read_longbench(folder.path(), "lcc");
  ASSERT_EQ(examples.size(), 1u);
  EXPECT_EQ(examples[0].fields.at("context"), "half \xef\xbf\xbd of it");
  EXPECT_EQ(examples[0].answers, (std::vector<std::string>{"\xf0\x9f\x98\x80"}));
  folder.write("lcc.jsonl", R"({"context":NaN,"answers":["a"]})");
  EXPECT_THAT(error_of([&] { read_longbench(folder.path(), "lcc"); }),
              AllOf(HasSubstr("lcc.jsonl:1: "), HasSubstr("\"context\"")));
}

TEST(LongBench, BadDataFilesAreNamedWithTheLine) {
  TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { read_longbench(folder.path(), "trec"); }), HasSubstr("trec.jsonl"));
  const std::string good = R"({"context": "C", "answers": ["A"]})";
  const auto error_for = [&](const std::string& second_line) {
    folder.write("lcc.jsonl", good + "\n" + second_line + "\n");
    return error_of([&] { read_longbench(folder.path(), "lcc"); });
  };
  EXPECT_EQ(error_for(good), "");
  for (const char* bad :
       {"{", "[]", R"({"answers": ["A"]})", R"({"context": "C"})",
        R"({"context": "C", "answers": "A"})", R"({"context": "C", "answers": []})",
        R"({"context": "C", "answers": [1]})",
        R"({"context": "C", "answers": ["A"], "length": "long"})",
        R"({"context": "C", "answers": ["A"], "all_classes": 3})"}) {
    EXPECT_THAT(error_for(bad), HasSubstr("lcc.jsonl:2: ")) << bad;
  }
  folder.write("lcc.jsonl", "\n");
  EXPECT_THAT(error_of([&] { read_longbench(folder.path(), "lcc"); }),
              HasSubstr("at least one record"));
}

TEST(LongBench, WhatCannotBePredictedOrScoredIsFoundUpFront) {
  TemporaryFolder folder;
  const std::string good =
      R"({"context": "C", "input": "I", "answers": ["Paragraph 1 段落1"], "all_classes": ["Date"]})";
  const auto error_for = [&](const char* task, const std::string& line) {
    folder.write(std::string(task) + ".jsonl", good + "\n" + line + "\n");
    return error_of([&] {
      check_longbench(find_longbench_task(task), tables_for(task, "{context} {input}"),
                      read_longbench(folder.path(), task));
    });
  };
  for (const char* task : {"trec", "passage_retrieval_en", "passage_retrieval_zh", "qasper"}) {
    EXPECT_EQ(error_for(task, good), "") << task;
    EXPECT_THAT(error_for(task, R"({"context": "C", "answers": ["Paragraph 1 段落1"]})"),
                AllOf(HasSubstr(std::string(task) + ".jsonl:2: "), HasSubstr("\"input\"")));
  }
  const std::string plain = R"({"context": "C", "input": "I", "answers": ["A"]})";
  EXPECT_EQ(error_for("qasper", plain), "");
  EXPECT_THAT(error_for("trec", plain),
              AllOf(HasSubstr("trec.jsonl:2: "), HasSubstr("all_classes")));
  EXPECT_THAT(error_for("passage_retrieval_en", plain),
              AllOf(HasSubstr("passage_retrieval_en.jsonl:2: "), HasSubstr("Paragraph N")));
  EXPECT_THAT(error_for("passage_retrieval_zh", plain),
              AllOf(HasSubstr("passage_retrieval_zh.jsonl:2: "), HasSubstr("段落")));
  EXPECT_THAT(
      error_of([&] { check_longbench(find_longbench_task("lcc"), tables_for("qasper", "x"), {}); }),
      AllOf(HasSubstr("dataset2prompt.json"), HasSubstr("lcc")));
}

TEST(LongBench, MetricsHaveNames) {
  for (const LongBenchTask& task : longbench_tasks()) {
    EXPECT_EQ(parse_metric(to_string(task.metric)), task.metric);
  }
  EXPECT_EQ(parse_metric("exact_match"), LongBenchMetric::kExactMatch);
  EXPECT_THROW(parse_metric("bleu"), UsageError);
  EXPECT_THAT(error_of([] { parse_metric("bleu"); }),
              AllOf(HasSubstr("bleu"), HasSubstr("f1, f1_zh, rouge_l")));
}

TEST(LongBench, ExactMatchesStandBesideF1) {
  const LongBenchTask& task = find_longbench_task("qasper");
  const auto score = score_longbench(
      task, {record("The red fox.", {"blue", "red fox"}), record("a red fox", {"fox"})});
  EXPECT_DOUBLE_EQ(score.exact_match, 50);
  EXPECT_EQ(to_json(task, score).at("exact_match"), 50);
  EXPECT_FALSE(to_json(find_longbench_task("lcc"), score).contains("exact_match"));
}

TEST(LongBench, BadPredictionIsNamed) {
  const LongBenchTask& task = find_longbench_task("qasper");
  EXPECT_THAT(error_of([&] {
                score_longbench(task, {{{"answers", {"x"}}}});
              }),
              AllOf(HasSubstr("qasper"), HasSubstr("pred")));
}

}  // namespace
}  // namespace rillkv::eval
