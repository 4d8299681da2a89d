// What the compressed cache may be told: every key of the JSON configuration.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace rillkv {

/// How sealed blocks are quantised.
enum class Policy {
  kAdaptive,  ///< exact ranges, logit-aware key widths, rotated values (the default)
  kTrellis,   ///< the same with error feedback and trellis codes: fewer bits, slower to seal
  kEma,       ///< EMA of absmax with outlier channels: the method of the original system
  kDense,     ///< no compression: the baseline
};

std::string_view to_string(Policy policy);

/// Settings of a QuantizedKvCache. Plain data; `validate` is called by everything that takes one.
struct CompressionConfig {
  Policy policy = Policy::kAdaptive;
  int64_t chunk_size = 256;         ///< tokens a prefill step, 1..2^20
  int64_t attention_sink_size = 8;  ///< first tokens kept outside the blocks, 0..256
  int64_t block_size = 128;         ///< tokens a sealed block: 32, 64, 128 or 256

  // Policy "ema".
  double ema_decay = 0.99;                            ///< decay a full chunk, (0, 1)
  std::optional<double> outlier_threshold_abs = 6.0;  ///< > 0, or off
  std::optional<double> outlier_threshold_relative = 5.0;
  int64_t key_bits_normal = 4;    ///< 2..8
  int64_t value_bits_normal = 4;  ///< 2..8
  /// Bits of the sinks and, under "ema", of outlier channels: 2..8, a symmetric scale a token and
  /// head; or 16, sinks as they are, in fp16 (outlier channels get 8). One scale of 8 bits cannot
  /// hold a key bias of hundreds, as Qwen2 has, beside the rest.
  int64_t key_bits_sink_outlier = 16;
  int64_t value_bits_sink_outlier = 16;
  /// Scales of the values: -1 per channel, 1 per head, n groups a head (n divides head_dim).
  int64_t value_quant_groups = -1;

  // Policies "adaptive" and "trellis".
  /// Mean width of a head's key channels, 1..8, within bit_classes; "trellis": 1..7.
  double key_bits_mean = 4.25;
  int64_t value_bits = 4;          ///< "adaptive": 2..8
  double value_bits_mean = 4.625;  ///< "trellis": mean width of a head's value channels, 1..7
  /// Widths that a pair of key channels may take: evenly spaced, ascending, in 1..8.
  std::vector<int64_t> bit_classes = {1, 2, 3, 4, 5, 6, 7, 8};
  double query_energy_decay = 0.9;  ///< EMA of squared queries a block, [0, 1)
  /// "adaptive": keys are rounded one channel after the other, and what one lost is made good in
  /// those to come so that logits move least. The same bytes to read; sealing costs more. "trellis"
  /// always does.
  bool error_feedback = false;
  int64_t value_group_size = 64;  ///< channels sharing a value scale, 8..2^20
  bool value_rotation = true;     ///< Walsh-Hadamard; off where head_dim is no power of two

  /// From JSON text. `origin` names the source in errors. Throws UsageError naming key, value and
  /// range for an unknown key, a wrong type or a value out of range.
  static CompressionConfig from_json(std::string_view text,
                                     std::string_view origin = "configuration");
  /// From a preset's name, or else from a file. Throws UsageError as from_json does, and where
  /// there is neither.
  static CompressionConfig load(const std::string& path_or_preset);
  /// Throws UsageError naming the presets if there is none of this name.
  static CompressionConfig preset(std::string_view name);
  /// The files of configs/presets when the library was built, sorted.
  static std::vector<std::string> preset_names();
  /// Whether a key changes anything under a policy; false for an unknown key.
  static bool has_effect(std::string_view key, Policy policy);

  /// Applies one "key=value"; the value is JSON, or a bare string. Throws UsageError and changes
  /// nothing for an unknown key, a wrong type or a value out of the key's range.
  void set(std::string_view assignment);
  /// The uncompressed baseline of this configuration: policy "dense"; no key counts as given.
  CompressionConfig baseline() const;
  /// Whether key widths follow the queries: policies "adaptive" and "trellis".
  bool follows_queries() const;
  /// Whether sealing feeds errors back: policy "trellis", or asked for under "adaptive".
  bool feeds_back() const;
  /// All keys, as `from_json` reads them.
  std::string to_json() const;
  /// Checks every range and the keys that depend on one another.
  void validate() const;
  /// Checks what depends on the model; called when a cache is made.
  void validate_for(int64_t head_dim) const;
  /// Keys that from_json, load, preset or set were given but that do nothing under this policy. A
  /// cache made with them names each once in the log.
  std::vector<std::string> ineffective_keys() const;

 private:
  std::set<std::string, std::less<>> given_keys_;
};

}  // namespace rillkv
