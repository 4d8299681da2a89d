// The performance summary, the memory sampler and the content hash.
#include "rillkv/eval/performance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "rillkv/eval/content_hash.h"
#include "rillkv/memory.h"
#include "tests/support/error_of.h"

namespace rillkv::eval {
namespace {

using Json = nlohmann::json;

RunStats run(int64_t prompt, double ttft, double sealed) {
  RunStats s;
  s.prompt_tokens = prompt;
  s.new_tokens = 5;
  s.ttft_s = ttft;
  s.decode_steps = 4;
  s.decode_s = 0.5;
  s.cache.tokens = prompt;
  s.cache.sink_tokens = 8;
  s.cache.kv_bytes = prompt * 10;
  s.cache.kv_bytes_bf16 = prompt * 32;
  s.cache.kv_bits_sealed = {sealed, sealed, sealed};
  s.cache.estimated_bits = {sealed / 2, sealed / 2, sealed / 2};
  s.cache.clip_rate = {0.25, 0, 0.125};
  LayerReport layer;
  layer.key_widths[4] = prompt;
  layer.key_outlier_rate = sealed / 16;
  layer.sealed_blocks = sealed > 0 ? prompt / 128 : 0;
  s.cache.layers = {layer, layer};
  s.memory = {prompt * 1000, static_cast<double>(prompt) * 500, 10};
  return s;
}

TEST(Performance, SumsAndMeansOverRuns) {
  PerformanceSummary summary(CompressionConfig::preset("balanced"));
  summary.add(run(256, 1, 4));
  summary.add(run(768, 1, 8));
  summary.add(run(64, 2, 0));  // Seals nothing: no part of the rates of sealed blocks.
  const Json json = summary.to_json();
  EXPECT_EQ(json.at("runs"), 3);
  EXPECT_EQ(json.at("prompt_tokens"), 1088);
  EXPECT_DOUBLE_EQ(json.at("ttft_s").get<double>(), 4.0 / 3);
  EXPECT_DOUBLE_EQ(json.at("prefill_tokens_per_s").get<double>(), 272);
  EXPECT_DOUBLE_EQ(json.at("decode_tokens_per_s").get<double>(), 8);
  EXPECT_EQ(json.at("kv_bytes"), 7680);
  EXPECT_EQ(json.at("kv_bytes_bf16"), 768 * 32);
  EXPECT_DOUBLE_EQ(json.at("compression_ratio").get<double>(), 3.2);
  EXPECT_DOUBLE_EQ(json.at("measured_memory_savings").get<double>(), 1 - 10.0 / 32);
  EXPECT_DOUBLE_EQ(json.at("kv_bits_sealed").at("total").get<double>(), 6);
  EXPECT_DOUBLE_EQ(json.at("estimated_bits").at("total").get<double>(), 3);
  EXPECT_DOUBLE_EQ(json.at("estimated_memory_savings").get<double>(), 1 - 3.0 / 16);
  EXPECT_DOUBLE_EQ(json.at("clip_rate").at("key").get<double>(), 0.25);
  EXPECT_EQ(json.at("sinks"), Json({{"tokens", 8}, {"key_bits", 16}, {"value_bits", 16}}));
  EXPECT_EQ(json.at("peak_rss_bytes"), 768000);
  EXPECT_DOUBLE_EQ(json.at("mean_rss_bytes").get<double>(), 500.0 * 1088 / 3);
  EXPECT_TRUE(json.at("device_peak_bytes").is_null());
  ASSERT_EQ(json.at("layers").size(), 2u);
  EXPECT_EQ(json["layers"][1]["key_widths"][4], 1088);
  EXPECT_EQ(json["layers"][1]["sealed_blocks"], 8);
  // 2 blocks of 1/4 and 6 of 1/2.
  EXPECT_DOUBLE_EQ(json["layers"][1]["key_outlier_rate"].get<double>(), 0.4375);
}

TEST(Performance, WhatNothingMeasuredIsNull) {
  CompressionConfig dense;
  dense.policy = Policy::kDense;
  const Json json = PerformanceSummary(dense).to_json();
  for (const char* key : {"ttft_s", "prefill_tokens_per_s", "decode_tokens_per_s",
                          "compression_ratio", "estimated_memory_savings",
                          "measured_memory_savings", "peak_rss_bytes", "mean_rss_bytes"}) {
    EXPECT_TRUE(json.at(key).is_null()) << key;
  }
  EXPECT_TRUE(json.at("sinks").at("key_bits").is_null());
}

TEST(Performance, StatsSurviveALog) {
  const RunStats before = run(300, 0.25, 4.5);
  const RunStats after = run_stats_from_json(Json::parse(to_json(before).dump()));
  EXPECT_EQ(to_json(after), to_json(before));
  EXPECT_THAT(testing::error_of([] {
                run_stats_from_json({{"prompt_tokens", "many"}});
              }),
              ::testing::HasSubstr("run statistics: unusable record"));
  EXPECT_EQ(performance_json({}, after), performance_json({}, before));
}

TEST(Memory, ThePeakIsThisStretchsOwn) {
  constexpr size_t kBytes = 64 << 20;
  const auto touch = [](size_t bytes) {
    MemorySampler sampler(std::chrono::milliseconds(1));
    std::vector<char> block(bytes, 1);
    volatile char last = block.back();
    (void)last;
    return sampler.stop();
  };
  release_freed_memory();
  const MemoryUse large = touch(kBytes);
  release_freed_memory();
  const MemoryUse small = touch(1 << 20);
  ASSERT_GE(small.samples, 2);
  EXPECT_LE(small.mean_bytes, static_cast<double>(small.peak_bytes));
  EXPECT_GT(large.peak_bytes, 0);
#ifndef __SANITIZE_ADDRESS__  // It keeps what is freed.
  // The first stretch's 64 MiB are gone from the second, which has one: half is far from noise.
  EXPECT_LE(small.peak_bytes, large.peak_bytes - (32 << 20));
#endif
}

TEST(Memory, StretchesJoinByTheirSamples) {
  MemoryUse use;
  use.add({});
  EXPECT_EQ(use.samples, 0);
  use.add({100, 50, 1});
  use.add({80, 70, 3});
  EXPECT_EQ(use.peak_bytes, 100);
  EXPECT_DOUBLE_EQ(use.mean_bytes, 65);
  EXPECT_EQ(use.samples, 4);
}

TEST(ContentHash, IsFnv1a) {
  // The reference values of the algorithm's authors.
  EXPECT_EQ(content_hash(""), "cbf29ce484222325");
  EXPECT_EQ(content_hash("a"), "af63dc4c8601ec8c");
  EXPECT_EQ(content_hash("foobar"), "85944171f73967e8");
}

}  // namespace
}  // namespace rillkv::eval
