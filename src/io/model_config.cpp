#include "rillkv/model_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numbers>
#include <optional>
#include <string_view>
#include <vector>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "src/io/json_reader.h"

namespace rillkv {
namespace {

using io::JsonReader;
using nlohmann::json;

// Sizes beyond these are lies; their products still fit in int64.
constexpr int64_t kLargestSize = 1 << 24;
constexpr int64_t kLargestPosition = int64_t{1} << 40;
constexpr int64_t kLargestTokenId = INT32_MAX;

// What transformers' configuration classes assume where config.json is silent.
struct Family {
  const char* architecture;
  const char* model_type;
  int64_t max_positions;
  int64_t kv_heads;  // 0: as many as attention heads
  int64_t bos, eos;  // -1: none
};
constexpr Family kFamilies[] = {{"LlamaForCausalLM", "llama", 2048, 0, 1, 2},
                                {"MistralForCausalLM", "mistral", 131072, 8, 1, 2},
                                {"Qwen2ForCausalLM", "qwen2", 32768, 32, -1, -1}};

const Family& find_family(const JsonReader& reader) {
  std::string architecture;
  if (const json* list = reader.find("architectures")) {
    if (!list->is_array() || list->size() != 1 || !list->front().is_string()) {
      reader.fail("architectures", "an array of one string");
    }
    architecture = list->front().get<std::string>();
  }
  const std::string model_type = reader.string("model_type").value_or("");
  for (const Family& family : kFamilies) {
    const bool same_type = model_type.empty() || model_type == family.model_type;
    if (architecture.empty() ? model_type == family.model_type
                             : architecture == family.architecture && same_type) {
      return family;
    }
  }
  const bool ours = std::any_of(std::begin(kFamilies), std::end(kFamilies),
                                [&](const Family& f) { return architecture == f.architecture; });
  reader.fail(ours ? "model_type" : "architectures",
              "LlamaForCausalLM, MistralForCausalLM or Qwen2ForCausalLM with its model_type");
}

// For the keys that transformers' configuration classes let be null. Every other null is an error,
// as it is there, rather than a default that nobody chose.
std::optional<int64_t> nullable_integer(const JsonReader& reader, const char* key, int64_t least,
                                        int64_t greatest) {
  return reader.has(key) ? reader.integer(key, least, greatest) : std::nullopt;
}

// A feature that changes the numbers and that this library does not have must be off.
void require_off(const JsonReader& reader, const char* key) {
  if (reader.boolean(key).value_or(false)) reader.fail(key, "false (not supported)");
}

void read_window(const JsonReader& reader, const Family& family, const ModelConfig& config) {
  const bool mistral = std::string_view(family.model_type) == "mistral";
  if (std::string_view(family.model_type) == "qwen2") {
    require_off(reader, "use_sliding_window");
  } else if (mistral || reader.has("sliding_window")) {
    // Absent is not null here: transformers' MistralConfig then assumes 4096.
    constexpr int64_t kMistralDefault = 4096;
    const int64_t window =
        reader.is_null("sliding_window")
            ? kLargestPosition
            : reader.integer("sliding_window", 1, kLargestPosition).value_or(kMistralDefault);
    if (window < config.max_position_embeddings) {
      reader.fail("sliding_window",
                  str_cat("null or at least max_position_embeddings (",
                          config.max_position_embeddings, "): sliding windows are not supported"));
    }
  }
  if (const json* types = reader.find("layer_types")) {
    const bool full = types->is_array() && std::all_of(types->begin(), types->end(), [](auto& t) {
                        return t == "full_attention";
                      });
    if (!full) reader.fail("layer_types", "only \"full_attention\"");
  }
}

double positive(const JsonReader& reader, const char* key, double value) {
  if (!(value > 0) || !std::isfinite(value)) reader.fail(key, "a finite number above 0");
  return value;
}

double required_number(const JsonReader& reader, const char* key) {
  const auto value = reader.number(key);
  if (!value) reader.fail(key, "a number");
  return positive(reader, key, *value);
}

// `rope` is the object under rope_scaling (transformers 4) or rope_parameters (5).
void read_rope_scaling(const JsonReader& rope, const char* type_key, ModelConfig& config) {
  const std::string type = rope.string(type_key).value_or("default");
  if (type == "default") return;
  if (type != "linear" && type != "llama3") {
    rope.fail(type_key, "\"default\", \"linear\" or \"llama3\"");
  }
  config.rope_factor = required_number(rope, "factor");
  if (config.rope_factor < 1) rope.fail("factor", "a number of at least 1");
  config.rope_scaling = type == "linear" ? RopeScaling::kLinear : RopeScaling::kLlama3;
  if (config.rope_scaling == RopeScaling::kLinear) return;
  config.rope_low_freq_factor = required_number(rope, "low_freq_factor");
  config.rope_high_freq_factor = required_number(rope, "high_freq_factor");
  if (config.rope_high_freq_factor <= config.rope_low_freq_factor) {
    rope.fail("high_freq_factor",
              str_cat("more than low_freq_factor (", config.rope_low_freq_factor, ")"));
  }
  config.rope_original_max_positions =
      rope.required_integer("original_max_position_embeddings", 1, kLargestPosition);
}

void read_rope(const JsonReader& reader, ModelConfig& config) {
  // transformers 5 moved rope_theta and the scaling into one object.
  const json* parameters = reader.find("rope_parameters");
  const char* section = parameters != nullptr ? "rope_parameters" : "rope_scaling";
  const json* scaling = parameters != nullptr ? parameters : reader.find("rope_scaling");
  if (const auto theta = reader.number("rope_theta")) {
    config.rope_theta = positive(reader, "rope_theta", *theta);
  }
  require_off(reader, "rope_interleaved");
  if (reader.number("partial_rotary_factor").value_or(1.0) != 1.0) {
    reader.fail("partial_rotary_factor", "1 (partial rotation is not supported)");
  }
  if (scaling == nullptr) return;
  if (!scaling->is_object()) reader.fail(section, "an object or null");
  const JsonReader rope(*scaling, reader.name(section), io::Null::kError);
  read_rope_scaling(rope, rope.present("rope_type") ? "rope_type" : "type", config);
  if (const auto theta = rope.number("rope_theta")) {
    config.rope_theta = positive(rope, "rope_theta", *theta);
  }
  if (rope.number("partial_rotary_factor").value_or(1.0) != 1.0) {
    rope.fail("partial_rotary_factor", "1 (partial rotation is not supported)");
  }
}

// An integer, an array of integers, or nothing.
std::vector<int64_t> token_ids(const JsonReader& reader, const char* key) {
  const json* value = reader.find(key);
  if (value == nullptr) return {};
  std::vector<int64_t> ids;
  for (const json& item : value->is_array() ? *value : json::array({*value})) {
    if (!item.is_number_integer() || item < 0 || item > kLargestTokenId) {
      reader.fail(key, "a token id or an array of token ids");
    }
    ids.push_back(item.get<int64_t>());
  }
  return ids;
}

void add_missing(std::vector<int64_t>& ids, const std::vector<int64_t>& more) {
  for (const int64_t id : more) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
}

void read_sizes(const JsonReader& reader, const Family& family, ModelConfig& config) {
  const auto size = [&](const char* key) { return reader.required_integer(key, 1, kLargestSize); };
  config.vocab_size = size("vocab_size");
  config.hidden_size = size("hidden_size");
  config.intermediate_size = size("intermediate_size");
  config.num_hidden_layers = size("num_hidden_layers");
  config.num_attention_heads = size("num_attention_heads");
  const int64_t heads = config.num_attention_heads;
  // Null is not absent here: it means no grouping, whatever the family.
  const bool family_decides = family.kv_heads > 0 && !reader.present("num_key_value_heads");
  config.num_key_value_heads = nullable_integer(reader, "num_key_value_heads", 1, kLargestSize)
                                   .value_or(family_decides ? family.kv_heads : heads);
  if (heads % config.num_key_value_heads != 0) {
    reader.fail("num_key_value_heads", str_cat("a divisor of num_attention_heads (", heads, ")"));
  }
  if (const auto head_dim = nullable_integer(reader, "head_dim", 2, kLargestSize)) {
    config.head_dim = *head_dim;
    if (config.head_dim % 2 != 0) reader.fail("head_dim", "an even number");
  } else {
    if (config.hidden_size % heads != 0) {
      reader.fail("hidden_size", str_cat("a multiple of num_attention_heads (", heads, ")"));
    }
    config.head_dim = config.hidden_size / heads;
    if (config.head_dim % 2 != 0) {
      reader.fail("hidden_size", str_cat("an even multiple of num_attention_heads (", heads, ")"));
    }
  }
  config.max_position_embeddings =
      reader.integer("max_position_embeddings", 1, kLargestPosition).value_or(family.max_positions);
}

}  // namespace

ModelConfig ModelConfig::from_json(std::string_view text, const std::string& where) {
  const json root = io::parse_json(text, where);
  const JsonReader reader(root, where, io::Null::kError);
  const Family& family = find_family(reader);
  ModelConfig config;
  config.architecture = family.architecture;
  read_sizes(reader, family, config);
  read_rope(reader, config);
  read_window(reader, family, config);

  if (const auto eps = reader.number("rms_norm_eps")) {
    config.rms_norm_eps = positive(reader, "rms_norm_eps", *eps);
  }
  if (reader.string("hidden_act").value_or("silu") != "silu") {
    reader.fail("hidden_act", "\"silu\"");
  }
  if (reader.has("quantization_config")) {
    reader.fail("quantization_config", "none: quantised weights are not supported");
  }
  config.tie_word_embeddings = reader.boolean("tie_word_embeddings").value_or(false);
  config.mlp_bias = reader.boolean("mlp_bias").value_or(false);
  if (config.architecture == "Qwen2ForCausalLM") {
    config.qkv_bias = true;  // fixed in the architecture, not a key
  } else if (config.architecture == "LlamaForCausalLM") {
    config.qkv_bias = reader.boolean("attention_bias").value_or(false);
    config.o_bias = config.qkv_bias;
  }

  const std::vector<int64_t> bos = token_ids(reader, "bos_token_id");
  config.bos_token_id = !bos.empty()                     ? bos.front()
                        : reader.present("bos_token_id") ? -1
                                                         : family.bos;
  config.eos_token_ids = token_ids(reader, "eos_token_id");
  if (!reader.present("eos_token_id") && family.eos >= 0) config.eos_token_ids = {family.eos};
  const char* dtype = reader.has("dtype") ? "dtype" : "torch_dtype";
  if (reader.has(dtype)) config.dtype = reader.string(dtype).value_or("");
  return config;
}

ModelConfig ModelConfig::load(const std::string& folder) {
  const std::filesystem::path path(folder);
  const std::string file = (path / "config.json").string();
  ModelConfig config = from_json(read_file(file), file);
  const std::string generation = (path / "generation_config.json").string();
  std::error_code ignored;
  if (std::filesystem::exists(generation, ignored)) {
    const json root = io::read_json_object(generation);
    add_missing(config.eos_token_ids, token_ids(JsonReader(root, generation), "eos_token_id"));
  }
  return config;
}

std::vector<double> rope_inverse_frequencies(const ModelConfig& config) {
  const int64_t half = config.head_dim / 2;
  std::vector<double> result(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(config.head_dim);
    double frequency = std::pow(config.rope_theta, -exponent);
    if (config.rope_scaling == RopeScaling::kLinear) {
      frequency /= config.rope_factor;
    } else if (config.rope_scaling == RopeScaling::kLlama3) {
      // How often the pair turns within the context the model was first trained on.
      const double turns = static_cast<double>(config.rope_original_max_positions) * frequency /
                           (2 * std::numbers::pi);
      const double low = config.rope_low_freq_factor;
      const double high = config.rope_high_freq_factor;
      const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
      frequency = (1 - kept) * frequency / config.rope_factor + kept * frequency;
    }
    result[static_cast<size_t>(i)] = frequency;
  }
  return result;
}

}  // namespace rillkv
