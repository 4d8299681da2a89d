// The real Qwen2.5-Coder-0.5B against Hugging Face transformers (scripts/goldens/qwen_logits.py).
// Skipped where the model is not there.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/files.h"
#include "rillkv/llama.h"

namespace rillkv {
namespace {

using nlohmann::json;

constexpr char kFolder[] = RILLKV_SOURCE_DIR "/models/qwen2.5-coder-0.5b";

json golden() {
  return json::parse(read_file(RILLKV_TEST_DATA_DIR "/qwen2.5-coder-0.5b/goldens.json"));
}

/// How wrong rows of logits are: of the 32 largest rms and maximum; of the statistics over the
/// whole vocabulary the maximum. In double.
struct Errors {
  double top_rms, top_max, mean, rms, log_sum_exp;
};

Errors errors_of(const at::Tensor& logits, const json& rows) {
  Errors errors{};
  double squares = 0;
  int64_t count = 0;
  // std::max(old, NaN) would keep the old value.
  const auto raise = [](double& to, double found, double expected) {
    const double error = std::abs(found - expected);
    if (!(error <= to)) to = error;
    return error;
  };
  for (const json& row : rows) {
    const at::Tensor found = logits[row.at("position").get<int64_t>()].to(at::kDouble);
    const auto ids = row.at("top_ids").get<std::vector<int64_t>>();
    const auto top = row.at("top").get<std::vector<double>>();
    for (size_t i = 0; i < ids.size(); ++i) {
      const double error = raise(errors.top_max, found[ids[i]].item<double>(), top[i]);
      squares += error * error;
      ++count;
    }
    raise(errors.mean, found.mean().item<double>(), row.at("mean"));
    raise(errors.rms, found.square().mean().sqrt().item<double>(), row.at("rms"));
    raise(errors.log_sum_exp, found.logsumexp(0).item<double>(), row.at("log_sum_exp"));
  }
  errors.top_rms = std::sqrt(squares / static_cast<double>(count));
  return errors;
}

class QwenGolden : public ::testing::TestWithParam<at::ScalarType> {};

// Against the exact logits a run may be as wrong as three times transformers' run in the same
// dtype. Both round every activation once an operation, in other orders, so their errors are two
// draws of one size; but errors of 32 logits of one row are nearly one number (a rounding of the
// last hidden state moves them together), so there are seven draws, not 224: the ratio of two rms
// of seven normal draws is beyond 3 about once in two hundred, and a wrong bias, position or
// rotation is thousands of times larger.
TEST_P(QwenGolden, LogitsEqualTransformers) {
  if (!std::filesystem::exists(kFolder)) {
    GTEST_SKIP() << "no models/qwen2.5-coder-0.5b (Qwen2.5-Coder-0.5B-Instruct): "
                    "scripts/make_default_model.sh --model qwen2.5-coder-0.5b makes it";
  }
  const at::ScalarType dtype = GetParam();
  const json expected = golden();
  const json& limits =
      expected.at("transformers_errors").at(dtype == at::kFloat ? "float32" : "bfloat16");
  LoadOptions options;
  options.dtype = dtype;
  const LlamaModel model = load_model(kFolder, options);
  QuantizedKvCache cache = model->make_cache(CompressionConfig::preset("dense"));
  const auto tokens = expected.at("tokens").get<std::vector<int64_t>>();
  const at::Tensor logits = model->forward(at::tensor(tokens), cache, Logits::kAll);
  const Errors errors = errors_of(logits, expected.at("rows"));
  const auto check = [&](const char* name, double error) {
    const double limit = 3 * limits.at(name).get<double>();
    EXPECT_LE(error, limit) << name;
    RecordProperty(std::string(name) + "_of_limit", std::to_string(error / limit));
  };
  check("top_rms", errors.top_rms);
  check("top_max", errors.top_max);
  check("mean", errors.mean);
  check("rms", errors.rms);
  check("log_sum_exp", errors.log_sum_exp);
}

INSTANTIATE_TEST_SUITE_P(All, QwenGolden, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return c10::toString(info.param); });

}  // namespace
}  // namespace rillkv
