// Weights from the outside: torch::save and torch::load, load_weights, `to`, checkpoints that lie.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
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

using Tensors = std::map<std::string, at::Tensor>;

/// What the model "a" consists of, its head included.
Tensors tensors() {
  Tensors result;
  const auto source = testing::random_llama("a", config(false));
  for_each_weight(config(false), [&](const std::string& name, const std::vector<int64_t>&) {
    result[name] = source(name);
  });
  return result;
}

constexpr char kTable[] = "model.embed_tokens.weight", kHead[] = "lm_head.weight";

/// Writes config.json with its `tied`, and `content` as model.safetensors.
void write_model(const testing::TemporaryFolder& folder, bool tied, const Tensors& content) {
  folder.write("config.json", std::string(kConfig).replace(std::string(kConfig).find("TIED"), 4,
                                                           tied ? "true" : "false"));
  write_safetensors(folder.file("model.safetensors"), content);
}

struct Loaded {
  at::Tensor logits;
  bool tied;
  std::string warnings;  // as they were logged, without the folder's name
};

Loaded load(const testing::TemporaryFolder& folder, at::ScalarType dtype = at::kFloat) {
  ::testing::internal::CaptureStderr();
  Loaded result;
  try {
    const LlamaModel model = load_model(folder.path(), {dtype});
    result = {logits(model), model->config().tie_word_embeddings, {}};
  } catch (...) {
    ::testing::internal::GetCapturedStderr();
    throw;
  }
  result.warnings = ::testing::internal::GetCapturedStderr();
  for (size_t at; (at = result.warnings.find(folder.path())) != std::string::npos;) {
    result.warnings.erase(at, folder.path().size());
  }
  return result;
}

size_t lines(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }

Loaded load(bool tied, const Tensors& content, at::ScalarType dtype = at::kFloat) {
  const testing::TemporaryFolder folder;
  write_model(folder, tied, content);
  return load(folder, dtype);
}

// config.json says one thing, the tensors another: the tensors count, as in transformers.
TEST(Weights, TheHeadThatIsThereCounts) {
  Tensors different = tensors(), none = different, equal = different, other_dtype = different;
  none.erase(kHead);
  equal[kHead] = equal[kTable].clone();
  other_dtype[kHead] = other_dtype[kHead].to(at::kHalf);
  struct Case {
    const char* name;
    bool says_tied;
    const Tensors& content;
    bool tied;
    const char* warning;  // "": none
  };
  const Case cases[] = {
      {"tied, no head", true, none, true, ""},
      {"tied, the same head", true, equal, true, ""},
      {"tied, a different head", true, different, false, "\"lm_head.weight\" is not"},
      {"tied, a head of another dtype", true, other_dtype, false, "\"lm_head.weight\" is not"},
      {"untied, a head", false, different, false, ""},
      {"untied, the same head", false, equal, false, ""},
      {"untied, no head", false, none, true, "no \"lm_head.weight\" is there"},
  };
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor tied = load(true, none, dtype).logits;
    const at::Tensor untied = load(false, different, dtype).logits;
    ASSERT_FALSE(at::equal(tied, untied));
    for (const Case& item : cases) {
      SCOPED_TRACE(item.name);
      const Loaded loaded = load(item.says_tied, item.content, dtype);
      EXPECT_EQ(loaded.tied, item.tied);
      if (&item.content == &other_dtype) {
        EXPECT_FALSE(at::equal(loaded.logits, tied));
      } else {
        const bool table = item.tied || &item.content == &equal;
        EXPECT_TRUE(at::equal(loaded.logits, table ? tied : untied));
      }
      EXPECT_NE(loaded.warnings.find(item.warning), std::string::npos) << loaded.warnings;
      EXPECT_EQ(lines(loaded.warnings), *item.warning == '\0' ? 0u : 1u) << loaded.warnings;
    }
  }
}

TEST(Weights, AHeadThatDoesNotFitOrATableThatIsMissingIsAnError) {
  Tensors content = tensors();
  content[kHead] = at::zeros({60, 64});
  for (const bool tied : {false, true}) {
    expect_error([&] { load(tied, content); }, {"lm_head.weight", "[61, 64]", "[60, 64]"});
  }
  content = tensors();
  content.erase(kTable);
  for (const bool tied : {false, true}) {
    expect_error([&] { load(tied, content); }, {"model.embed_tokens.weight", "missing"});
  }
}

TEST(Weights, NamesOfModelsSavedWithoutTheirHeadAndInsideOthersAreFound) {
  const Tensors plain = tensors();
  Tensors none = plain, base, nested = plain;
  none.erase(kHead);
  for (const auto& [name, tensor] : none) base[name.substr(std::string("model.").size())] = tensor;
  Tensors base_with_head = base;
  base_with_head[kHead] = plain.at(kHead);
  nested["model.lm_head.weight"] = nested[kHead];
  nested.erase(kHead);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor tied = load(true, none, dtype).logits;
    const at::Tensor untied = load(false, plain, dtype).logits;
    const Loaded alone = load(true, base, dtype);
    EXPECT_TRUE(at::equal(alone.logits, tied));
    EXPECT_EQ(alone.warnings, "");
    EXPECT_EQ(lines(load(false, base, dtype).warnings), 1u);  // "no lm_head.weight is there"
    for (const Tensors* content : {&base_with_head, &nested}) {
      const Loaded loaded = load(false, *content, dtype);
      EXPECT_TRUE(at::equal(loaded.logits, untied));
      EXPECT_EQ(loaded.warnings, "");
    }
  }
  // A name of its own comes first; the other is a tensor that nobody uses.
  Tensors both = plain;
  both["norm.weight"] = at::full({64}, 7.0f);
  const Loaded loaded = load(false, both);
  EXPECT_TRUE(at::equal(loaded.logits, load(false, plain).logits));
  EXPECT_NE(loaded.warnings.find("1 tensor is not used by this model: \"norm.weight\""),
            std::string::npos)
      << loaded.warnings;
  // Neither name is one that could be anything else.
  Tensors wrong = none;
  wrong["models.norm.weight"] = wrong["model.norm.weight"];
  wrong.erase("model.norm.weight");
  expect_error([&] { load(true, wrong); }, {"\"model.norm.weight\"", "missing"});
}

TEST(Weights, UnusedTensorsAreOneWarning) {
  Tensors content = tensors();
  const auto with = [&](const std::vector<std::string>& names) {
    Tensors result = content;
    for (const std::string& name : names) result[name] = at::ones({2});
    return load(false, result).warnings;
  };
  EXPECT_EQ(with({}), "");
  EXPECT_EQ(with({"model.layers.0.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"}), "");
  std::string warning = with({"model.layers.0.self_attn.k_scale", "rotary_emb.inv_freq"});
  EXPECT_NE(warning.find("1 tensor is not used by this model: "
                         "\"model.layers.0.self_attn.k_scale\"\n"),
            warning.npos)
      << warning;
  warning = with({"e", "d", "c", "model.layers.2.mlp.up_proj.weight", "lora\nA"});
  EXPECT_NE(warning.find("5 tensors are not used by this model: \"c\", \"d\", \"e\" and 2 more\n"),
            warning.npos)
      << warning;
  EXPECT_EQ(lines(warning), 1u);
  EXPECT_NE(with({"lora\nA"}).find("\"lora\\x0aA\""), std::string::npos);
}

TEST(Weights, ABiasThatConfigJsonDenies) {
  const testing::TemporaryFolder folder;
  write_model(folder, false, tensors());
  nlohmann::json json = nlohmann::json::parse(read_file(folder.file("config.json")));
  json["attention_bias"] = false;
  folder.write("config.json", json.dump());
  const std::string warning = load(folder).warnings;
  EXPECT_NE(warning.find("8 tensors are not used"), warning.npos) << warning;
  EXPECT_NE(warning.find("_proj.bias\" and 5 more"), warning.npos) << warning;
}

TEST(Weights, ShardsThatNobodyNeedsMayBeMissing) {
  const testing::TemporaryFolder folder;
  write_model(folder, true, {});
  std::filesystem::remove(folder.file("model.safetensors"));
  Tensors content = tensors();
  content.erase(kHead);
  write_safetensors(folder.file("1.safetensors"), content);
  nlohmann::json map = {{"mtp.fc.weight", "2.safetensors"},
                        {"model.layers.0.self_attn.rotary_emb.inv_freq", "1.safetensors"}};
  for (const auto& item : content) map[item.first] = "1.safetensors";
  const auto write_index = [&] {
    folder.write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  };
  write_index();
  const Loaded loaded = load(folder);
  EXPECT_TRUE(at::equal(loaded.logits, load(true, content).logits));
  EXPECT_NE(loaded.warnings.find("not used by this model: \"mtp.fc.weight\"\n"), std::string::npos)
      << loaded.warnings;
  // A head that should be there is needed, or the table would take its place without a word.
  map[kHead] = "2.safetensors";
  write_index();
  expect_error([&] { load(folder); }, {"\"2.safetensors\"", "missing", "\"lm_head.weight\""});
  map.erase(kHead);
  map["model.norm.weight"] = "2.safetensors";
  content.erase("model.norm.weight");
  write_safetensors(folder.file("1.safetensors"), content);
  write_index();
  expect_error([&] { load(folder); }, {"\"2.safetensors\"", "missing", "\"model.norm.weight\""});
}

}  // namespace
}  // namespace rillkv
