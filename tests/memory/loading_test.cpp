// Memory while a checkpoint loads: prepacked weights replace the file's pages as they are made.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdio>
#include <fstream>
#include <map>

#include "rillkv/llama.h"
#include "rillkv/memory.h"
#include "rillkv/safetensors.h"
#include "tests/memory/allocations.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

// Tied embeddings are a quarter of the weights here, as in small models: kept twice they alone
// would break the bound.
constexpr const char* kConfig = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32768,
  "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8,
  "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "max_position_embeddings": 256,
  "tie_word_embeddings": TIED})";

int64_t write_checkpoint(const std::string& folder, bool tied) {
  std::string text = kConfig;
  text.replace(text.find("TIED"), 4, tied ? "true" : "false");
  std::ofstream(folder + "/config.json") << text;
  const ModelConfig config = ModelConfig::load(folder);
  std::map<std::string, at::Tensor> weights;
  int64_t bytes = 0;
  for_each_weight(config, [&](const std::string& name, const std::vector<int64_t>& shape) {
    weights[name] = at::full(shape, 0.01, at::kBFloat16);
    bytes += static_cast<int64_t>(weights[name].nbytes());
  });
  write_safetensors(folder + "/model.safetensors", weights);
  return bytes;
}

class LoadingMemory : public ::testing::TestWithParam<bool> {};

TEST_P(LoadingMemory, PeakIsLittleMoreThanTheWeights) {
  if (!testing::sees_allocations()) GTEST_SKIP() << "AddressSanitizer keeps what is freed";
  if (!multiplies_bfloat16()) GTEST_SKIP() << "weights are packed only where the CPU has bf16";
  const testing::TemporaryFolder folder;
  const int64_t weights = write_checkpoint(folder.path(), GetParam());
  // Threads, their stacks and libraries are there before the measurement begins.
  at::mm(at::ones({256, 256}), at::ones({256, 256}));
  malloc_trim(0);
  const int64_t before = current_rss_bytes();
  {
    std::ofstream reset("/proc/self/clear_refs");  // 5: the peak begins anew (man 5 proc)
    reset << "5" << std::flush;
    ASSERT_TRUE(reset.good()) << "this kernel cannot reset the peak";
  }
  ASSERT_LT(peak_rss_bytes() - before, int64_t{4} << 20);
  const LlamaModel model = load_model(folder.path(), {at::kBFloat16});
  const double peak = double(peak_rss_bytes() - before) / double(weights);
  const double kept = double(current_rss_bytes() - before) / double(weights);
  RecordProperty("peak_over_weights", std::to_string(peak));
  EXPECT_LE(peak, 1.15) << "kept " << kept;
  EXPECT_GE(peak, 0.9) << "measures something else";
  EXPECT_TRUE(model->packed());
}

INSTANTIATE_TEST_SUITE_P(Embeddings, LoadingMemory, ::testing::Bool(), [](const auto& info) {
  return info.param ? std::string("Tied") : std::string("Own");
});

}  // namespace
}  // namespace rillkv
