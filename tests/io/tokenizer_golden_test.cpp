// Tokens and texts against the Python packages tokenizers and sentencepiece
// (scripts/make_goldens.py tokenizers).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/tokenizer.h"

namespace rillkv {
namespace {

using nlohmann::json;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

const json& goldens() {
  static const json root = [] {
    std::ifstream file(RILLKV_TEST_DATA_DIR "/tokenizers/goldens.json");
    return json::parse(file);
  }();
  return root.at("cases");
}

// One of the tokenizers that the goldens have ids for.
class TokenizerGolden : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    const std::string folder = name == "smollm2" ? RILLKV_SOURCE_DIR "/models/smollm2-135m-instruct"
                                                 : RILLKV_TEST_DATA_DIR "/tokenizers/" + name;
    if (name == "smollm2" && !std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
    tokenizer_ = Tokenizer::load(folder);
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerGolden, IdsEqualThePythonPackages) {
  ASSERT_GT(goldens().size(), 100u);
  for (const json& item : goldens()) {
    const std::string text = from_hex(item.at("hex"));
    const json& expected = item.at(GetParam());
    const auto ids = expected.at("ids").get<std::vector<int64_t>>();
    const auto plain = expected.value("plain", ids);
    SCOPED_TRACE("case " + item.at("name").get<std::string>());
    // The sentencepiece package itself knows no special tokens in texts.
    const bool parses = std::string(GetParam()) != "llama2";
    EXPECT_EQ(tokenizer_->encode(text, true, parses), ids);
    EXPECT_EQ(tokenizer_->encode(text, false, false), plain);
  }
}

TEST_P(TokenizerGolden, TextEqualsThePythonPackages) {
  for (const json& item : goldens()) {
    SCOPED_TRACE("case " + item.at("name").get<std::string>());
    const json& expected = item.at(GetParam());
    EXPECT_EQ(tokenizer_->decode(expected.at("ids")), expected.at("text").get<std::string>());
  }
}

// Whatever was cut where, streaming gives the same text, and only whole characters.
TEST_P(TokenizerGolden, StreamEqualsDecode) {
  for (const json& item : goldens()) {
    SCOPED_TRACE("case " + item.at("name").get<std::string>());
    const auto ids = item.at(GetParam()).at("ids").get<std::vector<int64_t>>();
    TextStream stream(*tokenizer_);
    std::string text;
    for (const int64_t id : ids) {
      const std::string piece = stream.push(id);
      EXPECT_NO_THROW(json(piece).dump()) << "not UTF-8";
      text += piece;
    }
    text += stream.finish();
    EXPECT_EQ(text, tokenizer_->decode(ids));
  }
}

// Untrusted text may be cut into parts anywhere without a change in the tokens.
TEST_P(TokenizerGolden, PartsAreJoined) {
  for (const json& item : goldens()) {
    SCOPED_TRACE("case " + item.at("name").get<std::string>());
    const std::string text = from_hex(item.at("hex"));
    const size_t third = text.size() / 3;
    const std::vector<TextPart> parts = {{text.substr(0, third), false},
                                         {"", true},
                                         {text.substr(third, third), false},
                                         {text.substr(2 * third), false}};
    EXPECT_EQ(tokenizer_->encode(parts, false), tokenizer_->encode(text, false, false));
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden,
                         ::testing::Values("smollm2", "smollm", "llama3", "qwen2", "llama2"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace rillkv
