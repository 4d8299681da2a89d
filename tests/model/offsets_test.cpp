// Constant offsets of keys and values, as Qwen2's biases make them: they cost the compressed cache
// nothing. Models are Qwen2-like, random, with seven query heads a kv head.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "rillkv/chunked_attention.h"
#include "rillkv/error.h"
#include "rillkv/llama.h"
#include "rillkv/safetensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_llama.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

using testing::expect_error;
using testing::random_integers;
using testing::random_llama;
using Source = std::function<at::Tensor(const std::string&)>;

constexpr int64_t kVocabulary = 61;

std::string qwen2_json(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  return str_cat(R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
      "vocab_size": )",
                 kVocabulary, R"(, "hidden_size": )", heads * head_dim,
                 R"(, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": )",
                 heads, R"(, "num_key_value_heads": )", kv_heads,
                 R"(, "rms_norm_eps": 1e-06, "max_position_embeddings": 1024,
      "rope_theta": 1000000.0, "use_sliding_window": false, "hidden_act": "silu",
      "tie_word_embeddings": false})");
}

ModelConfig qwen2(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  return ModelConfig::from_json(qwen2_json(heads, kv_heads, head_dim));
}

/// [kv_heads * head_dim] of +-1, another in every layer.
at::Tensor signs(const std::string& name, int64_t count) {
  std::vector<float> values;
  for (const int32_t n : random_integers(name, count))
    values.push_back((n & 1) != 0 ? 1.0f : -1.0f);
  return at::tensor(values);
}

/// The constant of every kv head for each head that reads it: [heads * head_dim].
at::Tensor of_heads(const at::Tensor& constant, const ModelConfig& config) {
  return constant.view({config.num_key_value_heads, 1, config.head_dim})
      .repeat({1, config.group_size(), 1})
      .reshape(-1);
}

/// A random model whose v_proj.bias is `size` times the values' spread in every channel. o_proj
/// does not see that direction, the hard case: the bias changes no logit of the exact model, so
/// all that it adds to the codes' ranges is loss. Small queries leave most of KL to the values.
Source with_value_bias(const ModelConfig& config, double size) {
  return [config, size, random = random_llama("offsets", config)](const std::string& name) {
    const at::Tensor weight = random(name);
    const std::string layer = name.substr(0, name.find("self_attn"));
    const at::Tensor direction = signs(layer, config.num_key_value_heads * config.head_dim);
    if (name.ends_with("v_proj.bias")) {
      // The layer's input has an rms of about one, so a value's spread is the norm of its row.
      const at::Tensor rows = random(layer + "self_attn.v_proj.weight");
      return direction * (rows.square().sum(1).mean().sqrt() * size);
    }
    if (name.ends_with("o_proj.weight")) {
      const at::Tensor seen = of_heads(direction, config).to(at::kDouble);
      const at::Tensor wide = weight.to(at::kDouble);
      return (wide - at::outer(at::mv(wide, seen), seen) / seen.dot(seen)).to(at::kFloat);
    }
    return name.ends_with("q_proj.weight") ? weight / 4 : weight;
  };
}

LlamaModel make(const ModelConfig& config, const Source& source, bool pack,
                at::ScalarType dtype = at::kFloat) {
  LlamaModel model(config, dtype);
  model->load_weights(source);
  if (pack) model->pack();
  return model;
}

at::Tensor tokens(const std::string& name, int64_t count) {
  std::vector<int64_t> ids;
  for (const int32_t n : random_integers(name, count)) ids.push_back(n % kVocabulary);
  return at::tensor(ids);
}

/// Logits of every position, [tokens, vocab], in chunks: all but the first read a compressed cache.
at::Tensor logits(const LlamaModel& model, const CompressionConfig& config, const at::Tensor& ids) {
  constexpr int64_t kChunk = 64;
  QuantizedKvCache cache = model->make_cache(config);
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < ids.size(0); begin += kChunk) {
    const int64_t end = std::min(ids.size(0), begin + kChunk);
    parts.push_back(model->forward(ids.slice(0, begin, end), cache, Logits::kAll));
  }
  return at::cat(parts);
}

/// KL(dense || compressed) in nats, the mean over positions.
double divergence(const LlamaModel& model, const CompressionConfig& config, const at::Tensor& ids) {
  const auto log_probabilities = [&](const CompressionConfig& which) {
    return logits(model, which, ids).to(at::kDouble).log_softmax(-1);
  };
  const at::Tensor exact = log_probabilities(config.baseline());
  return (exact.exp() * (exact - log_probabilities(config))).sum(-1).mean().item<double>();
}

/// Blocks of 32, so that short sequences seal several.
CompressionConfig preset(const std::string& name) {
  CompressionConfig config = CompressionConfig::preset(name);
  config.block_size = 32;
  return config;
}

struct Shape {
  int64_t heads, kv_heads, head_dim;
};

class Offsets : public ::testing::TestWithParam<Shape> {
 protected:
  ModelConfig config() const {
    const auto& [heads, kv_heads, head_dim] = GetParam();
    return qwen2(heads, kv_heads, head_dim);
  }
};

// ---- values ----

// The values that a cache gets are the same to the last bits whatever the bias, so KL is, but for
// codes that fall on the other side of a rounding: a fifth is far more than those are worth, and
// far less than the bias costs where it stays in (the next test).
TEST_P(Offsets, ValueBiasesOfAnySizeCostNothing) {
  const at::Tensor ids = tokens("values", 200);
  std::map<std::string, double> without;  // by preset
  for (const double size : {0.0, 1.6, 4.7, 20.0}) {
    const LlamaModel model = make(config(), with_value_bias(config(), size), true);
    for (const char* name : {"balanced", "seed"}) {
      const double found = divergence(model, preset(name), ids);
      if (size == 0) {
        without[name] = found;
        EXPECT_GT(found, 1e-6) << name << ": too little to compare";
      }
      EXPECT_LE(found, 1.2 * without[name]) << name << ", bias of " << size << " spreads";
      RecordProperty(str_cat(name, "_", size), str_cat(found / without[name]));
    }
  }
}

TEST_P(Offsets, ValueBiasesCostMuchWhereTheyStayIn) {
  const at::Tensor ids = tokens("values", 200);
  const auto cost = [&](double size) {  // models that are not packed keep them in
    return divergence(make(config(), with_value_bias(config(), size), false), preset("balanced"),
                      ids);
  };
  const double without = cost(0);
  EXPECT_GE(cost(1.6), 2 * without);
  EXPECT_GE(cost(4.7), 10 * without);
}

class ValueBiasRounding : public ::testing::TestWithParam<at::ScalarType> {};

/// Of the attention of a single token, whose softmax is one: its output is W_o (W_v x + b_v) + b_o.
struct SingleToken {
  at::Tensor x, value_weight, value_bias, output_weight, output_bias;  // double
};

// u: the dtype's unit roundoff. n: terms of a sum in float32. The value is rounded once and summed
// in float32, e = u |v| + n 2^-24 sum |w x|. The output's sum carries that, its own n 2^-24, and
// the rounding of the bias, of the output and (a product that rounds before it adds) of what is
// between: u (|bias| + |out| + |out - bias|). 1.01 covers what is of second order.
at::Tensor bound(const SingleToken& t, const ModelConfig& config, double u) {
  const double sum = std::ldexp(static_cast<double>(config.hidden_size), -24);
  const at::Tensor value = at::mv(t.value_weight, t.x);
  const at::Tensor value_error = u * value.abs() + sum * at::mv(t.value_weight.abs(), t.x.abs());
  const at::Tensor weight = t.output_weight.abs();
  const at::Tensor constant =
      at::mv(t.output_weight, of_heads(t.value_bias, config)) + t.output_bias;
  const at::Tensor product = at::mv(t.output_weight, of_heads(value, config));
  const at::Tensor summed = of_heads(value.abs() + t.value_bias.abs(), config);
  return 1.01 * (at::mv(weight, of_heads(value_error, config)) +
                 sum * (at::mv(weight, summed) + constant.abs()) +
                 u * (constant.abs() + product.abs() + (product + constant).abs()));
}

// Within what rounding alone explains, in every dtype, with a bias of the output as well: LLaMA's
// attention_bias. The wrong heads' bias, or none, is far outside.
TEST_P(ValueBiasRounding, OutputOfOneTokenIsExactUpToRounding) {
  const at::ScalarType dtype = GetParam();
  const double u = dtype == at::kFloat ? 0x1p-24 : dtype == at::kBFloat16 ? 0x1p-8 : 0x1p-11;
  for (const double size : {0.0, 1.6, 20.0}) {
    ModelConfig config = qwen2(14, 2, 16);
    config.o_bias = true;
    ChunkedLlamaAttention attention(config, 0, dtype);
    const Source source = with_value_bias(config, size);
    at::NoGradGuard no_grad;
    for (auto& item : attention->named_parameters()) {
      const at::Tensor weight = source("model.layers.0.self_attn." + item.key());
      // o_proj sees this bias.
      item.value().copy_(item.key() == "o_proj.weight" ? random_llama("seeing", config)(item.key())
                                                       : weight);
    }
    const at::Tensor x =
        (tokens("x", config.hidden_size).to(at::kDouble) / 30 - 1).to(dtype).unsqueeze(0);
    const auto wide = [](const at::Tensor& t) { return t.detach().clone().to(at::kDouble); };
    const SingleToken t{wide(x[0]), wide(attention->v_proj->weight), wide(attention->v_proj->bias),
                        wide(attention->o_proj->weight), wide(attention->o_proj->bias)};
    attention->pack();
    const at::Tensor exact =
        at::mv(t.output_weight, of_heads(at::mv(t.value_weight, t.x) + t.value_bias, config)) +
        t.output_bias;
    CacheGeometry geometry{1, 14, 2, 16, rope_inverse_frequencies(config)};
    QuantizedKvCache cache(geometry, CompressionConfig::preset("dense"), dtype);
    const at::Tensor error = (attention->forward(x, cache)[0].to(at::kDouble) - exact).abs();
    const at::Tensor share = error / bound(t, config, u);
    EXPECT_TRUE(share.max().item<double>() <= 1) << "bias of " << size << ": " << share.max();
  }
}

INSTANTIATE_TEST_SUITE_P(All, ValueBiasRounding,
                         ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return c10::toString(info.param); });

TEST(ValueBias, ParametersLoadedAfterPackAreFollowed) {
  const ModelConfig config = qwen2(7, 1, 16);
  const CompressionConfig dense = CompressionConfig::preset("dense");
  const at::Tensor ids = tokens("load", 40);
  const LlamaModel other = make(config, random_llama("other", config), true);
  LlamaModel model = make(config, random_llama("one", config), true);
  ASSERT_FALSE(at::equal(logits(model, dense, ids), logits(other, dense, ids)));
  std::stringstream archive;
  torch::save(other, archive);  // float32 is not packed, and its parameters are the checkpoint's
  torch::load(model, archive);
  EXPECT_TRUE(at::equal(logits(model, dense, ids), logits(other, dense, ids)));
  model->load_weights(random_llama("one", config));
  EXPECT_TRUE(at::equal(logits(model, dense, ids),
                        logits(make(config, random_llama("one", config), true), dense, ids)));
}

TEST(ValueBias, CheckpointsAreFoldedWhenLoaded) {
  const ModelConfig config = qwen2(7, 1, 16);
  const testing::TemporaryFolder folder;
  folder.write("config.json", qwen2_json(7, 1, 16));
  std::map<std::string, at::Tensor> weights;
  for_each_weight(config, [&](const std::string& name, const std::vector<int64_t>&) {
    weights[name] = with_value_bias(config, 4.7)(name);
  });
  write_safetensors(folder.file("model.safetensors"), weights);
  const at::Tensor ids = tokens("values", 320);
  EXPECT_TRUE(
      at::equal(logits(load_model(folder.path()), preset("balanced"), ids),
                logits(make(config, with_value_bias(config, 4.7), true), preset("balanced"), ids)));
}

// What the output would have been cannot be known: the cache says what is wrong, as it always has.
TEST(ValueBias, ABiasThatIsNotFiniteIsStillAnErrorOfTheCache) {
  const ModelConfig config = qwen2(7, 1, 16);
  for (const float wrong : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    const LlamaModel model = make(
        config,
        [&](const std::string& name) {
          at::Tensor weight = random_llama("broken", config)(name);
          if (name.ends_with("layers.0.self_attn.v_proj.bias")) weight[3] = wrong;
          return weight;
        },
        true);
    expect_error([&] { logits(model, preset("balanced"), tokens("broken", 40)); }, {"value"});
  }
}

// ---- keys ----

/// A random model whose k_proj.bias is 150 to 350 in four channels of every kv head, as the real
/// ones have it: of the lowest frequencies, where RoPE leaves it the same for all keys, so that no
/// softmax sees it.
Source with_key_bias(const ModelConfig& config) {
  return [config, random = random_llama("offsets", config)](const std::string& name) {
    at::Tensor weight = random(name);
    if (!name.ends_with("k_proj.bias")) return weight;
    at::Tensor heads = weight.view({config.num_key_value_heads, config.head_dim});
    const int64_t half = config.head_dim / 2;
    for (int64_t head = 0; head < heads.size(0); ++head) {
      heads[head][half - 1] = 150;
      heads[head][2 * half - 1] = -350;
      heads[head][half - 2] = -220;
      heads[head][2 * half - 2] = 290;
    }
    return weight;
  };
}

// The presets' sinks, whatever their widths. Sinks are exact where they hold 16 bits, and move the
// blocks by eight tokens, which is a draw of other roundings: over 2 x 200 tokens two draws of one
// KL differ by a few per cent, and a tenth is allowed.
TEST_P(Offsets, SinksAreNoWorseThanNoneBesideLargeKeyBiases) {
  const LlamaModel model = make(config(), with_key_bias(config()), true);
  for (const char* name : {"balanced", "quality"}) {
    double with = 0, without = 0;
    for (const char* text : {"keys 1", "keys 2"}) {
      const at::Tensor ids = tokens(text, 200);
      CompressionConfig none = preset(name);
      none.attention_sink_size = 0;
      with += divergence(model, preset(name), ids);
      without += divergence(model, none, ids);
    }
    EXPECT_GT(without, 1e-6) << name << ": too little to compare";
    EXPECT_LE(with, 1.1 * without) << name;
    RecordProperty(name, str_cat(with / without));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Offsets, ::testing::Values(Shape{14, 2, 64}, Shape{7, 1, 16}),
                         [](const auto& info) {
                           return str_cat("heads", info.param.heads, "_kv", info.param.kv_heads,
                                          "_d", info.param.head_dim);
                         });

}  // namespace
}  // namespace rillkv
