// Every kind of section of a tokenizer.json against transformers and tokenizers
// (scripts/goldens/tokenizer_json.py), trust, long texts, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "rillkv/tokenizer.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::TemporaryFolder;

json read_json(const std::string& name) {
  std::ifstream file(RILLKV_TEST_DATA_DIR "/" + name);
  return json::parse(file);
}

const json& goldens() {
  static const json root = read_json("tokenizer_json/goldens.json");
  return root;
}

const json& base(const std::string& name) {
  static const std::map<std::string, json> bases = {
      {"characters", read_json("tokenizer_json/characters.json")},
      {"llama3", read_json("tokenizers/llama3/tokenizer.json")},
      {"few", goldens().at("few")}};
  return bases.at(name);
}

std::unique_ptr<Tokenizer> load(const json& root, const json& files = json::object()) {
  const TemporaryFolder folder;
  folder.write("tokenizer.json", root.dump());
  for (const auto& [name, content] : files.items()) folder.write(name, content.dump());
  ::testing::internal::CaptureStderr();  // warnings have tests of their own
  auto tokenizer = Tokenizer::load(folder.path());
  ::testing::internal::GetCapturedStderr();
  return tokenizer;
}

// The `characters` tokenizer after a change to the file and with files beside it.
std::unique_ptr<Tokenizer> characters(const json& patch = json::object(),
                                      const json& files = json::object()) {
  json root = base("characters");
  root.merge_patch(patch);
  return load(root, files);
}

using Ids = std::vector<int64_t>;

class TokenizerJson : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    variant_ = goldens().at("variants").at(GetParam());
    json root = base(variant_.at("base"));
    root.merge_patch(variant_.at("patch"));
    tokenizer_ = load(root, variant_.at("files"));
  }
  json variant_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerJson, EqualsTransformers) {
  for (const json& item : variant_.at("cases")) {
    const std::string text = item.at("text");
    SCOPED_TRACE(variant_.at("name").get<std::string>() + ": " + json(text).dump());
    const auto ids = item.at("ids").get<Ids>();
    EXPECT_EQ(tokenizer_->encode(text, true), ids);
    const Ids without = tokenizer_->encode(text, false);
    ASSERT_LE(without.size(), ids.size());
    EXPECT_EQ(without, Ids(ids.end() - static_cast<std::ptrdiff_t>(without.size()), ids.end()));
    EXPECT_EQ(tokenizer_->encode(text, false, false), item.value("plain", without));
    const json kept = item.value("kept", json(text));
    if (!kept.is_null()) {  // null: the package is wrong, see the script
      EXPECT_EQ(tokenizer_->decode(ids), kept.get<std::string>());
    }
    if (variant_.at("base") != "llama3") {
      EXPECT_EQ(tokenizer_->decode(ids, false), item.value("full", text));
    }
  }
}

TEST_P(TokenizerJson, StreamEqualsDecodeAndCutsDoNotMatter) {
  for (const json& item : variant_.at("cases")) {
    const std::string text = item.at("text");
    SCOPED_TRACE(variant_.at("name").get<std::string>() + ": " + json(text).dump());
    const auto ids = item.at("ids").get<Ids>();
    TextStream stream(*tokenizer_);
    std::string streamed;
    for (const int64_t id : ids) streamed += stream.push(id);
    EXPECT_EQ(streamed + stream.finish(), tokenizer_->decode(ids));
    // Also in the middle of a character, or of a special token's spelling.
    const Ids whole = tokenizer_->encode(text, false, false);
    const Ids trusted = tokenizer_->encode(text, false, true);
    for (size_t cut = 0; cut <= text.size(); ++cut) {
      for (const bool trust : {false, true}) {
        const std::vector<TextPart> parts = {
            {text.substr(0, cut), trust}, {"", !trust}, {text.substr(cut), trust}};
        EXPECT_EQ(tokenizer_->encode(parts, false), trust ? trusted : whole) << "cut " << cut;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, TokenizerJson,
                         ::testing::Range(size_t{0}, goldens().at("variants").size()));

TEST(TokenizerJsonTrust, SpecialTokensNeedTrustedText) {
  const json& few = base("few");
  json root = few;
  const auto added = [](int id, const char* content, bool normalized, bool special) {
    return json{
        {"id", id},        {"content", content}, {"normalized", normalized}, {"special", special},
        {"lstrip", false}, {"rstrip", false},    {"single_word", false}};
  };
  root["added_tokens"] = {added(15, "<s>", false, true), added(16, "ab<s>", true, true),
                          added(17, "<t>", false, false), added(18, "<s><t>", false, true)};
  root["normalizer"] = {{"type", "NFC"}};
  root["pre_tokenizer"] = nullptr;
  const auto tokenizer = load(root);
  const auto encode = [&](std::vector<TextPart> parts) { return tokenizer->encode(parts, false); };
  const int64_t a = 7, b = 8;
  EXPECT_EQ(encode({{"a", false}, {"<s>", true}, {"b", false}}), (Ids{a, 15, b}));
  // Unknown characters fuse: "<s>" in untrusted text is one <unk> (id 0).
  EXPECT_EQ(encode({{"a<s>b", false}}), (Ids{a, 0, b}));
  EXPECT_EQ(encode({{"a<", false}, {"s>", true}}), (Ids{a, 0}));
  EXPECT_EQ(encode({{"a<s", true}, {">", false}}), (Ids{a, 0}));
  // Trusted text of two parts is one stretch.
  EXPECT_EQ(encode({{"a<", true}, {"s>b", true}}), (Ids{a, 15, b}));
  // Untrusted text cannot hide a trusted token by spelling the beginning of a longer one, nor
  // extend one.
  EXPECT_EQ(encode({{"<s>", true}, {"<t>", false}}), (Ids{15, 17}));
  EXPECT_EQ(encode({{"<", false}, {"<s>", true}}), (Ids{0, 15}));
  // The same for tokens that are found in the normalised text, behind one that gets shorter.
  EXPECT_EQ(encode({{"e\xcc\x81", false}, {"ab\xcc\x81", true}}).back(), 0);
  const Ids composed = encode({{"e\xcc\x81 ", false}, {"b", true}, {"ab", false}});
  EXPECT_EQ(Ids(composed.end() - 3, composed.end()), (Ids{b, a, b}));
}

TEST(TokenizerJsonTrust, NormalizedSpecialTokens) {
  json root = base("few");
  root["added_tokens"] = {
      {{"id", 15}, {"content", "<n>"}, {"normalized", true}, {"special", true}}};
  for (const json& normalizer :
       {json{{"type", "NFC"}}, json{{"type", "Sequence"}, {"normalizers", json::array()}},
        json{{"type", "Replace"}, {"pattern", {{"String", "aaa"}}}, {"content", "b"}},
        json{{"type", "Strip"}, {"strip_left", true}, {"strip_right", false}}}) {
    root["normalizer"] = normalizer;
    const auto tokenizer = load(root);
    const auto count = [&](std::vector<TextPart> parts) {
      const Ids ids = tokenizer->encode(parts, false);
      return std::count(ids.begin(), ids.end(), 15);
    };
    SCOPED_TRACE(normalizer.dump());
    EXPECT_EQ(count({{"<n>", true}}), 1);
    EXPECT_EQ(count({{"  e\xcc\x81 aaa", false}, {"<n>", true}, {"aaa<n>", false}}), 1);
    EXPECT_EQ(count({{"aaae\xcc\x81<n>", false}, {"a", true}}), 0);
    EXPECT_EQ(count({{"<n>aaa", true}, {"aaa<n>e\xcc\x81", false}, {"<n>", true}}), 2);
  }
  // The token is looked for as "b<n>": what is prepended is as trusted as the first character.
  root["normalizer"] = {{"type", "Prepend"}, {"prepend", "b"}};
  const auto tokenizer = load(root);
  EXPECT_EQ(tokenizer->encode({{"<n>", true}, {"a", false}}, false), (Ids{15, 7}));
  EXPECT_EQ(tokenizer->encode({{"b", false}, {"<n>", true}}, false), (Ids{8, 8, 0}));
}

// One word of a million characters where the pre-tokenizer cuts nothing: a quadratic algorithm
// would take hours.
TEST(TokenizerJsonLimits, LongTextsAreNotQuadratic) {
  const auto tokenizer = characters();
  std::string mixed;
  while (mixed.size() < 1000000) mixed += "the bridge is older than \xc3\xbc\xe4\xbd\xa0\n";
  for (const std::string& text :
       {mixed, std::string(1000000, 'a'), std::string(1000000, ' '), std::string(1000000, '\n')}) {
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, true)), text);
  }
}

// Merging by a heap against the definition: merge the pair of lowest rank, leftmost first, again
// and again.
TEST(TokenizerJsonLimits, MergesAsTheDefinitionSays) {
  const json& model = base("characters").at("model");
  const auto vocab = model.at("vocab").get<std::map<std::string, int64_t>>();
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (const json& merge : model.at("merges")) ranks[{merge[0], merge[1]}] = ranks.size();
  const auto naive = [&](const std::string& text) {
    std::vector<std::string> symbols;
    for (const char c : text) symbols.emplace_back(1, c);
    for (;;) {
      size_t best = ranks.size();
      size_t where = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = ranks.find({symbols[i], symbols[i + 1]});
        if (found != ranks.end() && found->second < best) best = found->second, where = i;
      }
      if (best == ranks.size()) break;
      symbols[where] += symbols[where + 1];
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(where) + 1);
    }
    Ids ids;
    for (const std::string& symbol : symbols) ids.push_back(vocab.at(symbol));
    return ids;
  };
  const auto tokenizer = characters({{"normalizer", nullptr}});
  std::mt19937 random(5);
  const std::string letters = "theraindgoub";
  for (int round = 0; round < 300; ++round) {
    std::string text;
    const auto size = random() % 60;
    while (text.size() < size) text += letters[random() % letters.size()];
    EXPECT_EQ(tokenizer->encode(text, false), naive(text)) << text;
  }
}

TEST(TokenizerJsonTokens, RolesAndIds) {
  const auto size = static_cast<int64_t>(base("characters").at("model").at("vocab").size());
  const auto tokenizer = characters(
      json::object(),
      {{"tokenizer_config.json", {{"tokenizer_class", "LlamaTokenizer"}, {"pad_token", "[PAD]"}}}});
  EXPECT_EQ(tokenizer->bos_id(), 1);  // the class's own names
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->token_to_id("[PAD]"), size);
  EXPECT_TRUE(tokenizer->is_special(size));
  EXPECT_EQ(tokenizer->vocab_size(), size + 1);
  EXPECT_EQ(characters()->bos_id(), -1);
  // split_special_tokens: nothing is recognised anywhere.
  const auto splitting =
      characters(json::object(), {{"tokenizer_config.json", {{"split_special_tokens", true}}}});
  EXPECT_EQ(splitting->encode("<s>", false, true), splitting->encode("<s>", false, false));
}

TEST(TokenizerJsonTokens, WarnsOnceOfIdsThatTheFileGetsWrong) {
  const TemporaryFolder folder;
  json root = base("characters");
  for (const char* token : {"<x>", "<y>"}) {
    root["added_tokens"].push_back({{"id", 9000}, {"content", token}, {"special", true}});
  }
  folder.write("tokenizer.json", root.dump());
  folder.write("tokenizer_config.json", R"({"pad_token": "[PAD]", "sep_token": "[SEP]"})");
  ::testing::internal::CaptureStderr();
  Tokenizer::load(folder.path());
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 2) << log;
  for (const char* part : {"tokenizer.json", "<x>", "9000", "1 more", "[SEP]", "without an id"}) {
    EXPECT_NE(log.find(part), log.npos) << log << "lacks " << part;
  }
}

// Loading the `characters` tokenizer after `patch`, or with `files`, fails and names `parts`.
void expect_bad(const json& patch, const std::vector<std::string>& parts,
                const json& files = json::object()) {
  json root = base("characters");
  for (const auto& [key, value] : patch.items()) {
    if (key == "model") {
      root["model"].update(value);
    } else {
      root[key] = value;
    }
  }
  const TemporaryFolder folder;
  folder.write("tokenizer.json", root.dump());
  for (const auto& [name, content] : files.items()) folder.write(name, content.dump());
  expect_error([&] { Tokenizer::load(folder.path()); }, parts);
}

TEST(TokenizerJsonErrors, UnknownTypesAreNamed) {
  for (const char* type : {"NFD", "NFKC", "NFKD", "Lowercase", "Precompiled", "Nope"}) {
    expect_bad({{"normalizer", {{"type", type}}}}, {"tokenizer.json: normalizer", "type", type});
  }
  for (const char* type : {"BertPreTokenizer", "UnicodeScripts", "Nope"}) {
    expect_bad({{"pre_tokenizer", {{"type", type}}}}, {"json: pre_tokenizer", "type", type});
  }
  for (const char* type : {"WordPiece", "BPEDecoder", "CTC"}) {
    expect_bad({{"decoder", {{"type", type}}}}, {"tokenizer.json: decoder", "type", type});
  }
  expect_bad({{"post_processor", {{"type", "Nope"}}}}, {"json: post_processor", "type", "Nope"});
  for (const char* type : {"Unigram", "WordPiece", "WordLevel"}) {
    expect_bad({{"model", {{"type", type}}}}, {"tokenizer.json", "BPE", "tokenizer.model"});
  }
  expect_bad({{"decoder", nullptr}}, {"tokenizer.json: decoder", "object", "null"});
}

TEST(TokenizerJsonErrors, Normalizers) {
  const auto bad = [](const json& section, const std::vector<std::string>& parts) {
    expect_bad({{"normalizer", section}}, parts);
  };
  bad(3, {"normalizer", "object"});
  bad({{"type", "Sequence"}}, {"normalizers", "array"});
  bad({{"type", "Sequence"}, {"normalizers", {3}}}, {"normalizer", "object"});
  bad({{"type", "Prepend"}}, {"prepend", "string"});
  bad({{"type", "Strip"}, {"strip_left", true}}, {"strip_right", "true or false"});
  bad({{"type", "Replace"}, {"pattern", "a"}, {"content", ""}}, {"pattern", "Regex"});
  bad({{"type", "Replace"}, {"pattern", {{"String", "a"}}}}, {"content", "string"});
  bad({{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}}, {"bad regex", "("});
}

TEST(TokenizerJsonErrors, PreTokenizers) {
  const auto bad = [](const json& section, const std::vector<std::string>& parts) {
    expect_bad({{"pre_tokenizer", section}}, parts);
  };
  const json metaspace = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}};
  const auto changed = [&](const json& patch) {
    json result = metaspace;
    result.merge_patch(patch);
    return result;
  };
  bad(changed({{"replacement", nullptr}}), {"replacement", "one character"});
  bad(changed({{"replacement", "__"}}), {"replacement", "one character", "__"});
  bad(changed({{"prepend_scheme", "last"}}), {"prepend_scheme", "first", "last"});
  bad(changed({{"add_prefix_space", false}}), {"add_prefix_space", "never"});
  bad(changed({{"split", 1}}), {"split", "true or false"});
  bad({{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Merged"}},
      {"behavior", "MergedWithNext", "\"Merged\""});
  bad({{"type", "Split"}, {"pattern", {{"Strin", "a"}}}, {"behavior", "Removed"}}, {"pattern"});
  bad({{"type", "Punctuation"}, {"behavior", "nope"}}, {"behavior", "nope"});
  bad({{"type", "FixedLength"}, {"length", 0}}, {"length", "1.."});
  bad({{"type", "CharDelimiterSplit"}, {"delimiter", ""}}, {"delimiter", "one character"});
  bad({{"type", "ByteLevel"}}, {"decoder", "ByteLevel"});
  bad({{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, metaspace}}},
      {"pre_tokenizer", "nothing may follow ByteLevel"});
}

TEST(TokenizerJsonErrors, Decoders) {
  const auto bad = [](const json& steps, const std::vector<std::string>& parts) {
    expect_bad({{"decoder", {{"type", "Sequence"}, {"decoders", steps}}}}, parts);
  };
  const json fuse = {{"type", "Fuse"}};
  const json fallback = {{"type", "ByteFallback"}};
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", " "}};
  const auto strip = [](const json& content, int start, int stop) {
    return json{{"type", "Strip"}, {"content", content}, {"start", start}, {"stop", stop}};
  };
  bad(3, {"decoders", "array"});
  bad(json::array({strip(" ", 1, 0)}), {"decoder", "Strip", "Fuse"});
  bad(json::array({fuse, strip("_", 1, 0)}), {"content", "_"});
  bad(json::array({fuse, strip(" ", 2, 0)}), {"start", "2"});
  bad(json::array({fuse, strip(" ", 1, 1)}), {"stop", "1"});
  bad(json::array({fuse, strip(" ", 1, 0), strip(" ", 1, 0)}), {"start", "once"});
  bad(json::array({fuse, replace}), {"decoder", "Replace", "before"});
  bad(json::array({fallback, replace}), {"Replace", "ByteFallback"});
  bad(json::array({{{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}, {"content", ""}}}),
      {"pattern"});
  bad(json::array({{{"type", "Metaspace"}}}), {"replacement"});
  bad(json::array({fallback, {{"type", "ByteLevel"}}}), {"decoder", "before ByteLevel"});
}

TEST(TokenizerJsonErrors, PostProcessors) {
  const auto bad = [](const json& section, const std::vector<std::string>& parts) {
    expect_bad({{"post_processor", section}}, parts);
  };
  const json good = base("characters").at("post_processor");
  const auto changed = [&](const json& patch) {
    json result = good;
    result.merge_patch(patch);
    return result;
  };
  bad(changed({{"special_tokens", nullptr}}), {"special_tokens", "<s>"});
  bad(changed({{"special_tokens", {{"<s>", {{"ids", {-1}}}}}}}), {"ids", "<s>", "-1"});
  bad(changed({{"special_tokens", {{"<s>", {{"ids", {99999}}}}}}}), {"ids", "99999"});
  bad(changed({{"single", json::array()}}), {"single", "Sequence"});
  bad(changed({{"single", {{{"Sequence", {{"id", "B"}}}}}}}), {"id", "\"A\"", "B"});
  bad(changed({{"single", {{{"Token", {{"id", "B"}}}}}}}), {"single", "Token"});
  bad({{"type", "Sequence"}, {"processors", {good, good}}}, {"only one"});
  bad({{"type", "BertProcessing"}, {"cls", {"<s>", 1}}}, {"sep", "[token, id]"});
  bad({{"type", "RobertaProcessing"}, {"cls", {"<s>", 99999}}, {"sep", {"</s>", 2}}},
      {"cls", "99999"});
}

TEST(TokenizerJsonErrors, FilesBeside) {
  const auto bad = [](const char* file, const json& content, std::vector<std::string> parts) {
    parts.emplace_back(file);
    expect_bad(json::object(), parts, {{file, content}});
  };
  const char* config = "tokenizer_config.json";
  bad(config, {{"pad_token", 3}}, {"pad_token", "3"});
  bad(config, {{"bos_token", {{"lstrip", true}}}}, {"bos_token", "content"});
  bad(config, {{"legacy", "no"}}, {"legacy", "true or false"});
  bad(config, {{"tokenizer_class", 3}}, {"tokenizer_class", "string"});
  bad(config, {{"added_tokens_decoder", json::array()}}, {"added_tokens_decoder", "object"});
  bad(config, {{"added_tokens_decoder", {{"x", json::object()}}}}, {"token ids"});
  bad(config, {{"added_tokens_decoder", {{"7", "<x>"}}}}, {"added_tokens_decoder", "id 7"});
  bad(config, {{"added_tokens_decoder", {{"7", {{"content", 7}}}}}}, {"content", "string"});
  bad(config, {{"additional_special_tokens", "<x>"}}, {"additional_special_tokens", "array"});
  bad(config, {{"extra_special_tokens", {3}}}, {"extra_special_tokens", "3"});
  bad("special_tokens_map.json", {{"eos_token", json::array()}}, {"eos_token"});
  bad("special_tokens_map.json", json::array(), {"object"});
  bad("added_tokens.json", {{"<x>", -1}}, {"<x>", "-1"});
  bad("config.json", {{"model_type", 3}}, {"model_type", "string"});
  expect_bad({{"added_tokens", {{{"id", 1}, {"content", "<s>"}, {"lstrip", 1}}}}},
             {"added_tokens", "lstrip"});
}

}  // namespace
}  // namespace rillkv
