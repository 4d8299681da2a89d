// Decoding token by token behind a prompt.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "rillkv/tokenizer.h"

namespace rillkv {
namespace {

using Ids = std::vector<int64_t>;

std::unique_ptr<Tokenizer> load(const std::string& name) {
  return Tokenizer::load(RILLKV_TEST_DATA_DIR "/tokenizers/" + name);
}

std::string streamed(TextStream& stream, const Ids& ids) {
  std::string text;
  for (const int64_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

TEST(TextStream, KeepsTheSpaceOfATextThatGoesOn) {
  const auto tokenizer = load("llama2");
  const Ids prompt = tokenizer->encode("The capital of France is", true);
  const Ids answer = tokenizer->encode("Paris is", false);
  TextStream alone(*tokenizer);
  EXPECT_EQ(streamed(alone, answer), "Paris is");
  TextStream behind(*tokenizer, true, prompt);
  EXPECT_EQ(streamed(behind, answer), " Paris is");
  // finish() starts anew, with a text that follows nothing.
  EXPECT_EQ(streamed(behind, answer), "Paris is");
  EXPECT_EQ(tokenizer->decode_generated(answer, prompt), " Paris is");

  Ids whole = prompt;
  whole.insert(whole.end(), answer.begin(), answer.end());
  EXPECT_EQ(tokenizer->decode(whole), "The capital of France is Paris is");
}

TEST(TextStream, PromptOfSpecialTokensBeginsAText) {
  const auto tokenizer = load("llama2");
  const Ids answer = tokenizer->encode("Paris", false);
  TextStream stream(*tokenizer, true, {tokenizer->bos_id()});
  EXPECT_EQ(streamed(stream, answer), "Paris");
  // Where special tokens are text, one of them is a beginning already.
  TextStream spelt(*tokenizer, false, {tokenizer->bos_id()});
  EXPECT_EQ(streamed(spelt, answer), " Paris");
  TextStream empty(*tokenizer, true, {});
  EXPECT_EQ(streamed(empty, answer), "Paris");
}

TEST(TextStream, SpecialTokenWithinATextDropsNoSpace) {
  const auto tokenizer = load("llama2");
  Ids ids = tokenizer->encode("a", false);
  ids.push_back(tokenizer->eos_id());
  const Ids more = tokenizer->encode("b", false);
  ids.insert(ids.end(), more.begin(), more.end());
  EXPECT_EQ(tokenizer->decode(ids), "a b");
  EXPECT_EQ(tokenizer->decode_generated(ids, tokenizer->encode("x", true)), " a b");
}

// A prompt that ends within a character: what is generated completes it.
TEST(TextStream, PromptMayEndWithinACharacter) {
  const auto tokenizer = load("llama3");
  const Ids ids = tokenizer->encode("\xf0\x9f\x99\x82", false);  // one token a byte
  ASSERT_EQ(ids.size(), 4u);
  TextStream stream(*tokenizer, true, Ids(ids.begin(), ids.begin() + 2));
  EXPECT_EQ(stream.push(ids[2]), "");
  EXPECT_EQ(stream.push(ids[3]), "\xf0\x9f\x99\x82");
}

// A padded model has ids that are no text, in prompts of ids and in what it chooses.
TEST(TextStream, IdsPastTheVocabularyAreNoText) {
  for (const char* name : {"llama2", "llama3"}) {
    const auto tokenizer = load(name);
    const int64_t past = tokenizer->vocab_size() + 5;
    const Ids answer = tokenizer->encode(" b", false);
    Ids padded = answer;
    padded.insert(padded.begin() + 1, past);
    const Ids prompt = tokenizer->encode("a", true);
    Ids padded_prompt = prompt;
    padded_prompt.push_back(past);
    EXPECT_EQ(tokenizer->decode_generated(padded, padded_prompt),
              tokenizer->decode_generated(answer, prompt));
  }
}

// Byte-level tokenizers drop no space anywhere.
TEST(TextStream, PromptChangesNothingInBytes) {
  const auto tokenizer = load("smollm");
  const Ids answer = tokenizer->encode(" the license", false);
  const Ids prompt = tokenizer->encode("This is", false);
  EXPECT_EQ(tokenizer->decode_generated(answer, prompt), " the license");
  EXPECT_EQ(tokenizer->decode_generated(answer), " the license");
}

}  // namespace
}  // namespace rillkv
