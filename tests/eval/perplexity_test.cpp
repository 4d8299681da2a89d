// Perplexity, KL and agreement against a naive evaluation of the same logits: whole rows of
// log-probabilities in double, one position at a time.
#include "rillkv/eval/perplexity.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "rillkv/eval/progress.h"
#include "tests/support/error_of.h"
#include "tests/support/random_llama.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace rillkv::eval {
namespace {

using ::testing::AllOf;
using testing::error_of;
using ::testing::HasSubstr;

// Sums of at most 3 * 192 * 704 terms of size <= 20 in double: 4e5 * 20 * 2^-53 < 1e-9.
constexpr double kTolerance = 1e-9;

struct Expected {
  double perplexity = 0, perplexity_dense = 0, kl = 0, top1 = 0;
  std::vector<int64_t> scored;  // a window
};

class PerplexityTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TemporaryFolder();
    testing::write_tiny_checkpoint(folder_->path());
    model_ = new LlamaModel(load_model(folder_->path()));
  }
  static void TearDownTestSuite() {
    delete model_;
    delete folder_;
  }

  static std::vector<int64_t> text(int64_t length) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < length; ++i) ids.push_back(10 + (i * 37 + i * i) % 600);
    return ids;
  }

  static PerplexityOptions options(int64_t context, int64_t windows, int64_t stride = 0) {
    PerplexityOptions o;
    o.config = CompressionConfig::preset("compact");  // Coarse: KL well above rounding.
    o.config.chunk_size = 64;
    o.context = context;
    o.windows = windows;
    o.stride = stride;
    return o;
  }

  /// The text of windows that begin with a BOS, cut by hand: each BOS and context - 1 tokens.
  static Expected naive_with_bos(const std::vector<int64_t>& ids, const PerplexityOptions& o,
                                 int64_t windows) {
    const int64_t text = o.context - 1, stride = o.stride > 0 ? o.stride : text;
    Expected e;
    double nll = 0, nll_dense = 0, all = 0;
    for (int64_t w = 0; w < windows; ++w) {
      const int64_t begin = w * stride;
      std::vector<int64_t> window{o.bos};
      window.insert(window.end(), ids.begin() + begin, ids.begin() + begin + text);
      const at::Tensor q = log_probs(window.data(), o, false);
      const at::Tensor p = log_probs(window.data(), o, true);
      int64_t scored = 0;
      for (int64_t at = 0; at < text; ++at) {  // of the text: its first token has BOS before it
        if (w > 0 && begin + at < (w - 1) * stride + text) continue;
        const int64_t id = ids[static_cast<size_t>(begin + at)];
        nll -= q[at][id].item<double>();
        nll_dense -= p[at][id].item<double>();
        ++scored;
      }
      e.scored.push_back(scored);
      all += static_cast<double>(scored);
      e.kl += (p.exp() * (p - q)).sum(-1).mean().item<double>() / static_cast<double>(windows);
      e.top1 += p.argmax(-1).eq(q.argmax(-1)).to(at::kDouble).mean().item<double>() /
                static_cast<double>(windows);
    }
    e.perplexity = std::exp(nll / all);
    e.perplexity_dense = std::exp(nll_dense / all);
    return e;
  }

  /// [context, vocab] log-probabilities, double, of one window's chunks through a fresh cache.
  static at::Tensor log_probs(const int64_t* ids, const PerplexityOptions& o, bool dense) {
    CompressionConfig config = o.config;
    if (dense) config.policy = Policy::kDense;
    QuantizedKvCache cache =
        (*model_)->make_cache(config, dense ? CacheProtocol::kPrefill : o.protocol);
    std::vector<at::Tensor> rows;
    for (int64_t begin = 0; begin < o.context; begin += config.chunk_size) {
      const int64_t count = std::min(config.chunk_size, o.context - begin);
      rows.push_back((*model_)->forward(
          at::from_blob(const_cast<int64_t*>(ids + begin), {count}, at::kLong).clone(), cache,
          Logits::kAll));
    }
    return at::cat(rows).to(at::kDouble).log_softmax(-1).contiguous();
  }

  static Expected naive(const std::vector<int64_t>& ids, const PerplexityOptions& o,
                        int64_t windows) {
    const int64_t stride = o.stride > 0 ? o.stride : o.context;
    Expected e;
    double nll = 0, nll_dense = 0;
    int64_t all = 0;
    for (int64_t w = 0; w < windows; ++w) {
      const int64_t begin = w * stride;
      const at::Tensor q = log_probs(ids.data() + begin, o, false);
      const at::Tensor p = log_probs(ids.data() + begin, o, true);
      const int64_t vocab = q.size(1);
      // A token counts once: in the first window that holds it and something before it.
      int64_t scored = 0;
      for (int64_t at = 1; at < o.context; ++at) {
        if (w > 0 && begin + at < (w - 1) * stride + o.context) continue;
        const int64_t id = ids[static_cast<size_t>(begin + at)];
        nll -= q.const_data_ptr<double>()[(at - 1) * vocab + id];
        nll_dense -= p.const_data_ptr<double>()[(at - 1) * vocab + id];
        ++scored;
      }
      e.scored.push_back(scored);
      all += scored;
      e.kl += (p.exp() * (p - q)).sum(-1).mean().item<double>() / static_cast<double>(windows);
      e.top1 += p.argmax(-1).eq(q.argmax(-1)).to(at::kDouble).mean().item<double>() /
                static_cast<double>(windows);
    }
    e.perplexity = std::exp(nll / static_cast<double>(all));
    e.perplexity_dense = std::exp(nll_dense / static_cast<double>(all));
    return e;
  }

  static void expect_equal(const PerplexityResult& got, const Expected& want) {
    // exp() turns an absolute error of the mean into a relative one.
    const auto near = [](double a, double b) { return std::abs(a - b) <= kTolerance * (1 + b); };
    EXPECT_TRUE(near(got.perplexity, want.perplexity)) << got.perplexity << " " << want.perplexity;
    EXPECT_TRUE(near(got.perplexity_baseline, want.perplexity_dense))
        << got.perplexity_baseline << " " << want.perplexity_dense;
    EXPECT_TRUE(near(got.kl_mean, want.kl)) << got.kl_mean << " " << want.kl;
    EXPECT_TRUE(near(got.top1_agreement, want.top1)) << got.top1_agreement << " " << want.top1;
    ASSERT_EQ(got.windows.size(), want.scored.size());
    for (size_t w = 0; w < want.scored.size(); ++w) {
      EXPECT_EQ(got.windows[w].scored, want.scored[w]) << w;
    }
  }

  static testing::TemporaryFolder* folder_;
  static LlamaModel* model_;
};

testing::TemporaryFolder* PerplexityTest::folder_ = nullptr;
LlamaModel* PerplexityTest::model_ = nullptr;

TEST_F(PerplexityTest, EqualsTheNaiveEvaluation) {
  const auto ids = text(400);
  for (const CacheProtocol protocol : {CacheProtocol::kPrefill, CacheProtocol::kStress}) {
    PerplexityOptions o = options(192, 2);
    o.protocol = protocol;
    const PerplexityResult got = perplexity(*model_, ids, o);
    const Expected want = naive(ids, o, 2);
    EXPECT_GT(want.kl, 1e-6);
    expect_equal(got, want);
    EXPECT_EQ(got.windows_total, 2);
  }
}

TEST_F(PerplexityTest, StrideScoresEveryTokenOnce) {
  const auto ids = text(450);  // three windows even at a stride of a whole context
  for (const int64_t stride : {50, 100, 150}) {
    PerplexityOptions o = options(150, 3, stride);
    expect_equal(perplexity(*model_, ids, o), naive(ids, o, 3));
  }
}

TEST_F(PerplexityTest, NoNumberOfWindowsMeansAllWholeOnes) {
  const auto ids = text(3 * 100 + 99);  // The last 99 tokens fill no window.
  PerplexityOptions o = options(100, 0);
  expect_equal(perplexity(*model_, ids, o), naive(ids, o, 3));
}

TEST_F(PerplexityTest, ABosStandsBeforeEveryWindow) {
  const auto ids = text(450);
  for (const int64_t stride : {0, 149, 50, 1}) {
    PerplexityOptions o = options(150, 3, stride);
    o.bos = 1;
    const Expected want = naive_with_bos(ids, o, 3);
    const PerplexityResult got = perplexity(*model_, ids, o);
    expect_equal(got, want);
    EXPECT_EQ(got.windows[0].scored, 149);
    EXPECT_EQ(got.windows[0].compressed.cache.tokens, 150);
    // A text that begins with BOS gives it to the windows.
    std::vector<int64_t> led{1};
    led.insert(led.end(), ids.begin(), ids.end());
    expect_equal(perplexity(*model_, led, o), want);
    PerplexityOptions none = o;
    none.bos = -1;
    EXPECT_NE(perplexity(*model_, ids, none).perplexity, got.perplexity);
  }
  // Windows of 99 tokens of text: 3 * 99 do, one less does not.
  PerplexityOptions o = options(100, 0);
  o.bos = 1;
  expect_equal(perplexity(*model_, text(3 * 99), o), naive_with_bos(text(3 * 99), o, 3));
  EXPECT_EQ(perplexity(*model_, text(3 * 99 - 1), o).windows.size(), 2u);
}

TEST_F(PerplexityTest, ABrokenWindowIsNamedAndThoseBeforeItAreKept) {
  // Only token 7 is broken, and only the third window has it.
  ModelConfig config = (*model_)->config();
  config.tie_word_embeddings = false;
  LlamaModel model(config, at::kFloat);
  model->load_weights([&](const std::string& name) {
    at::Tensor weight = testing::random_llama("tiny", config)(name);
    if (name == "model.embed_tokens.weight") weight[7][3] = std::nan("");
    return weight;
  });
  auto ids = text(400);
  ids[230] = 7;
  for (const Policy policy : {Policy::kAdaptive, Policy::kDense}) {
    PerplexityOptions o = options(100, 4);
    o.config.policy = policy;
    const testing::TemporaryFolder logs;
    ResultLog log(logs.file("log.jsonl"), {});
    for (int again = 0; again < 2; ++again) {
      EXPECT_THAT(error_of([&] { perplexity(model, ids, o, &log); }),
                  AllOf(HasSubstr("window 2: "),
                        HasSubstr("weight 'model.embed_tokens.weight' holds NaN")));
      EXPECT_EQ(log.records().size(), 2u);
    }
    ids[230] = 8;
    EXPECT_TRUE(std::isfinite(perplexity(model, ids, o, &log).kl_mean));
    ids[230] = 7;
  }
}

TEST_F(PerplexityTest, AnInfiniteLikelihoodIsAnError) {
  // A logit of -inf is legal, but a text that has the token then has no perplexity. The same token
  // throughout gives the same states at all positions, so one row of the head can be made so.
  ModelConfig config = (*model_)->config();
  config.tie_word_embeddings = false;
  LlamaModel model(config, at::kFloat);
  model->load_weights(testing::random_llama("tiny", config));
  const std::vector<int64_t> ids(100, 9);
  const PerplexityOptions o = options(100, 1);
  EXPECT_EQ(error_of([&] { perplexity(model, ids, o); }), "");
  QuantizedKvCache cache = model->make_cache(o.config);
  const at::Tensor state = model->hidden_states({{at::tensor({int64_t{9}}), &cache}})[0];
  model->named_parameters()["lm_head.weight"][9].copy_(state.sign() * -3e38);
  const std::string error = error_of([&] { perplexity(model, ids, o); });
  EXPECT_THAT(error, HasSubstr("window 0: expected a finite log-likelihood, got inf"));
}

TEST_F(PerplexityTest, ResumedEqualsWhole) {
  const auto ids = text(400);
  for (const int64_t asked : {0, 4}) {
    PerplexityOptions o = options(100, asked);
    const testing::TemporaryFolder logs;
    ResultLog all(logs.file("all.jsonl"), {});
    const PerplexityResult whole = perplexity(*model_, ids, o, &all);
    ASSERT_EQ(whole.windows.size(), 4u);
    ASSERT_EQ(all.records().size(), 4u);
    for (size_t kept = 0; kept <= 4; ++kept) {
      ResultLog log(logs.file(std::to_string(kept) + ".jsonl"), {});
      for (size_t w = 0; w < kept; ++w) log.append(std::to_string(w), all.records()[w]);
      std::vector<int64_t> steps;  // Two chunks a window; those of the log's windows count as done.
      o.on_progress = [&](int64_t done, int64_t total) {
        steps.push_back(done);
        EXPECT_EQ(total, 8);
      };
      const PerplexityResult resumed = perplexity(*model_, ids, o, &log);
      ASSERT_EQ(steps.size(), 2 * (4 - kept));
      for (size_t i = 0; i < steps.size(); ++i) {
        EXPECT_EQ(steps[i], static_cast<int64_t>(2 * kept + i + 1));
      }
      EXPECT_EQ(log.records().size(), 4u);
      EXPECT_EQ(resumed.perplexity, whole.perplexity);
      EXPECT_EQ(resumed.perplexity_baseline, whole.perplexity_baseline);
      EXPECT_EQ(resumed.kl_mean, whole.kl_mean);
      EXPECT_EQ(resumed.top1_agreement, whole.top1_agreement);
      ASSERT_EQ(resumed.windows.size(), 4u);
      EXPECT_EQ(resumed.windows[0].scored, whole.windows[0].scored);
      EXPECT_EQ(resumed.windows[0].compressed.cache.kv_bytes,
                whole.windows[0].compressed.cache.kv_bytes);
      if (kept > 0) {  // Not run again: its time is that of the log.
        EXPECT_EQ(resumed.windows[0].dense.ttft_s, whole.windows[0].dense.ttft_s);
      }
    }
  }
}

TEST_F(PerplexityTest, AnInterruptionStopsAfterTheWindow) {
  PerplexityOptions o = options(100, 4);
  o.on_progress = [](int64_t, int64_t) { set_interrupted(true); };
  const auto ids = text(400);
  const testing::TemporaryFolder logs;
  ResultLog log(logs.file("log.jsonl"), {});
  const PerplexityResult got = perplexity(*model_, ids, o, &log);
  const PerplexityResult unlogged = perplexity(*model_, ids, o);
  set_interrupted(false);
  expect_equal(got, naive(ids, o, 1));
  expect_equal(unlogged, naive(ids, o, 1));
  EXPECT_EQ(got.windows_total, 4);
  EXPECT_EQ(log.records().size(), 1u);
}

TEST_F(PerplexityTest, AnUnusableRecordIsNamed) {
  const testing::TemporaryFolder logs;
  ResultLog log(logs.file("log.jsonl"), {});
  log.append("0", {{"nll", "much"}});
  EXPECT_THAT(error_of([&] { perplexity(*model_, text(200), options(100, 1), &log); }),
              AllOf(HasSubstr("log.jsonl: window 0"), HasSubstr("must be number")));
  // As older versions wrote NaN.
  ResultLog null(logs.file("null.jsonl"), {});
  null.append("0", {{"nll", nullptr}});
  EXPECT_THAT(error_of([&] { perplexity(*model_, text(200), options(100, 1), &null); }),
              AllOf(HasSubstr("null.jsonl: window 0"), HasSubstr("must be number")));
}

TEST_F(PerplexityTest, EachSideIsMeasured) {
  const PerplexityResult got = perplexity(*model_, text(200), options(200, 1));
  for (const RunStats* side : {&got.windows[0].compressed, &got.windows[0].dense}) {
    EXPECT_EQ(side->prompt_tokens, 200);
    EXPECT_GT(side->ttft_s, 0);
    EXPECT_EQ(side->cache.tokens, 200);
    EXPECT_GT(side->memory.samples, 0);
  }
  EXPECT_LT(got.windows[0].compressed.cache.kv_bytes, got.windows[0].dense.cache.kv_bytes);
}

TEST_F(PerplexityTest, WhatDoesNotFitIsNamed) {
  const auto message = [&](int64_t tokens, const PerplexityOptions& o) {
    return error_of([&] { perplexity(*model_, text(tokens), o); });
  };
  EXPECT_THAT(message(199, options(100, 2)), HasSubstr("at least 200 tokens"));
  EXPECT_THAT(message(99, options(100, 0)), HasSubstr("got 99"));
  EXPECT_THAT(message(0, options(100, 0)), HasSubstr("got 0"));
  EXPECT_THAT(message(99, options(1, 1)), HasSubstr("at least 2 tokens"));
  EXPECT_THAT(message(400, options(100, 1, 101)), HasSubstr("stride in 1..100"));
  PerplexityOptions with_bos = options(100, 2);
  with_bos.bos = 1;
  EXPECT_EQ(message(198, with_bos), "");
  EXPECT_THAT(message(197, with_bos), HasSubstr("at least 198 tokens for 2 windows of 99"));
  with_bos.stride = 100;
  EXPECT_THAT(message(400, with_bos), HasSubstr("stride in 1..99, got 100"));
  with_bos.stride = 0;
  for (const int64_t bad : {int64_t{704}, int64_t{-2}}) {
    with_bos.bos = bad;
    EXPECT_THAT(message(400, with_bos), HasSubstr("BOS in 0..703 or none, got"));
  }
}

}  // namespace
}  // namespace rillkv::eval
