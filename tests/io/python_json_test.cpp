// What Python's json module writes and JSON does not know.
#include "rillkv/python_json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

#include "src/io/json_reader.h"
#include "tests/support/expect_error.h"

namespace rillkv {
namespace {

using testing::expect_error;

nlohmann::json parse(const std::string& text) { return io::parse_json(text, "file.json"); }

TEST(PythonJson, LiteralsBecomeNullAndLoneSurrogatesU_FFFD) {
  const struct {
    const char *text, *expected;
  } cases[] = {
      {R"([NaN,Infinity,-Infinity])", "[null,null,null]"},
      {R"({"a": NaN})", R"({"a": null})"},
      {R"("NaN -Infinity")", R"("NaN -Infinity")"},
      {R"("\"NaN\"", NaN)", R"("\"NaN\"", null)"},
      {R"("\\", NaN, "x")", R"("\\", null, "x")"},
      {R"("\ud800")", R"("\ufffd")"},
      {R"("\uDC00a\uD83D")", R"("\ufffda\ufffd")"},
      {R"("\ud83d\ude00")", R"("\ud83d\ude00")"},
      {R"("\ud83d\ud83d\ude00\ude00")", R"("\ufffd\ud83d\ude00\ufffd")"},
      {R"("\ud83d\\ude00")", R"("\ufffd\\ude00")"},
      {R"("\\ud800")", R"("\\ud800")"},
      {R"("\ud83d\n")", R"("\ufffd\n")"},
      {R"(\ud800)", R"(\ud800)"},  // no string
      {R"("\ud80)", R"("\ud80)"},
      {R"("\ud8zz")", R"("\ud8zz")"},
      {R"("\)", R"("\)"},
      {"", ""},
  };
  for (const auto& item : cases) EXPECT_EQ(standard_json(item.text), item.expected) << item.text;
}

TEST(PythonJson, ParserKeepsTheNumbers) {
  const nlohmann::json value =
      parse(R"({"a":[NaN,Infinity,-Infinity,1],"s":"x\ud800y\ud83d\ude00"})");
  EXPECT_TRUE(std::isnan(value["a"][0].get<double>()));
  EXPECT_EQ(value["a"][1].get<double>(), INFINITY);
  EXPECT_EQ(value["a"][2].get<double>(), -INFINITY);
  EXPECT_EQ(value["a"][3], 1);
  EXPECT_EQ(value["s"], "x\xef\xbf\xbdy\xf0\x9f\x98\x80");
  EXPECT_EQ(io::spell(value["a"]), R"(["NaN","Infinity","-Infinity",1])");
  EXPECT_EQ(io::spell(value["a"][2]), "-Infinity");
  EXPECT_EQ(io::spell(nlohmann::json(0.5)), "0.5");
}

TEST(PythonJson, MalformedNeighboursAreErrorsOfOneLine) {
  for (const char* text :
       {"nan", "[nan]", "-NaN", "[NaN", "NaNs", "[1NaN]", "[+Infinity]", "Infinit", "[--Infinity]",
        "[- Infinity]", "{NaN:1}", "{\"a\":1,NaN:2}", "[inf]", "[NaN NaN]", "\"\\ud8\"",
        "\"\\ud800", "[\"\\ud800\\u\"]", "[\"\\ux800\"]"}) {
    expect_error([&] { parse(text); }, {"file.json: bad JSON"});
  }
  expect_error([&] { parse(R"({"a":NaN,"a":1})"); }, {"duplicate key \"a\""});
  // Two keys that no UTF-8 can hold are the same one.
  expect_error([&] { parse(R"({"\ud800":1,"\ud801":2})"); }, {"duplicate key"});
}

// Whatever is in the file: a value or an error of one line; the rewriting changes no valid JSON.
TEST(PythonJsonFuzz, MutationsThrowOrParse) {
  const std::string seed = R"({"a":[NaN,-Infinity,1.5],"b\ud800":"\ud83d\ude00\\","c":{"d":null}})";
  const std::string bytes = "\\\"ud8c00NaInfity-{}[]:, ";
  std::mt19937 random(20261127);
  const auto below = [&](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };
  int parsed = 0;
  constexpr int kRounds = 20000;
  for (int round = 0; round < kRounds; ++round) {
    std::string text = seed;
    for (size_t edits = 1 + below(3); edits > 0; --edits) {
      const size_t at = below(text.size());
      if (below(3) == 0) {
        text.erase(at, 1 + below(3));
      } else {
        text.insert(at, 1, bytes[below(bytes.size())]);
      }
      if (text.empty()) text = "1";
    }
    if (nlohmann::json::accept(text)) {
      EXPECT_EQ(standard_json(text), text);
    }
    try {
      parse(text);
      ++parsed;
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(parsed, kRounds / 1000);
  EXPECT_LT(parsed, kRounds / 2);
}

}  // namespace
}  // namespace rillkv
