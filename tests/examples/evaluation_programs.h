// What the tests of evaluate, experiment and ablate share: a checkpoint, inputs, runs of a program.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/eval/result_log.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace rillkv {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using rillkv::testing::ProgramResult;
using rillkv::testing::run_program;
using rillkv::testing::TemporaryFolder;
using Words = std::vector<std::string>;

class EvaluationPrograms : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TemporaryFolder();
    rillkv::testing::write_tiny_checkpoint(shared_->path());
    std::string text;
    for (int i = 0; i < 400; ++i)
      text += "Line " + std::to_string(i * 7919 % 1000) + " of a text.\n";
    shared_->write("text.txt", text);
    const std::string record =
        R"({"input": "What?", "context": "Some context here.", "answers": ["42"], "length": 3, )"
        R"("all_classes": null, "_id": "x"})";
    shared_->write("bench/qasper.jsonl", record + "\n" + record + "\n");
    shared_->write("bench/samsum.jsonl", record + "\n");
    shared_->write("bench/dureader.jsonl", record + "\n");
    shared_->write(
        "bench/config/dataset2prompt.json",
        R"({"qasper": "{context} {input}", "samsum": "{context}", "dureader": "{input}"})");
    shared_->write("bench/config/dataset2maxlen.json",
                   R"({"qasper": 4, "samsum": 4, "dureader": 4})");
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  static std::string model() { return shared_->path(); }
  static std::string text() { return shared_->file("text.txt"); }
  static std::string bench() { return shared_->file("bench"); }
  std::string out(const std::string& name) const { return folder_.file(name); }

  /// Runs, expects the exit code and, for failures, exactly one line on stderr.
  static ProgramResult run(const std::string& program, Words arguments, int exit_code,
                           const std::string& message = "") {
    const ProgramResult result = run_program(program, arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    if (exit_code != 0) {
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
      EXPECT_THAT(result.err, HasSubstr(message));
    }
    return result;
  }

  Words perplexity(const std::string& json) const {
    return {"perplexity", "--model",   model(), "--text",  text(),   "--context",
            "160",        "--windows", "2",     "--quiet", "--json", json};
  }
  Words needle(const std::string& json) const {
    return {"needle",   "--model", model(),   "--lengths", "300,400",
            "--depths", "0,100",   "--quiet", "--json",    json};
  }

  /// Replaces the value that follows an option.
  static void set_option(Words& words, const std::string& option, const std::string& value) {
    const auto found = std::find(words.begin(), words.end(), option);
    ASSERT_TRUE(found != words.end() && found + 1 != words.end()) << option;
    *(found + 1) = value;
  }

  /// The keys every report has for each side.
  static void expect_performance(const Json& side) {
    for (const char* key :
         {"ttft_s", "prefill_tokens_per_s", "kv_bytes", "kv_bytes_bf16", "compression_ratio",
          "measured_memory_savings", "peak_rss_bytes", "mean_rss_bytes"}) {
      EXPECT_TRUE(side.at(key).is_number()) << key << " of " << side;
    }
    for (const char* key :
         {"decode_tokens_per_s", "estimated_memory_savings", "estimated_bits", "kv_bits_sealed",
          "outlier_rate", "clip_rate", "sinks", "device_peak_bytes"}) {
      EXPECT_TRUE(side.contains(key)) << key;
    }
    EXPECT_EQ(side.at("layers").size(), 2u);
    EXPECT_LE(side.at("mean_rss_bytes").get<double>(), side.at("peak_rss_bytes").get<double>());
  }

  /// Runs until `log` has a record, then interrupts. There must be far more work than one record,
  /// so that the signal comes before the end.
  ProgramResult interrupt(const std::string& program, const Words& words,
                          const std::string& log) const {
    ProgramResult stopped = run_program(program, words, log);
    EXPECT_EQ(stopped.exit_code, 1) << stopped.err;
    EXPECT_THAT(stopped.err, HasSubstr("interrupted"));
    EXPECT_GE(eval::read_jsonl(log).size(), 1u);
    return stopped;
  }

  inline static TemporaryFolder* shared_ = nullptr;
  TemporaryFolder folder_;
};

}  // namespace rillkv
