// Speed, memory and cache size over the runs of an evaluation, as every report lists them.
#pragma once

#include <nlohmann/json.hpp>

#include "rillkv/eval/backend.h"

namespace rillkv::eval {

nlohmann::json to_json(const GenerationStats& stats);
/// Reads what to_json wrote; missing keys stay 0.
GenerationStats stats_from_json(const nlohmann::json& json);

/// Collects the runs of one side (compressed or dense) of an evaluation.
class PerformanceSummary {
 public:
  /// Also samples the resident set size, unless the run is an old one read back from a log.
  void add(const GenerationStats& stats, bool sample_memory = true);

  /// Keys: runs, prompt_tokens, new_tokens, ttft_s (mean), prefill_tokens_per_s,
  /// decode_tokens_per_s, kv_bytes_max, kv_bits_per_element and kv_bits_sealed (mean),
  /// compression_ratio (measured bytes against bf16), estimated_memory_savings (from the sealed
  /// bits: 1 - bits / 16), outlier_rate{key,value}, sink_tokens, peak_rss_bytes, mean_rss_bytes,
  /// device_peak_bytes. What nothing measured is null.
  nlohmann::json to_json() const;

 private:
  int64_t runs_ = 0, prompt_tokens_ = 0, new_tokens_ = 0, decoded_tokens_ = 0;
  double ttft_s_ = 0, decode_s_ = 0;
  int64_t kv_bytes_ = 0, kv_bytes_bf16_ = 0, kv_bytes_max_ = 0;
  double bits_ = 0, bits_sealed_ = 0, outlier_key_ = 0, outlier_value_ = 0;
  int64_t sealed_runs_ = 0, sink_tokens_ = 0, device_peak_ = 0;
  double rss_sum_ = 0;
  int64_t rss_samples_ = 0;
};

}  // namespace rillkv::eval
