// Bad input to `prefill` and `evaluate`: one clear line, exit code 1 or 2, nothing written.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "rillkv/files.h"
#include "rillkv/safetensors.h"
#include "tests/support/llama2_checkpoint.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace rillkv {
namespace {

namespace fs = std::filesystem;
using rillkv::testing::ProgramResult;
using rillkv::testing::run_program;
using rillkv::testing::TemporaryFolder;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Words = std::vector<std::string>;
using Tensors = std::map<std::string, at::Tensor>;

/// One way to get it wrong. In arguments OUT is the folder that must stay empty, IN one that holds
/// the files below.
struct BadInput {
  const char* name;
  Words arguments;
  int exit_code;
  const char* message;
  /// Damages a copy of the tiny checkpoint, which then is the model; null: the intact one.
  std::function<void(const fs::path&)> damage = nullptr;
};

void PrintTo(const BadInput& bad, std::ostream* out) { *out << bad.name; }

std::function<void(const fs::path&)> edit_config(const std::string& key, nlohmann::json value) {
  return [=](const fs::path& folder) {
    auto json = nlohmann::json::parse(read_file((folder / "config.json").string()));
    json[key] = value;
    write_file_atomically((folder / "config.json").string(), json.dump());
  };
}

std::function<void(const fs::path&)> edit_tensors(const std::function<void(Tensors&)>& edit) {
  return [=](const fs::path& folder) {
    const std::string file = (folder / "model.safetensors").string();
    Tensors tensors;
    {
      const Checkpoint checkpoint = Checkpoint::open(folder.string());
      for (const std::string& name : checkpoint.names()) {
        tensors[name] = checkpoint.tensor(name).clone();
      }
    }
    edit(tensors);
    write_safetensors(file, tensors);
  };
}

void truncate(const fs::path& folder) {
  const fs::path file = folder / "model.safetensors";
  fs::resize_file(file, fs::file_size(file) - 1000);
}

/// Replaces the checkpoint by a sharded one that lacks its second shard.
void lose_shard(const fs::path& folder) {
  fs::remove(folder / "model.safetensors");
  rillkv::testing::write_llama2_checkpoint(folder.string());
  fs::remove(folder / "model-00002-of-00002.safetensors");
}

constexpr char kNorm[] = "model.layers.1.input_layernorm.weight";
constexpr char kKeys[] = "model.layers.0.self_attn.k_proj.weight";

const std::vector<BadInput>& table() {
  static const std::vector<BadInput> rows = {
      // What to read.
      {"EmptyPrompt", {"--prompt", ""}, 1, "at least one token"},
      {"EmptyPromptFile", {"--prompt-file", "IN/empty"}, 1, "at least one token"},
      {"EmptyTokenIds", {"--token-ids", "IN/empty"}, 1, "at least one token"},
      {"MissingPromptFile", {"--prompt-file", "IN/none"}, 1, "IN/none"},
      {"PromptFileIsAFolder", {"--prompt-file", "IN"}, 1, "IN"},
      {"IdAboveTheVocabulary", {"--token-ids", "IN/high"}, 1, "0..703, got 704"},
      {"NegativeId", {"--token-ids", "IN/negative"}, 1, "0..703, got -1"},
      {"WordAmongIds", {"--token-ids", "IN/word"}, 1, "two"},
      {"IdBeyondInt64", {"--token-ids", "IN/huge"}, 1, "99999999999999999999"},
      {"NoInput", {}, 2, "prompt"},
      {"TwoInputs", {"--prompt", "a", "--token-ids", "IN/high"}, 2, "prompt"},
      {"ChatOfTokenIds", {"--token-ids", "IN/high", "--chat", "chatml"}, 2, "--chat"},
      {"SystemWithoutChat", {"--prompt", "a", "--system", "b"}, 2, "system"},
      {"MessagesWithoutChat", {"--messages", "IN/messages"}, 2, "--messages"},
      {"SystemBesideMessages",
       {"--messages", "IN/messages", "--system", "b", "--chat", "chatml"},
       2,
       "--system"},
      {"MissingMessages", {"--messages", "IN/none", "--chat", "chatml"}, 1, "IN/none"},
      {"NoMessages", {"--messages", "IN/word", "--chat", "chatml"}, 1, "IN/word"},
      {"AutoWithoutTemplate", {"--prompt", "a", "--chat", "auto"}, 2, "no chat template"},
      {"TemplateBesideFormat",
       {"--prompt", "a", "--chat", "chatml", "--chat-template-file", "IN/template"},
       2,
       "--chat-template-file"},
      {"MissingTemplate", {"--prompt", "a", "--chat-template-file", "IN/none"}, 1, "IN/none"},
      {"BrokenTemplate",
       {"--prompt", "a", "--chat-template-file", "IN/template"},
       1,
       "template:2: "},
      {"TemplateRefuses",
       {"--prompt", "a", "--chat-template-file", "IN/refuses"},
       1,
       "refuses:1: no!"},
      {"NoDate", {"--prompt", "a", "--chat-date", "tomorrow"}, 2, "tomorrow"},
      // Options.
      {"UnknownFlag", {"--prompt", "a", "--fast"}, 2, "--fast"},
      {"UnknownDevice", {"--prompt", "a", "--device", "tpu"}, 2, "tpu"},
      {"UnknownDtype", {"--prompt", "a", "--dtype", "int8"}, 2, "int8"},
      {"UnknownChat", {"--prompt", "a", "--chat", "alpaca"}, 2, "alpaca"},
      {"ZeroChunkSize", {"--prompt", "a", "--chunk-size", "0"}, 2, "chunk_size"},
      {"NegativeChunkSize", {"--prompt", "a", "--chunk-size", "-3"}, 2, "chunk_size"},
      {"ZeroThreads", {"--prompt", "a", "--threads", "0"}, 2, "--threads >= 1, got 0"},
      {"NegativeThreads", {"--prompt", "a", "--threads", "-1"}, 2, "--threads >= 1, got -1"},
      {"NegativeNewTokens", {"--prompt", "a", "--max-new-tokens", "-1"}, 2, "--max-new-tokens"},
      {"NegativeTemperature", {"--prompt", "a", "--temperature", "-1"}, 2, "--temperature"},
      {"TemperatureNan", {"--prompt", "a", "--temperature", "nan"}, 2, "--temperature"},
      {"NoNumber", {"--prompt", "a", "--max-new-tokens", "ten"}, 2, "ten"},
      // Configuration.
      {"UnknownKey", {"--prompt", "a", "--set", "nonsense=1"}, 2, "nonsense"},
      {"KeyOutOfRange", {"--prompt", "a", "--set", "value_bits=9"}, 2, "2..8, got 9"},
      {"NoAssignment", {"--prompt", "a", "--set", "value_bits"}, 2, "key=value"},
      {"NoUtf8", {"--prompt", "a", "--set", "policy=\xff\xfe"}, 2, "policy"},
      {"NoSuchConfig", {"--prompt", "a", "--config", "IN/none"}, 2, "IN/none"},
      {"ConfigIsNoJson", {"--prompt", "a", "--config", "IN/word"}, 2, "not valid JSON"},
      {"GroupsDoNotDivide",
       {"--prompt", "a", "--config", "seed", "--set", "value_quant_groups=3"},
       2,
       "divisor of head_dim 32"},
      // What to write.
      {"JsonInNoFolder", {"--prompt", "a", "--json", "OUT/none/x.json"}, 1, "OUT/none/x.json"},
      {"JsonIsAFolder", {"--prompt", "a", "--json", "OUT"}, 1, "folder"},
      {"LogitsInNoFolder",
       {"--prompt", "a", "--logits-out", "OUT/none/x.safetensors"},
       1,
       "OUT/none/x.safetensors"},
      // Checkpoints.
      {"NoSuchModel",
       {"--prompt", "a"},
       1,
       "config.json",
       [](const fs::path& folder) { fs::remove_all(folder); }},
      {"ConfigJsonIsNoJson",
       {"--prompt", "a"},
       1,
       "config.json",
       [](const fs::path& folder) {
         write_file_atomically((folder / "config.json").string(), "{");
       }},
      {"OtherArchitecture",
       {"--prompt", "a"},
       1,
       "architectures",
       edit_config("architectures", {"GPT2LMHeadModel"})},
      {"SlidingWindow", {"--prompt", "a"}, 1, "sliding_window", edit_config("sliding_window", 64)},
      {"NoTokenizer",
       {"--prompt", "a"},
       1,
       "tokenizer",
       [](const fs::path& folder) { fs::remove(folder / "tokenizer.json"); }},
      {"MissingTensor", {"--prompt", "a"}, 1, kNorm, edit_tensors([](Tensors& t) {
         t.erase(kNorm);
       })},
      {"WrongShape", {"--prompt", "a"}, 1, kKeys, edit_tensors([](Tensors& t) {
         t[kKeys] = at::zeros({64, 127});
       })},
      {"WrongDtype", {"--prompt", "a"}, 1, "I64", edit_tensors([](Tensors& t) {
         t[kKeys] = at::zeros({64, 128}, at::kLong);
       })},
      {"TruncatedWeights", {"--prompt", "a"}, 1, "model.safetensors", truncate},
      {"MissingShard", {"--prompt", "a"}, 1, "model-00002-of-00002.safetensors", lose_shard},
      {"NanWeights", {"--prompt", "a"}, 1, "finite", edit_tensors([](Tensors& t) {
         t[kKeys].fill_(std::numeric_limits<float>::quiet_NaN());
       })},
      {"ShapeLie", {"--prompt", "a"}, 1, "gate_proj", edit_config("intermediate_size", 1 << 24)},
  };
  return rows;
}

class BadInputs : public ::testing::TestWithParam<BadInput> {
 protected:
  static void SetUpTestSuite() {
    model_ = new TemporaryFolder();
    rillkv::testing::write_tiny_checkpoint(model_->path());
  }
  static void TearDownTestSuite() {
    delete model_;
    model_ = nullptr;
  }
  static TemporaryFolder* model_;
};

TemporaryFolder* BadInputs::model_ = nullptr;

size_t entries(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::recursive_directory_iterator(folder), fs::recursive_directory_iterator()));
}

std::string replaced(std::string word, const std::string& from, const std::string& to) {
  const size_t at = word.find(from);
  return at == word.npos ? word : word.replace(at, from.size(), to);
}

TEST_P(BadInputs, OneLineOneCodeNoFile) {
  const BadInput& bad = GetParam();
  const TemporaryFolder in, out, damaged;
  in.write("empty", "");
  in.write("high", "1 2 704 3");
  in.write("negative", "1 -1");
  in.write("messages", R"([{"role": "user", "content": "a"}])");
  in.write("template", "a\n{% if %}");
  in.write("refuses", "{{ raise_exception('no!') }}");
  in.write("word", "1 two 3");
  in.write("huge", "1 99999999999999999999");
  std::string model = model_->path();
  if (bad.damage != nullptr) {
    model = (damaged / "model").string();
    fs::copy(model_->path(), model, fs::copy_options::recursive);
    bad.damage(model);
  }
  Words words{"--model", model};
  for (const std::string& word : bad.arguments) {
    words.push_back(replaced(replaced(word, "OUT", out.path()), "IN", in.path()));
  }
  // Both reports are asked for, unless the case is about one of them.
  const auto asks = [&](const char* flag) {
    return std::find(words.begin(), words.end(), flag) != words.end();
  };
  if (!asks("--json")) words.insert(words.end(), {"--json", out.file("r.json")});
  if (!asks("--logits-out")) words.insert(words.end(), {"--logits-out", out.file("l.safetensors")});
  const ProgramResult result = run_program("prefill", words);
  EXPECT_EQ(result.exit_code, bad.exit_code) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_THAT(result.err, StartsWith("prefill: error: "));
  const std::string message = replaced(replaced(bad.message, "OUT", out.path()), "IN", in.path());
  EXPECT_THAT(result.err, HasSubstr(message));
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(entries(out.path()), 0u) << "something was left behind";
}

INSTANTIATE_TEST_SUITE_P(Prefill, BadInputs, ::testing::ValuesIn(table()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(BadInput, EvaluateChecksIdsWhereverTheyStand) {
  const TemporaryFolder model, out;
  rillkv::testing::write_tiny_checkpoint(model.path());
  // Chunks of 32. A target is looked up one position before the model reads it as input, so the id
  // at 32 is a target while only the first chunk has been read; 63 is the window's last; 80 lies in
  // no window.
  for (const int position : {0, 5, 31, 32, 63, 80}) {
    for (const char* bad : {"704", "-1", "9000000000"}) {
      std::string ids;
      for (int i = 0; i < 90; ++i) ids += i == position ? std::string(bad) + " " : "7 ";
      out.write("ids", ids);
      const ProgramResult result = run_program(
          "evaluate",
          {"perplexity", "--model", model.path(), "--token-ids", out.file("ids"), "--context", "64",
           "--windows", "1", "--chunk-size", "32", "--json", out.file("report.json"), "--quiet"});
      EXPECT_EQ(result.exit_code, 1) << position << " " << bad;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
      EXPECT_THAT(result.err, HasSubstr(std::string("0..703, got ") + bad));
      EXPECT_FALSE(fs::exists(out.file("report.json")));
    }
  }
}

}  // namespace
}  // namespace rillkv
