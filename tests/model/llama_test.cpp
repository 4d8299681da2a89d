// LlamaModel over caches: batches, chunks, and steps that fail. Its numbers are proven against
// transformers in transformers_golden_test.cpp.
#include "rillkv/llama.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "rillkv/generation.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_llama.h"

namespace rillkv {
namespace {

using testing::expect_error;
using Ids = std::vector<int64_t>;

ModelConfig small_config() {
  return ModelConfig::from_json(R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 61,
  "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "max_position_embeddings": 512,
  "attention_bias": true, "tie_word_embeddings": false})");
}

LlamaModel small_model(at::ScalarType dtype = at::kFloat) {
  LlamaModel model(small_config(), dtype);
  model->load_weights(testing::random_llama("small", model->config()));
  if (dtype == at::kBFloat16) model->pack();
  return model;
}

Ids tokens(const std::string& name, int64_t count) {
  Ids ids;
  for (int32_t n : testing::random_integers(name, count)) ids.push_back(n % 61);
  return ids;
}

/// Blocks of 32 so that short sequences seal several.
CompressionConfig config(const char* preset) {
  CompressionConfig config = CompressionConfig::preset(preset);
  config.block_size = 32;
  config.attention_sink_size = 4;
  return config;
}

double rms(const at::Tensor& x) { return x.to(at::kDouble).pow(2).mean().sqrt().item<double>(); }

bool same_blocks(const QuantizedKvCache& a, const QuantizedKvCache& b) {
  for (int64_t layer = 0; layer < a.geometry().layers; ++layer) {
    const auto x = a.blocks(layer), y = b.blocks(layer);
    if (x.size() != y.size()) return false;
    for (size_t n = 0; n < x.size(); ++n) {
      if (!at::equal(x[n]->storage, y[n]->storage)) return false;
    }
  }
  return true;
}

// ---- batches ----

/// How many tokens each of three sequences gets in each step; a 1 is a decoding step.
constexpr int64_t kSteps[][3] = {{50, 7, 1}, {1, 40, 1}, {1, 1, 64}, {20, 1, 1}, {1, 1, 1}};
constexpr int kSequences = 3;

struct Outcome {
  std::vector<QuantizedKvCache> caches;
  std::vector<at::Tensor> logits;  // of every position, a sequence
};

Outcome run_batch(const LlamaModel& model, const CompressionConfig& config,
                  const std::vector<Ids>& sequences) {
  Outcome run;
  for (int s = 0; s < kSequences; ++s) run.caches.push_back(model->make_cache(config));
  std::vector<std::vector<at::Tensor>> parts(kSequences);
  int64_t done[kSequences] = {};
  for (const auto& step : kSteps) {
    std::vector<SequenceChunk> batch;
    for (int s = 0; s < kSequences; ++s) {
      batch.push_back(
          {at::tensor(sequences[s]).slice(0, done[s], done[s] + step[s]), &run.caches[s]});
      done[s] += step[s];
    }
    const auto logits = model->forward(batch, Logits::kAll);
    for (int s = 0; s < kSequences; ++s) parts[s].push_back(logits[s]);
  }
  for (const auto& part : parts) run.logits.push_back(at::cat(part));
  return run;
}

Outcome run_alone(const LlamaModel& model, const CompressionConfig& config,
                  const std::vector<Ids>& sequences) {
  Outcome run;
  for (int s = 0; s < kSequences; ++s) {
    run.caches.push_back(model->make_cache(config));
    std::vector<at::Tensor> parts;
    int64_t done = 0;
    for (const auto& step : kSteps) {
      const at::Tensor ids = at::tensor(sequences[s]).slice(0, done, done + step[s]);
      parts.push_back(model->forward(ids, run.caches.back(), Logits::kAll));
      done += step[s];
    }
    run.logits.push_back(at::cat(parts));
  }
  return run;
}

struct BatchCase {
  const char* preset;
  at::ScalarType dtype;
};

class Batches : public ::testing::TestWithParam<BatchCase> {
 protected:
  Batches() {
    for (int s = 0; s < kSequences; ++s) {
      int64_t length = 0;
      for (const auto& step : kSteps) length += step[s];
      sequences_.push_back(tokens("sequence " + std::to_string(s), length));
    }
  }
  std::vector<Ids> sequences_;
};

// A matrix multiplication may round a row differently when the number of rows changes, so the exact
// statement keeps that number: whoever the neighbours are, a sequence's logits and its sealed bytes
// are the same to the bit.
TEST_P(Batches, NeighboursChangeNothing) {
  const auto [preset, dtype] = GetParam();
  const LlamaModel model = small_model(dtype);
  const Outcome all = run_batch(model, config(preset), sequences_);
  for (int kept = 0; kept < kSequences; ++kept) {
    std::vector<Ids> others;
    for (int s = 0; s < kSequences; ++s) {
      others.push_back(s == kept ? sequences_[s] : tokens("other", sequences_[s].size()));
    }
    const Outcome run = run_batch(model, config(preset), others);
    EXPECT_TRUE(at::equal(run.logits[kept], all.logits[kept])) << "sequence " << kept;
    EXPECT_TRUE(same_blocks(run.caches[kept], all.caches[kept])) << "sequence " << kept;
    EXPECT_FALSE(at::equal(run.logits[(kept + 1) % 3], all.logits[(kept + 1) % 3]));
  }
}

TEST_P(Batches, EqualSeparateRuns) {
  const auto [preset, dtype] = GetParam();
  const LlamaModel model = small_model(dtype);
  const Outcome batch = run_batch(model, config(preset), sequences_);
  const Outcome alone = run_alone(model, config(preset), sequences_);
  const bool dense = config(preset).policy == Policy::kDense;
  // float32: two layers of four products of up to 128 terms round to 128^0.5 * 2^-24 < 1e-6 of
  // their size each, and a softmax over logits of order 10 amplifies that tenfold: 1e-4 leaves room
  // for a factor of ten. Where keys and values are quantised, such a difference may tip a code to
  // its neighbour: at 4 bits a step is 1/15 of a channel's range, in one of 50 or more tokens, so
  // the outputs move by 1/15/50 of their size at most and by 2 % in any case.
  // bfloat16: both are roundings of the float32 model, so the batch may be as far from it as the
  // separate run is, and no more than twice as far allows for the luck of the draw.
  const LlamaModel exact = small_model();
  const Outcome reference = run_alone(exact, config(preset), sequences_);
  for (int s = 0; s < kSequences; ++s) {
    ASSERT_EQ(batch.logits[s].sizes(), alone.logits[s].sizes());
    const double size = rms(reference.logits[s]);
    if (dtype == at::kFloat) {
      EXPECT_LE(rms(batch.logits[s] - alone.logits[s]), (dense ? 1e-4 : 0.02) * size) << s;
    } else {
      const double allowed = 2 * rms(alone.logits[s] - reference.logits[s]);
      EXPECT_LT(allowed, 0.5 * size) << "else the bound says nothing";
      EXPECT_LE(rms(batch.logits[s] - reference.logits[s]), allowed) << s;
    }
    EXPECT_EQ(batch.caches[s].length(), static_cast<int64_t>(sequences_[s].size()));
    const auto a = batch.caches[s].blocks(1), b = alone.caches[s].blocks(1);
    ASSERT_EQ(a.size(), b.size());
    EXPECT_EQ(a.empty(), dense);
    // Bytes: equal but for codes that such a rounding tips over. In float32 those are few (1e-6 of
    // the range against steps of 1/15 of it); a whole block that differs would be another block.
    if (dtype != at::kFloat) continue;
    for (size_t n = 0; n < a.size(); ++n) {
      const auto differing = (a[n]->storage != b[n]->storage).sum().item<int64_t>();
      EXPECT_LE(differing, a[n]->storage.numel() / 50) << "sequence " << s << ", block " << n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Batches,
    ::testing::Values(BatchCase{"balanced", at::kFloat}, BatchCase{"balanced", at::kBFloat16},
                      BatchCase{"seed", at::kFloat}, BatchCase{"seed", at::kBFloat16},
                      BatchCase{"dense", at::kFloat}, BatchCase{"dense", at::kBFloat16}),
    [](const auto& info) {
      return std::string(info.param.preset) + (info.param.dtype == at::kFloat ? "_f32" : "_bf16");
    });

TEST(LlamaModel, EverySequenceNeedsACacheOfItsOwn) {
  const LlamaModel model = small_model();
  QuantizedKvCache cache = model->make_cache(config("balanced"));
  const at::Tensor ids = at::tensor(Ids{1, 2, 3});
  expect_error([&] { model->forward({{ids, nullptr}}, Logits::kLast); }, {"cache", "null"});
  expect_error(
      [&] {
        model->forward({{ids, &cache}, {ids, &cache}}, Logits::kLast);
      },
      {"cache", "twice"});
  expect_error([&] { model->forward(std::vector<SequenceChunk>{}, Logits::kLast); },
               {"at least one sequence"});
  EXPECT_EQ(cache.length(), 0);

  const ChunkedLlamaAttention attention(small_config(), 0, at::kFloat);
  const at::Tensor hidden = at::zeros({4, 64});
  expect_error([&] { attention->forward(hidden, {{0, 4, nullptr}}); }, {"cache", "null"});
  expect_error(
      [&] {
        attention->forward(hidden, {{0, 2, &cache}, {2, 4, &cache}});
      },
      {"cache", "twice"});
  EXPECT_EQ(cache.length(), 0);
}

TEST(LlamaModel, BadTokensChangeNothing) {
  const LlamaModel model = small_model();
  QuantizedKvCache a = model->make_cache(config("balanced")), b = model->make_cache(config("seed"));
  const at::Tensor good = at::tensor(Ids{1, 2, 3});
  for (const Ids& bad : {Ids{61}, Ids{-1}, Ids{0, 60, 61}, Ids{}}) {
    EXPECT_THROW(model->forward({{good, &a}, {at::tensor(bad, at::kLong), &b}}, Logits::kLast),
                 Error);
  }
  EXPECT_THROW(model->forward({{good.to(at::kInt), &a}}, Logits::kLast), Error);
  EXPECT_EQ(a.length(0) + a.length(1) + b.length(0) + b.length(1), 0);
}

TEST(LlamaModel, CachesOfAStepThatFailedMustBeReset) {
  LlamaModel model = small_model();
  at::NoGradGuard no_grad;
  at::Tensor weight = model->named_parameters()["layers.1.self_attn.k_proj.weight"];
  const at::Tensor good = weight.clone();
  for (const char* preset : {"balanced", "seed"}) {
    QuantizedKvCache a = model->make_cache(config(preset)), b = model->make_cache(config(preset));
    const at::Tensor ids = at::tensor(tokens("x", 20));
    const std::vector<SequenceChunk> batch{{ids, &a}, {ids, &b}};
    const at::Tensor expected = model->forward(batch, Logits::kLast)[1];
    weight.fill_(std::numeric_limits<float>::infinity());
    EXPECT_THROW(model->forward(batch, Logits::kLast), Error);
    EXPECT_EQ(a.length(0), 40);
    EXPECT_EQ(a.length(1), 20);
    weight.copy_(good);
    // Both stopped half way, though only the first one's call threw.
    for (QuantizedKvCache* cache : {&a, &b}) {
      EXPECT_FALSE(cache->in_step());
      expect_error([&] { model->forward(ids, *cache, Logits::kLast); }, {"half way", "reset()"});
    }
    a.reset();
    b.reset();
    EXPECT_TRUE(at::equal(model->forward(batch, Logits::kLast)[1], expected)) << preset;
  }
}

// ---- chunks ----

TEST(LlamaModel, DenseChunkedPrefillEqualsOneShot) {
  const LlamaModel model = small_model();
  const at::Tensor ids = at::tensor(tokens("long", 400));
  const auto logits = [&](int64_t chunk) {
    QuantizedKvCache cache = model->make_cache(CompressionConfig::preset("dense"));
    std::vector<at::Tensor> parts;
    for (int64_t begin = 0; begin < ids.size(0); begin += chunk) {
      const int64_t end = std::min(begin + chunk, ids.size(0));
      parts.push_back(model->forward(ids.slice(0, begin, end), cache, Logits::kAll));
    }
    return at::cat(parts);
  };
  const at::Tensor whole = logits(400);
  ASSERT_EQ(whole.sizes(), at::IntArrayRef({400, 61}));
  const double size = rms(whole);
  for (int64_t chunk : {1, 7, 256, 1000}) {
    const at::Tensor difference = logits(chunk) - whole;
    // The same float32 sums in another order, at every position: see EqualSeparateRuns for 1e-4.
    // The largest of 24400 differences is within 5 deviations of a normal one.
    EXPECT_LE(rms(difference), 1e-4 * size) << "chunk " << chunk;
    EXPECT_LE(difference.abs().max().item<double>(), 5e-4 * size) << "chunk " << chunk;
  }
}

// What is asked for changes what the last layer computes, not what it would be, and no byte of the
// caches.
TEST(LlamaModel, TheLastRowsAreThoseOfAll) {
  const LlamaModel model = small_model();
  const Ids first = tokens("first", 70), second = tokens("second", 45);
  const auto run = [&](Logits which) {
    std::pair<std::vector<QuantizedKvCache>, std::vector<at::Tensor>> result;
    auto& caches = result.first;
    for (int s = 0; s < 2; ++s) caches.push_back(model->make_cache(config("balanced")));
    for (int64_t step : {0, 1}) {  // the second step of one token for one of them
      result.second = model->forward(
          {{at::tensor(first).slice(0, 35 * step, 35 * step + 35), &caches[0]},
           {step == 0 ? at::tensor(second).slice(0, 0, 44) : at::tensor(second).slice(0, 44),
            &caches[1]}},
          which);
    }
    return result;
  };
  const auto all = run(Logits::kAll), last = run(Logits::kLast), none = run(Logits::kNone);
  for (size_t s = 0; s < 2; ++s) {
    const at::Tensor expected = all.second[s].slice(0, -1);
    ASSERT_EQ(last.second[s].sizes(), at::IntArrayRef({1, 61}));
    // The same float32 sums in another order in one MLP: see EqualSeparateRuns for 1e-4.
    EXPECT_LE(rms(last.second[s] - expected), 1e-4 * rms(expected)) << s;
    EXPECT_FALSE(none.second[s].defined());
    EXPECT_TRUE(same_blocks(all.first[s], last.first[s])) << s;
    EXPECT_TRUE(same_blocks(all.first[s], none.first[s])) << s;
    EXPECT_FALSE(all.first[s].blocks(1).empty());
    EXPECT_EQ(none.first[s].length(), s == 0 ? 70 : 45);
  }
}

// Up to max_position_embeddings dynamic scaling is none; beyond, every frequency would change.
TEST(LlamaModel, DynamicScalingIsRefusedWhereItWouldBegin) {
  ModelConfig dynamic = small_config();
  dynamic.rope_scaling = RopeScaling::kDynamic;
  dynamic.rope_factor = 4;
  LlamaModel model(dynamic, at::kFloat), plain = small_model();
  model->load_weights(testing::random_llama("small", dynamic));
  const Ids ids = tokens("dynamic", 513);
  QuantizedKvCache cache = model->make_cache(config("dense"));
  QuantizedKvCache reference = plain->make_cache(config("dense"));
  const at::Tensor prompt = at::tensor(ids).slice(0, 0, 512);
  EXPECT_TRUE(at::equal(model->forward(prompt, cache, Logits::kLast),
                        plain->forward(prompt, reference, Logits::kLast)));
  for (const Logits which : {Logits::kNone, Logits::kLast, Logits::kAll}) {
    expect_error([&] { model->forward(at::tensor(Ids{1}), cache, which); },
                 {"max_position_embeddings (512)", "dynamic", "513"});
  }
  EXPECT_EQ(cache.length(), 512);
  plain->forward(at::tensor(Ids{1}), reference, Logits::kLast);  // others may go on
  cache.reset();
  expect_error([&] { model->forward(at::tensor(ids), cache, Logits::kLast); }, {"513"});
  EXPECT_EQ(cache.length(), 0);

  // generate refuses before the prompt is read. The last of the new tokens is never fed back.
  const auto run = [&](int64_t prompt_tokens, int64_t new_tokens) {
    cache.reset();
    GenerationOptions options;
    options.max_new_tokens = new_tokens;
    return generate(model, Ids(ids.begin(), ids.begin() + prompt_tokens), cache, options)
        .tokens.size();
  };
  EXPECT_EQ(run(509, 4), 4u);
  EXPECT_EQ(run(512, 1), 1u);
  EXPECT_EQ(run(512, 0), 0u);
  expect_error([&] { run(509, 5); }, {"max_position_embeddings (512)", "dynamic", "514"});
  expect_error([&] { run(513, 0); }, {"max_position_embeddings (512)", "dynamic", "513"});
  EXPECT_EQ(cache.length(), 0);
}

}  // namespace
}  // namespace rillkv
