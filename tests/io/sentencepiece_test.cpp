// Folders with a tokenizer.model against transformers (scripts/goldens/sentencepiece.py).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/tokenizer.h"
#include "src/io/tokenizer/sentencepiece_proto.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::TemporaryFolder;
using Ids = std::vector<int64_t>;

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), {});
}

std::string model(const std::string& name) {
  return read(name == "llama2" ? RILLKV_TEST_DATA_DIR "/tokenizers/llama2/tokenizer.model"
                               : RILLKV_TEST_DATA_DIR "/sentencepiece/symbols.model");
}

const json& goldens() {
  static const json root = json::parse(read(RILLKV_TEST_DATA_DIR "/sentencepiece/goldens.json"));
  return root;
}

std::unique_ptr<Tokenizer> load(const std::string& bytes, const json& config) {
  const TemporaryFolder folder;
  folder.write("tokenizer.model", bytes);
  if (!config.is_null()) folder.write("tokenizer_config.json", config.dump());
  return Tokenizer::load(folder.path());
}

TEST(SentencePieceFolder, IdsAreThoseOfTransformers) {
  const json& texts = goldens().at("texts");
  ASSERT_GT(goldens().at("cases").size(), 10u);
  for (const json& item : goldens().at("cases")) {
    const auto tokenizer = load(model(item.at("model")), item.at("config"));
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(tokenizer->encode(texts[i].get<std::string>(), true), item.at("ids")[i].get<Ids>())
          << item.at("name") << ", text " << texts[i];
    }
  }
}

TEST(SentencePieceFolder, TextsAreThoseOfTransformers) {
  for (const json& item : goldens().at("cases")) {
    const auto tokenizer = load(model(item.at("model")), item.at("config"));
    for (size_t i = 0; i < item.at("ids").size(); ++i) {
      const Ids ids = item.at("ids")[i].get<Ids>();
      EXPECT_EQ(tokenizer->decode(ids), item.at("texts")[i].get<std::string>())
          << item.at("name") << ", text " << i;
      EXPECT_EQ(tokenizer->decode(ids, false), item.at("all")[i].get<std::string>())
          << item.at("name") << ", text " << i;
    }
  }
}

// What a text-generation pipeline returns: the whole text less the prompt's.
TEST(SentencePieceFolder, AnswersGoOnBehindThePrompt) {
  bool kept_a_space = false;
  for (const json& item : goldens().at("cases")) {
    SCOPED_TRACE(item.at("name"));
    const auto tokenizer = load(model(item.at("model")), item.at("config"));
    const Ids prompt = item.at("prompt").get<Ids>();
    for (size_t i = 0; i < item.at("answers").size(); ++i) {
      const Ids answer = item.at("answers")[i].get<Ids>();
      const std::string behind = item.at("continued")[i];
      kept_a_space |= behind == " Paris.";
      EXPECT_EQ(tokenizer->decode_generated(answer, prompt), behind) << i;
      EXPECT_EQ(tokenizer->decode_generated(answer, {tokenizer->bos_id()}),
                item.at("begun")[i].get<std::string>())
          << i;
      EXPECT_EQ(tokenizer->decode_generated(answer), tokenizer->decode(answer)) << i;
    }
  }
  EXPECT_TRUE(kept_a_space);
}

// Without a tokenizer_config.json: the package, and `<unk>` where special tokens are read.
TEST(SentencePieceFolder, BareModelIsThePackage) {
  const auto tokenizer = load(model("llama2"), nullptr);
  const int64_t a = tokenizer->encode("a", false)[0];
  const int64_t b = tokenizer->encode("b", false)[0];
  EXPECT_EQ(tokenizer->encode("a</s>b", true), (Ids{1, a, 2, b}));
  EXPECT_EQ(tokenizer->encode("a<unk>b", true), (Ids{1, a, 0, b}));
  EXPECT_GT(tokenizer->encode("<unk>", false, false).size(), 1u);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(" a", false)), " a");  // the package's two spaces
  EXPECT_EQ(tokenizer->decode({0}), " \u2047 ");
}

// What the issue names: `legacy`, and nothing said.
TEST(SentencePieceFolder, LegacySaysWhatBeginsWithASpace) {
  const auto always = load(model("llama2"), {{"legacy", true}});
  const auto first = load(model("llama2"), {{"legacy", false}});
  const auto unsaid = load(model("llama2"), json::object());
  const int64_t a = always->encode("a", false)[0];
  const int64_t b = always->encode("b", false)[0];
  const int64_t plain_b = always->token_to_id("b").value();
  EXPECT_NE(b, plain_b);
  EXPECT_EQ(always->encode("a</s>b", true), (Ids{1, a, 2, b}));
  EXPECT_EQ(first->encode("a</s>b", true), (Ids{1, a, 2, plain_b}));
  EXPECT_EQ(unsaid->encode("a</s>b", true), (Ids{1, a, 2, plain_b}));
  // Untrusted text is one text, however it was cut and whatever it spells.
  EXPECT_EQ(first->encode({{"a", false}, {"</s>", true}, {"b", false}}, false),
            (Ids{a, 2, plain_b}));
  EXPECT_EQ(first->encode({{"x </", false}, {"s>y", false}}, false),
            first->encode("x </s>y", false, false));
}

TEST(SentencePieceFolder, BosAsTheConfigurationSays) {
  const Ids plain = load(model("llama2"), {{"add_bos_token", false}})->encode("a", true);
  ASSERT_EQ(plain.size(), 1u);
  const Ids with = {1, plain[0]};
  EXPECT_EQ(load(model("llama2"), {{"add_bos_token", true}})->encode("a", true), with);
  EXPECT_EQ(load(model("llama2"), json::object())->encode("a", true), with);
  // A prompt that ended could not be gone on with: no EOS, and one key says both.
  EXPECT_EQ(load(model("llama2"), {{"add_eos_token", true}})->encode("a", true), plain);
}

TEST(SentencePieceFolder, NamesBadKeys) {
  const auto refuse = [](const json& config, const std::vector<std::string>& parts) {
    expect_error([&] { load(model("llama2"), config); }, parts);
  };
  refuse({{"legacy", "yes"}}, {"tokenizer_config.json", "legacy"});
  refuse({{"add_bos_token", 1}}, {"tokenizer_config.json", "add_bos_token"});
  refuse({{"add_eos_token", "no"}}, {"tokenizer_config.json", "add_eos_token"});
  refuse({{"add_prefix_space", "no"}}, {"tokenizer_config.json", "add_prefix_space"});
  refuse({{"added_tokens_decoder", {{"0", {{"content", "<unk>"}, {"lstrip", 1}}}}}},
         {"tokenizer_config.json", "lstrip"});
  refuse({{"added_tokens_decoder", {{"5", {{"content", "<clash>"}}}}}},
         {"tokenizer.model", "<clash>", "5"});
}

TEST(SentencePieceProto, ListsTheSymbolsOfTheUser) {
  const std::string bytes = model("symbols");
  const std::vector<bool> symbols = io::user_defined_pieces(bytes);
  ASSERT_EQ(symbols.size(), 420u);
  for (size_t i = 0; i < symbols.size(); ++i) EXPECT_EQ(symbols[i], i == 3 || i == 4) << i;
  // What is cut or damaged ends the list, and nothing else happens.
  for (size_t length = 0; length < bytes.size(); length += 7) {
    EXPECT_LE(io::user_defined_pieces(bytes.substr(0, length)).size(), 420u);
    std::string damaged = bytes;
    damaged[length] = static_cast<char>(damaged[length] ^ 0xff);
    io::user_defined_pieces(damaged);
  }
}

}  // namespace
}  // namespace rillkv
