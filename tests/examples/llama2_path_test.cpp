// A LLaMA-2 folder from text to generated tokens, through the library and through `prefill`.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "rillkv/files.h"
#include "rillkv/llama.h"
#include "rillkv/safetensors.h"
#include "rillkv/tokenizer.h"
#include "tests/support/llama2_checkpoint.h"
#include "tests/support/program.h"
#include "tests/support/random_llama.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

using nlohmann::json;
using testing::ProgramResult;
using testing::run_program;
using testing::TemporaryFolder;

class Llama2Path : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder();
    config_ = new ModelConfig(testing::write_llama2_checkpoint(folder_->path()));
  }
  static void TearDownTestSuite() {
    delete folder_;
    delete config_;
  }

  static at::Tensor last_logits(const LlamaModel& model, const std::vector<int64_t>& ids) {
    CompressionConfig dense;
    dense.policy = Policy::kDense;
    QuantizedKvCache cache = model->make_cache(dense);
    return model->forward(at::tensor(ids), cache, Logits::kLast)[0];
  }

  static std::string prompt() {
    std::string text = "You may convey  verbatim copies\nof the Program's \xf0\x9f\x99\x82 code. ";
    while (text.size() < 3000) text += text;
    return text;
  }

  static TemporaryFolder* folder_;
  static ModelConfig* config_;
};
TemporaryFolder* Llama2Path::folder_ = nullptr;
ModelConfig* Llama2Path::config_ = nullptr;

TEST_F(Llama2Path, ShardsGiveTheWeightsThatWereWritten) {
  EXPECT_EQ(config_->head_dim, 128);
  EXPECT_EQ(config_->group_size(), 1);
  const auto source = testing::random_llama("llama2", *config_);
  LlamaModel expected(*config_, at::kFloat);
  expected->load_weights([&](const std::string& name) { return source(name).to(at::kHalf); });
  const LlamaModel loaded = load_model(folder_->path());
  const auto parameters = expected->named_parameters();
  ASSERT_EQ(loaded->named_parameters().size(), parameters.size());
  for (const auto& item : loaded->named_parameters()) {
    EXPECT_TRUE(at::equal(item.value(), parameters[item.key()])) << item.key();
  }
}

TEST_F(Llama2Path, ADoubledBosIsOneLineOfWarning) {
  const TemporaryFolder out;
  out.write("two", "1 1 200 300");
  out.write("one", "1 200 1 1");
  const auto warning = [&](std::vector<std::string> words) {
    words.insert(words.end(), {"--model", folder_->path(), "--max-new-tokens", "2", "--baseline"});
    std::string lines;
    std::istringstream err(run_program("prefill", words).err);
    for (std::string line; std::getline(err, line);) {
      if (line.find("BOS") != line.npos) lines += line + "\n";
    }
    return lines;
  };
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"--prompt", "<s>copies of the Program"},
        std::vector<std::string>{"--token-ids", out.file("two")}}) {
    const std::string lines = warning(words);
    EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1) << words[0] << ": " << lines;
    EXPECT_NE(lines.find("begins with two BOS tokens (id 1)"), lines.npos) << lines;
  }
  EXPECT_EQ(warning({"--prompt", "copies of <s> the Program"}), "");
  EXPECT_EQ(warning({"--token-ids", out.file("one")}), "");
  // A user's text in a chat spells no tokens.
  EXPECT_EQ(warning({"--prompt", "<s>copies", "--chat", "llama2"}), "");
}

TEST_F(Llama2Path, PrefillRunsOnIt) {
  const TemporaryFolder out;
  out.write("prompt.txt", prompt());
  const auto ids = Tokenizer::load(folder_->path())->encode(prompt(), true);
  ASSERT_EQ(ids.front(), 1);
  ASSERT_GT(ids.size(), 600u);  // several sealed blocks
  const ProgramResult result =
      run_program("prefill", {"--model", folder_->path(), "--prompt-file", out.file("prompt.txt"),
                              "--dtype", "float32", "--max-new-tokens", "5", "--chunk-size", "100",
                              "--set", "policy=dense", "--json", out.file("report.json"),
                              "--logits-out", out.file("logits.safetensors"), "--quiet"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json report = json::parse(read_file(out.file("report.json")));
  EXPECT_EQ(report.at("prompt_tokens"), ids.size());

  // Chunking changes only the order of float32 sums, which moves logits of size 1 by some 1e-6; a
  // token dropped in the middle of the prompt moves them by 0.02, one at the end by 5 (measured).
  const at::Tensor expected = last_logits(load_model(folder_->path()), ids);
  const at::Tensor logits = SafetensorsFile::open(out.file("logits.safetensors")).tensor("logits");
  ASSERT_EQ(logits.sizes(), expected.sizes());
  EXPECT_LE((logits - expected).abs().max().item<float>(), 1e-4f);
  // Greedy: the first generated token is the logits' maximum.
  ASSERT_FALSE(report.at("token_ids").empty());
  EXPECT_EQ(report.at("token_ids")[0].get<int64_t>(), logits.argmax().item<int64_t>());
}

TEST_F(Llama2Path, PrefillCompressesIt) {
  const TemporaryFolder out;
  const ProgramResult result = run_program(
      "prefill", {"--model", folder_->path(), "--prompt", prompt(), "--dtype", "float32", "--chat",
                  "llama2", "--max-new-tokens", "3", "--json", out.file("report.json"), "--quiet"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json report = json::parse(read_file(out.file("report.json")));
  // The design's bound for sealed blocks of the default preset at D = 128, metadata included.
  const double bits = report.at("kv_bits_sealed").at("total").get<double>();
  EXPECT_GT(bits, 4.0);
  EXPECT_LE(bits, 4.52);
}

}  // namespace
}  // namespace rillkv
