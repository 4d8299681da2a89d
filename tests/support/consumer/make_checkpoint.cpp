// make_checkpoint FOLDER: writes a tiny random LLaMA (config.json and weights) there, for the
// tutorial to run on. Its vocabulary is that of tests/data/tokenizers/smollm.
#include <ATen/ATen.h>
#include <rillkv/files.h>
#include <rillkv/llama.h>
#include <rillkv/safetensors.h>

#include <cstdio>
#include <exception>
#include <map>
#include <string>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    const std::string folder = argv[1];
    rillkv::write_file_atomically(folder + "/config.json", R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 704,
  "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-05,
  "max_position_embeddings": 1024, "hidden_act": "silu", "tie_word_embeddings": true
})");
    at::manual_seed(1);
    std::map<std::string, at::Tensor> weights;
    rillkv::for_each_weight(rillkv::ModelConfig::load(folder),
                            [&](const std::string& name, const std::vector<int64_t>& shape) {
                              weights[name] =
                                  shape.size() == 1 ? at::ones(shape) : at::randn(shape) / 8;
                            });
    rillkv::write_safetensors(folder + "/model.safetensors", weights);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
