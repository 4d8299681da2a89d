// evaluate, experiment and ablate as a user meets them: reports, interruptions, bad input.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "rillkv/eval/result_log.h"
#include "rillkv/files.h"
#include "tests/examples/evaluation_programs.h"

namespace rillkv {
namespace {

TEST_F(EvaluationPrograms, PerplexityReportsAndLeavesNoLog) {
  run("evaluate", perplexity(out("p.json")), 0);
  const Json report = eval::read_json(out("p.json"));
  EXPECT_EQ(report.at("complete"), true);
  EXPECT_EQ(report.at("windows"), 2);
  EXPECT_EQ(report.at("layers").size(), 2u);
  EXPECT_GT(report.at("kl_mean").get<double>(), 0);
  for (const char* side : {"compressed", "baseline"}) {
    expect_performance(report.at("performance").at(side));
  }
  // The caches themselves are too short for compression to win: the open tail is allocated whole.
  EXPECT_GT(report["kv_bits_sealed"]["total"].get<double>(), 0);
  EXPECT_LT(report["kv_bits_sealed"]["total"].get<double>(), 16);
  EXPECT_TRUE(report["performance"]["compressed"]["estimated_memory_savings"].is_number());
  EXPECT_FALSE(report.at("commit").get<std::string>().empty());
  for (const char* key : {"cpu", "threads", "isa", "arithmetic"}) {
    EXPECT_TRUE(report.at("machine").contains(key)) << key;
  }
  EXPECT_FALSE(std::filesystem::exists(out("p.windows.jsonl")));
}

TEST_F(EvaluationPrograms, InterruptedPerplexityGoesOnToTheSameResult) {
  Words whole = perplexity(out("whole.json")), cut = perplexity(out("cut.json"));
  for (Words* words : {&whole, &cut}) {
    set_option(*words, "--windows", "0");  // the whole text
    set_option(*words, "--context", "128");
  }
  run("evaluate", whole, 0);
  const int all = eval::read_json(out("whole.json")).at("windows");
  EXPECT_GT(all, 20);
  interrupt("evaluate", cut, out("cut.windows.jsonl"));
  const Json partial = eval::read_json(out("cut.json"));
  EXPECT_EQ(partial.at("complete"), false);
  EXPECT_LT(partial.at("windows").get<int>(), all);
  run("evaluate", cut, 0);
  const Json a = eval::read_json(out("whole.json")), b = eval::read_json(out("cut.json"));
  EXPECT_EQ(a.at("kl_mean"), b.at("kl_mean"));
  EXPECT_EQ(a.at("perplexity"), b.at("perplexity"));
  EXPECT_EQ(a.at("kv_bits_sealed"), b.at("kv_bits_sealed"));
}

TEST_F(EvaluationPrograms, FinishedWindowsHoldAllTheReportNeeds) {
  // As after an interruption between the last window and the report: the log is whole.
  for (const char* windows : {"0", "2"}) {
    const Words words = {"--model",
                         model(),
                         "--text",
                         text(),
                         "--context",
                         "400",
                         "--tasks",
                         "perplexity",
                         "--windows",
                         windows,
                         "--quiet",
                         "--output-dir",
                         out("r"),
                         "--experiment-name",
                         std::string("w") + windows};
    run("experiment", words, 0);
    const std::string folder = out("r") + "/w" + windows;
    const Json first = eval::read_json(folder + "/results.json");
    std::filesystem::remove(folder + "/results.json");
    run("experiment", words, 0);
    const Json again = eval::read_json(folder + "/results.json");
    EXPECT_EQ(again.at("tasks"), first.at("tasks"));
  }
}

TEST_F(EvaluationPrograms, LeftoverOfAnotherSetUpIsRefused) {
  const std::string json = out("p.json");
  { eval::ResultLog(out("p.windows.jsonl"), {{"model", "another"}}).append("0", Json::object()); }
  run("evaluate", perplexity(json), 1, "made differently");
  Words again = perplexity(json);
  again.push_back("--restart");
  run("evaluate", again, 0);
}

TEST_F(EvaluationPrograms, NeedleReportsTheGridBesideTheDenseCache) {
  run("evaluate", needle(out("n.json")), 0);
  const Json report = eval::read_json(out("n.json"));
  EXPECT_EQ(report.at("complete"), true);
  ASSERT_EQ(report.at("cells").size(), 4u);
  for (const Json& cell : report.at("cells")) {
    EXPECT_TRUE(cell.at("margin").is_number());
    EXPECT_TRUE(cell.at("baseline").at("margin").is_number());
    EXPECT_LE(cell.at("prompt_tokens"), cell.at("length"));
  }
  // A random model finds nothing, and the report says that this is not the compression's fault,
  // unless a reply may not have been at its end.
  std::set<int64_t> open;
  for (const Json& cell : report.at("cells")) {
    const bool cut_off = cell.at("baseline").at("cut_off") == 1;
    if (cut_off) open.insert(cell.at("length").get<int64_t>());
    EXPECT_EQ(cell.at("baseline").at("score").is_null(), cut_off);
    EXPECT_EQ(cell.at("score").is_null(), cell.at("cut_off") == 1);
  }
  Json unsolvable = Json::array();
  for (const int64_t length : {300, 400}) {
    if (open.count(length) == 0) unsolvable.push_back(length);
  }
  EXPECT_EQ(report.at("unsolvable_lengths"), unsolvable);
  EXPECT_TRUE(report.at("performance").at("compressed").at("ttft_s").is_number());
}

TEST_F(EvaluationPrograms, InterruptedNeedleKeepsFinishedCells) {
  Words words = needle(out("n.json"));
  set_option(words, "--depths", "0,10,20,30,40,50,60,70,80,90,100");
  interrupt("evaluate", words, out("n.cells.jsonl"));
  EXPECT_EQ(eval::read_json(out("n.json")).at("complete"), false);
  run("evaluate", words, 0);
  const Json report = eval::read_json(out("n.json"));
  EXPECT_EQ(report.at("cells").size(), 22u);
  expect_performance(report.at("performance").at("compressed"));
  EXPECT_EQ(report["performance"]["baseline"]["runs"], 22);
}

TEST_F(EvaluationPrograms, LongBenchPredictsScoresAndResumes) {
  const Words words = {"longbench", "--model",       model(),       "--data", bench(),
                       "--tasks",   "qasper,samsum", "--baseline",  "--chat", "chatml",
                       "--quiet",   "--json",        out("lb.json")};
  run("evaluate", words, 0);
  const Json report = eval::read_json(out("lb.json"));
  EXPECT_EQ(report.at("tasks").at("qasper").at("examples"), 2);
  EXPECT_TRUE(report.at("tasks").at("samsum").at("baseline").at("score").is_number());
  EXPECT_EQ(eval::read_jsonl(out("lb_predictions/compressed/qasper.jsonl")).size(), 2u);
  // Predictions stay: a second run scores them without predicting anything.
  run("evaluate", words, 0);
  run("evaluate",
      {"longbench-score", "--predictions", out("lb_predictions"), "--json", out("score.json")}, 0);
  EXPECT_EQ(eval::read_json(out("score.json")).at("average"), report.at("average"));
}

TEST_F(EvaluationPrograms, InterruptedLongBenchKeepsPredictions) {
  std::string records;
  for (int i = 0; i < 60; ++i) {
    records += R"({"input": "What?", "context": "Some context here.", "answers": [")" +
               std::to_string(i) + "\"]}\n";
  }
  folder_.write("many/qasper.jsonl", records);
  folder_.write("many/dataset2prompt.json", R"({"qasper": "{context} {input}"})");
  folder_.write("many/dataset2maxlen.json", R"({"qasper": 24})");
  Words words = {"longbench", "--model",       model(),   "--data", out("many"),
                 "--tasks",   "qasper,qasper", "--quiet", "--json", out("lb.json")};
  interrupt("evaluate", words, out("lb_predictions/compressed/qasper.jsonl"));
  EXPECT_EQ(eval::read_json(out("lb.json")).at("complete"), false);
  run("evaluate", words, 0);
  const Json report = eval::read_json(out("lb.json"));
  EXPECT_EQ(report["tasks"]["qasper"]["examples"], 60);
  EXPECT_TRUE(report["tasks"]["qasper"]["exact_match"].is_number());
  expect_performance(report.at("performance").at("compressed"));
  const Json record = eval::read_jsonl(out("lb_predictions/compressed/qasper.jsonl")).at(0);
  EXPECT_TRUE(record.at("commit").is_string());
  // Fewer examples than there are predictions: only theirs count.
  words.insert(words.end(), {"--max-samples", "7"});
  run("evaluate", words, 0);
  EXPECT_EQ(eval::read_json(out("lb.json"))["tasks"]["qasper"]["examples"], 7);
  EXPECT_EQ(eval::read_json(out("lb.json"))["performance"]["compressed"]["runs"], 7);
  // Other examples than the predictions were made of.
  folder_.write("many/qasper.jsonl", records.substr(records.find('\n') + 1));
  run("evaluate", words, 1, "data_hash");
}

TEST_F(EvaluationPrograms, ScoresAFileByAnyMetric) {
  folder_.write("p.jsonl", R"({"pred": "The red fox.", "answers": ["red fox"]})"
                           "\n"
                           R"({"pred": "a blue fox", "answers": ["fox"]})"
                           "\n");
  const auto score = [&](const std::string& metric) {
    run("evaluate",
        {"score", "--metric", metric, "--predictions", out("p.jsonl"), "--json", out("s.json")}, 0);
    return eval::read_json(out("s.json"));
  };
  const Json f1 = score("f1");
  // 1, and P = 1/2, R = 1, F = 2/3.
  EXPECT_DOUBLE_EQ(f1.at("score").get<double>(), 250.0 / 3);
  EXPECT_EQ(f1.at("exact_match"), 50);
  EXPECT_EQ(score("exact_match").at("score"), 50);
  run("evaluate", {"score", "--metric", "bleu", "--predictions", out("p.jsonl")}, 2,
      "expected one of f1, f1_zh, rouge_l");
  run("evaluate", {"score", "--metric", "f1", "--predictions", out("none.jsonl")}, 1, "none.jsonl");
  run("evaluate", {"score", "--metric", "f1_zh", "--predictions", out("p.jsonl")}, 1,
      "segment_chinese.py");
}

TEST_F(EvaluationPrograms, ChineseTasksAskForWords) {
  const ProgramResult result = run("evaluate",
                                   {"longbench", "--model", model(), "--data", bench(), "--tasks",
                                    "dureader", "--quiet", "--json", out("zh.json")},
                                   0);
  EXPECT_THAT(result.out, HasSubstr("segment_chinese.py"));
  EXPECT_TRUE(eval::read_json(out("zh.json")).at("average").is_null());
}

TEST_F(EvaluationPrograms, BadInputIsOneLine) {
  const auto evaluate = [&](Words words, int code, const std::string& message) {
    run("evaluate", words, code, message);
  };
  Words bad = perplexity(out("x.json"));
  bad.insert(bad.end(), {"--protocol", "sloppy"});
  evaluate(bad, 2, "sloppy");
  bad = perplexity(out("none/x.json"));
  evaluate(bad, 1, "no such folder");
  evaluate({"needle", "--model", model(), "--quiet"}, 2, "--json");
  evaluate({"needle", "--model", model(), "--depths", "120", "--json", out("x.json")}, 2, "120");
  evaluate(
      {"needle", "--model", model(), "--haystack", out("none"), "--json", out("x.json"), "--quiet"},
      1, "none");
  const auto longbench = [&](const std::string& data, const std::string& tasks) {
    return Words{"longbench", "--model", model(),  "--data",      data,
                 "--tasks",   tasks,     "--json", out("x.json"), "--quiet"};
  };
  evaluate(longbench(bench(), "quasper"), 2, "quasper");
  evaluate(longbench(bench(), "lcc"), 1, "lcc.jsonl");
  evaluate(longbench(out("none"), "qasper"), 1, "dataset2prompt.json");
  folder_.write("bad/qasper.jsonl", "{\"context\": \"c\", \"answers\": [\"a\"]}\n{oops\n");
  folder_.write("bad/dataset2prompt.json", R"({"qasper": "{context}"})");
  folder_.write("bad/dataset2maxlen.json", R"({"qasper": 4})");
  evaluate(longbench(out("bad"), "qasper"), 1, "qasper.jsonl:2");
  evaluate({"longbench-score", "--predictions", out("none")}, 1, "none");
  EXPECT_FALSE(std::filesystem::exists(out("x.json")));
}

TEST_F(EvaluationPrograms, AblateMeasuresRowsAndKeepsFailures) {
  folder_.write("grid.json", R"({"rows": [{"label": "plain", "set": {"value_rotation": false}},
                                          {"label": "broken", "set": {"block_size": 48}}],
                                 "grid": {"attention_sink_size": [0, 8]}})");
  const Words words = {"--model", model(),       "--text", text(),   "--context",
                       "160",     "--windows",   "1",      "--grid", out("grid.json"),
                       "--json",  out("a.json"), "--quiet"};
  run("ablate", words, 1, "some rows failed");
  const Json report = eval::read_json(out("a.json"));
  ASSERT_EQ(report.at("rows").size(), 4u);
  EXPECT_GT(report["rows"][0].at("result").at("kl_mean").get<double>(), 0);
  EXPECT_THAT(report["rows"][1].at("error").get<std::string>(), HasSubstr("block_size"));
  EXPECT_EQ(report["rows"][2].at("config").at("attention_sink_size"), 0);
  const std::string csv = read_file(out("a.csv"));
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 5);
  EXPECT_EQ(csv.rfind("label,value_rotation,block_size,attention_sink_size,bits_sealed", 0), 0u);
}

TEST_F(EvaluationPrograms, AblateResumes) {
  const Words words = {"--model",   model(),
                       "--text",    text(),
                       "--context", "160",
                       "--windows", "3",
                       "--vary",    "attention_sink_size=0,1,2,3,4,5,6,7",
                       "--vary",    "policy=ema,adaptive",
                       "--json",    out("a.json"),
                       "--quiet"};
  interrupt("ablate", words, out("a.rows.jsonl"));
  EXPECT_EQ(eval::read_json(out("a.json")).at("complete"), false);
  EXPECT_TRUE(std::filesystem::exists(out("a.csv")));
  run("ablate", words, 0);
  const Json report = eval::read_json(out("a.json"));
  ASSERT_EQ(report.at("rows").size(), 16u);
  expect_performance(report["rows"][0]["result"]["performance"]["compressed"]);
  EXPECT_FALSE(std::filesystem::exists(out("a.windows.jsonl")));
}

TEST_F(EvaluationPrograms, AblateFailuresPoisonNothing) {
  // Windows of another set-up, a row that fails, and a second run that tries only that one again.
  { eval::ResultLog(out("a.windows.jsonl"), {{"model", "another"}}).append("0", Json::object()); }
  const Words words = {"--model", model(),       "--text", text(),   "--context",
                       "160",     "--windows",   "1",      "--vary", "block_size=48,32,64",
                       "--json",  out("a.json"), "--quiet"};
  run("ablate", words, 1, "some rows failed");
  const Json first = eval::read_json(out("a.json"));
  EXPECT_EQ(first.at("complete"), true);
  EXPECT_TRUE(first["rows"][0].contains("error"));
  EXPECT_TRUE(first["rows"][1].contains("result"));
  run("ablate", words, 1, "some rows failed");
  EXPECT_EQ(eval::read_json(out("a.json"))["rows"][2], first["rows"][2]);
  Words again = words;
  again.push_back("--restart");
  run("ablate", again, 1, "some rows failed");
}

TEST_F(EvaluationPrograms, AblateRejectsBadGrids) {
  const auto with_grid = [&](const std::string& grid, const std::string& message, int code = 2) {
    folder_.write("grid.json", grid);
    run("ablate",
        {"--model", model(), "--text", text(), "--grid", out("grid.json"), "--json", out("a.json"),
         "--quiet"},
        code, message);
  };
  with_grid("{", "grid.json", 1);
  with_grid("{}", "at least one row");
  with_grid(R"({"grid": {"attention_sink_size": 8}})", "list");
  with_grid(R"({"grid": {"sinks": [8]}})", "sinks");
  with_grid(R"({"gird": {}})", "gird");
  with_grid(R"({"rows": [{"label": 7, "set": {}}]})", "label");
  run("ablate",
      {"--model", model(), "--text", text(), "--vary", "policy=\xff", "--json", out("a.json")}, 2,
      "UTF-8");
  run("ablate", {"--model", model(), "--text", text(), "--vary", "x", "--json", out("a.json")}, 2,
      "--vary");
}

TEST_F(EvaluationPrograms, ExperimentTakesTheOriginalsNamesAndRepeatsFromItsFile) {
  run("experiment",
      {"--model_name",
       model(),
       "--max_length",
       "350",
       "--chunk_size",
       "64",
       "--config",
       "seed",
       "--key_bits_normal",
       "5",
       "--attention_sink_size",
       "4",
       "--tasks",
       "perplexity",
       "needle",
       "qasper",
       "--max_samples",
       "1",
       "--text",
       text(),
       "--context",
       "160",
       "--windows",
       "1",
       "--lengths",
       "300,500",
       "--depths",
       "50",
       "--data",
       bench(),
       "--output_dir",
       out("results"),
       "--experiment_name",
       "one",
       "--baseline",
       "--quiet"},
      0);
  const Json report = eval::read_json(out("results/one/results.json"));
  EXPECT_EQ(report.at("complete"), true);
  EXPECT_EQ(report.at("config").at("key_bits_normal"), 5);
  EXPECT_EQ(report.at("config").at("policy"), "ema");
  EXPECT_EQ(report.at("tasks").at("needle").at("lengths"), Json({300}));  // 500 > max_length
  EXPECT_EQ(report.at("tasks").at("longbench").at("tasks").at("qasper").at("examples"), 1);
  EXPECT_TRUE(report.contains("commit"));
  EXPECT_TRUE(report.contains("seed"));

  run("experiment",
      {"--experiment", out("results/one/experiment.json"), "--experiment-name", "two", "--quiet"},
      0);
  const Json again = eval::read_json(out("results/two/results.json"));
  EXPECT_EQ(again.at("config"), report.at("config"));
  EXPECT_EQ(again["tasks"]["perplexity"]["kl_mean"], report["tasks"]["perplexity"]["kl_mean"]);
  EXPECT_EQ(again["tasks"]["needle"]["margin"], report["tasks"]["needle"]["margin"]);
}

TEST_F(EvaluationPrograms, TheOriginalsExampleRuns) {
  folder_.write("bench/narrativeqa.jsonl", R"({"input": "Q", "context": "C", "answers": ["A"]})");
  folder_.write("bench/qasper.jsonl", R"({"input": "Q", "context": "C", "answers": ["A"]})");
  folder_.write("bench/dataset2prompt.json",
                R"({"narrativeqa": "{context} {input}", "qasper": "{context} {input}"})");
  folder_.write("bench/dataset2maxlen.json", R"({"narrativeqa": 4, "qasper": 4})");
  const ProgramResult result = run("experiment",
                                   {"--model_name",
                                    model(),
                                    "--device",
                                    "cpu",
                                    "--max_length",
                                    "4096",
                                    "--chunk_size",
                                    "256",
                                    "--key_bits_normal",
                                    "4",
                                    "--value_bits_normal",
                                    "4",
                                    "--attention_sink_size",
                                    "8",
                                    "--ema_decay",
                                    "0.99",
                                    "--tasks",
                                    "narrativeqa",
                                    "qasper",
                                    "--max_samples",
                                    "10",
                                    "--output_dir",
                                    out("results"),
                                    "--experiment_name",
                                    "streaming_quant_test",
                                    "--baseline",
                                    "--data",
                                    out("bench")},
                                   0);
  EXPECT_THAT(result.err, HasSubstr("preset seed"));
  const Json report = eval::read_json(out("results/streaming_quant_test/results.json"));
  EXPECT_EQ(report["config"]["policy"], "ema");
  EXPECT_EQ(report["config"]["ema_decay"], 0.99);
  const Json& tasks = report["tasks"]["longbench"];
  EXPECT_EQ(tasks["tasks"].size(), 2u);
  EXPECT_TRUE(tasks["tasks"]["qasper"]["baseline"]["score"].is_number());
  for (const char* side : {"compressed", "baseline"}) {
    expect_performance(tasks.at("performance").at(side));
  }
}

TEST_F(EvaluationPrograms, ExperimentFilesTakeEveryValueAndTheCommandLineWins) {
  folder_.write("e.json", R"({"value_rotation": false, "bit_classes": [2, 4, 6, 8],
    "outlier_threshold_abs": null, "attention_sink_size": 4, "block_size": 64,
    "set": {"value_bits": 5}, "tasks": ["perplexity"], "context": 160, "windows": 1,
    "baseline": false, "threads": null})");
  const ProgramResult result = run(
      "experiment",
      {"--experiment", out("e.json"), "--model", model(), "--text", text(), "--attention-sink-size",
       "2", "--set", "block_size=32", "--output-dir", out("r"), "--quiet"},
      0);
  EXPECT_EQ(result.err, "");  // Not even of the key without effect.
  const Json config = eval::read_json(out("r/experiment/results.json")).at("config");
  EXPECT_EQ(config.at("value_rotation"), false);
  EXPECT_EQ(config.at("bit_classes"), Json({2, 4, 6, 8}));
  EXPECT_TRUE(config.at("outlier_threshold_abs").is_null());
  EXPECT_EQ(config.at("attention_sink_size"), 2);
  EXPECT_EQ(config.at("block_size"), 32);
  EXPECT_EQ(config.at("value_bits"), 5);
}

TEST_F(EvaluationPrograms, InterruptedExperimentGoesOn) {
  const Words words = {"--model",   model(),
                       "--text",    text(),
                       "--context", "400",
                       "--windows", "0",
                       "--tasks",   "perplexity,needle",
                       "--lengths", "300",
                       "--depths",  "0,10,20,30,40,50,60,70,80,90,100",
                       "--samples", "2",
                       "--quiet",   "--output-dir",
                       out("r")};
  interrupt("experiment", words, out("r/experiment/needle.cells.jsonl"));
  const Json partial = eval::read_json(out("r/experiment/results.json"));
  EXPECT_EQ(partial.at("complete"), false);
  run("experiment", words, 0);
  const Json whole = eval::read_json(out("r/experiment/results.json"));
  EXPECT_EQ(whole.at("complete"), true);
  EXPECT_EQ(whole["tasks"]["perplexity"], partial["tasks"]["perplexity"]);
  // The dense cache stands beside every cell without being asked for.
  EXPECT_EQ(whole["tasks"]["needle"]["performance"]["baseline"]["runs"], 22);
}

TEST_F(EvaluationPrograms, ExperimentRejectsBadInput) {
  const auto bad = [&](Words words, int code, const std::string& message) {
    words.insert(words.end(), {"--model", model(), "--output-dir", out("r"), "--quiet"});
    run("experiment", words, code, message);
  };
  bad({"--tasks", "narative"}, 2, "narative");
  bad({"--tasks", "perplexity"}, 2, "--text");
  bad({"--tasks", "qasper"}, 2, "--data");
  bad({"--tasks", "lcc", "--data", bench()}, 1, "lcc.jsonl");
  bad({"--tasks", "needle", "--key-bits-normal", "77"}, 2, "key_bits_normal");
  bad({"--tasks", "needle", "--experiment-name", "a/b"}, 2, "a/b");
  bad({"--experiment", out("none.json")}, 1, "none.json");
  folder_.write("e.json", R"({"tasks": {"a": 1}})");
  bad({"--experiment", out("e.json")}, 2, "tasks");
  folder_.write("e.json", R"({"no_such_option": 1})");
  bad({"--experiment", out("e.json")}, 2, "no-such-option");
  EXPECT_FALSE(std::filesystem::exists(out("r")));
}

TEST_F(EvaluationPrograms, CommittedExperimentFilesAreReadable) {
  for (const auto& entry : std::filesystem::directory_iterator(std::string(RILLKV_SOURCE_DIR) +
                                                               "/configs/experiments")) {
    EXPECT_TRUE(eval::read_json(entry.path()).is_object()) << entry.path();
  }
}

}  // namespace
}  // namespace rillkv
