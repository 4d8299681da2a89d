// Numbers that are none: a pass that meets one throws, and says where it came from.
#include "model/non_finite.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "rillkv/error.h"
#include "rillkv/generation.h"
#include "rillkv/linear.h"
#include "rillkv/llama.h"
#include "tests/support/error_of.h"
#include "tests/support/random_llama.h"

namespace rillkv {
namespace {

using testing::error_of;
using Ids = std::vector<int64_t>;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// ---- the looks themselves ----

TEST(AllFinite, FindsOneAnywhereInAnyDtype) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const int64_t size : {1, 7, 8, 9, 31, 33, 200000}) {  // the last: several threads' parts
      at::Tensor x = at::full({size}, 60000.0, dtype);         // near the largest of fp16
      x[0] = -0.0;
      EXPECT_TRUE(all_finite(x));
      for (const int64_t at : {int64_t{0}, size / 2, size - 1}) {
        for (const float bad : {kNan, -kNan, kInf, -kInf}) {
          at::Tensor y = x.clone();
          y[at] = bad;
          EXPECT_FALSE(all_finite(y)) << dtype << " " << size << " " << at << " " << bad;
        }
      }
    }
  }
  EXPECT_TRUE(all_finite(at::empty({0, 3})));
  const at::Tensor wide = at::full({4, 8}, kNan);
  wide.narrow(1, 0, 4).fill_(1);
  EXPECT_TRUE(all_finite(wide.narrow(1, 0, 4)));  // what is between the rows is none of its own
  EXPECT_FALSE(all_finite(wide.narrow(1, 1, 4)));
}

TEST(UsableLogits, MaskedTokensAreAllowedBesideOthers) {
  const auto usable = [](std::vector<float> x) {
    return usable_logits(x.data(), static_cast<int64_t>(x.size()));
  };
  constexpr float kMax = std::numeric_limits<float>::max();
  EXPECT_TRUE(usable({0}));
  EXPECT_TRUE(usable({-kMax, kMax}));
  EXPECT_TRUE(usable({-kInf, 3, -kInf}));
  EXPECT_FALSE(usable({-kInf, -kInf}));
  EXPECT_FALSE(usable({}));
  for (int at = 0; at < 40; ++at) {
    for (const float bad : {kNan, -kNan, kInf}) {
      std::vector<float> x(40, 1.0f);
      x[static_cast<size_t>(at)] = bad;
      EXPECT_FALSE(usable(x)) << at << " " << bad;
    }
  }
}

TEST(UsableLogits, TheFirstBadRowIsFound) {
  for (const int64_t vocab : {5, 70000}) {
    at::Tensor x = at::zeros({40, vocab});
    EXPECT_EQ(first_unusable_row(x), -1);
    x[33][vocab - 1] = kNan;
    x[17][2] = kInf;
    x[3][0] = -kInf;
    EXPECT_EQ(first_unusable_row(x), 17);
    x[0].fill_(-kInf);
    EXPECT_EQ(first_unusable_row(x), 0);
  }
  EXPECT_EQ(first_unusable_row(at::zeros({0, 5})), -1);
}

// ---- models ----

ModelConfig small_config(bool tied = false, bool biased = false) {
  ModelConfig config = ModelConfig::from_json(R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 61,
  "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "max_position_embeddings": 128})");
  config.tie_word_embeddings = tied;
  config.qkv_bias = config.o_bias = biased;
  return config;
}

using Edit = std::function<void(const std::string&, at::Tensor&)>;

LlamaModel small_model(const ModelConfig& config, const Edit& edit,
                       at::ScalarType dtype = at::kFloat, bool pack = false) {
  LlamaModel model(config, dtype);
  const auto source = testing::random_llama("small", config);
  model->load_weights([&](const std::string& name) {
    at::Tensor weight = source(name).clone();
    edit(name, weight);
    return weight;
  });
  if (pack) model->pack();
  return model;
}

Ids prompt(int64_t count) {
  Ids ids;
  for (int32_t n : testing::random_integers("prompt", count)) ids.push_back(n % 61);
  return ids;
}

CompressionConfig config_of(Policy policy) {
  CompressionConfig config;
  config.policy = policy;
  config.block_size = 32;
  config.chunk_size = 16;
  return config;
}

std::string error_of_generate(const LlamaModel& model, Policy policy, bool top1 = false) {
  QuantizedKvCache cache = model->make_cache(config_of(policy));
  GenerationOptions options;
  options.max_new_tokens = 4;
  options.prompt_top1 = top1;
  return error_of([&] { generate(model, prompt(40), cache, options); });
}

TEST(BrokenWeight, IsNamedWhereverItIsAndWhateverReadsIt) {
  const ModelConfig config = small_config(/*tied=*/false, /*biased=*/true);
  std::vector<std::string> names;  // one layer's stand for all
  for_each_weight(config, [&](const std::string& name, const auto&) {
    if (name.find("layers.0.") == name.npos && name.find("layers.2.") == name.npos) {
      names.push_back(name);
    }
  });
  ASSERT_EQ(names.size(), 3u + 9 + 4);
  for (size_t n = 0; n < names.size(); ++n) {
    for (const bool packed : {false, true}) {
      // The last number of every row, so that every token meets it.
      const float bad = (n % 2 == 0) == packed ? kNan : kInf;
      const Edit edit = [&](const std::string& name, at::Tensor& weight) {
        if (name == names[n]) weight.select(weight.dim() - 1, -1).fill_(bad);
      };
      const std::string want =
          "weight '" + names[n] + "' holds " + (bad == kInf ? "infinity" : "NaN");
      const LlamaModel model =
          small_model(config, edit, packed ? at::kBFloat16 : at::kFloat, packed);
      for (const Policy policy : {Policy::kAdaptive, Policy::kDense}) {
        const std::string error = error_of_generate(model, policy);
        EXPECT_NE(error.find(want), std::string::npos) << error << "\n instead of " << want;
      }
    }
  }
}

TEST(BrokenWeight, OfATiedTableIsNamedAsTheTable) {
  for (const bool packed : {false, true}) {
    const LlamaModel model = small_model(
        small_config(/*tied=*/true),
        [](const std::string&, at::Tensor& weight) {
          if (weight.dim() == 2 && weight.size(0) == 61) weight[60][3] = kNan;
        },
        packed ? at::kBFloat16 : at::kFloat, packed);
    QuantizedKvCache cache = model->make_cache(config_of(Policy::kAdaptive));
    const std::string error = error_of([&] { generate(model, {1, 2, 3}, cache, {}); });
    EXPECT_NE(error.find("'model.embed_tokens.weight' holds NaN"), std::string::npos) << error;
  }
}

TEST(BrokenWeight, IsFoundInItsRowsWhereAPanelHoldsThoseOfTwo) {
  ModelConfig config = small_config();
  config.hidden_size = 80;  // 20 rows of keys and of values, 50 of each half of the MLP
  config.num_key_value_heads = 1;
  config.head_dim = 20;
  config.intermediate_size = 50;
  for (const char* broken : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                             "mlp.gate_proj", "mlp.up_proj"}) {
    for (const int64_t row : {0, -1}) {
      const LlamaModel model = small_model(
          config,
          [&](const std::string& name, at::Tensor& weight) {
            if (name.find(str_cat("layers.1.", broken)) != name.npos) weight[row][7] = kNan;
          },
          at::kBFloat16, /*pack=*/true);
      EXPECT_EQ(first_broken_weight(*model),
                str_cat("weight 'model.layers.1.", broken, ".weight' holds NaN"));
    }
  }
}

TEST(BrokenWeight, OneNumberIsEnough) {
  for (const char* broken :
       {"model.norm.weight", "model.layers.2.mlp.up_proj.weight", "lm_head.weight"}) {
    const Edit edit = [&](const std::string& name, at::Tensor& weight) {
      if (name == broken) weight.view({-1})[weight.numel() / 2] = kNan;
    };
    const LlamaModel model = small_model(small_config(), edit);
    for (const Policy policy : {Policy::kAdaptive, Policy::kEma, Policy::kDense}) {
      for (const bool top1 : {false, true}) {
        EXPECT_NE(error_of_generate(model, policy, top1).find(broken), std::string::npos)
            << broken << ": " << error_of_generate(model, policy, top1);
      }
    }
    for (const Logits which : {Logits::kLast, Logits::kAll}) {
      QuantizedKvCache cache = model->make_cache(config_of(Policy::kDense));
      const auto run = [&] { model->forward(at::tensor(prompt(9)), cache, which); };
      EXPECT_NE(error_of(run).find(broken), std::string::npos);
    }
  }
}

TEST(Overflow, NamesTheLayerInWhoseOutputItIs) {
  // Finite weights whose products are beyond float32: 3e38 times anything above 1.2 is.
  for (const int layer : {0, 1, 2}) {
    for (const char* part : {"self_attn.o_proj", "mlp.down_proj"}) {
      const std::string huge = "model.layers." + std::to_string(layer) + "." + part + ".weight";
      const LlamaModel model =
          small_model(small_config(), [&](const std::string& name, at::Tensor& weight) {
            if (name == huge) weight.copy_(weight.sign() * 3e38);
          });
      const std::string want = "output of layer " + std::to_string(layer) + ",";
      for (const Policy policy : {Policy::kAdaptive, Policy::kDense}) {
        for (const bool top1 : {false, true}) {
          const std::string error = error_of_generate(model, policy, top1);
          EXPECT_NE(error.find(want), std::string::npos) << huge << ": " << error;
          EXPECT_EQ(error.find('\n'), std::string::npos);
        }
      }
    }
  }
}

TEST(Overflow, OfOneTokenIsFoundInItsOwnChunkOfADenseCache) {
  // Token 60 alone has anything in channel 0, and the first MLP reads only that. What comes of it
  // stays in the caches of the layers above, where the last chunk would find it first.
  const LlamaModel model =
      small_model(small_config(), [](const std::string& name, at::Tensor& weight) {
        if (name == "model.embed_tokens.weight") {
          weight.select(1, 0).fill_(0);
          weight[60][0] = 50;
        }
        if (name == "model.layers.0.self_attn.o_proj.weight") weight[0].fill_(0);
        if (name == "model.layers.0.mlp.gate_proj.weight" ||
            name == "model.layers.0.mlp.up_proj.weight") {
          weight.fill_(0);
          weight.select(1, 0).fill_(1);
        }
        if (name == "model.layers.0.mlp.down_proj.weight") weight.fill_(3e38);
      });
  QuantizedKvCache cache = model->make_cache(config_of(Policy::kDense));
  Ids ids(40, 3);
  ids[5] = 60;
  QuantizedKvCache without = model->make_cache(config_of(Policy::kDense));
  EXPECT_EQ(error_of([&] { generate(model, Ids(40, 3), without, {}); }), "");
  const std::string error = error_of([&] { generate(model, ids, cache, {}); });
  EXPECT_NE(error.find("output of layer 0,"), std::string::npos) << error;
}

TEST(Overflow, OfTheHeadIsSaid) {
  const LlamaModel model =
      small_model(small_config(), [](const std::string& name, at::Tensor& weight) {
        if (name == "lm_head.weight") weight[7].fill_(3e38).mul_(weight[7].sign());
      });
  // With both signs in a row the sum is +inf, -inf or NaN: only the second may pass.
  QuantizedKvCache cache = model->make_cache(config_of(Policy::kAdaptive));
  const at::Tensor hidden = model->hidden_states({{at::tensor(prompt(1)), &cache}});
  at::Tensor row = model->named_parameters()["lm_head.weight"][7];
  row.copy_(hidden[0].sign() * 3e38);
  const std::string error = error_of([&] { model->logits(hidden); });
  EXPECT_NE(error.find("first appear in lm_head"), std::string::npos) << error;
  row.neg_();
  const at::Tensor logits = model->logits(hidden);
  EXPECT_EQ(logits[0][7].item<float>(), -kInf);
  EXPECT_NE(choose_token(logits[0], 0, 0), 7);
}

TEST(BrokenStates, GivenByTheCallerAreSaidToBe) {
  const LlamaModel model = small_model(small_config(), [](const std::string&, at::Tensor&) {});
  at::Tensor hidden = at::ones({2, 64});
  EXPECT_EQ(error_of([&] { model->logits(hidden); }), "");
  hidden[1][5] = kNan;
  const std::string error = error_of([&] { model->logits(hidden); });
  EXPECT_NE(error.find("first appear in the hidden states"), std::string::npos) << error;
}

TEST(BrokenStates, AKeyTooLargeForTheFormatNamesItsLayer) {
  const LlamaModel model =
      small_model(small_config(), [](const std::string& name, at::Tensor& weight) {
        if (name == "model.layers.1.self_attn.k_proj.weight") weight.mul_(1e6);
      });
  const std::string error = error_of_generate(model, Policy::kAdaptive);
  EXPECT_NE(error.find("layer 1: expected finite keys"), std::string::npos) << error;
  EXPECT_EQ(error.find("holds"), std::string::npos) << error;
  EXPECT_EQ(error_of_generate(model, Policy::kDense), "");
}

}  // namespace
}  // namespace rillkv
