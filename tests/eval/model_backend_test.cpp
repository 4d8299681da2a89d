// The back end over a real (random) model, against plain forward passes.
#include "rillkv/eval/model_backend.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "rillkv/generation.h"
#include "tests/support/error_of.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace rillkv::eval {
namespace {

class ModelBackendTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TemporaryFolder();
    testing::write_tiny_checkpoint(folder_->path());
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }

  void SetUp() override {
    model_ = load_model(folder_->path());
    tokenizer_ = Tokenizer::load(folder_->path());
  }

  ModelBackend backend(const ChatTemplate& chat = {}) {
    ModelBackendOptions options;
    options.config = CompressionConfig::preset("balanced");
    options.config.chunk_size = 64;
    options.chat = chat;
    return ModelBackend(model_, tokenizer_, options);
  }

  static std::vector<int64_t> prompt(int64_t length) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < length; ++i) ids.push_back(10 + (i * 37 + i * i) % 600);
    return ids;
  }

  /// Log-probabilities after the prompt and the tokens so far, from a fresh cache.
  std::vector<double> log_probs(std::vector<int64_t> ids, const std::vector<int64_t>& more) {
    CompressionConfig config = CompressionConfig::preset("balanced");
    config.chunk_size = 64;
    QuantizedKvCache cache = model_->make_cache(config);
    at::Tensor logits = generate(model_, ids, cache, {}).last_logits;
    for (int64_t id : more) {
      logits = model_->forward(at::tensor({id}, at::kLong), cache, Logits::kLast)[0];
    }
    const at::Tensor row = logits.to(at::kDouble).log_softmax(-1).contiguous();
    return {row.const_data_ptr<double>(), row.const_data_ptr<double>() + row.numel()};
  }

  static testing::TemporaryFolder* folder_;
  LlamaModel model_{nullptr};
  std::shared_ptr<const Tokenizer> tokenizer_;
};

testing::TemporaryFolder* ModelBackendTest::folder_ = nullptr;

TEST_F(ModelBackendTest, GreedyTextEqualsGenerate) {
  ModelBackend b = backend();
  GenerationRequest request;
  request.prompt = prompt(200);
  request.max_new_tokens = 12;
  const Generation got = b.run(request);

  CompressionConfig config = CompressionConfig::preset("balanced");
  config.chunk_size = 64;
  QuantizedKvCache cache = model_->make_cache(config);
  GenerationOptions options;
  options.max_new_tokens = 12;
  options.stop_ids = model_->config().eos_token_ids;
  const GenerationResult want = generate(model_, request.prompt, cache, options);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.text, tokenizer_->decode_generated(want.tokens, request.prompt));
  EXPECT_EQ(got.stats.prompt_tokens, 200);
  EXPECT_EQ(got.stats.new_tokens, static_cast<int64_t>(want.tokens.size()));
  EXPECT_GT(got.stats.cache.kv_bytes, 0);
  EXPECT_GT(got.stats.cache.kv_bits_sealed.total, 4);
  EXPECT_GT(got.stats.ttft_s, 0);
  EXPECT_EQ(got.stats.cache.layers.size(), 2u);
  EXPECT_GT(got.stats.memory.mean_bytes, 0);
  EXPECT_GE(got.stats.memory.peak_bytes, got.stats.memory.mean_bytes);
}

TEST_F(ModelBackendTest, MarginIsTheSumOverTheAnswersPositions) {
  ModelBackend b = backend();
  GenerationRequest request;
  request.prompt = prompt(150);
  request.max_new_tokens = 6;
  const std::vector<int64_t> greedy = b.run(request).tokens;
  ASSERT_GE(greedy.size(), 3u);
  // An answer greedy decoding gives, one it leaves at once, and one it leaves on the way.
  for (const std::vector<int64_t>& answer :
       {std::vector<int64_t>{greedy[0], greedy[1]}, std::vector<int64_t>{greedy[0] + 1, 20},
        std::vector<int64_t>{greedy[0], greedy[1] + 1, 30}}) {
    request.answer = answer;
    request.distractor = {50, 60};
    double log_prob = 0, margin = 0;
    for (size_t i = 0; i < answer.size(); ++i) {
      const auto row = log_probs(request.prompt, {answer.begin(), answer.begin() + i});
      log_prob += row[static_cast<size_t>(answer[i])];
      if (i < 2) {
        margin +=
            row[static_cast<size_t>(answer[i])] - row[static_cast<size_t>(request.distractor[i])];
      }
    }
    const Generation got = b.run(request);
    // The same forward passes in the same order: only the summation may round differently.
    EXPECT_TRUE(std::abs(got.answer_log_prob - log_prob) <= 1e-9) << got.answer_log_prob;
    EXPECT_TRUE(std::abs(got.margin - margin) <= 1e-9) << got.margin << " " << margin;
    EXPECT_EQ(got.tokens, greedy);  // Measuring changes nothing that is said.
  }
}

TEST_F(ModelBackendTest, AnswersOutsideTheVocabularyAreErrors) {
  ModelBackend b = backend();
  GenerationRequest request;
  request.prompt = prompt(10);
  request.answer = {1};
  request.distractor = {704};
  EXPECT_THAT(testing::error_of([&] { b.run(request); }), ::testing::HasSubstr("0..703, got 704"));
}

TEST_F(ModelBackendTest, NewlineStopsButNotAtOnce) {
  ModelBackend b = backend();
  const int64_t newline = tokenizer_->encode("\n", false).back();
  GenerationRequest request;
  request.prompt = prompt(40);
  request.max_new_tokens = 20;
  request.stop_at_newline = true;
  const Generation got = b.run(request);
  ASSERT_FALSE(got.tokens.empty());
  for (int64_t id : got.tokens) EXPECT_NE(id, newline);
}

TEST_F(ModelBackendTest, AnswersAreEncodedAsTheyFollowText) {
  ModelBackend b = backend();
  const std::string text = "The secret number of Greyhaven is";
  const std::vector<int64_t> whole = b.encode_prompt(text + " 52569", false);
  std::vector<int64_t> parts = b.encode_prompt(text, false);
  for (int64_t id : b.encode(" 52569")) parts.push_back(id);
  EXPECT_EQ(parts, whole);
  EXPECT_EQ(b.decode(b.encode("plain text, with ümlauts")), "plain text, with ümlauts");
}

TEST_F(ModelBackendTest, ChatPromptsAreTheTemplates) {
  ModelBackend b = backend(ChatTemplate::named("chatml"));
  EXPECT_EQ(b.encode_prompt("hello", true),
            encode_chat(*tokenizer_, ChatTemplate::named("chatml"), Conversation::of("hello")));
  EXPECT_EQ(b.encode_prompt("hello", false), tokenizer_->encode("hello", true));
}

}  // namespace
}  // namespace rillkv::eval
