// What transformers read of a table of config.json texts, and what they refuse
// (scripts/goldens/config.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/error.h"
#include "rillkv/model_config.h"

namespace rillkv {
namespace {

using nlohmann::json;

const json& cases() {
  static const json root = json::parse(std::ifstream(RILLKV_TEST_DATA_DIR "/config/goldens.json"));
  return root.at("cases");
}

/// Relative. transformers compute theta^-e in float32: rounding e <= 1 by half an ulp, 2^-24,
/// changes the power by ln(theta) * 2^-24; pow, the division and the scaling add at most 8 ulps.
/// llama3 interpolates by (turns - low) / (high - low) with turns <= high, whose error weighs up to
/// the factor's share of the result.
double tolerance(const ModelConfig& config) {
  double result = 0x1p-24 * (std::log(config.rope_theta) + 8);
  if (config.rope_scaling == RopeScaling::kLlama3) {
    result *= 1 + config.rope_factor * config.rope_high_freq_factor /
                      (config.rope_high_freq_factor - config.rope_low_freq_factor);
  }
  return result;
}

/// The largest relative difference; infinite where the counts differ or a number is NaN.
double largest_difference(const std::vector<double>& ours, const json& theirs) {
  if (ours.size() != theirs.size()) return std::numeric_limits<double>::infinity();
  double result = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double error = std::abs(ours[i] / theirs[i].get<double>() - 1);
    if (!(error <= result)) {
      result = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
    }
  }
  return result;
}

/// Token ids as transformers keep them, without those that mean none.
std::vector<int64_t> ids(const json& value) {
  std::vector<int64_t> result;
  for (const json& id : value.is_array() ? value : json::array({value})) {
    if (!id.is_null() && id >= 0) result.push_back(id);
  }
  return result;
}

void compare(const json& golden, const ModelConfig& config) {
  const std::vector<double> ours = rope_inverse_frequencies(config);
  EXPECT_LE(largest_difference(ours, golden.at("inverse_frequencies")), tolerance(config));
  EXPECT_EQ(golden.at("attention_scaling"), 1.0);
  EXPECT_EQ(config.num_key_value_heads, golden.at("kv_heads"));
  EXPECT_EQ(config.head_dim, golden.at("head_dim"));
  EXPECT_EQ(config.tie_word_embeddings, golden.at("tie"));
  EXPECT_EQ(config.eos_token_ids, ids(golden.at("eos")));
  const std::vector<int64_t> bos = ids(golden.at("bos"));
  EXPECT_EQ(config.bos_token_id, bos.empty() ? -1 : bos[0]);
  EXPECT_EQ(config.rope_scaling == RopeScaling::kDynamic, golden.contains("limit"));
  if (!golden.contains("limit")) {
    EXPECT_EQ(config.position_limit(), std::numeric_limits<int64_t>::max());
    return;
  }
  // The last length at which dynamic scaling changes nothing.
  EXPECT_EQ(config.position_limit(), golden.at("limit"));
  EXPECT_LE(largest_difference(ours, golden.at("at_limit")), tolerance(config));
  EXPECT_GT(largest_difference(ours, golden.at("beyond")), 100 * tolerance(config));
}

TEST(ModelConfigGolden, ReadsWhatTransformersReadAndRefusesTheRest) {
  int read = 0, refused = 0;
  for (const json& golden : cases()) {
    const auto text = golden.at("config").get<std::string>();
    SCOPED_TRACE(golden.at("name").get<std::string>() + ": " + text);
    const bool raises = golden.contains("raises");
    const bool expected = golden.contains("ours") ? golden["ours"] == "read" : !raises;
    try {
      const ModelConfig config = ModelConfig::from_json(text, "config.json");
      EXPECT_TRUE(expected) << "was read";
      if (expected && !raises) compare(golden, config);
      ++read;
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_FALSE(expected) << message;
      // One line that names the file, the key, what was expected and what was found.
      EXPECT_EQ(message.find('\n'), message.npos) << message;
      for (const char* part : {"config.json: key \"", "expected ", ", found "}) {
        EXPECT_NE(message.find(part), message.npos) << message << "\nlacks: " << part;
      }
      ++refused;
    }
  }
  EXPECT_GT(read, 50);
  EXPECT_GT(refused, 50);
}

}  // namespace
}  // namespace rillkv
