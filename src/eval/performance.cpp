#include "rillkv/eval/performance.h"

#include <algorithm>

namespace rillkv::eval {
namespace {

using Json = nlohmann::json;

constexpr double kBaselineBits = 16;  // bf16

Json ratio(double numerator, double denominator) {
  return denominator > 0 ? Json(numerator / denominator) : Json();
}

void add(KeyValueTotal& sum, const KeyValueTotal& one) {
  sum.key += one.key;
  sum.value += one.value;
  sum.total += one.total;
}

Json mean(const KeyValueTotal& sum, int64_t count) {
  const auto n = static_cast<double>(std::max<int64_t>(count, 1));
  return {{"key", sum.key / n}, {"value", sum.value / n}, {"total", sum.total / n}};
}

Json mean_pair(const KeyValueTotal& sum, int64_t count) {
  const auto n = static_cast<double>(std::max<int64_t>(count, 1));
  return {{"key", sum.key / n}, {"value", sum.value / n}};
}

void add_layer(LayerReport& sum, const LayerReport& one) {
  const auto before = static_cast<double>(sum.sealed_blocks),
             more = static_cast<double>(one.sealed_blocks);
  for (size_t w = 0; w < sum.key_widths.size(); ++w) {
    sum.key_widths[w] += one.key_widths[w];
    sum.value_widths[w] += one.value_widths[w];
  }
  if (more == 0) return;
  const auto blend = [&](double a, double b) { return (a * before + b * more) / (before + more); };
  sum.key_outlier_rate = blend(sum.key_outlier_rate, one.key_outlier_rate);
  sum.value_outlier_rate = blend(sum.value_outlier_rate, one.value_outlier_rate);
  sum.sealed_blocks += one.sealed_blocks;
}

}  // namespace

void PerformanceSummary::add(const RunStats& s) {
  ++runs_;
  prompt_tokens_ += s.prompt_tokens;
  new_tokens_ += s.new_tokens;
  decode_steps_ += s.decode_steps;
  ttft_s_ += s.ttft_s;
  decode_s_ += s.decode_s;
  kv_bytes_ += s.cache.kv_bytes;
  kv_bytes_bf16_ += s.cache.kv_bytes_bf16;
  if (s.cache.kv_bytes > largest_) {
    largest_ = s.cache.kv_bytes;
    largest_bf16_ = s.cache.kv_bytes_bf16;
  }
  eval::add(bits_, s.cache.kv_bits_per_element);
  if (s.cache.kv_bits_sealed.total > 0) {  // A prompt shorter than a block seals nothing.
    ++sealed_runs_;
    eval::add(bits_sealed_, s.cache.kv_bits_sealed);
    eval::add(bits_estimated_, s.cache.estimated_bits);
    eval::add(outliers_, s.cache.outlier_rate);
    eval::add(clipped_, s.cache.clip_rate);
  }
  sink_tokens_ = std::max(sink_tokens_, s.cache.sink_tokens);
  device_peak_ = std::max(device_peak_, s.device_peak_bytes);
  memory_.add(s.memory);
  layers_.resize(std::max(layers_.size(), s.cache.layers.size()));
  for (size_t i = 0; i < s.cache.layers.size(); ++i) add_layer(layers_[i], s.cache.layers[i]);
}

Json PerformanceSummary::to_json() const {
  const auto runs = static_cast<double>(runs_), bytes = static_cast<double>(kv_bytes_),
             bytes_bf16 = static_cast<double>(kv_bytes_bf16_);
  const bool estimated = bits_estimated_.total > 0, memory = memory_.samples > 0;
  const bool sinks = config_.policy != Policy::kDense;  // The dense cache treats all alike.
  Json savings_estimated, savings_measured;
  if (estimated) {
    savings_estimated =
        1 - bits_estimated_.total / static_cast<double>(sealed_runs_) / kBaselineBits;
  }
  if (bytes_bf16 > 0) savings_measured = 1 - bytes / bytes_bf16;
  return {{"runs", runs_},
          {"prompt_tokens", prompt_tokens_},
          {"new_tokens", new_tokens_},
          {"ttft_s", ttft_s_ > 0 ? ratio(ttft_s_, runs) : Json()},
          {"prefill_tokens_per_s", ratio(static_cast<double>(prompt_tokens_), ttft_s_)},
          {"decode_tokens_per_s",
           decode_steps_ > 0 ? ratio(static_cast<double>(decode_steps_), decode_s_) : Json()},
          {"kv_bytes", largest_},
          {"kv_bytes_bf16", largest_bf16_},
          {"compression_ratio", ratio(bytes_bf16, bytes)},
          {"kv_bits_per_element", mean(bits_, runs_)},
          {"kv_bits_sealed", mean(bits_sealed_, sealed_runs_)},
          {"estimated_bits", mean(bits_estimated_, sealed_runs_)},
          {"estimated_memory_savings", savings_estimated},
          {"measured_memory_savings", savings_measured},
          {"outlier_rate", mean_pair(outliers_, sealed_runs_)},
          {"clip_rate", mean_pair(clipped_, sealed_runs_)},
          {"sink_tokens", sink_tokens_},
          {"sinks",
           {{"tokens", sink_tokens_},
            {"key_bits", sinks ? Json(config_.key_bits_sink_outlier) : Json()},
            {"value_bits", sinks ? Json(config_.value_bits_sink_outlier) : Json()}}},
          {"peak_rss_bytes", memory ? Json(memory_.peak_bytes) : Json()},
          {"mean_rss_bytes", memory ? Json(memory_.mean_bytes) : Json()},
          {"device_peak_bytes", device_peak_ > 0 ? Json(device_peak_) : Json()},
          {"layers", eval::to_json(layers_)}};
}

Json performance_json(const CompressionConfig& config, const RunStats& stats) {
  PerformanceSummary summary(config);
  summary.add(stats);
  return summary.to_json();
}

}  // namespace rillkv::eval
