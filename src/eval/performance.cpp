#include "rillkv/eval/performance.h"

#include <algorithm>

#include "rillkv/memory.h"

namespace rillkv::eval {
namespace {

using Json = nlohmann::json;

Json ratio(double numerator, double denominator) {
  return denominator > 0 ? Json(numerator / denominator) : Json();
}

}  // namespace

Json to_json(const GenerationStats& s) {
  return {{"prompt_tokens", s.prompt_tokens},
          {"new_tokens", s.new_tokens},
          {"ttft_s", s.ttft_s},
          {"decode_s", s.decode_s},
          {"kv_bytes", s.kv_bytes},
          {"kv_bytes_bf16", s.kv_bytes_bf16},
          {"kv_bits_per_element", s.kv_bits_per_element},
          {"kv_bits_sealed", s.kv_bits_sealed},
          {"outlier_rate_key", s.outlier_rate_key},
          {"outlier_rate_value", s.outlier_rate_value},
          {"sink_tokens", s.sink_tokens},
          {"device_peak_bytes", s.device_peak_bytes}};
}

GenerationStats stats_from_json(const Json& json) {
  GenerationStats s;
  s.prompt_tokens = json.value("prompt_tokens", s.prompt_tokens);
  s.new_tokens = json.value("new_tokens", s.new_tokens);
  s.ttft_s = json.value("ttft_s", s.ttft_s);
  s.decode_s = json.value("decode_s", s.decode_s);
  s.kv_bytes = json.value("kv_bytes", s.kv_bytes);
  s.kv_bytes_bf16 = json.value("kv_bytes_bf16", s.kv_bytes_bf16);
  s.kv_bits_per_element = json.value("kv_bits_per_element", s.kv_bits_per_element);
  s.kv_bits_sealed = json.value("kv_bits_sealed", s.kv_bits_sealed);
  s.outlier_rate_key = json.value("outlier_rate_key", s.outlier_rate_key);
  s.outlier_rate_value = json.value("outlier_rate_value", s.outlier_rate_value);
  s.sink_tokens = json.value("sink_tokens", s.sink_tokens);
  s.device_peak_bytes = json.value("device_peak_bytes", s.device_peak_bytes);
  return s;
}

void PerformanceSummary::add(const GenerationStats& s, bool sample_memory) {
  ++runs_;
  prompt_tokens_ += s.prompt_tokens;
  new_tokens_ += s.new_tokens;
  decoded_tokens_ += std::max<int64_t>(s.new_tokens - 1, 0);
  ttft_s_ += s.ttft_s;
  decode_s_ += s.decode_s;
  kv_bytes_ += s.kv_bytes;
  kv_bytes_bf16_ += s.kv_bytes_bf16;
  kv_bytes_max_ = std::max(kv_bytes_max_, s.kv_bytes);
  bits_ += s.kv_bits_per_element;
  if (s.kv_bits_sealed > 0) {  // A prompt shorter than a block seals nothing.
    bits_sealed_ += s.kv_bits_sealed;
    ++sealed_runs_;
  }
  outlier_key_ += s.outlier_rate_key;
  outlier_value_ += s.outlier_rate_value;
  sink_tokens_ = std::max(sink_tokens_, s.sink_tokens);
  device_peak_ = std::max(device_peak_, s.device_peak_bytes);
  if (sample_memory) {
    rss_sum_ += static_cast<double>(current_rss_bytes());
    ++rss_samples_;
  }
}

Json PerformanceSummary::to_json() const {
  const auto runs = static_cast<double>(runs_);
  const Json sealed = ratio(bits_sealed_, static_cast<double>(sealed_runs_));
  return {
      {"runs", runs_},
      {"prompt_tokens", prompt_tokens_},
      {"new_tokens", new_tokens_},
      {"ttft_s", ratio(ttft_s_, runs)},
      {"prefill_tokens_per_s", ratio(static_cast<double>(prompt_tokens_), ttft_s_)},
      {"decode_tokens_per_s", ratio(static_cast<double>(decoded_tokens_), decode_s_)},
      {"kv_bytes_max", kv_bytes_max_},
      {"kv_bits_per_element", ratio(bits_, runs)},
      {"kv_bits_sealed", sealed},
      {"compression_ratio",
       ratio(static_cast<double>(kv_bytes_bf16_), static_cast<double>(kv_bytes_))},
      {"estimated_memory_savings", sealed.is_null() ? Json() : Json(1 - sealed.get<double>() / 16)},
      {"outlier_rate",
       {{"key", ratio(outlier_key_, runs)}, {"value", ratio(outlier_value_, runs)}}},
      {"sink_tokens", sink_tokens_},
      {"peak_rss_bytes", peak_rss_bytes()},
      {"mean_rss_bytes", ratio(rss_sum_, static_cast<double>(rss_samples_))},
      {"device_peak_bytes", device_peak_ > 0 ? Json(device_peak_) : Json()}};
}

}  // namespace rillkv::eval
