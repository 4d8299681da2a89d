// The needle grid with a scripted model: where the needle lands, how long prompts get, what the
// report says.
#include "rillkv/eval/needle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/error_of.h"
#include "tests/support/fake_backend.h"
#include "tests/support/temporary_folder.h"

namespace rillkv::eval {
namespace {

using Json = nlohmann::json;
using testing::error_of;
using testing::FakeBackend;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

/// Finds the first "is DIGITS." in the prompt, as a perfect model would.
std::string find_number(const std::string& prompt) {
  for (size_t at = prompt.find(" is "); at != std::string::npos; at = prompt.find(" is ", at + 1)) {
    const size_t begin = at + 4;
    const size_t end = prompt.find_first_not_of("0123456789", begin);
    if (end != std::string::npos && end - begin == 5) return " " + prompt.substr(begin, 5) + ".";
  }
  return " nothing";
}

TEST(Needle, IsDeterministicAndItsDistractorDiffersInEveryDigit) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Needle needle = random_needle(seed);
    EXPECT_EQ(needle.fact, random_needle(seed).fact);
    EXPECT_THAT(needle.fact, HasSubstr(needle.answer));
    ASSERT_EQ(needle.answer.size(), 5u);
    ASSERT_EQ(needle.distractor.size(), 5u);
    EXPECT_NE(needle.distractor[0], '0');
    for (int i = 0; i < 5; ++i) EXPECT_NE(needle.answer[i], needle.distractor[i]) << seed;
  }
  EXPECT_NE(random_needle(1).answer, random_needle(2).answer);
}

TEST(Needle, PromptFitsAndHoldsTheFactAtItsDepth) {
  FakeBackend backend(find_number);
  NeedleOptions options;
  const Needle needle = random_needle(3);
  for (int64_t length : {60, 500, 3000}) {
    for (double depth : {0.0, 33.0, 50.0, 100.0}) {
      const auto ids = needle_prompt(backend, options, needle, length, depth);
      EXPECT_LE(ids.size(), static_cast<size_t>(length));
      // All of the length is used but for at most a few tokens lost at joints.
      EXPECT_GE(ids.size(), static_cast<size_t>(length) - 6);
      const std::string text = backend.decode(ids);
      const size_t at = text.find(needle.fact);
      ASSERT_NE(at, std::string::npos);
      EXPECT_THAT(text, HasSubstr(needle.question));
      const size_t story = text.find("\n\nQuestion:");
      const double share =
          100.0 * static_cast<double>(at) / static_cast<double>(story - needle.fact.size());
      // The needle moves back to a sentence's end, at most one sentence (< 300 characters).
      EXPECT_LE(share, depth + 1);
      EXPECT_GE(share, depth - 100.0 * 300 / static_cast<double>(story) - 1);
    }
  }
}

TEST(Needle, NeverSplitsASentence) {
  FakeBackend backend(find_number);
  NeedleOptions options;
  const Needle needle = random_needle(4);
  for (double depth = 5; depth < 100; depth += 5) {
    const std::string text = backend.decode(needle_prompt(backend, options, needle, 800, depth));
    const size_t at = text.find(needle.fact);
    ASSERT_NE(at, std::string::npos);
    if (at < 2) continue;
    EXPECT_NE(std::string(".!?").find(text[at - 2]), std::string::npos) << text.substr(at - 30, 80);
  }
}

TEST(Needle, HaystackRepeatsInAnotherOrder) {
  FakeBackend backend(find_number);
  const std::string text =
      stretch_haystack(backend, "a one.\n\nb two.\n\nc three.\n\nd four.", 80, 9);
  EXPECT_GE(backend.encode(text).size(), 80u);
  EXPECT_EQ(text.rfind("a one.\n\nb two.\n\nc three.\n\nd four.", 0), 0u);
  // Ten cycles in the same order would be the same text ten times.
  EXPECT_EQ(
      text.find(
          "a one.\n\nb two.\n\nc three.\n\nd four.\n\na one.\n\nb two.\n\nc three.\n\nd four.\n\n"
          "a one.\n\nb two.\n\nc three.\n\nd four."),
      std::string::npos);
}

TEST(Needle, ScoreIgnoresCaseAndPunctuation) {
  Needle needle;
  needle.answer = "The Old Quay";
  EXPECT_EQ(needle_score(needle, "at the old quay, I think"), 1);
  EXPECT_EQ(needle_score(needle, "the new quay"), 0);
}

TEST(Needle, GridReportsBothSidesAndMarksUnsolvableLengths) {
  TemporaryFolder folder;
  NeedleOptions options;
  options.lengths = {100, 200, 400};
  options.depths = {0, 50, 100};
  options.samples = 2;
  // The dense model reads up to 300 words, the compressed one only if the needle is early.
  FakeBackend dense([](const std::string& prompt) {
    return std::count(prompt.begin(), prompt.end(), ' ') > 300 ? " no idea" : find_number(prompt);
  });
  FakeBackend compressed([](const std::string& prompt) {
    return prompt.find(" is ") < 40 ? find_number(prompt) : std::string(" no idea");
  });
  ResultLog log(folder / "needle.jsonl", {});
  EXPECT_TRUE(run_needle(options, compressed, &dense, log));
  EXPECT_EQ(log.records().size(), 3u * 3 * 2 * 2);
  const Json report = needle_report(options, log);
  EXPECT_EQ(report.at("complete"), true);
  EXPECT_EQ(report.at("cells").size(), 9u);
  EXPECT_EQ(report.at("unsolvable_lengths"), Json({400}));
  for (const Json& cell : report.at("cells")) {
    EXPECT_EQ(cell.at("samples"), 2);
    EXPECT_EQ(cell.at("score"), cell.at("depth") == 0 ? 1 : 0) << cell;
    EXPECT_EQ(cell.at("baseline").at("score"), cell.at("length") == 400 ? 0 : 1) << cell;
    EXPECT_EQ(cell.at("solvable"), cell.at("length") != 400);
    EXPECT_EQ(cell.at("margin"), cell.at("depth") == 0 ? 7 : 0);  // -0.5 - -7.5
  }
  EXPECT_DOUBLE_EQ(report.at("score_solvable").get<double>(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(report.at("baseline").at("score").get<double>(), 2.0 / 3);
  EXPECT_DOUBLE_EQ(report.at("performance").at("compressed").at("compression_ratio").get<double>(),
                   3.5);
}

TEST(Needle, ACellIsTheSameInEveryGrid) {
  TemporaryFolder folder;
  NeedleOptions few, many;
  few.lengths = many.lengths = {120};
  few.depths = {50};
  many.depths = {0, 12.5, 50};
  FakeBackend one(find_number), other(find_number);
  ResultLog first(folder / "a.jsonl", {}), second(folder / "b.jsonl", {});
  run_needle(few, one, nullptr, first);
  run_needle(many, other, nullptr, second);
  const std::string key = "compressed length=120 depth=50 sample=0";
  ASSERT_NE(first.find(key), nullptr);
  EXPECT_EQ(*first.find(key), *second.find(key));
}

TEST(Needle, BothSidesOfACellSeeTheSamePrompt) {
  TemporaryFolder folder;
  NeedleOptions options;
  options.lengths = {120};
  FakeBackend dense(find_number), compressed(find_number);
  ResultLog log(folder / "needle.jsonl", {});
  run_needle(options, compressed, &dense, log);
  ASSERT_EQ(dense.requests.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(dense.decode(dense.requests[i].prompt),
              compressed.decode(compressed.requests[i].prompt));
  }
}

TEST(Needle, InterruptedGridReportsWhatItHasAndResumes) {
  TemporaryFolder folder;
  NeedleOptions options;
  options.lengths = {100};
  int runs = 0;
  FakeBackend first([&](const std::string& prompt) {
    if (++runs == 2) set_interrupted(true);
    return find_number(prompt);
  });
  {
    ResultLog log(folder / "needle.jsonl", {});
    EXPECT_FALSE(run_needle(options, first, nullptr, log));
    const Json report = needle_report(options, log);
    EXPECT_EQ(report.at("complete"), false);
    EXPECT_EQ(report.at("cells").size(), 2u);
    EXPECT_TRUE(report.at("baseline").is_null());
    EXPECT_TRUE(report.at("cells")[0].at("solvable").is_null());
  }
  set_interrupted(false);
  ResultLog log(folder / "needle.jsonl", {});
  EXPECT_TRUE(run_needle(options, first, nullptr, log));
  EXPECT_EQ(runs, 5);
  EXPECT_EQ(needle_report(options, log).at("complete"), true);
}

/// The fake back end, whose words are tokens, with a token for every digit.
class DigitBackend : public FakeBackend {
 public:
  using FakeBackend::FakeBackend;
  std::vector<int64_t> encode(std::string_view text) const override {
    std::vector<int64_t> ids;
    for (size_t begin = 0; begin < text.size();) {
      const bool digit = text[begin] >= '0' && text[begin] <= '9';
      size_t end = digit ? begin + 1 : text.find_first_of("0123456789", begin);
      end = std::min(end, text.size());
      for (int64_t id : FakeBackend::encode(text.substr(begin, end - begin))) ids.push_back(id);
      begin = end;
    }
    return ids;
  }
};

TEST(Needle, NewTokensFollowFromTheTokenisedAnswer) {
  Needle needle = random_needle(3);
  needle.lead = "The secret number of Dunlessock is";
  needle.fact = needle.lead + " 35512, as one says.";
  needle.answer = "35512";
  FakeBackend words(find_number);
  DigitBackend digits(find_number);
  NeedleOptions options;
  EXPECT_EQ(needle_new_tokens(words, options, needle), 1 + 16);       // " 35512."
  EXPECT_EQ(needle_new_tokens(digits, options, needle), 1 + 6 + 16);  // " ", "3", ..., "."
  options.chat = true;
  EXPECT_EQ(needle_new_tokens(words, options, needle), 6 + 1 + 16);
  EXPECT_EQ(needle_new_tokens(digits, options, needle), 6 + 1 + 6 + 16);
  needle.lead.clear();
  EXPECT_EQ(needle_new_tokens(words, options, needle), 10 + 16);  // the fact
  needle.fact = "Short.";
  EXPECT_EQ(needle_new_tokens(digits, options, needle), 1 + 6 + 16);
  options.max_new_tokens = 5;
  EXPECT_EQ(needle_new_tokens(digits, options, needle), 5);
}

TEST(Needle, AnAnswerIsCutOffUntilOneWasGiven) {
  Needle number;
  number.answer = "35512";
  for (const char* cut :
       {"", " ", "\n\n", " 3", "The secret number of Dunlessock is 355", "**Answer",
        "In the 14 towns, v1.5 says", "It is 35,5", "The No.1 of", "of the of the of the of"}) {
    EXPECT_TRUE(answer_cut_off(number, cut)) << cut;
  }
  for (const char* given :
       {"The number is 35512", "35,512", " 41234 and", " 412345", "41,234", "I do not know.",
        "I do not know. The", "None\nThe", "What? It", "No idea!\n", "3551.",
        "of the of the of the of the", "1 1 1 1 1 1 1 1"}) {
    EXPECT_FALSE(answer_cut_off(number, given)) << given;
  }
  Needle text;
  text.answer = "the old quay";
  EXPECT_TRUE(answer_cut_off(text, "You should eat a sandwich at 12345 and the old"));
  EXPECT_FALSE(answer_cut_off(text, "At the new quay. And"));
}

/// What a chat model says that is sure of a number: the right one, or one that is not.
std::string sentence(const std::string& prompt, bool right) {
  const size_t at = prompt.find("What is the secret number of ") + 29;
  const std::string place = prompt.substr(at, prompt.find('?', at) - at);
  return "The secret number of " + place + " is" +
         (right ? find_number(prompt) : std::string(" 10000.")) + " I hope this helps a lot.";
}

TEST(Needle, AReplyCutOffIsNeitherWrongNorUnsolvable) {
  NeedleOptions options;
  options.lengths = {100, 200};
  options.depths = {0, 100};
  options.chat = true;
  const auto run = [&](int64_t tokens, bool right) {
    TemporaryFolder folder;
    options.max_new_tokens = tokens;
    DigitBackend dense([](const std::string& p) { return sentence(p, true); });
    DigitBackend compressed([&](const std::string& p) { return sentence(p, right); });
    ResultLog log(folder / "needle.jsonl", {});
    EXPECT_TRUE(run_needle(options, compressed, &dense, log));
    return needle_report(options, log);
  };
  // "The secret number of X is", a space and three digits: cut inside the number.
  for (const bool right : {true, false}) {
    const Json cut = run(10, right);
    EXPECT_EQ(cut.at("cut_off"), 4);
    EXPECT_EQ(cut.at("baseline").at("cut_off"), 4);
    EXPECT_TRUE(cut.at("score").is_null());
    EXPECT_TRUE(cut.at("baseline").at("score").is_null());
    EXPECT_TRUE(cut.at("score_solvable").is_null());
    EXPECT_TRUE(cut.at("margin").is_number());
    EXPECT_EQ(cut.at("unsolvable_lengths"), Json::array());
    for (const Json& cell : cut.at("cells")) {
      EXPECT_EQ(cell.at("cut_off"), 1);
      EXPECT_EQ(cell.at("baseline").at("cut_off"), 1);
      EXPECT_TRUE(cell.at("solvable").is_null());
      EXPECT_TRUE(cell.at("score").is_null());
    }
  }
  for (const int64_t tokens : {0, 40}) {
    const Json whole = run(tokens, true);
    EXPECT_EQ(whole.at("cut_off"), 0) << tokens;
    EXPECT_EQ(whole.at("score"), 1) << tokens;
    EXPECT_EQ(whole.at("unsolvable_lengths"), Json::array());
    EXPECT_EQ(run(tokens, false).at("score"), 0);
    EXPECT_EQ(run(tokens, false).at("cut_off"), 0);
  }
}

TEST(Needle, ALengthIsSolvableWhateverTheCutOffOnesHid) {
  NeedleOptions options;
  options.lengths = {100};
  options.depths = {0, 50, 100};
  const auto solvable = [&](const std::vector<std::pair<int, bool>>& cells) {
    TemporaryFolder folder;
    ResultLog log(folder / "needle.jsonl", {});
    for (size_t d = 0; d < cells.size(); ++d) {
      for (const char* side : {"dense", "compressed"}) {
        log.append(str_cat(side, " length=100 depth=", options.depths[d], " sample=0"),
                   {{"score", cells[d].first},
                    {"cut_off", cells[d].second},
                    {"margin", 1},
                    {"prompt_tokens", 9},
                    {"text", ""}});
      }
    }
    return needle_report(options, log);
  };
  EXPECT_EQ(solvable({{1, false}, {1, false}, {0, true}})["cells"][0]["solvable"], true);
  EXPECT_EQ(solvable({{1, false}, {1, false}, {0, true}})["score"], 1);
  EXPECT_TRUE(solvable({{1, false}, {0, false}, {0, true}})["cells"][0]["solvable"].is_null());
  EXPECT_EQ(solvable({{1, false}, {0, false}, {0, false}})["cells"][0]["solvable"], false);
  EXPECT_EQ(solvable({{1, false}, {0, false}, {0, false}})["unsolvable_lengths"], Json({100}));
}

TEST(Needle, AFailingCellIsNamedAndTheOthersAreKept) {
  TemporaryFolder folder;
  NeedleOptions options;
  options.lengths = {100};
  options.depths = {0, 50};
  int runs = 0;
  FakeBackend backend([&](const std::string& prompt) {
    if (++runs == 2) throw Error("expected finite logits");
    return find_number(prompt);
  });
  ResultLog log(folder / "needle.jsonl", {});
  EXPECT_THAT(error_of([&] { run_needle(options, backend, nullptr, log); }),
              HasSubstr("compressed length=100 depth=50 sample=0: expected finite logits"));
  EXPECT_EQ(log.records().size(), 1u);
}

TEST(Needle, UnusableRecordsAreNamed) {
  TemporaryFolder folder;
  NeedleOptions options;
  options.lengths = {100};
  options.depths = {50};
  const std::string key = "compressed length=100 depth=50 sample=0";
  const Json good = {
      {"score", 1}, {"cut_off", false}, {"margin", 1}, {"prompt_tokens", 9}, {"text", ""}};
  const auto report_of = [&](const char* name, const char* field, const Json& value) {
    ResultLog log(folder / name, {});
    Json record = good;
    record[field] = value;
    log.append(key, record);
    return error_of([&] { needle_report(options, log); });
  };
  EXPECT_EQ(report_of("good.jsonl", "score", 1), "");
  EXPECT_THAT(report_of("m.jsonl", "margin", nullptr), HasSubstr("unusable record"));
  EXPECT_THAT(report_of("c.jsonl", "cut_off", "yes"), HasSubstr("unusable record"));

  ResultLog edited(folder / "edited.jsonl", {});
  edited.append("compressed length=100 depth=50 sample=0", {{"score", "high"}});
  EXPECT_THAT(error_of([&] { needle_report(options, edited); }),
              HasSubstr("edited.jsonl: compressed length=100 depth=50 sample=0: unusable record"));
}

TEST(Needle, BadOptionsAndFoldersAreErrors) {
  const auto error_with = [](auto change) {
    NeedleOptions options;
    change(options);
    return error_of([&] { check(options); });
  };
  EXPECT_EQ(error_with([](NeedleOptions&) {}), "");
  EXPECT_THAT(error_with([](NeedleOptions& o) { o.lengths.clear(); }), HasSubstr("length"));
  EXPECT_THAT(error_with([](NeedleOptions& o) { o.lengths = {0}; }), HasSubstr("0"));
  EXPECT_THAT(error_with([](NeedleOptions& o) { o.depths = {101}; }), HasSubstr("101"));
  EXPECT_EQ(error_with([](NeedleOptions& o) { o.max_new_tokens = 0; }), "");
  EXPECT_THAT(error_with([](NeedleOptions& o) { o.max_new_tokens = -1; }), HasSubstr("got -1"));
  EXPECT_THAT(error_with([](NeedleOptions& o) { o.samples = 0; }), HasSubstr("samples"));
  EXPECT_THAT(error_with([](NeedleOptions& o) { o.needle.fact = "x"; }), HasSubstr("question"));

  TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { load_haystack(folder / "none"); }), HasSubstr("none"));
  const std::string no_name = std::string(300, 'x');  // longer than any file system takes
  EXPECT_THAT(error_of([&] { load_haystack(folder / no_name); }), HasSubstr(no_name));
  EXPECT_THAT(error_of([&] { load_haystack(folder.path()); }), HasSubstr("*.txt"));
  folder.write("b.txt", "second");
  folder.write("a.txt", "first");
  folder.write("c.md", "not this");
  EXPECT_EQ(load_haystack(folder.path()), "first\n\nsecond");

  FakeBackend backend(find_number);
  EXPECT_THAT(error_of([&] { needle_prompt(backend, {}, random_needle(1), 10, 50); }),
              HasSubstr("got 10"));
}

}  // namespace
}  // namespace rillkv::eval
