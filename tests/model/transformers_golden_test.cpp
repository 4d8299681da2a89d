// Logits against Hugging Face transformers (scripts/make_goldens.py logits, smollm2).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/files.h"
#include "rillkv/llama.h"
#include "rillkv/model_config.h"
#include "rillkv/safetensors.h"
#include "tests/support/random_llama.h"

namespace rillkv {
namespace {

using nlohmann::json;

json read_json(const std::string& path) { return json::parse(read_file(path)); }

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

// Against the exact logits, a run may be as wrong as twice transformers' run in the same dtype, in
// the mean and in the largest of the logits compared. Both round every activation to the dtype once
// an operation, in other orders, so their errors are two draws of the same size. NaN fails both.
void expect_as_good_as_transformers(const Errors& errors, const json& golden) {
  EXPECT_LE(errors.rms, 2 * golden.at("transformers_rms_error").get<double>());
  EXPECT_LE(errors.max, 2 * golden.at("transformers_max_error").get<double>());
}

struct GoldenCase {
  const char* name;
  at::ScalarType dtype;
};

class RandomLlamaGolden : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(RandomLlamaGolden, LogitsEqualTransformers) {
  const auto& [name, dtype] = GetParam();
  const std::string folder = RILLKV_TEST_DATA_DIR "/random_llama/";
  const ModelConfig config =
      ModelConfig::from_json(read_file(folder + name + ".json"), std::string(name));
  LlamaModel model(config, dtype);
  model->load_weights(testing::random_llama(name, config));
  model->pack();  // what load_model does; bfloat16 then runs the library's own kernels

  const json golden = read_json(folder + "goldens.json").at(name);
  const auto token_list = golden.at("tokens").get<std::vector<int64_t>>();
  const auto positions = golden.at("positions").get<std::vector<int64_t>>();
  const SafetensorsFile file = SafetensorsFile::open(folder + "goldens.safetensors");
  const at::Tensor exact = read_double(file, std::string(name) + ".");
  QuantizedKvCache cache = model->make_cache(CompressionConfig::preset("dense"));
  const at::Tensor logits = model->forward(at::tensor(token_list), cache, Logits::kAll)
                                .index_select(0, at::tensor(positions));
  const json& errors = dtype == at::kFloat      ? golden
                       : dtype == at::kBFloat16 ? golden.at("bfloat16")
                                                : golden.at("float16");
  expect_as_good_as_transformers(errors_of(logits, exact), errors);
}

std::vector<GoldenCase> golden_cases() {
  std::vector<GoldenCase> cases;
  for (const char* name : {"mha_d8_tied", "gqa_d64", "gqa_d80", "mha_d128", "linear_rope",
                           "llama3_rope", "biases", "explicit_head_dim", "qwen2", "mistral"}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      cases.push_back({name, dtype});
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, RandomLlamaGolden, ::testing::ValuesIn(golden_cases()),
                         [](const auto& info) {
                           return std::string(info.param.name) + "_" +
                                  c10::toString(info.param.dtype);
                         });

TEST(SmolLm2Golden, LastLogitsEqualTransformers) {
  const std::string model_folder = RILLKV_SOURCE_DIR "/models/smollm2-135m-instruct";
  if (!std::filesystem::exists(model_folder)) GTEST_SKIP() << "no " << model_folder;
  const std::string folder = RILLKV_TEST_DATA_DIR "/smollm2/";
  const json golden = read_json(folder + "goldens.json");
  const LlamaModel model = load_model(model_folder);
  QuantizedKvCache cache = model->make_cache(CompressionConfig::preset("dense"));
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
