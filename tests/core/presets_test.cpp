// Presets and the table of keys as callers see them: one list each.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "rillkv/compression_config.h"
#include "tests/support/error_of.h"

namespace rillkv {
namespace {

using testing::error_of;
using ::testing::HasSubstr;

TEST(Presets, AreTheFilesOfTheFolder) {
  std::vector<std::string> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(RILLKV_SOURCE_DIR "/configs/presets")) {
    files.push_back(entry.path().stem());
  }
  std::sort(files.begin(), files.end());
  EXPECT_EQ(CompressionConfig::preset_names(), files);
}

TEST(Presets, ErrorsNameThemAll) {
  const std::string unknown = error_of([] { CompressionConfig::preset("none"); });
  const std::string neither = error_of([] { CompressionConfig::load("none"); });
  for (const std::string& name : CompressionConfig::preset_names()) {
    EXPECT_THAT(unknown, HasSubstr(name));
    EXPECT_THAT(neither, HasSubstr(name));
  }
}

TEST(CompressionConfig, AKeyHasItsPolicies) {
  const auto effects = [](const char* key) {
    std::string policies;
    for (const Policy policy :
         {Policy::kAdaptive, Policy::kTrellis, Policy::kEma, Policy::kDense}) {
      if (CompressionConfig::has_effect(key, policy)) policies += to_string(policy)[0];
    }
    return policies;
  };
  EXPECT_EQ(effects("policy"), "ated");
  EXPECT_EQ(effects("chunk_size"), "ated");
  EXPECT_EQ(effects("block_size"), "ate");
  EXPECT_EQ(effects("key_bits_mean"), "at");
  EXPECT_EQ(effects("value_bits"), "a");
  EXPECT_EQ(effects("error_feedback"), "a");
  EXPECT_EQ(effects("value_bits_mean"), "t");
  EXPECT_EQ(effects("ema_decay"), "e");
  EXPECT_EQ(effects("nonsense"), "");
}

}  // namespace
}  // namespace rillkv
