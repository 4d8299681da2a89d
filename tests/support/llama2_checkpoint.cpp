#include "tests/support/llama2_checkpoint.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "rillkv/files.h"
#include "rillkv/llama.h"
#include "rillkv/safetensors.h"
#include "tests/support/random_llama.h"
#include "tests/support/test_paths.h"

namespace rillkv::testing {

ModelConfig write_llama2_checkpoint(const std::string& folder) {
  namespace fs = std::filesystem;
  fs::create_directories(folder);
  fs::copy_file(fs::path(test::test_data_dir()) / "tokenizers/llama2/tokenizer.model",
                fs::path(folder) / "tokenizer.model", fs::copy_options::overwrite_existing);
  write_file_atomically(folder + "/config.json", R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1000,
  "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 2,
  "num_attention_heads": 2, "rms_norm_eps": 1e-05, "max_position_embeddings": 4096,
  "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "float16",
  "bos_token_id": 1, "eos_token_id": 2
})");
  const ModelConfig config = ModelConfig::load(folder);
  const auto source = random_llama("llama2", config);
  // The model itself says which weights there are.
  std::map<std::string, at::Tensor> shards[2];
  nlohmann::json index;
  LlamaModel model(config, at::kFloat);
  model->load_weights([&](const std::string& name) {
    const at::Tensor weight = source(name);
    const size_t shard = name.find("layers.0") == name.npos ? 1 : 0;
    shards[shard][name] = weight.to(at::kHalf);
    index["weight_map"][name] = "model-0000" + std::to_string(shard + 1) + "-of-00002.safetensors";
    return weight;
  });
  for (int i = 0; i < 2; ++i) {
    write_safetensors(folder + "/model-0000" + std::to_string(i + 1) + "-of-00002.safetensors",
                      shards[i]);
  }
  write_file_atomically(folder + "/model.safetensors.index.json", index.dump());
  return config;
}

}  // namespace rillkv::testing
