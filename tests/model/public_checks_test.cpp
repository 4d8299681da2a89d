// Public functions of the model check what they are given.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <sstream>

#include "rillkv/llama.h"
#include "tests/support/expect_error.h"

namespace rillkv {
namespace {

using testing::expect_error;

ModelConfig config() {
  return ModelConfig::from_json(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 61,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "max_position_embeddings": 256})");
}

TEST(PublicChecks, LinearShapes) {
  expect_error([] { Linear(0, 4, false, at::kFloat); }, {"one input and one output", "0 and 4"});
  expect_error([] { Linear(4, -1, false, at::kFloat); }, {"4 and -1"});
  expect_error([] { Linear(at::Tensor(), at::Tensor()); }, {"weight", "undefined"});
  expect_error([] { Linear(at::ones({4}), at::Tensor()); }, {"weight", "[4]"});
  expect_error([] { Linear(at::ones({4, 2}), at::ones({2})); }, {"bias of [4]", "[2]"});
  for (const bool pack : {false, true}) {  // packed, a wrong shape would be read past its end
    Linear layer(at::ones({8, 6}, at::kBFloat16), at::Tensor());
    if (pack && !layer->pack()) continue;
    const at::Tensor x = at::ones({3, 6}, at::kBFloat16);
    EXPECT_EQ(layer->forward(x).sizes(), at::IntArrayRef({3, 8}));
    expect_error([&] { layer->forward(x.slice(1, 0, 4)); }, {"[rows, 6]", "[3, 4]"});
    expect_error([&] { layer->forward(x[0]); }, {"[rows, 6]", "[6]"});
    expect_error([&] { layer->forward(x.to(at::kFloat)); }, {"BFloat16", "Float"});
    expect_error([&] { layer->forward({}); }, {"undefined"});
  }
}

TEST(PublicChecks, AttentionRowsAndLayer) {
  const ModelConfig shape = config();
  expect_error([&] { ChunkedLlamaAttention(shape, -1, at::kFloat); }, {"layer >= 0", "got -1"});
  ModelConfig odd = shape;
  odd.num_key_value_heads = 3;
  expect_error([&] { ChunkedLlamaAttention(odd, 0, at::kFloat); }, {"4 heads, 3 kv heads"});
  ChunkedLlamaAttention attention(shape, 0, at::kFloat);
  LlamaModel model(shape, at::kFloat);
  QuantizedKvCache a = model->make_cache(CompressionConfig());
  QuantizedKvCache b = model->make_cache(CompressionConfig());
  const at::Tensor hidden = at::ones({5, 64});
  expect_error([&] { attention->forward({}, a); }, {"undefined"});
  expect_error([&] { attention->forward(hidden[0], a); }, {"[64]"});
  using Rows = std::vector<SequenceRows>;
  for (const Rows& rows :
       {Rows{}, Rows{{0, 4, &a}}, Rows{{1, 5, &a}}, Rows{{0, 6, &a}}, Rows{{0, 3, &a}, {2, 5, &b}},
        Rows{{0, 7, &a}, {7, 5, &b}}, Rows{{-1, 5, &a}}}) {
    expect_error([&] { attention->forward(hidden, rows); }, {"ChunkedLlamaAttention", "rows"});
  }
  EXPECT_EQ(a.length() + b.length(), 0);
}

TEST(PublicChecks, ModelArguments) {
  ModelConfig bad = config();
  bad.num_hidden_layers = 0;
  expect_error([&] { LlamaModel(bad, at::kFloat); }, {"layers", "and 0"});
  expect_error([] { LlamaModel(config(), at::kDouble); }, {"Double"});
  LlamaModel model(config(), at::kFloat);
  expect_error([&] { model->load_weights({}); }, {"source of weights"});
  expect_error([&] { model->load_weights([](const std::string&) { return at::Tensor(); }); },
               {"weight '", "undefined"});
  QuantizedKvCache cache = model->make_cache(CompressionConfig());
  expect_error([&] { model->forward(at::Tensor(), cache, Logits::kLast); }, {"undefined"});
  expect_error([&] { model->logits({}); }, {"undefined"});
  expect_error([&] { model->logits(at::ones({2, 32})); }, {"[rows, 64]", "[2, 32]"});
  expect_error([&] { model->logits(at::ones({2, 64}, at::kHalf)); }, {"Half"});
}

TEST(PublicChecks, AnArchiveThatLacksAParameterIsNamed) {
  std::stringstream archive;
  torch::save(Linear(4, 2, /*with_bias=*/false, at::kFloat), archive);
  Linear layer(4, 2, /*with_bias=*/true, at::kFloat);
  expect_error([&] { torch::load(layer, archive); }, {"parameter 'bias'"});
  std::stringstream other;
  torch::save(Linear(4, 2, false, at::kFloat), other);
  LlamaModel model(config(), at::kFloat);
  expect_error([&] { torch::load(model, other); }, {"module 'embed_tokens'"});
}

}  // namespace
}  // namespace rillkv
