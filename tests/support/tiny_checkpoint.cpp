#include "tests/support/tiny_checkpoint.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <map>

#include "rillkv/files.h"
#include "rillkv/llama.h"
#include "rillkv/safetensors.h"
#include "tests/support/random_llama.h"
#include "tests/support/test_paths.h"

namespace rillkv::testing {

void write_tiny_checkpoint(const std::string& folder) {
  namespace fs = std::filesystem;
  fs::create_directories(folder);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    fs::copy_file(fs::path(test::test_data_dir()) / "tokenizers/smollm" / name,
                  fs::path(folder) / name, fs::copy_options::overwrite_existing);
  }
  write_file_atomically(folder + "/config.json", R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 704,
  "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-05,
  "max_position_embeddings": 1024, "rope_theta": 10000.0, "hidden_act": "silu",
  "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2
})");
  const ModelConfig config = ModelConfig::load(folder);
  LlamaModel model(config, at::kFloat);
  std::map<std::string, at::Tensor> weights;
  const auto source = random_llama("tiny", config);
  model->load_weights([&](const std::string& name) { return weights[name] = source(name); });
  write_safetensors(folder + "/model.safetensors", weights);
}

}  // namespace rillkv::testing
