#include "rillkv/model_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::TemporaryFolder;

json llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 32000},
          {"hidden_size", 4096},
          {"intermediate_size", 11008},
          {"num_hidden_layers", 32},
          {"num_attention_heads", 32},
          {"rms_norm_eps", 1e-5},
          {"max_position_embeddings", 4096}};
}

ModelConfig parse(const json& config) { return ModelConfig::from_json(config.dump()); }

void expect_bad(const char* key, const json& value, const std::vector<std::string>& parts,
                json config = llama()) {
  config[key] = value;
  std::vector<std::string> all = parts;
  all.emplace_back("config.json");
  all.push_back("\"" + std::string(key) + "\"");
  expect_error([&] { parse(config); }, all);
}

TEST(ModelConfig, Llama2WithDefaults) {
  const ModelConfig config = parse(llama());
  EXPECT_EQ(config.num_key_value_heads, 32);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.group_size(), 1);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.rope_scaling, RopeScaling::kDefault);
  EXPECT_FALSE(config.tie_word_embeddings || config.qkv_bias || config.o_bias || config.mlp_bias);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int64_t>{2}));
}

TEST(ModelConfig, Llama3) {
  json source = llama();
  source.update({{"num_key_value_heads", 8},
                 {"rope_theta", 500000.0},
                 {"bos_token_id", 128000},
                 {"eos_token_id", {128001, 128008, 128009}},
                 {"torch_dtype", "bfloat16"},
                 {"attention_bias", false},
                 {"rope_scaling",
                  {{"rope_type", "llama3"},
                   {"factor", 8.0},
                   {"low_freq_factor", 1.0},
                   {"high_freq_factor", 4.0},
                   {"original_max_position_embeddings", 8192}}}});
  const ModelConfig config = parse(source);
  EXPECT_EQ(config.group_size(), 4);
  EXPECT_EQ(config.rope_scaling, RopeScaling::kLlama3);
  EXPECT_EQ(config.rope_original_max_positions, 8192);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int64_t>{128001, 128008, 128009}));
  EXPECT_EQ(config.dtype, "bfloat16");
}

TEST(ModelConfig, RopeParametersOfTransformers5) {
  json source = llama();
  source["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 1e6}};
  source["dtype"] = "float16";
  const ModelConfig config = parse(source);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.rope_scaling, RopeScaling::kLinear);
  EXPECT_EQ(config.rope_factor, 2.0);
  EXPECT_EQ(config.dtype, "float16");
  source["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  EXPECT_EQ(parse(source).rope_scaling, RopeScaling::kDefault);
}

TEST(ModelConfig, BiasesByArchitecture) {
  json source = llama();
  source["attention_bias"] = true;
  source["mlp_bias"] = true;
  ModelConfig config = parse(source);
  EXPECT_TRUE(config.qkv_bias && config.o_bias && config.mlp_bias);
  source = llama();
  source.update({{"architectures", {"Qwen2ForCausalLM"}},
                 {"model_type", "qwen2"},
                 {"use_sliding_window", false},
                 {"sliding_window", 100}});
  config = parse(source);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias || config.mlp_bias);
  EXPECT_EQ(config.bos_token_id, -1);
  expect_bad("use_sliding_window", true, {"false"}, source);
}

TEST(ModelConfig, MistralsSlidingWindow) {
  json source = llama();
  source.update({{"architectures", {"MistralForCausalLM"}}, {"model_type", "mistral"}});
  source["sliding_window"] = nullptr;
  EXPECT_EQ(parse(source).num_key_value_heads, 8);
  source["sliding_window"] = 4096;
  EXPECT_EQ(parse(source).max_position_embeddings, 4096);
  expect_bad("sliding_window", 4095, {"4096", "4095"}, source);
  // transformers take 4096 where the key is absent.
  source.erase("sliding_window");
  EXPECT_EQ(parse(source).max_position_embeddings, 4096);
  source["max_position_embeddings"] = 32768;
  expect_error([&] { parse(source); }, {"sliding_window", "32768", "nothing"});
}

TEST(ModelConfig, ExplicitHeadDim) {
  json source = llama();
  source["head_dim"] = 96;
  EXPECT_EQ(parse(source).head_dim, 96);
  source["hidden_size"] = 4097;  // LlamaConfig wants a multiple of the heads all the same
  expect_error([&] { parse(source); }, {"\"hidden_size\"", "multiple", "4097"});
  source.update({{"architectures", {"MistralForCausalLM"}},
                 {"model_type", "mistral"},
                 {"sliding_window", nullptr}});
  EXPECT_EQ(parse(source).head_dim, 96);
  source["head_dim"] = nullptr;
  expect_error([&] { parse(source); }, {"\"hidden_size\"", "multiple", "4097"});
  expect_bad("head_dim", 7, {"even", "7"});
  expect_bad("hidden_size", 32 * 3, {"even multiple"});
}

TEST(ModelConfig, NamesTheArchitectureThatIsMissing) {
  expect_bad("architectures", {"GPT2LMHeadModel"}, {"LlamaForCausalLM", "GPT2LMHeadModel"}, [] {
    json source = llama();
    source.erase("model_type");
    return source;
  }());
  expect_bad("model_type", "gemma", {"gemma"});
  expect_bad("architectures", json::array(), {"array of one string"});
  expect_bad("architectures", "LlamaForCausalLM", {"array of one string"});
  json source = llama();
  source.erase("architectures");
  EXPECT_EQ(parse(source).architecture, "LlamaForCausalLM");
  source.erase("model_type");
  expect_error([&] { parse(source); }, {"architectures", "LlamaForCausalLM", "nothing"});
}

TEST(ModelConfig, RejectsWrongTypesAndRanges) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads"}) {
    for (const json& value : {json(0), json(-1), json(1.5), json("12"), json(true), json(nullptr),
                              json(18446744073709551615u), json(1e30), json(json::array({4}))}) {
      expect_bad(key, value, {"integer"});
    }
  }
  expect_bad("num_key_value_heads", 3, {"divisor", "32", "3"});
  expect_bad("num_key_value_heads", 64, {"divisor"});
  expect_bad("rms_norm_eps", 0, {"above 0"});
  expect_bad("rms_norm_eps", "small", {"number"});
  expect_bad("rope_theta", -1, {"above 0"});
  expect_bad("tie_word_embeddings", 1, {"true or false"});
  expect_bad("attention_bias", "yes", {"true or false"});
  expect_bad("eos_token_id", "</s>", {"token id"});
  expect_bad("eos_token_id", {2, -2}, {"token id", "-1 for none"});
  expect_bad("eos_token_id", -2, {"token id"});
  expect_bad("bos_token_id", 1.5, {"token id"});
  expect_bad("bos_token_id", {1, 2}, {"token id"});
  expect_bad("bos_token_id", -2, {"token id", "-1 for none"});
  expect_bad("max_position_embeddings", 0, {"integer"});
}

// Which keys transformers' configuration classes let be null, and what they then take.
TEST(ModelConfig, NullIsWhatTransformersMakesOfIt) {
  for (const char* key :
       {"rms_norm_eps", "rope_theta", "max_position_embeddings", "hidden_act",
        "tie_word_embeddings", "attention_bias", "mlp_bias", "rope_interleaved", "model_type"}) {
    expect_bad(key, nullptr, {"expected", "null"});
  }
  json source = llama();
  for (const char* key : {"num_key_value_heads", "head_dim", "rope_scaling", "rope_parameters",
                          "sliding_window", "layer_types", "quantization_config", "dtype",
                          "torch_dtype", "architectures", "partial_rotary_factor"}) {
    source[key] = nullptr;
  }
  source["bos_token_id"] = source["eos_token_id"] = nullptr;
  const ModelConfig config = parse(source);
  EXPECT_EQ(config.num_key_value_heads, 32);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.rope_scaling, RopeScaling::kDefault);
  EXPECT_EQ(config.dtype, "");
  EXPECT_EQ(config.bos_token_id, -1);
  EXPECT_TRUE(config.eos_token_ids.empty());
  // MistralConfig and Qwen2Config: absent takes their default; null is as many as heads for Qwen2
  // and an error for Mistral.
  source = llama();
  source.update({{"architectures", {"MistralForCausalLM"}},
                 {"model_type", "mistral"},
                 {"sliding_window", nullptr}});
  EXPECT_EQ(parse(source).num_key_value_heads, 8);
  expect_bad("num_key_value_heads", nullptr, {"integer", "null"}, source);
  source = llama();
  source.update({{"architectures", {"Qwen2ForCausalLM"}},
                 {"model_type", "qwen2"},
                 {"num_attention_heads", 16}});
  expect_error([&] { parse(source); }, {"num_key_value_heads", "divisor", "16", "nothing"});
  source["num_key_value_heads"] = nullptr;
  EXPECT_EQ(parse(source).num_key_value_heads, 16);
}

TEST(ModelConfig, RejectsFeaturesThatAreNotComputed) {
  expect_bad("hidden_act", "gelu", {"silu", "gelu"});
  expect_bad("quantization_config", {{"bits", 4}}, {"quantised"});
  expect_bad("partial_rotary_factor", 0.5, {"partial"});
  expect_bad("rope_interleaved", true, {"false"});
  expect_bad("layer_types", {"full_attention", "sliding_attention"}, {"full_attention"});
  expect_bad("sliding_window", 128, {"sliding windows are not supported"});
  json source = llama();
  source["rope_scaling"] = {{"type", "longrope"}, {"factor", 2.0}};
  expect_error([&] { parse(source); }, {"rope_scaling", "\"type\"", "linear", "longrope"});
  source["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 2.0}};
  expect_error([&] { parse(source); }, {"rope_scaling", "\"rope_type\"", "yarn"});
}

TEST(ModelConfig, ChecksRopeScalingsParameters) {
  json source = llama();
  const json good = {{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 8192}};
  const auto expect = [&](const char* key, const json& value, const char* part) {
    source["rope_scaling"] = good;
    source["rope_scaling"][key] = value;
    expect_error([&] { parse(source); }, {"rope_scaling", key, part});
  };
  expect("factor", nullptr, "null");
  expect("factor", 0.5, "at least 1");
  expect("factor", "8", "number");
  expect("low_freq_factor", 0, "above 0");
  expect("high_freq_factor", 1.0, "more than low_freq_factor");
  expect("original_max_position_embeddings", nullptr, "null");
  expect("original_max_position_embeddings", 0, "integer");
  source["rope_scaling"] = "linear";
  expect_error([&] { parse(source); }, {"rope_scaling", "object"});
}

TEST(ModelConfig, RopeScalingReplacesRopeParametersAndSaysSo) {
  json source = llama();
  source["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  source["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  ::testing::internal::CaptureStderr();
  const ModelConfig config = parse(source);
  const std::string warning = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(config.rope_scaling, RopeScaling::kLinear);
  EXPECT_EQ(config.rope_theta, 10000.0);  // the theta of what is replaced is gone, too
  EXPECT_NE(warning.find("config.json: key \"rope_scaling\" replaces \"rope_parameters\""),
            warning.npos)
      << warning;
  source["rope_parameters"] = source["rope_scaling"];
  ::testing::internal::CaptureStderr();
  parse(source);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  // Whichever counts, no kind is run without its scaling.
  for (const char* type : {"yarn", "longrope", "su", "mrope", "proportional", "axial", "Linear"}) {
    source["rope_scaling"] = {{"rope_type", type}, {"factor", 2.0}};
    expect_error([&] { parse(source); }, {"\"rope_scaling\"", "\"rope_type\"", type, "dynamic"});
    source["rope_parameters"] = source["rope_scaling"];
    source["rope_scaling"] = nullptr;
    expect_error([&] { parse(source); }, {"\"rope_parameters\"", "\"rope_type\"", type});
  }
  source["rope_parameters"] = {{"full_attention", {{"rope_theta", 1e6}}}};
  expect_error([&] { parse(source); },
               {"\"rope_parameters\"", "\"full_attention\"", "layer type", "1000000.0"});
}

TEST(ModelConfig, DynamicScalingEndsWhereItWouldBegin) {
  json source = llama();
  source["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  const ModelConfig config = parse(source);
  EXPECT_EQ(config.position_limit(), 4096);
  EXPECT_EQ(rope_inverse_frequencies(config), rope_inverse_frequencies(parse(llama())));
  EXPECT_EQ(parse(llama()).position_limit(), INT64_MAX);
}

TEST(ModelConfig, ReadsNumbersThatOnlyPythonWrites) {
  const auto with = [](const std::string& key, const std::string& value) {
    std::string text = llama().dump();
    text.insert(1, "\"" + key + "\":" + value + ",");
    return text;
  };
  EXPECT_EQ(ModelConfig::from_json(with("initializer_range", "NaN")).hidden_size, 4096);
  EXPECT_EQ(ModelConfig::from_json(with("limits", "[-Infinity, Infinity]")).hidden_size, 4096);
  EXPECT_EQ(ModelConfig::from_json(with("note", R"("\ud800")")).hidden_size, 4096);
  for (const char* literal : {"NaN", "Infinity", "-Infinity"}) {
    for (const char* key : {"rope_theta", "partial_rotary_factor"}) {
      expect_error([&] { ModelConfig::from_json(with(key, literal)); },
                   {"config.json: key \"" + std::string(key) + "\"", "finite number", literal});
    }
    expect_error([&] { ModelConfig::from_json(with("head_dim", literal)); },
                 {"\"head_dim\"", "integer", literal});
    expect_error([&] { ModelConfig::from_json(with("eos_token_id", literal)); },
                 {"\"eos_token_id\"", "token id", literal});
    const std::string scaling = R"({"rope_type":"linear","factor":)" + std::string(literal) + "}";
    expect_error([&] { ModelConfig::from_json(with("rope_scaling", scaling)); },
                 {"\"rope_scaling\"", "\"factor\"", "finite number", literal});
  }
}

TEST(ModelConfig, RejectsBadJson) {
  for (const char* text : {"", "{", "[]", "3", "{\"vocab_size\":1,\"vocab_size\":2}", "{} {}"}) {
    expect_error([&] { ModelConfig::from_json(text); }, {"config.json"});
  }
}

TEST(ModelConfig, LoadsAFolderAndGenerationConfig) {
  const TemporaryFolder folder;
  expect_error([&] { ModelConfig::load(folder.path()); }, {folder.path(), "config.json"});
  json source = llama();
  source["eos_token_id"] = 128001;
  folder.write("config.json", source.dump());
  EXPECT_EQ(ModelConfig::load(folder.path()).eos_token_ids, (std::vector<int64_t>{128001}));
  folder.write("generation_config.json", "{\"eos_token_id\":[128001,128009]}");
  EXPECT_EQ(ModelConfig::load(folder.path()).eos_token_ids, (std::vector<int64_t>{128001, 128009}));
  folder.write("generation_config.json", "{\"eos_token_id\":\"x\"}");
  expect_error([&] { ModelConfig::load(folder.path()); },
               {"generation_config.json", "eos_token_id"});
}

TEST(RopeFrequencies, DefaultAndLinear) {
  ModelConfig config;
  config.head_dim = 8;
  config.rope_theta = 10000;
  // 10000^(-2i/8) = 10^-i. pow() is good to an ulp or two of 1e0..1e-3.
  const auto plain = rope_inverse_frequencies(config);
  ASSERT_EQ(plain.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(plain[i], std::pow(0.1, i), 1e-15);
  config.rope_scaling = RopeScaling::kLinear;
  config.rope_factor = 4;
  const auto linear = rope_inverse_frequencies(config);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(linear[i], plain[i] / 4);
}

// Hand-worked: wavelengths 2 pi / f against the borders old/high and old/low.
TEST(RopeFrequencies, Llama3HasThreeRegimes) {
  ModelConfig config;
  config.head_dim = 6;
  config.rope_theta = 1e6;  // f = 1, 0.01, 0.0001: wavelengths 6.28, 628.3, 62832
  config.rope_scaling = RopeScaling::kLlama3;
  config.rope_factor = 8;
  config.rope_low_freq_factor = 1;
  config.rope_high_freq_factor = 4;
  config.rope_original_max_positions = 1000;  // borders 250 and 1000
  const auto frequencies = rope_inverse_frequencies(config);
  EXPECT_NEAR(frequencies[0], 1, 1e-15);
  const double smooth = (1000 * 0.01 / (2 * std::numbers::pi) - 1) / 3;
  EXPECT_NEAR(frequencies[1], 0.01 * ((1 - smooth) / 8 + smooth), 1e-16);
  EXPECT_NEAR(frequencies[2], 0.0001 / 8, 1e-18);
}

}  // namespace
}  // namespace rillkv
