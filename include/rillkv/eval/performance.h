// Speed, memory and cache size over the runs of an evaluation: the same keys in every report.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "rillkv/compression_config.h"
#include "rillkv/eval/run_stats.h"

namespace rillkv::eval {

/// Collects the runs of one side (compressed or dense) of an evaluation.
class PerformanceSummary {
 public:
  /// The configuration of this side, for what it does with sinks.
  explicit PerformanceSummary(const CompressionConfig& config) : config_(config) {}

  void add(const RunStats& stats);
  int64_t runs() const { return runs_; }

  /// Keys; what nothing measured is null:
  ///   runs, prompt_tokens and new_tokens (sums)
  ///   ttft_s (mean), prefill_tokens_per_s, decode_tokens_per_s (tokens over time, all runs)
  ///   kv_bytes, kv_bytes_bf16 (of the run with the largest cache), compression_ratio (all runs)
  ///   kv_bits_per_element, kv_bits_sealed {key, value, total} (mean; measured, with metadata; 0 if
  ///   no block was sealed)
  ///   estimated_bits {key, value, total} (mean code width of sealed blocks, without metadata)
  ///   estimated_memory_savings (1 - estimated_bits.total / 16),
  ///   measured_memory_savings (1 - kv_bytes / kv_bytes_bf16, all runs)
  ///   outlier_rate, clip_rate {key, value} (mean over runs that sealed a block)
  ///   sink_tokens, sinks {tokens, key_bits, value_bits}
  ///   peak_rss_bytes, mean_rss_bytes (sampled while this side ran), device_peak_bytes
  ///   layers [{key_widths, value_widths, key_outlier_rate, value_outlier_rate, sealed_blocks}]
  ///   (all runs together)
  nlohmann::json to_json() const;

 private:
  CompressionConfig config_;
  int64_t runs_ = 0, sealed_runs_ = 0, prompt_tokens_ = 0, new_tokens_ = 0, decode_steps_ = 0;
  double ttft_s_ = 0, decode_s_ = 0;
  int64_t kv_bytes_ = 0, kv_bytes_bf16_ = 0, largest_ = 0, largest_bf16_ = 0;
  KeyValueTotal bits_, bits_sealed_, bits_estimated_, outliers_, clipped_;  // sums
  int64_t sink_tokens_ = 0, device_peak_ = 0;
  MemoryUse memory_;
  std::vector<LayerReport> layers_;
};

/// The summary of one run: what `prefill` reports.
nlohmann::json performance_json(const CompressionConfig& config, const RunStats& stats);

}  // namespace rillkv::eval
