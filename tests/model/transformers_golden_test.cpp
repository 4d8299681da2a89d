// Logits against Hugging Face transformers (scripts/make_goldens.py logits, smollm2).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/llama.h"
#include "rillkv/model_config.h"
#include "rillkv/safetensors.h"
#include "tests/support/random_llama.h"

namespace rillkv {
namespace {

using nlohmann::json;

json read_json(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file);
}

// float64, stored as the sum of two float32.
at::Tensor read_double(const SafetensorsFile& file, const std::string& prefix) {
  return file.tensor(prefix + "high").to(at::kDouble) + file.tensor(prefix + "low").to(at::kDouble);
}

struct Errors {
  double rms;
  double max;
};

Errors errors_of(const at::Tensor& logits, const at::Tensor& exact) {
  const at::Tensor difference = logits.to(at::kDouble) - exact;
  return {difference.pow(2).mean().sqrt().item<double>(), difference.abs().max().item<double>()};
}

// float32 may be as wrong as twice transformers' float32. That holds for the mean error, over a
// thousand logits and hardly subject to chance; the largest of them is one draw from a
// distribution's tail, which is given twice as much again. NaN fails both.
void expect_as_good_as_transformers(const Errors& errors, const json& golden) {
  EXPECT_LE(errors.rms, 2 * golden.at("transformers_rms_error").get<double>());
  EXPECT_LE(errors.max, 4 * golden.at("transformers_max_error").get<double>());
  ::testing::Test::RecordProperty("rms_error", std::to_string(errors.rms * 1e6) + "e-6");
}

CompressionConfig dense() {
  CompressionConfig config;
  config.policy = Policy::kDense;
  return config;
}

class RandomLlamaGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(RandomLlamaGolden, Float32LogitsEqualTransformers) {
  const std::string name = GetParam();
  const std::string folder = RILLKV_TEST_DATA_DIR "/random_llama/";
  std::ifstream config_file(folder + name + ".json");
  const std::string text((std::istreambuf_iterator<char>(config_file)), {});
  const ModelConfig config = ModelConfig::from_json(text, name);
  LlamaModel model(config, at::kFloat);
  model->load_weights(testing::random_llama(name, config));

  const json golden = read_json(folder + "goldens.json").at(name);
  const auto token_list = golden.at("tokens").get<std::vector<int64_t>>();
  const auto positions = golden.at("positions").get<std::vector<int64_t>>();
  QuantizedKvCache cache = model->make_cache(dense());
  const at::Tensor logits = model->forward(at::tensor(token_list), cache, Logits::kAll)
                                .index_select(0, at::tensor(positions));
  const SafetensorsFile file = SafetensorsFile::open(folder + "goldens.safetensors");
  expect_as_good_as_transformers(errors_of(logits, read_double(file, name + ".")), golden);
}

INSTANTIATE_TEST_SUITE_P(All, RandomLlamaGolden,
                         ::testing::Values("mha_d8_tied", "gqa_d64", "gqa_d80", "mha_d128",
                                           "linear_rope", "llama3_rope", "biases",
                                           "explicit_head_dim", "qwen2", "mistral"),
                         [](const auto& info) { return std::string(info.param); });

TEST(SmolLm2Golden, LastLogitsEqualTransformers) {
  const std::string model_folder = RILLKV_SOURCE_DIR "/models/smollm2-135m-instruct";
  if (!std::filesystem::exists(model_folder)) GTEST_SKIP() << "no " << model_folder;
  const std::string folder = RILLKV_TEST_DATA_DIR "/smollm2/";
  const json golden = read_json(folder + "goldens.json");
  const LlamaModel model = load_model(model_folder);
  QuantizedKvCache cache = model->make_cache(dense());
  const auto token_list = golden.at("tokens").get<std::vector<int64_t>>();
  const at::Tensor logits = model->forward(at::tensor(token_list), cache, Logits::kLast)[0];

  const auto ids = golden.at("ids").get<std::vector<int64_t>>();
  const SafetensorsFile file = SafetensorsFile::open(folder + "goldens.safetensors");
  const at::Tensor exact = read_double(file, "");
  expect_as_good_as_transformers(errors_of(logits.index_select(0, at::tensor(ids)), exact), golden);
  const auto top_ids = golden.at("top_ids").get<std::vector<int64_t>>();
  EXPECT_EQ(logits.argmax().item<int64_t>(), top_ids.front());
}

}  // namespace
}  // namespace rillkv
