#include "rillkv/compression_config.h"

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/presets.h"
#include "rillkv/error.h"
#include "rillkv/quotes.h"

namespace rillkv {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void reject(std::string_view key, const Json& value, std::string_view expected) {
  // What is no UTF-8 is shown as the replacement character; long values are cut.
  std::string shown = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (shown.size() > 120) shown = shown.substr(0, 120) + "...";
  throw UsageError(str_cat("configuration key '", key, "': expected ", expected, ", got ", shown));
}

int64_t read_integer(std::string_view key, const Json& value, std::string_view expected) {
  if (!value.is_number_integer()) reject(key, value, expected);
  if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) {
    reject(key, value, expected);
  }
  return value.get<int64_t>();
}

double read_number(std::string_view key, const Json& value, std::string_view expected) {
  if (!value.is_number()) reject(key, value, expected);
  return value.get<double>();
}

// One row of the design's table of keys: how a key is read, written and checked.
struct Key {
  const char* name;
  const char* range;  // as errors print it
  unsigned policies;  // bit set of the policies it has an effect under
  std::function<void(CompressionConfig&, const Json&, const Key&)> read;
  std::function<Json(const CompressionConfig&)> write;
  std::function<bool(const CompressionConfig&)> valid;
};

constexpr unsigned bit(Policy policy) { return 1u << static_cast<unsigned>(policy); }
/// Policies whose key widths follow the queries.
constexpr unsigned kByQueries = bit(Policy::kAdaptive) | bit(Policy::kTrellis);
constexpr unsigned kCompressed = kByQueries | bit(Policy::kEma);
constexpr unsigned kAll = kCompressed | bit(Policy::kDense);

Key integer_key(const char* name, const char* range, unsigned policies,
                int64_t CompressionConfig::*field, const std::function<bool(int64_t)>& valid) {
  return {name,
          range,
          policies,
          [field](CompressionConfig& c, const Json& v, const Key& k) {
            c.*field = read_integer(k.name, v, k.range);
          },
          [field](const CompressionConfig& c) { return Json(c.*field); },
          [field, valid](const CompressionConfig& c) { return valid(c.*field); }};
}

Key number_key(const char* name, const char* range, unsigned policies,
               double CompressionConfig::*field, const std::function<bool(double)>& valid) {
  return {name,
          range,
          policies,
          [field](CompressionConfig& c, const Json& v, const Key& k) {
            c.*field = read_number(k.name, v, k.range);
          },
          [field](const CompressionConfig& c) { return Json(c.*field); },
          [field, valid](const CompressionConfig& c) { return valid(c.*field); }};
}

Key threshold_key(const char* name, std::optional<double> CompressionConfig::*field) {
  return {name,
          "a number > 0, or null to switch it off",
          bit(Policy::kEma),
          [field](CompressionConfig& c, const Json& v, const Key& k) {
            if (v.is_null()) {
              c.*field = std::nullopt;
            } else {
              c.*field = read_number(k.name, v, k.range);
            }
          },
          [field](const CompressionConfig& c) {
            return (c.*field).has_value() ? Json(*(c.*field)) : Json(nullptr);
          },
          [field](const CompressionConfig& c) {
            return !(c.*field).has_value() || (*(c.*field) > 0 && std::isfinite(*(c.*field)));
          }};
}

Key policy_key() {
  return {"policy",
          "one of \"adaptive\", \"trellis\", \"ema\", \"dense\"",
          kAll,
          [](CompressionConfig& c, const Json& v, const Key& k) {
            for (Policy p : {Policy::kAdaptive, Policy::kTrellis, Policy::kEma, Policy::kDense}) {
              if (v == to_string(p)) {
                c.policy = p;
                return;
              }
            }
            reject(k.name, v, k.range);
          },
          [](const CompressionConfig& c) { return Json(to_string(c.policy)); },
          [](const CompressionConfig&) { return true; }};
}

Key bit_classes_key() {
  return {"bit_classes",
          "ascending, evenly spaced integers within 1..8, two or more",
          bit(Policy::kAdaptive),
          [](CompressionConfig& c, const Json& v, const Key& k) {
            if (!v.is_array()) reject(k.name, v, k.range);
            c.bit_classes.clear();
            for (const Json& item : v) c.bit_classes.push_back(read_integer(k.name, item, k.range));
          },
          [](const CompressionConfig& c) { return Json(c.bit_classes); },
          [](const CompressionConfig& c) {
            const auto& b = c.bit_classes;
            if (b.size() < 2 || b.front() < 1 || b.back() > 8 || b[1] <= b[0]) return false;
            for (size_t i = 2; i < b.size(); ++i) {
              if (b[i] - b[i - 1] != b[1] - b[0]) return false;
            }
            return true;
          }};
}

Key flag_key(const char* name, unsigned policies, bool CompressionConfig::*field) {
  return {name,
          "true or false",
          policies,
          [field](CompressionConfig& c, const Json& v, const Key& k) {
            if (!v.is_boolean()) reject(k.name, v, k.range);
            c.*field = v.get<bool>();
          },
          [field](const CompressionConfig& c) { return Json(c.*field); },
          [](const CompressionConfig&) { return true; }};
}

auto within(int64_t low, int64_t high) {
  return [low, high](int64_t v) { return v >= low && v <= high; };
}

const std::vector<Key>& keys() {
  using C = CompressionConfig;
  constexpr unsigned kEma = bit(Policy::kEma);
  constexpr unsigned kAdaptive = bit(Policy::kAdaptive);
  constexpr const char* kSinkRange = "an integer in 2..8, or 16";
  const auto sink_bits = [](int64_t v) { return (v >= 2 && v <= 8) || v == 16; };
  static const std::vector<Key> table = {
      policy_key(),
      integer_key("chunk_size", "an integer in 1..1048576", kAll, &C::chunk_size,
                  within(1, 1 << 20)),
      integer_key("attention_sink_size", "an integer in 0..256", kCompressed,
                  &C::attention_sink_size, within(0, 256)),
      integer_key("block_size", "32, 64, 128 or 256", kCompressed, &C::block_size,
                  [](int64_t v) { return v == 32 || v == 64 || v == 128 || v == 256; }),
      number_key("ema_decay", "a number strictly between 0 and 1", kEma, &C::ema_decay,
                 [](double v) { return v > 0 && v < 1; }),
      threshold_key("outlier_threshold_abs", &C::outlier_threshold_abs),
      threshold_key("outlier_threshold_relative", &C::outlier_threshold_relative),
      integer_key("key_bits_normal", "an integer in 2..8", kEma, &C::key_bits_normal, within(2, 8)),
      integer_key("value_bits_normal", "an integer in 2..8", kEma, &C::value_bits_normal,
                  within(2, 8)),
      integer_key("key_bits_sink_outlier", kSinkRange, kCompressed, &C::key_bits_sink_outlier,
                  sink_bits),
      integer_key("value_bits_sink_outlier", kSinkRange, kCompressed, &C::value_bits_sink_outlier,
                  sink_bits),
      integer_key("value_quant_groups", "-1, 1 or a divisor of head_dim", kEma,
                  &C::value_quant_groups, [](int64_t v) { return v == -1 || v >= 1; }),
      number_key("key_bits_mean", "a number in 1..8", kByQueries, &C::key_bits_mean,
                 [](double v) { return v >= 1 && v <= 8; }),
      integer_key("value_bits", "an integer in 2..8", kAdaptive, &C::value_bits, within(2, 8)),
      number_key("value_bits_mean", "a number in 1..7", bit(Policy::kTrellis), &C::value_bits_mean,
                 [](double v) { return v >= 1 && v <= 7; }),
      bit_classes_key(),
      number_key("query_energy_decay", "a number >= 0 and < 1", kByQueries, &C::query_energy_decay,
                 [](double v) { return v >= 0 && v < 1; }),
      integer_key("value_group_size", "an integer in 8..1048576", kAdaptive, &C::value_group_size,
                  within(8, 1 << 20)),
      flag_key("value_rotation", kByQueries, &C::value_rotation),
      flag_key("error_feedback", kAdaptive, &C::error_feedback),
  };
  return table;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += str_cat(text.empty() ? "" : ", ", word);
  return text;
}

const Preset* find_preset(std::string_view name) {
  for (const Preset& preset : presets()) {
    if (name == preset.name) return &preset;
  }
  return nullptr;
}

/// Changes nothing if it throws.
void apply(CompressionConfig& config, std::string_view name, const Json& value) {
  for (const Key& key : keys()) {
    if (name != key.name) continue;
    CompressionConfig changed = config;
    key.read(changed, value, key);
    if (!key.valid(changed)) reject(name, value, key.range);
    config = std::move(changed);
    return;
  }
  std::vector<std::string> known;
  for (const Key& key : keys()) known.emplace_back(key.name);
  throw UsageError(
      str_cat("unknown configuration key ", in_quotes(name), "; known keys: ", joined(known)));
}

}  // namespace

std::string_view to_string(Policy policy) {
  switch (policy) {
    case Policy::kAdaptive:
      return "adaptive";
    case Policy::kTrellis:
      return "trellis";
    case Policy::kEma:
      return "ema";
    case Policy::kDense:
      return "dense";
  }
  return "?";
}

CompressionConfig CompressionConfig::from_json(std::string_view text, std::string_view origin) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& e) {
    throw UsageError(str_cat(origin, ": not valid JSON (at byte ", e.byte, ")"));
  }
  if (!json.is_object()) {
    throw UsageError(str_cat(origin, ": expected a JSON object, got ", json.type_name()));
  }
  CompressionConfig config;
  try {
    for (const auto& [name, value] : json.items()) {
      apply(config, name, value);
      config.given_keys_.insert(name);
    }
    config.validate();
  } catch (const UsageError& e) {
    throw UsageError(str_cat(origin, ": ", e.what()));
  }
  return config;
}

CompressionConfig CompressionConfig::load(const std::string& path_or_preset) {
  if (find_preset(path_or_preset) != nullptr) return preset(path_or_preset);
  std::ifstream file(path_or_preset, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    throw UsageError(str_cat("configuration ", in_quotes(path_or_preset),
                             " is neither a readable file nor a preset (", joined(preset_names()),
                             ")"));
  }
  return from_json(text.str(), path_or_preset);
}

CompressionConfig CompressionConfig::preset(std::string_view name) {
  const Preset* found = find_preset(name);
  if (found == nullptr) {
    throw UsageError(
        str_cat("unknown preset ", in_quotes(name), ": expected one of ", joined(preset_names())));
  }
  return from_json(found->json, str_cat("preset ", name));
}

std::vector<std::string> CompressionConfig::preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.emplace_back(preset.name);
  return names;
}

void CompressionConfig::set(std::string_view assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    throw UsageError(str_cat("expected key=value, got ", in_quotes(assignment)));
  }
  const std::string_view value = assignment.substr(equals + 1);
  Json json = Json::parse(value, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) json = std::string(value);  // --set policy=ema needs no quotes
  const std::string_view name = assignment.substr(0, equals);
  apply(*this, name, json);
  given_keys_.emplace(name);
}

CompressionConfig CompressionConfig::baseline() const {
  CompressionConfig dense = *this;
  dense.policy = Policy::kDense;
  dense.given_keys_.clear();
  return dense;
}

bool CompressionConfig::follows_queries() const { return (bit(policy) & kByQueries) != 0; }

bool CompressionConfig::feeds_back() const {
  return policy == Policy::kTrellis || (policy == Policy::kAdaptive && error_feedback);
}

std::string CompressionConfig::to_json() const {
  Json json;
  for (const Key& key : keys()) json[key.name] = key.write(*this);
  return json.dump(2);
}

void CompressionConfig::validate() const {
  for (const Key& key : keys()) {
    if (!key.valid(*this)) reject(key.name, key.write(*this), key.range);
  }
  if (policy == Policy::kTrellis && key_bits_mean > 7) {
    reject("key_bits_mean", key_bits_mean, "a number in 1..7 under policy \"trellis\"");
  }
  if (policy != Policy::kAdaptive) return;
  if (key_bits_mean < static_cast<double>(bit_classes.front()) ||
      key_bits_mean > static_cast<double>(bit_classes.back())) {
    reject("key_bits_mean", key_bits_mean,
           str_cat("a number within bit_classes, ", bit_classes.front(), "..", bit_classes.back()));
  }
}

void CompressionConfig::validate_for(int64_t head_dim) const {
  validate();
  if (policy == Policy::kEma && value_quant_groups > 0 && head_dim % value_quant_groups != 0) {
    reject("value_quant_groups", value_quant_groups,
           str_cat("-1, 1 or a divisor of head_dim ", head_dim));
  }
}

std::vector<std::string> CompressionConfig::ineffective_keys() const {
  std::vector<std::string> names;
  for (const Key& key : keys()) {
    if (given_keys_.find(key.name) != given_keys_.end() && (key.policies & bit(policy)) == 0) {
      names.emplace_back(key.name);
    }
  }
  return names;
}

bool CompressionConfig::has_effect(std::string_view key, Policy policy) {
  for (const Key& known : keys()) {
    if (key == known.name) return (known.policies & bit(policy)) != 0;
  }
  return false;
}

}  // namespace rillkv
