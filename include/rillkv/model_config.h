// What a checkpoint's config.json says about the model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rillkv {

/// How RoPE's frequencies differ from theta^(-2i/D). kDynamic: not at all up to
/// max_position_embeddings; beyond it every frequency depends on the length, which is not computed
/// here, so that a model refuses to go there.
enum class RopeScaling { kDefault, kLinear, kLlama3, kDynamic };

/// The architecture of a LLaMA-family decoder: pre-norm RMSNorm, SwiGLU, half-split RoPE, GQA.
/// Names and defaults are those of Hugging Face transformers.
struct ModelConfig {
  std::string architecture = "LlamaForCausalLM";
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // divides num_attention_heads
  int64_t head_dim = 0;             // even; need not be hidden_size / num_attention_heads
  double rms_norm_eps = 1e-6;
  int64_t max_position_embeddings = 2048;
  bool tie_word_embeddings = false;  // lm_head.weight is model.embed_tokens.weight
  bool qkv_bias = false;             // q_proj, k_proj and v_proj have a bias
  bool o_bias = false;               // o_proj has one
  bool mlp_bias = false;             // gate_proj, up_proj and down_proj have one

  double rope_theta = 10000.0;
  RopeScaling rope_scaling = RopeScaling::kDefault;
  double rope_factor = 1.0;                 // linear, llama3; kept for dynamic
  double rope_low_freq_factor = 1.0;        // llama3
  double rope_high_freq_factor = 4.0;       // llama3
  int64_t rope_original_max_positions = 0;  // llama3

  int64_t bos_token_id = -1;           // -1: none
  std::vector<int64_t> eos_token_ids;  // generation stops at any of them
  std::string dtype;                   // what the weights were saved as, "bfloat16", or empty

  /// Reads `folder`/config.json, and adds the end-of-sequence ids of `folder`/
  /// generation_config.json where that file exists (LLaMA-3 names the chat's end only there).
  /// Throws Error naming file and key for anything this library does not compute exactly. Where
  /// settings of RoPE stand in two places, those that transformers read count.
  static ModelConfig load(const std::string& folder);

  /// From the text of a config.json; `where` names it in errors.
  static ModelConfig from_json(std::string_view text, const std::string& where = "config.json");

  /// How many positions a sequence may have: max_position_embeddings where scaling is dynamic,
  /// otherwise no limit (INT64_MAX), though no model was trained beyond max_position_embeddings.
  int64_t position_limit() const {
    return rope_scaling == RopeScaling::kDynamic ? max_position_embeddings : INT64_MAX;
  }

  /// Key and value heads' bytes are what a cache compresses: G = heads / kv heads.
  int64_t group_size() const { return num_attention_heads / num_key_value_heads; }
};

/// inv_freq[i] for i < head_dim/2, in double: channel pair (i, i + head_dim/2) of a token at
/// position p is rotated by p * inv_freq[i]. Linear scaling divides by the factor (position
/// interpolation, Chen et al. 2023, arXiv:2306.15595); llama3 divides low frequencies by the
/// factor, keeps high ones and interpolates between (Meta's llama-models, `apply_scaling`; the same
/// as transformers' `_compute_llama3_parameters`).
std::vector<double> rope_inverse_frequencies(const ModelConfig& config);

}  // namespace rillkv
