#include "tests/support/random_llama.h"

#include <ATen/ops/empty.h>

#include "rillkv/error.h"

namespace rillkv::testing {
namespace {

bool contains(const std::string& text, const char* part) { return text.find(part) != text.npos; }

bool is_bias(const std::string& name) { return name.ends_with(".bias"); }

std::vector<int64_t> shape_of(const std::string& name, const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t queries = config.num_attention_heads * config.head_dim;
  const int64_t keys = config.num_key_value_heads * config.head_dim;
  if (contains(name, "norm")) return {hidden};
  if (contains(name, "embed_tokens") || contains(name, "lm_head")) {
    return {config.vocab_size, hidden};
  }
  int64_t out = keys;
  int64_t in = hidden;
  if (contains(name, "q_proj")) out = queries;
  if (contains(name, "gate_proj") || contains(name, "up_proj")) out = inner;
  if (contains(name, "o_proj")) {
    out = hidden;
    in = queries;
  }
  if (contains(name, "down_proj")) {
    out = hidden;
    in = inner;
  }
  if (is_bias(name)) return {out};
  return {out, in};
}

}  // namespace

std::vector<int32_t> random_integers(const std::string& name, int64_t count) {
  uint64_t state = 0xcbf29ce484222325u;
  for (const char c : name) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  std::vector<int32_t> result;
  result.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    result.push_back(static_cast<int32_t>((z ^ z >> 31) >> 40));
  }
  return result;
}

at::Tensor random_weight(const std::string& name, const std::vector<int64_t>& shape) {
  double offset = 0;
  double scale = 1;
  if (contains(name, "norm")) {
    offset = 1;
    scale = 0.25;
  } else if (is_bias(name)) {
    scale = 0.25;
  } else if (!contains(name, "embed_tokens")) {
    while (scale / 2 * scale / 2 * static_cast<double>(shape.back()) >= 3) scale /= 2;
    if (contains(name, "q_proj") || contains(name, "k_proj")) scale *= 2;
  }
  at::Tensor weight = at::empty(shape, at::kFloat);
  float* out = weight.data_ptr<float>();
  // Exact in double up to the last conversion, so both languages round once and alike.
  for (const int32_t n : random_integers(name, weight.numel())) {
    *out++ = static_cast<float>(offset + (n - 0x1p23) * 0x1p-23 * scale);
  }
  return weight;
}

std::function<at::Tensor(const std::string&)> random_llama(const std::string& name,
                                                           const ModelConfig& config) {
  return [name, config](const std::string& weight) {
    return random_weight(str_cat(name, "/", weight), shape_of(weight, config));
  };
}

}  // namespace rillkv::testing
