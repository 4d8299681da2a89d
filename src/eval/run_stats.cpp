#include "rillkv/eval/run_stats.h"

#include "src/eval/log_record.h"

namespace rillkv::eval {
namespace {

using Json = nlohmann::json;

template <typename T>
void read(const Json& json, const char* key, T& value) {
  const auto it = json.find(key);
  if (it != json.end() && !it->is_null()) value = it->get<T>();
}

void read(const Json& json, const char* key, KeyValueTotal& value) {
  const auto it = json.find(key);
  if (it == json.end()) return;
  read(*it, "key", value.key);
  read(*it, "value", value.value);
  read(*it, "total", value.total);
}

RunStats read_stats(const Json& json) {
  RunStats s;
  read(json, "prompt_tokens", s.prompt_tokens);
  read(json, "new_tokens", s.new_tokens);
  read(json, "ttft_s", s.ttft_s);
  read(json, "decode_steps", s.decode_steps);
  read(json, "decode_s", s.decode_s);
  read(json, "tokens", s.cache.tokens);
  read(json, "sink_tokens", s.cache.sink_tokens);
  read(json, "kv_bytes", s.cache.kv_bytes);
  read(json, "kv_bytes_bf16", s.cache.kv_bytes_bf16);
  read(json, "compression_ratio", s.cache.compression_ratio);
  read(json, "kv_bits_per_element", s.cache.kv_bits_per_element);
  read(json, "kv_bits_sealed", s.cache.kv_bits_sealed);
  read(json, "estimated_bits", s.cache.estimated_bits);
  read(json, "outlier_rate", s.cache.outlier_rate);
  read(json, "clip_rate", s.cache.clip_rate);
  for (const Json& layer : json.value("layers", Json::array())) {
    LayerReport one;
    read(layer, "key_widths", one.key_widths);
    read(layer, "value_widths", one.value_widths);
    read(layer, "key_outlier_rate", one.key_outlier_rate);
    read(layer, "value_outlier_rate", one.value_outlier_rate);
    read(layer, "sealed_blocks", one.sealed_blocks);
    s.cache.layers.push_back(one);
  }
  read(json, "peak_rss_bytes", s.memory.peak_bytes);
  read(json, "mean_rss_bytes", s.memory.mean_bytes);
  read(json, "rss_samples", s.memory.samples);
  read(json, "device_peak_bytes", s.device_peak_bytes);
  return s;
}

}  // namespace

Json to_json(const KeyValueTotal& total) {
  return {{"key", total.key}, {"value", total.value}, {"total", total.total}};
}

Json to_json(const std::vector<LayerReport>& layers) {
  Json out = Json::array();
  for (const LayerReport& layer : layers) {
    out.push_back({{"key_widths", layer.key_widths},
                   {"value_widths", layer.value_widths},
                   {"key_outlier_rate", layer.key_outlier_rate},
                   {"value_outlier_rate", layer.value_outlier_rate},
                   {"sealed_blocks", layer.sealed_blocks}});
  }
  return out;
}

Json to_json(const RunStats& s) {
  return {{"prompt_tokens", s.prompt_tokens},
          {"new_tokens", s.new_tokens},
          {"ttft_s", s.ttft_s},
          {"decode_steps", s.decode_steps},
          {"decode_s", s.decode_s},
          {"tokens", s.cache.tokens},
          {"sink_tokens", s.cache.sink_tokens},
          {"kv_bytes", s.cache.kv_bytes},
          {"kv_bytes_bf16", s.cache.kv_bytes_bf16},
          {"compression_ratio", s.cache.compression_ratio},
          {"kv_bits_per_element", to_json(s.cache.kv_bits_per_element)},
          {"kv_bits_sealed", to_json(s.cache.kv_bits_sealed)},
          {"estimated_bits", to_json(s.cache.estimated_bits)},
          {"outlier_rate", to_json(s.cache.outlier_rate)},
          {"clip_rate", to_json(s.cache.clip_rate)},
          {"layers", to_json(s.cache.layers)},
          {"peak_rss_bytes", s.memory.peak_bytes},
          {"mean_rss_bytes", s.memory.mean_bytes},
          {"rss_samples", s.memory.samples},
          {"device_peak_bytes", s.device_peak_bytes}};
}

RunStats run_stats_from_json(const Json& json) {
  return read_record("run statistics", [&] { return read_stats(json); });
}

}  // namespace rillkv::eval
