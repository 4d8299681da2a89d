// What compression costs on a real model, against an independent implementation of the method
// (scripts/quality_reference.py, which writes tests/data/quality/goldens.json). The default model
// in float32 on a text of the project's own.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "rillkv/files.h"
#include "rillkv/llama.h"
#include "rillkv/tokenizer.h"

namespace rillkv {
namespace {

using nlohmann::json;

constexpr char kModel[] = RILLKV_SOURCE_DIR "/models/smollm2-135m-instruct";
constexpr char kData[] = RILLKV_TEST_DATA_DIR "/quality/";

class Quality : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!std::filesystem::exists(kModel)) return;
    golden_ = json::parse(read_file(std::string(kData) + "goldens.json"));
    model_ = load_model(kModel);
    for (at::Tensor& part : logits("dense", CacheProtocol::kPrefill, nullptr)) {
      dense_.push_back(part.log_softmax(-1));
    }
  }
  static void TearDownTestSuite() {
    model_ = nullptr;
    dense_.clear();
  }
  void SetUp() override {
    if (model_.is_empty()) GTEST_SKIP() << "no " << kModel << ": scripts/make_default_model.sh";
  }

  /// row: as goldens.json names it, a preset and maybe settings, "balanced,error_feedback=true".
  static CompressionConfig config_of(const std::string& row) {
    std::istringstream parts(row);
    std::string part;
    std::getline(parts, part, ',');
    CompressionConfig config = CompressionConfig::load(part);
    while (std::getline(parts, part, ',')) config.set(part);
    return config;
  }

  /// Of every position, a chunk each.
  static std::vector<at::Tensor> logits(const std::string& row, CacheProtocol protocol,
                                        CacheReport* report) {
    CompressionConfig config = config_of(row);
    const auto ids = golden_.at("tokens").get<std::vector<int64_t>>();
    const int64_t count = static_cast<int64_t>(ids.size());
    const int64_t chunk = golden_.at("chunk").get<int64_t>();
    config.set("chunk_size=" + std::to_string(chunk));
    QuantizedKvCache cache = model_->make_cache(config, protocol);
    std::vector<at::Tensor> parts;
    for (int64_t begin = 0; begin < count; begin += chunk) {
      const at::Tensor part = at::tensor(ids).slice(0, begin, std::min(begin + chunk, count));
      parts.push_back(model_->forward(part, cache, Logits::kAll));
    }
    if (report != nullptr) *report = cache.report();
    return parts;
  }

  /// The design's bound: KL within 10 % of the reference's, or 2e-5, or better. The reference and
  /// the library compute in different orders, so now and then a code or a width falls the other
  /// way.
  void expect_cost(const std::string& name, const std::string& protocol) {
    const json& row = golden_.at("presets").at(name);
    CacheReport report;
    const auto seen = logits(
        name, protocol == "stress" ? CacheProtocol::kStress : CacheProtocol::kPrefill, &report);
    double kl = 0, agree = 0, positions = 0;
    for (size_t i = 0; i < seen.size(); ++i) {
      const at::Tensor& p = dense_[i];
      const at::Tensor q = seen[i].log_softmax(-1);
      kl += (p.exp() * (p - q)).sum(-1).to(at::kDouble).sum().item<double>();
      agree += (p.argmax(-1) == q.argmax(-1)).sum().item<double>();
      positions += static_cast<double>(p.size(0));
    }
    kl /= positions;
    const double expected = row.at(protocol).at("kl").get<double>();
    EXPECT_LE(kl, expected + std::max(0.1 * expected, 2e-5)) << name << " " << protocol;
    // A cache that compressed nothing would beat any bound.
    EXPECT_GE(kl, 0.5 * expected) << name << " " << protocol;
    // Top-1 agreement counts positions, and near ties fall either way with the order of sums, which
    // differs from the reference's and between instruction sets. A share p of n independent
    // positions has variance p (1 - p) / n. If the noise here and the reference's had nothing in
    // common, the difference of the two shares would have twice that; what they have in common
    // makes it less. Three deviations: 0.9 to 6.5 points.
    const double top1 = row.at(protocol).at("top1").get<double>();
    const double deviation = std::sqrt(2 * top1 * (1 - top1) / positions);
    EXPECT_GE(agree / positions, top1 - 3 * deviation) << name << " " << protocol;
    // The reference counts codes and metadata; blocks are padded to 64 bytes twice, for 128 x 64
    // elements: less than 2 * 64 * 8 / 8192 bits an element.
    const double bits = row.at("bits").get<double>();
    EXPECT_GE(report.kv_bits_sealed.total, bits - 1e-9) << name << " " << protocol;
    EXPECT_LE(report.kv_bits_sealed.total, bits + 2.0 * 64 * 8 / 8192) << name << " " << protocol;
    std::printf(
        "%-28s %-8s KL %.5f, reference %.5f; top-1 %.4f, %.4f (deviation %.4f); %.3f bits, %.3f\n",
        name.c_str(), protocol.c_str(), kl, expected, agree / positions, top1, deviation,
        report.kv_bits_sealed.total, bits);
  }

  static json golden_;
  static LlamaModel model_;
  static std::vector<at::Tensor> dense_;  // log-probabilities, a chunk each
};

json Quality::golden_;
LlamaModel Quality::model_{nullptr};
std::vector<at::Tensor> Quality::dense_;

TEST_F(Quality, DensePerplexityIsTheReferences) {
  const auto ids = Tokenizer::load(kModel)->encode(read_file(std::string(kData) + "text.txt"),
                                                   /*add_bos=*/false);
  const auto expected = golden_.at("tokens").get<std::vector<int64_t>>();
  ASSERT_GE(ids.size(), expected.size());
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), ids.begin()));

  const at::Tensor targets = at::tensor(expected).slice(0, 1).unsqueeze(1);
  const at::Tensor all = at::cat(dense_);
  const double nll = -all.slice(0, 0, -1).gather(1, targets).to(at::kDouble).mean().item<double>();
  // Both are float32; their logits agree to about 1e-4 (transformers_golden_test.cpp).
  EXPECT_NEAR(std::exp(nll) / golden_.at("perplexity").get<double>(), 1, 1e-4);
}

TEST_F(Quality, CompressionCostsWhatTheReferenceSays) {
  // One test, so that the uncompressed run is made once. The presets of a policy differ in numbers
  // only, so one of each shows what the other protocol makes of them.
  for (const char* preset : {"balanced", "quality", "compact", "extreme", "seed"}) {
    expect_cost(preset, "stress");
  }
  for (const char* preset : {"balanced", "seed"}) expect_cost(preset, "prefill");
  // Provisional blocks read the moments of queries and leave them as they are; sealed ones do not.
  for (const char* row : {"balanced,error_feedback=true", "balanced-trellis", "extreme-trellis"}) {
    for (const char* protocol : {"stress", "prefill"}) expect_cost(row, protocol);
  }
}

}  // namespace
}  // namespace rillkv
