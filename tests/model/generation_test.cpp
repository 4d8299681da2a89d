// generate and choose_token.
#include "rillkv/generation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "rillkv/log.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_llama.h"

namespace rillkv {
namespace {

using testing::expect_error;
using Ids = std::vector<int64_t>;

// ---- choose_token ----

TEST(ChooseToken, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(choose_token(at::tensor({0.f, 3.f, -1.f, 2.f}), 0, 0.99), 1);
  EXPECT_EQ(choose_token(at::tensor({1.f, 5.f, 5.f, 5.f}), 0, 0.99), 1);
  EXPECT_EQ(choose_token(at::tensor({-7.f}), 0, 0), 0);
  EXPECT_EQ(choose_token(at::full({10}, -1e30f), 0, 0.5), 0);
}

// uniform u picks the token in whose share of [0, 1) u lies, in the order of the ids.
TEST(ChooseToken, UniformFallsIntoTheTokensShares) {
  // Probabilities 1/8, 1/2, 1/8, 1/4: logits ln 1, ln 4, ln 1, ln 2 at temperature 1.
  const at::Tensor logits = at::tensor({1.0, 4.0, 1.0, 2.0}).log().to(at::kFloat);
  constexpr double kEdges[] = {0, 1. / 8, 5. / 8, 6. / 8, 1};
  for (int64_t token = 0; token < 4; ++token) {
    // float32 logits move an edge by 2^-24 of itself.
    EXPECT_EQ(choose_token(logits, 1, kEdges[token] + 1e-6), token);
    EXPECT_EQ(choose_token(logits, 1, kEdges[token + 1] - 1e-6), token);
  }
  EXPECT_EQ(choose_token(logits, 1, 0), 0);
  EXPECT_EQ(choose_token(logits, 1, std::nextafter(1.0, 0.0)), 3);
}

TEST(ChooseToken, TemperatureSharpensAndFlattens) {
  const at::Tensor logits = at::tensor({0.f, std::log(3.f)});
  // Share of token 0: 1 / (1 + 3^(1/t)).
  for (const double t : {0.25, 0.5, 1.0, 2.0, 100.0}) {
    const double share = 1 / (1 + std::pow(3.0, 1 / t));
    EXPECT_EQ(choose_token(logits, t, share - 1e-6), 0) << t;
    EXPECT_EQ(choose_token(logits, t, share + 1e-6), 1) << t;
  }
}

TEST(ChooseToken, HugeLogitsDoNotOverflow) {
  const float huge = std::numeric_limits<float>::max();
  EXPECT_EQ(choose_token(at::tensor({-huge, huge, 0.f}), 1e-3, 0.999), 1);
  EXPECT_EQ(choose_token(at::tensor({-huge, huge, 0.f}), 1e-3, 0), 1);
  // Ties share evenly, however large.
  EXPECT_EQ(choose_token(at::tensor({huge, huge}), 1, 0.49), 0);
  EXPECT_EQ(choose_token(at::tensor({huge, huge}), 1, 0.51), 1);
}

TEST(ChooseToken, OtherLogitsAreErrors) {
  expect_error([] { choose_token(at::zeros({2, 3}), 0, 0); }, {"choose_token", "[2, 3]"});
  expect_error([] { choose_token(at::zeros({3}, at::kDouble), 0, 0); }, {"float32", "Double"});
  expect_error([] { choose_token(at::zeros({0}), 0, 0); }, {"[0]"});
}

TEST(ChooseToken, WhatIsNoNumberIsAnError) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  for (const double temperature : {0.0, 1.0}) {
    for (const float bad : {nan, inf}) {
      for (int64_t at = 0; at < 40; ++at) {
        at::Tensor logits = at::ones({40});
        logits[at] = bad;
        expect_error([&] { choose_token(logits, temperature, 0.5); }, {"choose_token", "finite"});
      }
    }
    expect_error([&] { choose_token(at::full({3}, -inf), temperature, 0.5); }, {"-inf"});
    // A masked token is one that is never chosen.
    for (const double u : {0.0, 0.3, 0.999}) {
      EXPECT_EQ(choose_token(at::tensor({-inf, 2.f, -inf}), temperature, u), 1);
    }
  }
}

TEST(ChooseToken, DrawsFollowTheSoftmax) {
  at::manual_seed(1);
  const at::Tensor logits = at::randn({20}) * 2;
  const double temperature = 1.5;
  const at::Tensor expected = (logits.to(at::kDouble) / temperature).softmax(0);
  constexpr int kDraws = 100000;
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> uniform;
  std::vector<int> counts(20);
  for (int i = 0; i < kDraws; ++i) ++counts[choose_token(logits, temperature, uniform(random))];
  double chi2 = 0;
  for (int64_t token = 0; token < 20; ++token) {
    const double mean = kDraws * expected[token].item<double>();
    chi2 += std::pow(counts[token] - mean, 2) / mean;
  }
  // 19 degrees of freedom: 43.8 is exceeded by one seed in a thousand.
  EXPECT_LE(chi2, 43.8);
}

// ---- generate ----

LlamaModel small_model() {
  LlamaModel model(ModelConfig::from_json(R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 61,
  "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "max_position_embeddings": 128})"),
                   at::kFloat);
  model->load_weights(testing::random_llama("small", model->config()));
  return model;
}

Ids prompt(int64_t count) {
  Ids ids;
  for (int32_t n : testing::random_integers("prompt", count)) ids.push_back(n % 61);
  return ids;
}

CompressionConfig config(int64_t chunk) {
  CompressionConfig config;
  config.block_size = 32;
  config.chunk_size = chunk;
  return config;
}

class Generate : public ::testing::Test {
 protected:
  GenerationResult run(const GenerationOptions& options, const Ids& ids = prompt(50)) const {
    QuantizedKvCache cache = model_->make_cache(config(16));
    return generate(model_, ids, cache, options);
  }
  LlamaModel model_ = small_model();
};

TEST_F(Generate, GreedyIsTheArgmaxOfAStepByStepRun) {
  GenerationOptions options;
  options.max_new_tokens = 20;
  options.prompt_top1 = true;
  const Ids ids = prompt(50);
  std::vector<int64_t> progress;
  options.on_prefill = [&](int64_t done) { progress.push_back(done); };
  const GenerationResult result = run(options, ids);

  QuantizedKvCache cache = model_->make_cache(config(16));
  Ids top1, tokens;
  at::Tensor logits;
  for (int64_t begin = 0; begin < 50; begin += 16) {
    const int64_t end = std::min<int64_t>(begin + 16, 50);
    logits = model_->forward(at::tensor(ids).slice(0, begin, end), cache, Logits::kAll);
    for (int64_t i = 0; i < end - begin; ++i) top1.push_back(logits[i].argmax().item<int64_t>());
  }
  const at::Tensor last = logits[-1].clone();
  for (int i = 0; i < 20; ++i) {
    tokens.push_back(logits[-1].argmax().item<int64_t>());
    logits = model_->forward(at::tensor({tokens.back()}), cache, Logits::kLast);
  }
  EXPECT_EQ(result.tokens, tokens);
  EXPECT_EQ(result.prompt_top1, top1);
  EXPECT_LE((result.last_logits - last).abs().max().item<double>(), 1e-5);
  EXPECT_EQ(result.prompt_tokens, 50);
  EXPECT_EQ(progress, (Ids{16, 32, 48, 50}));
  EXPECT_GT(result.ttft_s, 0);
  EXPECT_GT(result.prefill_tokens_per_s, 0);
  EXPECT_GT(result.decode_tokens_per_s, 0);
}

TEST_F(Generate, TheSeedDecides) {
  GenerationOptions options;
  options.max_new_tokens = 30;
  options.temperature = 1;
  options.seed = 7;
  const Ids tokens = run(options).tokens;
  EXPECT_EQ(tokens.size(), 30u);
  EXPECT_EQ(run(options).tokens, tokens);
  options.seed = 8;
  EXPECT_NE(run(options).tokens, tokens);
  // So cold that only the best token is left: the seed no longer matters.
  options.temperature = 1e-6;
  const Ids cold = run(options).tokens;
  options.temperature = 0;
  EXPECT_EQ(run(options).tokens, cold);
}

TEST_F(Generate, StopsAtStopTokensAndWhenToldTo) {
  GenerationOptions options;
  options.max_new_tokens = 20;
  const Ids all = run(options).tokens;
  ASSERT_EQ(all.size(), 20u);

  options.stop_ids = {60, all[5]};
  const Ids stopped = run(options).tokens;
  const auto first = std::find(all.begin(), all.end(), all[5]);
  EXPECT_EQ(stopped, Ids(all.begin(), first)) << "the stop token is no part of the text";

  options.stop_ids.clear();
  Ids seen;
  options.on_token = [&](int64_t token) {
    seen.push_back(token);
    return seen.size() < 3;
  };
  EXPECT_EQ(run(options).tokens, Ids(all.begin(), all.begin() + 3));
  EXPECT_EQ(seen, Ids(all.begin(), all.begin() + 3));

  options.on_token = nullptr;
  options.max_new_tokens = 0;
  const GenerationResult none = run(options);
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_EQ(none.last_logits.sizes(), at::IntArrayRef({61}));
  EXPECT_EQ(none.decode_tokens_per_s, 0);
}

TEST_F(Generate, GoesOnFromAPrefixInTheCache) {
  // The prefix ends where a chunk ends, so both runs make the same calls of the model.
  const Ids ids = prompt(60);
  GenerationOptions options;
  options.max_new_tokens = 10;
  const GenerationResult whole = run(options, ids);
  QuantizedKvCache cache = model_->make_cache(config(16));
  GenerationOptions silent;
  generate(model_, Ids(ids.begin(), ids.begin() + 32), cache, silent);
  EXPECT_EQ(cache.length(), 32);
  const GenerationResult rest = generate(model_, Ids(ids.begin() + 32, ids.end()), cache, options);
  EXPECT_EQ(rest.prompt_tokens, 28);
  EXPECT_TRUE(at::equal(rest.last_logits, whole.last_logits));
  EXPECT_EQ(rest.tokens, whole.tokens);
  // The last token's key is not in the cache: nobody has asked for what follows it.
  EXPECT_EQ(cache.length(), 60 + 9);
}

TEST_F(Generate, BadPromptsThrowBeforeTheCacheChanges) {
  QuantizedKvCache cache = model_->make_cache(config(16));
  Ids bad = prompt(50);
  bad[40] = 61;
  expect_error([&] { generate(model_, bad, cache, {}); }, {"0..60", "61"});
  bad[40] = -1;
  expect_error([&] { generate(model_, bad, cache, {}); }, {"0..60", "-1"});
  expect_error([&] { generate(model_, {}, cache, {}); }, {"at least one token"});
  GenerationOptions options;
  options.max_new_tokens = -1;
  expect_error([&] { generate(model_, prompt(50), cache, options); }, {"max_new_tokens", "-1"});
  options.max_new_tokens = 1;
  options.temperature = std::nan("");
  expect_error([&] { generate(model_, prompt(50), cache, options); }, {"temperature", "nan"});
  EXPECT_EQ(cache.length(), 0);
}

TEST_F(Generate, ADoubledBosIsWarnedOfOnce) {
  set_log_level(LogLevel::kWarning);
  ASSERT_EQ(model_->config().bos_token_id, 1);
  const auto warning = [&](const Ids& ids, const Ids& before = {}) {
    QuantizedKvCache cache = model_->make_cache(config(16));
    if (!before.empty()) generate(model_, before, cache, {});
    ::testing::internal::CaptureStderr();
    generate(model_, ids, cache, {});
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(warning({1}), "");
  EXPECT_EQ(warning({1, 5, 1, 1}), "");
  EXPECT_EQ(warning({5, 1, 1}), "");
  EXPECT_EQ(warning({1, 1, 5}, {5}), "") << "not where the text begins";
  const std::string line = warning({1, 1, 5});
  EXPECT_NE(line.find("two BOS tokens (id 1)"), std::string::npos) << line;
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  EXPECT_EQ(warning({1, 1, 5}), "");
}

TEST_F(Generate, BeyondTheModelsPositionsIsAWarning) {
  set_log_level(LogLevel::kWarning);
  const auto warning = [&](int64_t count, int64_t more) {
    GenerationOptions options;
    options.max_new_tokens = more;
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(run(options, prompt(count)).tokens.size(), static_cast<size_t>(more));
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(warning(120, 8), "");
  EXPECT_NE(warning(120, 9).find("max_position_embeddings 128"), std::string::npos);
  EXPECT_NE(warning(140, 0).find("max_position_embeddings 128"), std::string::npos);
}

}  // namespace
}  // namespace rillkv
