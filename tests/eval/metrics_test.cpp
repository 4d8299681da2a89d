// Every metric against the Python packages LongBench uses (pairs and scores made by
// scripts/make_metric_goldens.py), and by hand where a golden file would hide the point.
#include "rillkv/eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "rillkv/error.h"

#ifndef RILLKV_TEST_DATA_DIR
#define RILLKV_TEST_DATA_DIR "tests/data"
#endif

namespace rillkv::eval {
namespace {

using Json = nlohmann::json;

double score(const Json& c) {
  const std::string metric = c.at("metric"), prediction = c.at("prediction"), truth = c.at("truth");
  const auto words = [&](const char* key) { return c.at(key).get<std::vector<std::string>>(); };
  if (metric == "f1") return token_f1(prediction, truth);
  if (metric == "exact_match") return exact_match(prediction, truth);
  if (metric == "rouge_l") return rouge_l(prediction, truth).f1;
  if (metric == "f1_words") return token_f1_words(words("prediction_words"), words("truth_words"));
  if (metric == "rouge_l_words") {
    return rouge_l_words(words("prediction_words"), words("truth_words")).f1;
  }
  if (metric == "code") return code_similarity(prediction, truth);
  if (metric == "ratio_indel") return edit_ratio(prediction, truth, EditRatio::kIndel);
  if (metric == "ratio_difflib") return edit_ratio(prediction, truth, EditRatio::kDifflib);
  if (metric == "classification") {
    return classification_score(prediction, truth, words("classes"));
  }
  if (metric == "count") return count_score(prediction, truth);
  if (metric == "retrieval") return retrieval_score(prediction, truth);
  if (metric == "retrieval_zh") return retrieval_score_chinese(prediction, truth);
  ADD_FAILURE() << "unknown metric " << metric;
  return std::nan("");
}

TEST(Metrics, EqualThePythonPackages) {
  std::ifstream file(RILLKV_TEST_DATA_DIR "/metric_goldens.json");
  ASSERT_TRUE(file) << "no golden file in " RILLKV_TEST_DATA_DIR;
  const Json cases = Json::parse(file);
  ASSERT_GE(cases.size(), 600u);
  std::map<std::string, int> compared, between;
  for (const Json& c : cases) {
    const double expected = c.at("expected"), got = score(c);
    // Both sides are the same handful of double operations on the same integers.
    const double error = std::abs(got - expected);
    EXPECT_TRUE(error <= 1e-12) << c.dump() << "\n got " << got;
    ++compared[c.at("metric")];
    between[c.at("metric")] += expected > 0 && expected != 1 && expected != 100;
  }
  EXPECT_EQ(compared.size(), 12u);
  // A golden file of zeros and ones would prove little.
  for (const char* metric : {"f1", "rouge_l", "f1_words", "rouge_l_words", "code", "ratio_indel",
                             "ratio_difflib", "classification", "retrieval"}) {
    EXPECT_GE(between[metric], 3) << metric;
  }
}

TEST(Metrics, NormalisationByHand) {
  EXPECT_EQ(normalize_english("  The U.S. -- an  ÉCLAIR, a \"day\"!"), "us éclair day");
  EXPECT_EQ(normalize_english("theatre an-d a_n"), "theatre and");  // '-' and '_' vanish first
  EXPECT_EQ(normalize_chinese("（ABC）： 你 好。"), "abc你好");
}

TEST(Metrics, F1ByHand) {
  // 2 of 3 predicted and 2 of 4 wanted words: P = 2/3, R = 1/2, F = 4/7.
  EXPECT_DOUBLE_EQ(token_f1("red green blue", "red green pink black"), 4.0 / 7);
  EXPECT_EQ(token_f1("", ""), 0);
  EXPECT_EQ(token_f1("cat cat cat", "cat"), 0.5);  // a repeated word counts once: P = 1/3
}

std::string words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += str_cat(i > 0 ? " w" : "w", i);
  return text;
}

TEST(Metrics, RougeRecursionLimitOfTheReference) {
  const RougeOptions limit{kLongBenchRougeSteps};
  EXPECT_GT(rouge_l(words(990), words(990), limit).f1, 0.99);
  EXPECT_EQ(rouge_l(words(991), words(991), limit).f1, 0);
  EXPECT_TRUE(rouge_l(words(991), words(991), limit).recursion_exceeded);
  EXPECT_GT(rouge_l(words(991), words(991)).f1, 0.99);
  const RougeOptions limit_zh{kLongBenchRougeStepsZh};
  EXPECT_GT(rouge_l(words(989), words(989), limit_zh).f1, 0.99);
  EXPECT_EQ(rouge_l(words(990), words(990), limit_zh).f1, 0);
  // A full stop starts a new walk.
  EXPECT_GT(rouge_l(words(600) + ". " + words(600), words(600), limit).f1, 0.99);
}

TEST(Metrics, RougeCountsSetsAcrossSentences) {
  // Union of common words {a, b, c}; 4 distinct predicted, 3 distinct wanted.
  const RougeScore s = rouge_l("a b. x c. a b", "a b c. a");
  EXPECT_DOUBLE_EQ(s.precision, 3.0 / 4);
  EXPECT_DOUBLE_EQ(s.recall, 1.0);
}

TEST(Metrics, RatioRoundsHalfToEven) {
  // One shared character of 16: 12.5 -> 12; three of 16: 37.5 -> 38.
  EXPECT_EQ(edit_ratio("aXXXXXXX", "aYYYYYYY"), 12);
  EXPECT_EQ(edit_ratio("abcXXXXX", "abcYYYYY"), 38);
}

TEST(Metrics, BadInputIsAnError) {
  EXPECT_THROW(retrieval_score("1", "no such part"), Error);
  EXPECT_THROW(retrieval_score_chinese("1", "Paragraph 1"), Error);
  EXPECT_THROW(classification_score("x", "x", {}), Error);
}

TEST(Metrics, InvalidUtf8IsAReplacementCharacterNotACrash) {
  EXPECT_EQ(token_f1("\xFF\xFE ok", "ok"), 2.0 / 3);
  EXPECT_EQ(edit_ratio("\xE4\xBD", "\xE4\xBD\xA0"), 0);
}

}  // namespace
}  // namespace rillkv::eval
