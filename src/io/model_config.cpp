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
#include "rillkv/log.h"
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
  const char* base_model;  // the architecture of a checkpoint saved without its head
  const char* model_type;
  int64_t max_positions;
  int64_t kv_heads;  // 0: as many as attention heads
  int64_t bos, eos;  // -1: none
};
constexpr Family kFamilies[] = {{"LlamaForCausalLM", "LlamaModel", "llama", 2048, 0, 1, 2},
                                {"MistralForCausalLM", "MistralModel", "mistral", 131072, 8, 1, 2},
                                {"Qwen2ForCausalLM", "Qwen2Model", "qwen2", 32768, 32, -1, -1}};

bool is(const Family& family, std::string_view model_type) {
  return family.model_type == model_type;
}

const Family& find_family(const JsonReader& reader) {
  std::string architecture;
  if (const json* list = reader.find("architectures")) {
    if (!list->is_array() || list->size() != 1 || !list->front().is_string()) {
      reader.fail("architectures", "an array of one string");
    }
    architecture = list->front().get<std::string>();
    // As the first conversions of LLaMA spelled it.
    if (architecture == "LLaMAForCausalLM") architecture = kFamilies[0].architecture;
  }
  const auto names = [&](const Family& family) {
    return architecture == family.architecture || architecture == family.base_model;
  };
  const std::string model_type = reader.string("model_type").value_or("");
  for (const Family& family : kFamilies) {
    const bool same_type = model_type.empty() || model_type == family.model_type;
    if (architecture.empty() ? model_type == family.model_type : names(family) && same_type) {
      return family;
    }
  }
  const bool ours = std::any_of(std::begin(kFamilies), std::end(kFamilies), names);
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

/// Whether "layer_types" is there; every layer must attend to everything.
bool read_layer_types(const JsonReader& reader, const Family& family, const ModelConfig& config) {
  const json* types = reader.find("layer_types");
  if (types == nullptr) return false;
  const std::string expectation =
      str_cat("\"full_attention\" for each of num_hidden_layers (", config.num_hidden_layers, ")");
  // transformers read such a configuration as Ministral's.
  if (is(family, "mistral")) reader.fail("layer_types", "nothing or null in a Mistral model");
  const bool full = types->is_array() && std::all_of(types->begin(), types->end(), [](auto& t) {
                      return t == "full_attention" || t == "attention";  // its former name
                    });
  if (!full || types->size() != static_cast<size_t>(config.num_hidden_layers)) {
    reader.fail("layer_types", expectation);
  }
  return true;
}

void read_window(const JsonReader& reader, const Family& family, const ModelConfig& config) {
  const bool full = read_layer_types(reader, family, config);
  const bool qwen = is(family, "qwen2");
  if (qwen && (!reader.boolean("use_sliding_window").value_or(false) || full)) return;
  if (is(family, "llama") && !reader.has("sliding_window")) return;
  // Absent is not null here: transformers then assume 4096. Null means no window, and so does 0: a
  // window of nothing would leave nothing to attend to.
  constexpr int64_t kDefault = 4096, kDefaultLayers = 28;
  const int64_t window =
      reader.is_null("sliding_window")
          ? 0
          : reader.integer("sliding_window", 0, kLargestPosition).value_or(kDefault);
  if (window == 0 || window >= config.max_position_embeddings) return;
  if (qwen) {
    const int64_t first =
        reader.integer("max_window_layers", 0, kLargestSize).value_or(kDefaultLayers);
    if (first >= config.num_hidden_layers) return;  // the first so many layers have no window
    reader.fail("use_sliding_window", "false: sliding windows are not supported");
  }
  reader.fail("sliding_window",
              str_cat("null, 0 or at least max_position_embeddings (",
                      config.max_position_embeddings, "): sliding windows are not supported"));
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

/// An integer, also one that Python wrote as a float: 1024.0.
int64_t integral(const JsonReader& reader, const char* key, int64_t least, int64_t greatest) {
  const json* value = reader.find(key);
  if (value == nullptr || !value->is_number_float()) {
    return reader.required_integer(key, least, greatest);
  }
  const auto number = value->get<double>();
  if (!(number >= static_cast<double>(least) && number <= static_cast<double>(greatest)) ||
      number != std::floor(number)) {
    reader.fail(key, str_cat("an integer in ", least, "..", greatest));
  }
  return static_cast<int64_t>(number);
}

/// The settings of RoPE under `key`, or nullptr where they say nothing.
const json* rope_settings(const JsonReader& reader, const char* key) {
  const json* settings = reader.find(key);
  if (settings != nullptr && !settings->is_object()) reader.fail(key, "an object or null");
  return settings == nullptr || settings->empty() ? nullptr : settings;
}

void require_no_partial_rotation(const JsonReader& reader) {
  const char* key = "partial_rotary_factor";
  if (reader.number(key).value_or(1.0) != 1.0) {
    reader.fail(key, "1 (partial rotation is not supported)");
  }
}

/// `rope` is the object that counts, `root` the whole configuration.
void read_rope_scaling(const JsonReader& rope, const JsonReader& root, ModelConfig& config) {
  const char* type_key = rope.present("rope_type") ? "rope_type" : "type";
  const std::string type = rope.string(type_key).value_or("default");
  if (type == "default") return;
  if (type == "linear") {
    config.rope_scaling = RopeScaling::kLinear;
  } else if (type == "llama3") {
    config.rope_scaling = RopeScaling::kLlama3;
  } else if (type == "dynamic") {
    config.rope_scaling = RopeScaling::kDynamic;
  } else {
    rope.fail(type_key, "\"default\", \"linear\", \"llama3\" or \"dynamic\"");
  }
  config.rope_factor = required_number(rope, "factor");
  if (config.rope_factor < 1) rope.fail("factor", "a number of at least 1");
  if (config.rope_scaling == RopeScaling::kDynamic && config.head_dim == 2) {
    rope.fail(type_key, "another type where head_dim is 2");  // its exponent is D / (D - 2)
  }
  if (config.rope_scaling != RopeScaling::kLlama3) return;
  config.rope_low_freq_factor = required_number(rope, "low_freq_factor");
  config.rope_high_freq_factor = required_number(rope, "high_freq_factor");
  if (config.rope_high_freq_factor <= config.rope_low_freq_factor) {
    rope.fail("high_freq_factor",
              str_cat("more than low_freq_factor (", config.rope_low_freq_factor, ")"));
  }
  // In transformers the same key beside the object comes first, and without either the model was
  // trained on all the positions it has.
  const char* original = "original_max_position_embeddings";
  const bool outside = root.present(original);
  config.rope_original_max_positions =
      outside || rope.present(original)
          ? integral(outside ? root : rope, original, 1, kLargestPosition)
          : config.max_position_embeddings;
}

/// transformers 5 moved rope_theta and the scaling into one object, rope_parameters. The former
/// one, rope_scaling, replaces it as a whole where it is there and not empty; a theta in the object
/// that counts comes before the one beside it.
void read_rope(const JsonReader& reader, ModelConfig& config) {
  require_off(reader, "rope_interleaved");
  if (reader.has("partial_rotary_factor")) require_no_partial_rotation(reader);
  const json* scaling = rope_settings(reader, "rope_scaling");
  const json* parameters = rope_settings(reader, "rope_parameters");
  if (scaling != nullptr && parameters != nullptr && *scaling != *parameters) {
    log(LogLevel::kWarning, str_cat(reader.name("rope_scaling"),
                                    " replaces \"rope_parameters\", which differ from it"));
  }
  const char* section = scaling != nullptr ? "rope_scaling" : "rope_parameters";
  const json nothing = json::object();
  const json* settings = scaling != nullptr ? scaling : parameters;
  const JsonReader rope(settings == nullptr ? nothing : *settings, reader.name(section),
                        io::Null::kError);
  for (const auto& item : (settings == nullptr ? nothing : *settings).items()) {
    if (item.value().is_object()) {
      rope.fail(item.key().c_str(),
                "settings of RoPE for all layers (settings by layer type are not supported)");
    }
  }
  const JsonReader& with_theta = rope.present("rope_theta") ? rope : reader;
  if (with_theta.present("rope_theta")) {
    config.rope_theta = required_number(with_theta, "rope_theta");
  }
  require_no_partial_rotation(rope);
  read_rope_scaling(rope, reader, config);
}

/// A token id, or -1 for none, which is what some converters write.
int64_t token_id(const JsonReader& reader, const char* key, const json& value, const char* what) {
  if (!value.is_number_integer() || value < -1 || value > kLargestTokenId) reader.fail(key, what);
  return value.get<int64_t>();
}

// An integer, an array of integers, or nothing.
std::vector<int64_t> token_ids(const JsonReader& reader, const char* key) {
  const json* value = reader.find(key);
  if (value == nullptr) return {};
  std::vector<int64_t> ids;
  for (const json& item : value->is_array() ? *value : json::array({*value})) {
    const int64_t id =
        token_id(reader, key, item, "a token id, -1 for none, or an array of token ids");
    if (id >= 0) ids.push_back(id);
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
  // Null is not absent here: it means no grouping, where transformers let it be null.
  const bool family_decides = family.kv_heads > 0 && !reader.present("num_key_value_heads");
  const auto kv_heads = is(family, "mistral")
                            ? reader.integer("num_key_value_heads", 1, kLargestSize)
                            : nullable_integer(reader, "num_key_value_heads", 1, kLargestSize);
  config.num_key_value_heads = kv_heads.value_or(family_decides ? family.kv_heads : heads);
  if (heads % config.num_key_value_heads != 0) {
    reader.fail("num_key_value_heads", str_cat("a divisor of num_attention_heads (", heads, ")"));
  }
  const auto head_dim = is(family, "qwen2") ? reader.integer("head_dim", 2, kLargestSize)
                                            : nullable_integer(reader, "head_dim", 2, kLargestSize);
  // LlamaConfig demands it beside an explicit head_dim, too.
  if ((!head_dim || is(family, "llama")) && config.hidden_size % heads != 0) {
    reader.fail("hidden_size", str_cat("a multiple of num_attention_heads (", heads, ")"));
  }
  if (head_dim) {
    config.head_dim = *head_dim;
    if (config.head_dim % 2 != 0) reader.fail("head_dim", "an even number");
  } else {
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
  const std::string activation = reader.string("hidden_act").value_or("silu");
  if (activation != "silu" && activation != "swish") {
    reader.fail("hidden_act", "\"silu\" or \"swish\", its other name");
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

  config.bos_token_id = reader.present("bos_token_id") ? -1 : family.bos;
  if (const json* bos = reader.find("bos_token_id")) {
    config.bos_token_id = token_id(reader, "bos_token_id", *bos, "a token id, or -1 for none");
  }
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
