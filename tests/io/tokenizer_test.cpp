// What the goldens do not show: errors, special tokens, limits, folders.
#include "rillkv/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "src/io/regex/regex.h"
#include "src/io/tokenizer/pre_tokenizer.h"
#include "src/io/utf8.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::TemporaryFolder;

const std::string kData = RILLKV_TEST_DATA_DIR "/tokenizers/";

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), {});
}

json tokenizer_json(const std::string& name) {
  return json::parse(read(kData + name + "/tokenizer.json"));
}

// Loading the smollm tokenizer after `change` fails and names `parts`.
void expect_bad(const std::function<void(json&)>& change, std::vector<std::string> parts) {
  json root = tokenizer_json("smollm");
  change(root);
  const TemporaryFolder folder;
  folder.write("tokenizer.json", root.dump());
  parts.emplace_back("tokenizer.json");
  expect_error([&] { Tokenizer::load(folder.path()); }, parts);
}

std::unique_ptr<Tokenizer> load_changed(const std::function<void(json&)>& change) {
  json root = tokenizer_json("smollm");
  change(root);
  const TemporaryFolder folder;
  folder.write("tokenizer.json", root.dump());
  return Tokenizer::load(folder.path());
}

TEST(BpeTokenizer, NamesWhatItDoesNotSupport) {
  expect_bad([](json& r) { r["normalizer"] = {{"type", "NFKC"}}; }, {"normalizer", "NFKC"});
  expect_bad([](json& r) { r["decoder"] = {{"type", "WordPiece"}}; }, {"decoder", "ByteLevel"});
  expect_bad([](json& r) { r["pre_tokenizer"]["pretokenizers"][0]["type"] = "UnicodeScripts"; },
             {"pre_tokenizer", "type", "UnicodeScripts"});
  expect_bad([](json& r) { r["model"]["dropout"] = 0.1; }, {"model", "dropout"});
  expect_bad([](json& r) { r["model"]["end_of_word_suffix"] = "</w>"; }, {"end_of_word_suffix"});
  expect_bad([](json& r) { r["model"]["unk_token"] = "<nope>"; }, {"unk_token", "<nope>"});
  expect_bad(
      [](json& r) {
        r["post_processor"] = {{"type", "BertProcessing"}};
      },
      {"post_processor", "cls"});
  expect_bad(
      [](json& r) {
        r["pre_tokenizer"]["pretokenizers"][0] = {
            {"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Merged"}};
      },
      {"pre_tokenizer", "behavior", "Merged"});
}

TEST(BpeTokenizer, RejectsFilesThatLie) {
  expect_bad([](json& r) { r["model"]["merges"].push_back("Q zzzz"); }, {"merge", "zzzz"});
  expect_bad([](json& r) { r["model"]["merges"].push_back("single"); }, {"merge", "two tokens"});
  expect_bad(
      [](json& r) {
        r["model"]["merges"].push_back(json::array({"a", 3}));
      },
      {"merge", "two tokens"});
  expect_bad([](json& r) { r["model"]["merges"] = 3; }, {"merges", "array"});
  expect_bad([](json& r) { r["model"]["vocab"]["a"] = -1; }, {"vocab", "\"a\"", "-1"});
  expect_bad([](json& r) { r["model"]["vocab"]["a"] = 1e9; }, {"vocab", "\"a\""});
  expect_bad([](json& r) { r["model"]["vocab"]["a"] = 4000000000u; }, {"vocab", "\"a\""});
  expect_bad([](json& r) { r["model"]["vocab"] = json::array(); }, {"vocab", "object"});
  expect_bad([](json& r) { r["added_tokens"][0]["id"] = "zero"; }, {"added_tokens", "id"});
  expect_bad([](json& r) { r["added_tokens"][0].erase("content"); }, {"added_tokens", "content"});
  expect_bad([](json& r) { r["added_tokens"] = 3; }, {"added_tokens", "array"});
  expect_bad(
      [](json& r) {
        r["pre_tokenizer"]["pretokenizers"][0] = {
            {"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}};
      },
      {"pre_tokenizer", "bad regex", "("});
  expect_bad(
      [](json& r) {
        r["post_processor"] = {{"type", "TemplateProcessing"},
                               {"single", {{{"SpecialToken", {{"id", "<bos>"}}}}}}};
      },
      {"post_processor", "<bos>"});
}

TEST(BpeTokenizer, RejectsTruncatedJson) {
  const std::string text = read(kData + "smollm/tokenizer.json");
  for (const size_t length : {size_t{0}, size_t{1}, text.size() / 2, text.size() - 2}) {
    const TemporaryFolder folder;
    folder.write("tokenizer.json", text.substr(0, length));
    expect_error([&] { Tokenizer::load(folder.path()); }, {"tokenizer.json", "bad JSON"});
  }
}

// Seeded damage: loading throws rillkv::Error or gives a tokenizer that works.
TEST(BpeTokenizer, SurvivesDamagedFiles) {
  const std::string text = read(kData + "smollm/tokenizer.json");
  std::mt19937 random(7);
  const auto below = [&](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };
  const TemporaryFolder folder;
  int loaded = 0;
  for (int round = 0; round < 150; ++round) {
    std::string damaged = text;
    for (int edit = 0; edit < 2; ++edit) {
      damaged[below(damaged.size())] = "0123456789\"{}[],:aZ"[below(19)];
    }
    folder.write("tokenizer.json", damaged);
    try {
      const auto tokenizer = Tokenizer::load(folder.path());
      tokenizer->decode(tokenizer->encode("The license <|im_end|> 12 \xff", true));
      ++loaded;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, 150);
}

TEST(BpeTokenizer, UnknownTokenAndFusing) {
  // Byte 0x80 has no token in this vocabulary; U+0080 is bytes c2 80, "é" is c3 a9.
  const auto dropping = load_changed([](json&) {});
  const auto unknown = load_changed([](json& r) { r["model"]["unk_token"] = "!"; });
  const int64_t mark = unknown->token_to_id("!").value();
  const std::string text = "\xf0\x90\x80\x80";  // U+10000: f0 90 80 80
  const auto without = dropping->encode(text, false);
  EXPECT_EQ(without.size(), 2u);
  auto expected = without;
  expected.insert(expected.end(), {mark, mark});
  EXPECT_EQ(unknown->encode(text, false), expected);
  const auto fusing = load_changed([](json& r) {
    r["model"]["unk_token"] = "!";
    r["model"]["fuse_unk"] = true;
  });
  expected.pop_back();
  EXPECT_EQ(fusing->encode(text, false), expected);
}

TEST(BpeTokenizer, SplitRemovedAndStringPatterns) {
  const auto split = [](const json& section, const std::string& text) {
    std::vector<std::string> pieces;
    const json sequence = {
        {"type", "Sequence"},
        {"pretokenizers",
         {section, {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    io::PreTokenizer(sequence, "test").split(text, true, [&](std::string_view p) {
      pieces.emplace_back(p);
    });
    return pieces;
  };
  using Pieces = std::vector<std::string>;
  const auto section = [](const json& pattern, const char* behavior, bool invert) {
    return json{
        {"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", invert}};
  };
  const json dot = {{"String", "."}};
  EXPECT_EQ(split(section(dot, "Isolated", false), "a.b..c"),
            (Pieces{"a", ".", "b", ".", ".", "c"}));
  EXPECT_EQ(split(section(dot, "Removed", false), "a.b..c"), (Pieces{"a", "b", "c"}));
  EXPECT_EQ(split(section({{"Regex", "[a-z]+"}}, "Removed", true), "ab.c"), (Pieces{"ab", "c"}));
  EXPECT_EQ(split(section({{"Regex", "x*"}}, "Isolated", false), "axxb\xc3\xa9"),
            (Pieces{"a", "xx", "b", "\xc3\xa9"}));
  EXPECT_EQ(split({{"type", "Digits"}, {"individual_digits", false}}, "a12b3"),
            (Pieces{"a", "12", "b", "3"}));
  const json prefix = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}};
  Pieces pieces;
  io::PreTokenizer(prefix, "test").split("a b", true, [&](std::string_view p) {
    pieces.emplace_back(p);
  });
  EXPECT_EQ(pieces, (Pieces{" a", " b"}));
}

// \s is Unicode's White_Space (PropList.txt), outside and inside of [], and \S is the rest.
TEST(Regex, SpaceIsWhiteSpace) {
  const std::u32string spaces =
      U"\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
      U"\u200a\u2028\u2029\u202f\u205f\u3000";
  const io::Regex plain("\\s", "here");
  const io::Regex in_class("[x\\s]", "here");
  const io::Regex other("\\S", "here");
  io::Regex::Matcher matchers[] = {io::Regex::Matcher(plain), io::Regex::Matcher(in_class),
                                   io::Regex::Matcher(other)};
  for (char32_t code = 0; code <= 0x10ffff; ++code) {
    if ((code >= 0xd800 && code < 0xe000) || code == U'x') continue;
    std::string text;
    io::append_utf8(text, code);
    const bool space = spaces.find(code) != spaces.npos;
    ASSERT_EQ(matchers[0].find(text, 0).has_value(), space) << static_cast<uint32_t>(code);
    ASSERT_EQ(matchers[1].find(text, 0).has_value(), space) << static_cast<uint32_t>(code);
    ASSERT_EQ(matchers[2].find(text, 0).has_value(), !space) << static_cast<uint32_t>(code);
  }
}

// A single word of a million bytes, and a million spaces: a quadratic algorithm would take hours.
TEST(BpeTokenizer, LongRunsAreNotQuadratic) {
  for (const char* name : {"smollm", "llama3"}) {
    const auto tokenizer = Tokenizer::load(kData + name);
    for (const std::string& text :
         {std::string(1000000, ' '), std::string(1000000, 'a'), std::string(1000000, '\n')}) {
      const auto ids = tokenizer->encode(text, false);
      EXPECT_EQ(tokenizer->decode(ids), text);
    }
  }
}

TEST(SentencePieceTokenizer, LongRunsAreNotQuadratic) {
  const auto tokenizer = Tokenizer::load(kData + "llama2");
  const std::string text(200000, ' ');
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, false)), text);
}

TEST(SentencePieceTokenizer, SpecialTokensOnlyWhereTrusted) {
  const auto tokenizer = Tokenizer::load(kData + "llama2");
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->is_special(1));
  EXPECT_FALSE(tokenizer->is_special(300));
  const auto plain = tokenizer->encode("a</s>", false, false);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 2), 0);
  const auto parsed = tokenizer->encode("a</s>", false, true);
  EXPECT_EQ(parsed, (std::vector<int64_t>{tokenizer->encode("a", false)[0], 2}));
  EXPECT_EQ(tokenizer->decode(parsed), "a");
  EXPECT_EQ(tokenizer->decode(parsed, false), "a</s>");
}

TEST(SentencePieceTokenizer, ReadsTokenizerConfigAndAddedTokens) {
  const TemporaryFolder folder;
  folder.write("tokenizer.model", read(kData + "llama2/tokenizer.model"));
  folder.write("tokenizer_config.json",
               R"({"add_bos_token": false, "eos_token": {"content": "<|im_end|>"},
                   "added_tokens_decoder": {"0": {"content": "<unk>", "special": true},
                                            "1000": {"content": "<|im_end|>", "special": true},
                                            "1001": {"content": "<tool>", "special": false},
                                            "1002": {"content": "<more>", "special": true}}})");
  // Not read beside added_tokens_decoder, as in transformers.
  folder.write("added_tokens.json", R"({"<|im_end|>": 1000, "<ignored>": 1003})");
  const auto tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer->vocab_size(), 1003);
  EXPECT_EQ(tokenizer->eos_id(), 1000);
  EXPECT_EQ(tokenizer->encode("<|im_end|><tool><more>", true),
            (std::vector<int64_t>{1000, 1001, 1002}));
  // Not special: cut out of untrusted text as well.
  EXPECT_EQ(tokenizer->encode("<tool>", false, false), (std::vector<int64_t>{1001}));
  EXPECT_GT(tokenizer->encode("<|im_end|>", false, false).size(), 1u);
  EXPECT_EQ(tokenizer->decode({1001, 1000}), "<tool>");

  folder.write("tokenizer_config.json", "{}");
  folder.write("added_tokens.json", R"({"<clash>": 5})");
  expect_error([&] { Tokenizer::load(folder.path()); }, {"tokenizer.model", "<clash>", "5"});
  folder.write("added_tokens.json", R"({"<bad>": -5})");
  expect_error([&] { Tokenizer::load(folder.path()); }, {"added_tokens.json", "<bad>", "-5"});
  folder.write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "y"}}})");
  expect_error([&] { Tokenizer::load(folder.path()); }, {"tokenizer_config.json", "token ids"});
}

TEST(SentencePieceTokenizer, RejectsBadModels) {
  const TemporaryFolder folder;
  folder.write("tokenizer.model", "this is no model");
  expect_error([&] { Tokenizer::load(folder.path()); }, {"tokenizer.model", "sentencepiece"});
  folder.write("tokenizer.model", "");
  expect_error([&] { Tokenizer::load(folder.path()); }, {"tokenizer.model"});
  const std::string model = read(kData + "llama2/tokenizer.model");
  folder.write("tokenizer.model", model.substr(0, model.size() / 2 + 1));
  expect_error([&] { Tokenizer::load(folder.path()); }, {"tokenizer.model"});
}

TEST(Tokenizer, ChoosesBetweenTheFiles) {
  const TemporaryFolder folder;
  expect_error([&] { Tokenizer::load(folder.path()); },
               {folder.path(), "tokenizer.json", "tokenizer.model"});
  // Another model than BPE is not enough by itself ...
  folder.write("tokenizer.json", R"({"model": {"type": "Unigram", "vocab": []}})");
  expect_error([&] { Tokenizer::load(folder.path()); },
               {"tokenizer.json", "BPE", "tokenizer.model"});
  // ... but not needed where the original model lies beside it.
  folder.write("tokenizer.model", read(kData + "llama2/tokenizer.model"));
  EXPECT_EQ(Tokenizer::load(folder.path())->vocab_size(), 1000);
  // BPE comes first, as in transformers, also where it is wrong.
  folder.write("tokenizer.json", read(kData + "llama3/tokenizer.json"));
  EXPECT_EQ(Tokenizer::load(folder.path())->vocab_size(), 705);
  folder.write("tokenizer.json", R"({"model": {"type": "BPE", "vocab": 3, "merges": []}})");
  expect_error([&] { Tokenizer::load(folder.path()); }, {"tokenizer.json"});
}

TEST(Tokenizer, RejectsIdsOutOfRange) {
  for (const char* name : {"smollm", "llama2"}) {
    const auto tokenizer = Tokenizer::load(kData + name);
    for (const int64_t id : {int64_t{-1}, tokenizer->vocab_size(), INT64_MAX, INT64_MIN}) {
      expect_error([&] { tokenizer->decode({id}); }, {"token id", std::to_string(id)});
      EXPECT_FALSE(tokenizer->is_special(id));
    }
  }
}

TEST(Tokenizer, StreamHoldsBackHalfACharacter) {
  const auto tokenizer = Tokenizer::load(kData + "llama3");
  const auto ids = tokenizer->encode("\xf0\x9f\x99\x82", false);  // one token a byte
  ASSERT_EQ(ids.size(), 4u);
  TextStream stream(*tokenizer);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(stream.push(ids[i]), "");
  EXPECT_EQ(stream.push(ids[3]), "\xf0\x9f\x99\x82");
  EXPECT_EQ(stream.finish(), "");
  // Cut short: U+FFFD, either when the next character shows it or at the end.
  EXPECT_EQ(stream.push(ids[0]), "");
  EXPECT_EQ(stream.push(tokenizer->encode("x", false)[0]), "\xef\xbf\xbdx");
  EXPECT_EQ(stream.push(ids[0]), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
}

TEST(Utf8, StepsOverEveryKindOfSequence) {
  const auto step = [](const char* text) { return io::utf8_step(text); };
  EXPECT_TRUE(step("\xed\x9f\xbf").valid);       // U+D7FF
  EXPECT_FALSE(step("\xed\xa0\x80").valid);      // surrogate
  EXPECT_TRUE(step("\xf4\x8f\xbf\xbf").valid);   // U+10FFFF
  EXPECT_FALSE(step("\xf4\x90\x80\x80").valid);  // beyond
  EXPECT_FALSE(step("\xc1\xbf").valid);          // overlong
  EXPECT_EQ(step("\xf0\x9f\x99").length, 3u);
  EXPECT_TRUE(step("\xf0\x9f\x99").truncated);
  EXPECT_FALSE(step("\xf0\x9fx").truncated);
  EXPECT_EQ(step("\xf0\x9fx").length, 2u);
  EXPECT_FALSE(step("\xff").truncated);
  std::string text;
  for (const char32_t c : {U'A', U'\u00e9', U'\u4f60', U'\U0001f642'}) io::append_utf8(text, c);
  EXPECT_EQ(text, "A\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x99\x82");
  EXPECT_TRUE(io::is_utf8(text));
}

}  // namespace
}  // namespace rillkv
