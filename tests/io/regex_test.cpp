// A tokenizer.json's expressions against the package they are written for
// (scripts/goldens/regex.py), and what is refused.
#include "src/io/regex/regex.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "src/io/regex/pcre_unicode.h"
#include "src/io/regex/regex_classes.h"
#include "src/io/regex/regex_matches.h"
#include "src/io/utf8.h"
#include "tests/support/error_of.h"
#include "tests/support/expect_error.h"

namespace rillkv {
namespace {

using nlohmann::json;
using testing::expect_error;

const json& goldens() {
  static const json root = [] {
    std::ifstream file(RILLKV_TEST_DATA_DIR "/regex/goldens.json");
    return json::parse(file);
  }();
  return root;
}

// "-3 1x2" is {-3, 1, 1}.
std::vector<int> lengths(const std::string& written) {
  std::vector<int> result;
  std::istringstream stream(written);
  for (std::string word; stream >> word;) {
    const size_t cross = word.find('x');
    const int count = cross == word.npos ? 1 : std::stoi(word.substr(cross + 1));
    result.insert(result.end(), static_cast<size_t>(count), std::stoi(word));
  }
  return result;
}

// The pieces that matches (negative) and the stretches between them make.
std::vector<int> split(const io::Regex& regex, const std::string& text) {
  std::vector<int> result;
  size_t reached = 0;
  io::Regex::Matcher matcher(regex);
  io::MatchIterator matches(matcher, text);
  while (const auto match = matches.next()) {
    const auto [begin, end] = *match;
    if (begin > reached) result.push_back(static_cast<int>(begin - reached));
    if (end > begin) result.push_back(-static_cast<int>(end - begin));
    reached = end;
  }
  if (text.size() > reached) result.push_back(static_cast<int>(text.size() - reached));
  return result;
}

TEST(Regex, SplitsAsTheTokenizersPackageDoes) {
  const json& texts = goldens().at("texts");
  ASSERT_GT(goldens().at("cases").size(), 200u);
  for (const json& item : goldens().at("cases")) {
    const std::string pattern = item.at("pattern");
    SCOPED_TRACE(pattern);
    const io::Regex regex(pattern, "here");
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(split(regex, texts[i]), lengths(item.at("pieces")[i])) << "text " << texts[i];
    }
  }
}

TEST(Regex, RefusesByNameWhatHasNoTranslation) {
  const auto refuse = [](const char* pattern, const std::vector<std::string>& parts) {
    expect_error([&] { io::Regex(pattern, "here"); }, parts);
  };
  for (const json& pattern : goldens().at("refused")) {
    SCOPED_TRACE(pattern);
    const std::string error =
        testing::error_of([&] { io::Regex(pattern.get<std::string>(), "here"); });
    EXPECT_EQ(error.rfind("here: ", 0), 0u) << error;
    EXPECT_EQ(error.find('\n'), error.npos) << error;
  }
  refuse("\\X", {"here", "\\X", "not supported"});
  refuse("a\\Kb", {"\\K", "not supported", "a\\Kb"});
  refuse("(?~b)", {"(?~", "not supported"});
  refuse("(a)\\1", {"back reference \\1"});
  refuse("(?s).", {"(?s)", "not supported"});
  refuse("(?W)\\w", {"(?W)", "not supported"});
  refuse("\\p{Nope}", {"\\p{Nope}", "not supported"});
  refuse("[[:foo:]]", {"[:foo:]", "not supported"});
  refuse("(?i:ss)", {"ignoring case", "not supported"});
  refuse("[a", {"bad regex", "["});
  refuse("*a", {"bad regex", "nothing to repeat"});
  refuse("\xff", {"bad regex", "UTF-8"});
  refuse(std::string(300, '(').c_str(), {"not supported", "within more than 100"});
  refuse(std::string(300, '[').c_str(), {"not supported", "within more than 100"});
  refuse("(?<=a+)b", {"bad regex", "lookbehind"});
}

TEST(Regex, BacktrackingWithoutBoundIsAnError) {
  const io::Regex bad("(a+)+$", "here");
  io::Regex::Matcher matcher(bad);
  const std::string text = std::string(40, 'a') + "b";
  expect_error([&] { matcher.find(text, 0); }, {"here", "regex failed"});
}

// A repeat of a group over a megabyte: more than the machine code's stack holds.
TEST(Regex, LongRepeatsNeedNoStack) {
  const io::Regex regex("(?:a{1,3}b?)+", "here");
  const std::string text(1 << 20, 'a');
  EXPECT_EQ(split(regex, text), (std::vector<int>{-(1 << 20)}));
}

// Every character of each class, in both programs, against the tables that came from the package.
TEST(Regex, ClassesAreThoseOfTheTables) {
  std::string all;
  const io::CodePointSet everything = io::CodePointSet::all();
  for (const io::CodePointRange& range : everything.ranges()) {
    for (uint32_t c = range.first; c <= range.last; ++c) io::append_utf8(all, c);
  }
  EXPECT_TRUE(io::PcreUnicode::get().differs("\U00010d50"));  // of Unicode 16.0
  EXPECT_FALSE(io::PcreUnicode::get().differs("plain \u00e9 \u4e2d \U0001f600"));
  for (const char* name : {"L", "Lu", "M", "N", "P", "S", "Z", "C", "Alpha", "Han", "Space"}) {
    SCOPED_TRACE(name);
    const io::CodePointSet set = io::regex_property(name).value();
    for (const bool negated : {false, true}) {
      const io::Regex regex(str_cat(negated ? "\\P{" : "\\p{", name, "}+"), "here");
      io::Regex::Matcher matcher(regex);
      std::vector<io::CodePointRange> found;
      io::MatchIterator matches(matcher, all);
      while (const auto match = matches.next()) {
        const auto [begin, end] = *match;
        size_t last = end - 1;
        while ((all[last] & 0xc0) == 0x80) --last;
        const auto code = [&](size_t at) {
          return io::decode_utf8(all.substr(at, io::utf8_step(all.substr(at, 4)).length));
        };
        found.push_back({code(begin), code(last)});
      }
      const io::CodePointSet got = io::CodePointSet(std::move(found)) & io::CodePointSet::all();
      const io::CodePointSet want = negated ? set.complement() : set;
      EXPECT_TRUE((got - want).empty() && (want - got).empty());
    }
  }
}

// Seeded damage to real expressions ends in a program or in one line of error.
TEST(Regex, SurvivesDamagedPatterns) {
  uint64_t state = 3;
  const auto below = [&](size_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<size_t>(state >> 33) % n;
  };
  const std::string alphabet = "\\[](){}?*+^$|.&-:pLNswi'a1,<>=!~#x";
  int compiled = 0;
  int refused = 0;
  for (int round = 0; round < 600; ++round) {
    std::string pattern = goldens().at("cases")[below(20)].at("pattern");
    for (int edit = 0; edit < 2; ++edit)
      pattern[below(pattern.size())] = alphabet[below(alphabet.size())];
    try {
      const io::Regex regex(pattern, "here");
      io::Regex::Matcher matcher(regex);
      io::MatchIterator matches(matcher, "It's 12 \u00e9\n");
      while (matches.next()) {
      }
      ++compiled;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << pattern;
      ++refused;
    }
  }
  EXPECT_GT(compiled, 50);
  EXPECT_GT(refused, 50);
}

}  // namespace
}  // namespace rillkv
