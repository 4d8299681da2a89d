// Weights from the outside: torch::save and torch::load, load_weights, `to`, checkpoints that lie.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <map>
#include <sstream>

#include "rillkv/files.h"
#include "rillkv/llama.h"
#include "rillkv/memory.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_llama.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

using testing::expect_error;

// Biases in every linear layer, and two query heads a kv head.
constexpr char kConfig[] = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 61,
  "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "max_position_embeddings": 256,
  "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": TIED})";

ModelConfig config(bool tied) {
  std::string text = kConfig;
  text.replace(text.find("TIED"), 4, tied ? "true" : "false");
  return ModelConfig::from_json(text);
}

LlamaModel random_model(const std::string& name, bool tied = false,
                        at::ScalarType dtype = at::kFloat) {
  LlamaModel model(config(tied), dtype);
  model->load_weights(testing::random_llama(name, model->config()));
  return model;
}

at::Tensor logits(const LlamaModel& model) {
  QuantizedKvCache cache = model->make_cache(CompressionConfig::preset("dense"));
  return model->forward(at::arange(40, at::kLong), cache, Logits::kAll);
}

TEST(Weights, SavedAndLoadedModelComputesTheSame) {
  for (const bool tied : {false, true}) {
    const LlamaModel original = random_model("a", tied);
    LlamaModel copy = random_model("b", tied);
    ASSERT_FALSE(at::equal(logits(copy), logits(original)));
    std::stringstream archive;
    torch::save(original, archive);
    torch::load(copy, archive);
    EXPECT_TRUE(at::equal(logits(copy), logits(original))) << "tied " << tied;
  }
}

TEST(Weights, LoadingConvertsTheDtype) {
  std::stringstream archive;
  torch::save(random_model("a"), archive);
  LlamaModel half(config(false), at::kHalf);
  torch::load(half, archive);
  EXPECT_TRUE(at::equal(logits(half), logits(random_model("a", false, at::kHalf))));
}

TEST(Weights, AttentionModuleIsSavedAndLoadedAlone) {
  const ModelConfig shape = config(false);
  ChunkedLlamaAttention original(shape, 0, at::kFloat), copy(shape, 0, at::kFloat);
  at::manual_seed(1);
  at::NoGradGuard no_grad;
  for (auto& item : original->named_parameters()) item.value().normal_();
  for (auto& item : copy->named_parameters()) item.value().normal_();
  const at::Tensor hidden = at::randn({20, shape.hidden_size});
  const auto forward = [&](const ChunkedLlamaAttention& module) {
    CacheGeometry geometry{1, 4, 2, 16, rope_inverse_frequencies(shape)};
    QuantizedKvCache cache(geometry, CompressionConfig::preset("dense"), at::kFloat);
    return module->forward(hidden, cache);
  };
  ASSERT_FALSE(at::equal(forward(copy), forward(original)));
  std::stringstream archive;
  torch::save(original, archive);
  // q, k and v are views of one tensor; each is written alone. Parameters: 64 x (64 + 2 x 32) + 128
  // fused, 64 x 64 + 64 of o_proj, 4 bytes each; the rest is Torch's own framing.
  const size_t bytes = 4 * (64 * 128 + 128 + 64 * 64 + 64);
  EXPECT_LT(archive.str().size(), bytes + 20000);
  torch::load(copy, archive);
  EXPECT_TRUE(at::equal(forward(copy), forward(original)));
}

TEST(Weights, LoadingAnotherShapeIsAnError) {
  std::stringstream archive;
  torch::save(random_model("a"), archive);
  ModelConfig wider = config(false);
  wider.intermediate_size = 128;
  LlamaModel model(wider, at::kFloat);
  expect_error([&] { torch::load(model, archive); }, {"weight", "[128, 64]", "[96, 64]"});
}

TEST(Weights, MovingAndConvertingAreRefusedBeforeAnythingChanges) {
  LlamaModel model = random_model("a");
  const at::Tensor before = logits(model);
  expect_error([&] { model->to(at::kBFloat16); }, {"convert", "Float", "BFloat16"});
  expect_error([&] { model->to(at::Device(at::kMeta)); }, {"move", "cpu", "meta"});
  expect_error([&] { model->to(at::Device(at::kCPU), at::kHalf); }, {"convert", "Half"});
  EXPECT_TRUE(at::equal(logits(model), before));
  model->to(at::Device(at::kCPU), at::kFloat);  // it is so already
  EXPECT_TRUE(at::equal(logits(model), before));
  ChunkedLlamaAttention attention(config(false), 0, at::kFloat);
  EXPECT_THROW(attention->to(at::kHalf), Error);
}

TEST(Weights, PackedModelsAreNeitherSavedNorLoaded) {
  std::stringstream plain, sink;
  torch::save(random_model("a"), plain);
  LlamaModel model = random_model("a", false, at::kBFloat16);
  EXPECT_FALSE(model->packed());
  model->pack();
  ASSERT_EQ(model->packed(), multiplies_bfloat16());
  if (!model->packed()) {  // this machine packs nothing: both must work
    torch::load(model, plain);
    torch::save(model, sink);
    return;
  }
  const at::Tensor before = logits(model);
  expect_error([&] { torch::save(model, sink); }, {"before pack"});
  expect_error([&] { torch::load(model, plain); }, {"before pack"});
  expect_error([&] { model->load_weights(testing::random_llama("b", model->config())); },
               {"before pack"});
  EXPECT_TRUE(at::equal(logits(model), before));
  EXPECT_THROW(model->to(at::kFloat), Error);
}

/// A checkpoint folder whose config.json says `says` in place of "hidden_size": 64.
void write_checkpoint(const testing::TemporaryFolder& folder, const std::string& key,
                      const std::string& value) {
  nlohmann::json json = nlohmann::json::parse(
      std::string(kConfig).replace(std::string(kConfig).find("TIED"), 4, "false"));
  const ModelConfig truth = ModelConfig::from_json(json.dump());
  if (!key.empty()) json[key] = nlohmann::json::parse(value);
  folder.write("config.json", json.dump());
  std::map<std::string, at::Tensor> weights;
  const auto source = testing::random_llama("a", truth);
  for_each_weight(truth, [&](const std::string& name, const std::vector<int64_t>& shape) {
    weights[name] = source(name);
    EXPECT_EQ(weights[name].sizes(), at::IntArrayRef(shape)) << name;
  });
  write_safetensors(folder.file("model.safetensors"), weights);
}

TEST(Weights, CheckpointWalkNamesExactlyTheModelsParameters) {
  for (const bool tied : {false, true}) {
    LlamaModel model(config(tied), at::kFloat);
    std::map<std::string, std::vector<int64_t>> walked, own;
    for_each_weight(model->config(), [&](const std::string& name, const auto& shape) {
      EXPECT_TRUE(walked.emplace(name, shape).second) << name << " twice";
    });
    for (const auto& item : model->named_parameters()) {
      const bool head = item.key() == "lm_head.weight";
      own[head ? item.key() : "model." + item.key()] = item.value().sizes().vec();
    }
    EXPECT_EQ(walked, own) << "tied " << tied;
  }
}

TEST(Weights, LyingConfigsFailBeforeMemoryIsTaken) {
  const testing::TemporaryFolder honest;
  write_checkpoint(honest, "", "");
  LlamaModel loaded = random_model("a");
  loaded->pack();  // float32 packs nothing, but folds the biases of v_proj
  EXPECT_TRUE(at::equal(logits(load_model(honest.path())), logits(loaded)));

  struct Lie {
    const char *key, *value, *names;
  };
  // Any of them would need gigabytes to terabytes.
  for (const Lie& lie : {Lie{"vocab_size", "16777216", "model.embed_tokens.weight"},
                         Lie{"hidden_size", "4194304", "model.embed_tokens.weight"},
                         Lie{"intermediate_size", "16777216", "gate_proj"},
                         Lie{"num_hidden_layers", "16000000", "model.layers.2."},
                         Lie{"head_dim", "1048576", "q_proj"}}) {
    const testing::TemporaryFolder folder;
    write_checkpoint(folder, lie.key, lie.value);
    const int64_t before = peak_rss_bytes();
    expect_error([&] { load_model(folder.path()); }, {lie.names});
    EXPECT_LT(peak_rss_bytes() - before, int64_t{64} << 20) << lie.key;
  }
}

}  // namespace
}  // namespace rillkv
