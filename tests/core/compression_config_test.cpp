// The configuration's keys, ranges, presets and errors.
#include "rillkv/compression_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "rillkv/error.h"

namespace rillkv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string usage_error(const std::string& json) {
  try {
    CompressionConfig::from_json(json);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "no error";
}

TEST(CompressionConfig, DefaultsAreTheBalancedPreset) {
  CompressionConfig balanced = CompressionConfig::preset("balanced");
  EXPECT_EQ(balanced.to_json(), CompressionConfig().to_json());
  EXPECT_EQ(balanced.policy, Policy::kAdaptive);
  EXPECT_DOUBLE_EQ(balanced.key_bits_mean, 4.25);
}

TEST(CompressionConfig, SeedPresetHasTheOriginalsDefaults) {
  const auto seed = CompressionConfig::preset("seed");
  EXPECT_EQ(seed.policy, Policy::kEma);
  EXPECT_EQ(seed.chunk_size, 256);
  EXPECT_EQ(seed.attention_sink_size, 8);
  EXPECT_DOUBLE_EQ(seed.ema_decay, 0.99);
  EXPECT_DOUBLE_EQ(*seed.outlier_threshold_abs, 6.0);
  EXPECT_DOUBLE_EQ(*seed.outlier_threshold_relative, 5.0);
  EXPECT_EQ(seed.key_bits_normal, 4);
  EXPECT_EQ(seed.key_bits_sink_outlier, 8);
  EXPECT_EQ(seed.value_bits_normal, 4);
  EXPECT_EQ(seed.value_bits_sink_outlier, 8);
  EXPECT_EQ(seed.value_quant_groups, -1);
}

TEST(CompressionConfig, AdaptivePresetsKeepSinksAsTheyAre) {
  int adaptive = 0;
  for (const std::string& name : CompressionConfig::preset_names()) {
    const auto preset = CompressionConfig::preset(name);
    const int64_t bits = preset.policy == Policy::kEma ? 8 : 16;
    EXPECT_EQ(preset.key_bits_sink_outlier, bits) << name;
    EXPECT_EQ(preset.value_bits_sink_outlier, bits) << name;
    adaptive += preset.policy == Policy::kAdaptive;
  }
  EXPECT_GE(adaptive, 4);
}

TEST(CompressionConfig, TrellisWidthsAreWithinOneToSeven) {
  CompressionConfig config = CompressionConfig::from_json(
      R"({"policy": "trellis", "key_bits_mean": 7, "value_bits_mean": 7})");
  EXPECT_EQ(config.policy, Policy::kTrellis);
  EXPECT_EQ(CompressionConfig::from_json(config.to_json()).to_json(), config.to_json());
  EXPECT_THAT(
      usage_error(R"({"policy": "trellis", "key_bits_mean": 7.5})"),
      HasSubstr("'key_bits_mean': expected a number in 1..7 under policy \"trellis\", got 7.5"));
  EXPECT_EQ(usage_error(R"({"key_bits_mean": 7.5})"), "no error");
  for (const char* bits : {"0.9", "7.1", "\"four\"", "null"}) {
    EXPECT_THAT(
        usage_error(std::string(R"({"policy": "trellis", "value_bits_mean": )") + bits + "}"),
        HasSubstr("'value_bits_mean': expected a number in 1..7"));
  }
}

TEST(CompressionConfig, ErrorsAreFedBackUnderTrellisOrWhereAskedFor) {
  CompressionConfig config;
  EXPECT_FALSE(config.feeds_back());
  config.set("error_feedback=true");
  EXPECT_TRUE(config.feeds_back());
  config.set("policy=ema");
  EXPECT_FALSE(config.feeds_back());
  config.set("error_feedback=false");
  config.set("policy=trellis");
  EXPECT_TRUE(config.feeds_back());
}

TEST(CompressionConfig, SinksHaveTwoToEightBitsOrSixteen) {
  for (const char* key : {"key_bits_sink_outlier", "value_bits_sink_outlier"}) {
    for (int bits = -1; bits <= 33; ++bits) {
      CompressionConfig config;
      const std::string assignment = std::string(key) + "=" + std::to_string(bits);
      if ((bits >= 2 && bits <= 8) || bits == 16) {
        config.set(assignment);
        const auto again = CompressionConfig::from_json(config.to_json());
        EXPECT_EQ(again.to_json(), config.to_json());
        const bool is_key = key[0] == 'k';
        EXPECT_EQ(again.key_bits_sink_outlier, is_key ? bits : 16);
        EXPECT_EQ(again.value_bits_sink_outlier, is_key ? 16 : bits);
      } else {
        EXPECT_THROW(config.set(assignment), UsageError) << assignment;
      }
    }
    EXPECT_THAT(usage_error(std::string("{\"") + key + "\": 12}"),
                AllOf(HasSubstr(key), HasSubstr("an integer in 2..8, or 16, got 12")));
  }
}

TEST(CompressionConfig, EveryPresetIsItsFile) {
  for (const std::string& name : CompressionConfig::preset_names()) {
    const auto preset = CompressionConfig::preset(name);
    const auto file =
        CompressionConfig::load(RILLKV_SOURCE_DIR "/configs/presets/" + name + ".json");
    EXPECT_EQ(preset.to_json(), file.to_json()) << name;
    EXPECT_TRUE(preset.ineffective_keys().empty()) << name;
  }
}

TEST(CompressionConfig, RoundTripsThroughJson) {
  auto config = CompressionConfig::preset("quality");
  config.set("outlier_threshold_abs=null");
  config.set("policy=ema");
  config.set("bit_classes=[2,4,6,8]");
  const auto again = CompressionConfig::from_json(config.to_json());
  EXPECT_EQ(again.to_json(), config.to_json());
  EXPECT_FALSE(again.outlier_threshold_abs.has_value());
}

TEST(CompressionConfig, UnknownKeyIsNamed) {
  EXPECT_THAT(usage_error(R"({"chunk_sizes": 3})"),
              AllOf(HasSubstr("chunk_sizes"), HasSubstr("chunk_size")));
  CompressionConfig config;
  EXPECT_THROW(config.set("nonsense=1"), UsageError);
  EXPECT_THROW(config.set("chunk_size"), UsageError);
  EXPECT_THROW(config.set("=3"), UsageError);
}

struct Bad {
  const char* key;
  const char* value;
};

class OutOfRange : public ::testing::TestWithParam<Bad> {};

TEST_P(OutOfRange, NamesKeyValueAndRange) {
  const auto [key, value] = GetParam();
  const std::string message = usage_error(std::string("{\"") + key + "\": " + value + "}");
  EXPECT_THAT(message, AllOf(HasSubstr(key), HasSubstr("expected"), HasSubstr(value)));
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    All, OutOfRange,
    ::testing::Values(
        Bad{"policy", "\"fast\""}, Bad{"policy", "3"}, Bad{"chunk_size", "0"},
        Bad{"chunk_size", "1.5"}, Bad{"chunk_size", "\"256\""}, Bad{"attention_sink_size", "-1"},
        Bad{"attention_sink_size", "257"}, Bad{"block_size", "100"}, Bad{"block_size", "512"},
        Bad{"ema_decay", "0"}, Bad{"ema_decay", "1"}, Bad{"outlier_threshold_abs", "0"},
        Bad{"outlier_threshold_abs", "\"6\""}, Bad{"outlier_threshold_relative", "-1"},
        Bad{"key_bits_normal", "1"}, Bad{"key_bits_normal", "9"}, Bad{"value_bits_normal", "1"},
        Bad{"key_bits_sink_outlier", "9"}, Bad{"key_bits_sink_outlier", "1"},
        Bad{"key_bits_sink_outlier", "15"}, Bad{"key_bits_sink_outlier", "16.0"},
        Bad{"key_bits_sink_outlier", "\"16\""}, Bad{"key_bits_sink_outlier", "null"},
        Bad{"value_bits_sink_outlier", "0"}, Bad{"value_bits_sink_outlier", "17"},
        Bad{"value_bits_sink_outlier", "-16"}, Bad{"value_bits_sink_outlier", "32"},
        Bad{"value_quant_groups", "0"}, Bad{"value_quant_groups", "-2"},
        Bad{"key_bits_mean", "0.5"}, Bad{"key_bits_mean", "8.5"}, Bad{"value_bits", "1"},
        Bad{"value_bits", "9"}, Bad{"bit_classes", "[]"}, Bad{"bit_classes", "[4]"},
        Bad{"bit_classes", "[2,4,5]"}, Bad{"bit_classes", "[4,2]"}, Bad{"bit_classes", "[0,4]"},
        Bad{"bit_classes", "[4,4]"}, Bad{"query_energy_decay", "1"},
        Bad{"query_energy_decay", "-0.1"}, Bad{"value_group_size", "7"}, Bad{"value_rotation", "1"},
        Bad{"chunk_size", "1048577"}));

TEST(CompressionConfig, ARejectedAssignmentChangesNothing) {
  CompressionConfig config = CompressionConfig::preset("balanced");
  const std::string before = config.to_json();
  for (const char* bad :
       {"chunk_size=0", "block_size=100", "policy=fast", "bit_classes=[2,4,\"x\"]",
        "bit_classes=[1,2,4]", "value_bits=9", "outlier_threshold_abs=-1", "value_rotation=maybe",
        "key_bits_mean=0", "ema_decay=2", "value_group_size=1048577", "nothing=1"}) {
    EXPECT_THROW(config.set(bad), UsageError) << bad;
    EXPECT_EQ(config.to_json(), before) << bad;
    EXPECT_TRUE(config.ineffective_keys().empty()) << bad;  // "ema_decay" does not count as given
  }
}

TEST(CompressionConfig, WhatIsNoUtf8IsStillAUsageError) {
  CompressionConfig config;
  for (const char* bad : {"policy=\xff\xfe", "chunk_size=\xff", "\xff=1", "\n=1", "\xff"}) {
    try {
      config.set(bad);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const UsageError& e) {
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    }
  }
  EXPECT_THROW(CompressionConfig::from_json("{\"policy\": \"\xff\"}"), UsageError);
}

TEST(CompressionConfig, MessagesNameTheWholeRange) {
  EXPECT_THAT(usage_error(R"({"value_group_size": 1048577})"), HasSubstr("8..1048576"));
  EXPECT_THAT(usage_error(R"({"chunk_size": 0})"), HasSubstr("1..1048576"));
  const std::string hostile = usage_error("{\"policy\": \"" + std::string(5000, 'x') + "\"}");
  EXPECT_LT(hostile.size(), 400u) << "a long value is cut";
}

TEST(CompressionConfig, BaselineIsDenseAndBlamesNoKey) {
  auto config = CompressionConfig::preset("balanced");
  config.set("chunk_size=64");
  const CompressionConfig dense = config.baseline();
  EXPECT_EQ(dense.policy, Policy::kDense);
  EXPECT_EQ(dense.chunk_size, 64);
  EXPECT_TRUE(dense.ineffective_keys().empty());
}

TEST(CompressionConfig, MeanOutsideTheClassesIsRejected) {
  EXPECT_THAT(usage_error(R"({"bit_classes": [5, 6], "key_bits_mean": 4})"),
              AllOf(HasSubstr("key_bits_mean"), HasSubstr("5..6")));
}

TEST(CompressionConfig, GroupsMustDivideTheModelsHeadDim) {
  const auto config = CompressionConfig::from_json(R"({"policy": "ema", "value_quant_groups": 3})");
  EXPECT_NO_THROW(config.validate_for(96));
  EXPECT_THROW(config.validate_for(64), UsageError);
}

TEST(CompressionConfig, BadJsonAndBadFilesAreNamed) {
  EXPECT_THAT(usage_error("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(usage_error("[1]"), HasSubstr("array"));
  EXPECT_THROW(CompressionConfig::load("/no/such/file.json"), UsageError);
  EXPECT_THROW(CompressionConfig::load("/"), UsageError);
}

TEST(CompressionConfig, KeysWithoutEffectAreListed) {
  const auto config =
      CompressionConfig::from_json(R"({"policy": "adaptive", "ema_decay": 0.5, "chunk_size": 7})");
  EXPECT_THAT(config.ineffective_keys(), ElementsAre("ema_decay"));
}

}  // namespace
}  // namespace rillkv
