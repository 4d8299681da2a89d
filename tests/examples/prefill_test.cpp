// prefill as a user meets it: its report, its JSON, its options.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "rillkv/chat.h"
#include "rillkv/cpu_info.h"
#include "rillkv/files.h"
#include "rillkv/linear.h"
#include "rillkv/llama.h"
#include "rillkv/safetensors.h"
#include "rillkv/tokenizer.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace rillkv {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using rillkv::testing::ProgramResult;
using rillkv::testing::run_program;
using rillkv::testing::TemporaryFolder;
using ::testing::HasSubstr;
using ::testing::Not;
using Words = std::vector<std::string>;
using Ids = std::vector<int64_t>;

class Prefill : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TemporaryFolder();
    rillkv::testing::write_tiny_checkpoint(shared_->path());
    std::string text;
    for (int i = 0; i < 40; ++i) text += "Line " + std::to_string(i * 7919 % 1000) + " of a text. ";
    shared_->write("text.txt", text);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  static std::string model() { return shared_->path(); }
  static std::string text() { return read_file(shared_->file("text.txt")); }
  static std::string join(const Ids& ids) {
    std::string joined;
    for (const int64_t id : ids) joined += std::to_string(id) + "\n";
    return joined;
  }
  std::string file(const std::string& name) const { return folder_.file(name); }

  /// Runs on the shared text in float32, expects success, returns the JSON.
  Json report(Words more, const std::string& folder = model(), bool with_text = true) {
    Words words{"--model", folder, "--json", file("report.json"), "--dtype", "float32", "--quiet"};
    if (with_text) words.insert(words.end(), {"--prompt-file", shared_->file("text.txt")});
    words.insert(words.end(), more.begin(), more.end());
    last_ = run_program("prefill", words);
    EXPECT_EQ(last_.exit_code, 0) << last_.err;
    return last_.exit_code == 0 ? Json::parse(read_file(file("report.json"))) : Json();
  }

  static Words keys(const Json& json) {
    Words names;
    for (const auto& item : json.items()) names.push_back(item.key());
    std::sort(names.begin(), names.end());
    return names;
  }

  static TemporaryFolder* shared_;
  TemporaryFolder folder_;
  ProgramResult last_;
};

TemporaryFolder* Prefill::shared_ = nullptr;

// A side of the report: the cache's figures, and what every report carries beside them.
const Words kKeys{"clip_rate",
                  "compression_ratio",
                  "decode_tokens_per_s",
                  "device_peak_bytes",
                  "estimated_bits",
                  "estimated_memory_savings",
                  "kv_bits_per_element",
                  "kv_bits_sealed",
                  "kv_bytes",
                  "kv_bytes_bf16",
                  "layers",
                  "mean_rss_bytes",
                  "measured_memory_savings",
                  "new_tokens",
                  "outlier_rate",
                  "peak_rss_bytes",
                  "prefill_tokens_per_s",
                  "prompt_tokens",
                  "sink_tokens",
                  "sinks",
                  "text",
                  "token_ids",
                  "ttft_s"};

TEST_F(Prefill, JsonHasExactlyTheDocumentedKeys) {
  const Json json = report({"--max-new-tokens", "5"});
  Words all = kKeys;
  all.insert(all.end(), {"machine", "process_peak_rss_bytes"});
  std::sort(all.begin(), all.end());
  EXPECT_EQ(keys(json), all);
  for (const char* name : {"kv_bits_per_element", "kv_bits_sealed"}) {
    EXPECT_EQ(keys(json.at(name)), (Words{"key", "total", "value"})) << name;
  }
  for (const char* name : {"outlier_rate", "clip_rate"}) {
    EXPECT_EQ(keys(json.at(name)), (Words{"key", "value"})) << name;
  }
  EXPECT_EQ(keys(json.at("machine")), (Words{"arithmetic", "cpu", "isa", "threads"}));
  EXPECT_EQ(json.at("machine").at("isa"), cpu_info().isa);
  const Json& arithmetic = json.at("machine").at("arithmetic");
  EXPECT_EQ(keys(arithmetic),
            (Words{"decode", "linear", "measured_gflops", "one_row", "reason", "tiles"}));
  EXPECT_EQ(arithmetic.at("tiles"), cpu_info().tiles);
  EXPECT_EQ(arithmetic.at("measured_gflops").is_object(), cpu_info().bf16_gflops > 0);
  const auto tokenizer = Tokenizer::load(model());
  EXPECT_EQ(json.at("prompt_tokens"), encode_chat(*tokenizer, {}, Conversation::of(text())).size());
  EXPECT_GT(json.at("ttft_s").get<double>(), 0);
  EXPECT_GT(json.at("prefill_tokens_per_s").get<double>(), 0);
  EXPECT_GT(json.at("decode_tokens_per_s").get<double>(), 0);
  EXPECT_NEAR(json.at("compression_ratio").get<double>(),
              json.at("kv_bytes_bf16").get<double>() / json.at("kv_bytes").get<double>(), 1e-12);
  EXPECT_EQ(json.at("sink_tokens"), 8);
  EXPECT_GT(json.at("peak_rss_bytes").get<int64_t>(), 1 << 20);
  EXPECT_LE(json.at("token_ids").size(), 5u);
  EXPECT_EQ(last_.out, json.at("text").get<std::string>() + "\n")
      << "--quiet prints the text alone";
}

TEST_F(Prefill, BaselineStandsBesideIt) {
  const Json json = report({"--baseline", "--max-new-tokens", "2", "--config", "compact",
                            "--logits-out", file("compressed.safetensors")});
  Words all = kKeys;
  all.insert(all.end(),
             {"baseline", "kl_last", "machine", "process_peak_rss_bytes", "top1_agreement"});
  std::sort(all.begin(), all.end());
  EXPECT_EQ(keys(json), all);
  EXPECT_EQ(keys(json.at("baseline")), kKeys);
  EXPECT_EQ(json.at("baseline").at("kv_bits_sealed").at("total"), 0);
  EXPECT_GT(json.at("baseline").at("kv_bytes"), json.at("kv_bytes"));

  // kl_last again, from the logits that both write.
  report({"--config", "dense", "--logits-out", file("dense.safetensors")});
  const auto log_probabilities = [&](const char* name) {
    const at::Tensor logits = SafetensorsFile::open(file(name)).tensor("logits");
    EXPECT_EQ(logits.sizes(), at::IntArrayRef({704}));
    EXPECT_EQ(logits.scalar_type(), at::kFloat);
    return logits.to(at::kDouble).log_softmax(0);
  };
  const at::Tensor p = log_probabilities("dense.safetensors");
  const at::Tensor q = log_probabilities("compressed.safetensors");
  const double kl = (p.exp() * (p - q)).sum().item<double>();
  EXPECT_GT(kl, 0);
  EXPECT_NEAR(json.at("kl_last").get<double>(), kl, 1e-3 * kl);
  // Agreement is a share of all prompt positions.
  const double positions = json.at("top1_agreement").get<double>() *
                           static_cast<double>(json.at("prompt_tokens").get<int64_t>());
  EXPECT_NEAR(positions, std::round(positions), 1e-6);
  EXPECT_GT(positions, 0);
}

TEST_F(Prefill, LogitsAreTheLibrarysOfTheLastPosition) {
  const Json json = report({"--config", "dense", "--logits-out", file("logits.safetensors")});
  const at::Tensor logits = SafetensorsFile::open(file("logits.safetensors")).tensor("logits");
  const LlamaModel llama = load_model(model());
  QuantizedKvCache cache = llama->make_cache(CompressionConfig::preset("dense"));
  const auto tokenizer = Tokenizer::load(model());
  const Ids ids = encode_chat(*tokenizer, {}, Conversation::of(text()));
  const at::Tensor expected = llama->forward(at::tensor(ids), cache, Logits::kLast)[0];
  // Chunks of 256 against one shot: float32 sums in another order, see tests/model/llama_test.cpp.
  const double size = expected.pow(2).mean().sqrt().item<double>();
  EXPECT_LE((logits - expected).abs().max().item<double>(), 5e-4 * size);
  EXPECT_EQ(json.at("token_ids")[0], logits.argmax().item<int64_t>());
}

TEST_F(Prefill, TokenIdsGiveWhatTheTextGives) {
  const Json from_text = report({"--max-new-tokens", "6"});
  const auto tokenizer = Tokenizer::load(model());
  folder_.write("ids", join(encode_chat(*tokenizer, {}, Conversation::of(text()))));
  const Json from_ids =
      report({"--max-new-tokens", "6", "--token-ids", file("ids")}, model(), /*with_text=*/false);
  EXPECT_EQ(from_ids.at("token_ids"), from_text.at("token_ids"));
  EXPECT_EQ(from_ids.at("text"), from_text.at("text"));
}

TEST_F(Prefill, TokenIdsNeedNoTokenizer) {
  folder_.write("ids", "5 6\t7\r\n8");
  const Words ids{"--token-ids", file("ids"), "--max-new-tokens", "3"};
  const Json expected = report(ids, model(), false);
  EXPECT_EQ(expected.at("prompt_tokens"), 4);
  const std::pair<const char*, const char*> files[] = {
      {"tokenizer.json", "{ not JSON"},
      {"tokenizer.json", R"({"model": {"type": "Unigram", "vocab": []}})"},
      {"tokenizer.json", R"({"model": {"type": "BPE", "vocab": 3, "merges": []}})"},
      {"tokenizer.json", ""},
      {"tokenizer.model", "no protocol buffer"},
      {"tokenizer_config.json", "[]"},
      {nullptr, nullptr}};
  for (const auto& [name, contents] : files) {
    TemporaryFolder other;
    for (const char* kept : {"config.json", "model.safetensors"}) {
      fs::copy_file(fs::path(model()) / kept, other / kept);
    }
    if (name != nullptr) other.write(name, contents);
    Words words{"--model", other.path(), "--dtype", "float32", "--json", file("report.json")};
    words.insert(words.end(), ids.begin(), ids.end());
    const ProgramResult result = run_program("prefill", words);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr("warning: no text, only token ids"));
    const Json json = Json::parse(read_file(file("report.json")));
    EXPECT_EQ(json.at("token_ids"), expected.at("token_ids"));
    EXPECT_EQ(json.at("text"), "");
  }
}

TEST_F(Prefill, SamplingDependsOnTheSeedAlone) {
  const auto tokens = [&](const char* temperature, const char* seed) {
    return report({"--max-new-tokens", "12", "--temperature", temperature, "--seed", seed})
        .at("token_ids");
  };
  EXPECT_EQ(tokens("1", "3"), tokens("1", "3"));
  EXPECT_NE(tokens("1", "3"), tokens("1", "4"));
  EXPECT_EQ(tokens("0", "3"), tokens("0", "4"));
}

TEST_F(Prefill, ChatTemplateWrapsThePrompt) {
  const Json json = report({"--chat", "chatml", "--max-new-tokens", "1"});
  const auto tokenizer = Tokenizer::load(model());
  const ChatTemplate chat = ChatTemplate::named("chatml");
  const Ids wrapped = encode_chat(*tokenizer, chat, Conversation::of(text()));
  EXPECT_EQ(json.at("prompt_tokens"), wrapped.size());
  EXPECT_GT(wrapped.size(), encode_chat(*tokenizer, {}, Conversation::of(text())).size());
  const Json told = report({"--chat", "chatml", "--system", "Be brief.", "--max-new-tokens", "1"});
  EXPECT_EQ(told.at("prompt_tokens"),
            encode_chat(*tokenizer, chat, Conversation::of(text(), "Be brief.")).size());
}

TEST_F(Prefill, TheCheckpointsTemplateOrAFiles) {
  const std::string source =
      "{{ strftime_now('%A %d %B') }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + "
      "m.content + '<|im_end|>\n' }}{% endfor %}{{ tools | tojson }}";
  const std::string jinja = folder_.write("t.jinja", source);
  const std::string conversation =
      R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
          {"role": "user", "content": "Hi <|im_end|>"}], "tools": [{"name": "f"}]})";
  folder_.write("messages.json", conversation);
  const auto tokenizer = Tokenizer::load(model());
  const auto expected = [&](const char* date) {
    return encode_chat(*tokenizer, ChatTemplate::from_file(jinja, model()).at_date(date),
                       Conversation::from_json(conversation, "c"))
        .size();
  };
  const auto tokens = [&](const std::string& folder, const Words& options) {
    Words words{"--messages", file("messages.json"), "--max-new-tokens", "1"};
    words.insert(words.end(), options.begin(), options.end());
    return report(words, folder, false).at("prompt_tokens").get<size_t>();
  };
  ASSERT_NE(expected("2026-03-05"), expected("2026-09-30"));
  for (const char* date : {"2026-03-05", "2026-09-30"}) {
    EXPECT_EQ(tokens(model(), {"--chat-template-file", jinja, "--chat-date", date}),
              expected(date));
  }
  const std::string copy = file("copy");
  fs::copy(model(), copy, fs::copy_options::recursive);
  write_file_atomically(copy + "/chat_template.jinja", source);
  EXPECT_EQ(tokens(copy, {"--chat", "auto", "--chat-date", "2026-03-05"}), expected("2026-03-05"));
}

TEST_F(Prefill, ConfigurationFileAndOverrides) {
  folder_.write("config.json", R"({"key_bits_mean": 8, "value_bits": 8, "block_size": 64})");
  const Json eight = report({"--config", file("config.json")});
  EXPECT_GT(eight.at("kv_bits_sealed").at("total").get<double>(), 8);
  const Json six = report({"--config", file("config.json"), "--set", "value_bits=4", "--set",
                           "attention_sink_size=16", "--chunk-size", "100"});
  EXPECT_LT(six.at("kv_bits_sealed").at("value").get<double>(), 6);
  EXPECT_EQ(six.at("kv_bits_sealed").at("key"), eight.at("kv_bits_sealed").at("key"));
  EXPECT_EQ(six.at("sink_tokens"), 16);
}

TEST_F(Prefill, ReportForPeople) {
  const ProgramResult result =
      run_program("prefill", {"--model", model(), "--prompt-file", shared_->file("text.txt"),
                              "--baseline", "--set", "key_bits_mean=4.3", "--max-new-tokens", "4"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* row :
       {"2 layers, 4 heads / 2 kv heads of 32", "policy adaptive, chunks of 256", "compressed",
        "dense", "prompt tokens", "time to first token", "tok/s", "cache, allocated",
        "the same tokens in bf16", "compression", "bits an element, key / value",
        "of sealed blocks", "outlier channels", "clipped codes", "sink tokens", "memory, peak",
        "KL(dense || compressed)", "of prompt positions"}) {
    EXPECT_THAT(result.out, HasSubstr(row));
  }
  // 4.3 bits over 16 pairs are 52 whole increments above 1 bit: 1 + 52/16.
  EXPECT_THAT(result.out, HasSubstr("4.250 (4.3)"));
}

TEST_F(Prefill, VerboseTellsWhatHappened) {
  const auto err = [&](const Words& more, const char* variable) {
    Words words{"--model",          model(), "--prompt-file", shared_->file("text.txt"),
                "--max-new-tokens", "2",     "--chunk-size",  "100"};
    words.insert(words.end(), more.begin(), more.end());
    if (variable != nullptr) ::setenv("RILLKV_LOG", variable, 1);
    const ProgramResult result = run_program("prefill", words);
    ::unsetenv("RILLKV_LOG");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.err;
  };
  const std::string packing = multiplies_bfloat16() ? "weights packed" : "weights not packed";
  for (const std::string& text : {err({"--verbose"}, nullptr), err({}, "debug")}) {
    for (const std::string& part :
         {std::string("debug: loaded"),
          std::string("debug: kernels ") + cpu_info().isa + ": tiles " + cpu_info().tiles, packing,
          std::string("threads"), std::string("key widths 4.25 bits in the mean (4.25 asked for)"),
          std::string("prefill: tokens 0..99 in "), std::string("prefill: tokens 100..199 in ")}) {
      EXPECT_THAT(text, HasSubstr(part));
    }
  }
  EXPECT_THAT(err({}, nullptr), Not(HasSubstr("debug")));
  EXPECT_THAT(err({}, "loud"), HasSubstr("expected RILLKV_LOG as quiet, warning, info or debug"));
  EXPECT_EQ(err({"--quiet"}, "debug"), "");
}

TEST_F(Prefill, TheEnvironmentForcesTheArithmetic) {
  const auto with = [&](const char* isa, const char* arithmetic) {
    ::setenv("RILLKV_ISA", isa, 1);
    ::setenv("RILLKV_ARITHMETIC", arithmetic, 1);
    const ProgramResult result =
        run_program("prefill", {"--model", model(), "--prompt", "a b c", "--max-new-tokens", "1",
                                "--json", file("forced.json")});
    ::unsetenv("RILLKV_ISA");
    ::unsetenv("RILLKV_ARITHMETIC");
    return result;
  };
  const ProgramResult bad = with("", "fp17");
  EXPECT_EQ(bad.exit_code, 2);
  EXPECT_THAT(bad.err, HasSubstr("prefill: error: RILLKV_ARITHMETIC: expected bf16, fp32 or"));
  EXPECT_EQ(std::count(bad.err.begin(), bad.err.end(), '\n'), 1) << bad.err;
  EXPECT_EQ(with("scalar", "bf16").exit_code, 2);
  for (const char* name : {"bf16", "fp32"}) {
    const ProgramResult result = with("avx512", name);
    if (result.exit_code == 2 && result.err.find("this machine lacks") != std::string::npos) {
      GTEST_SKIP() << result.err;
    }
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const Json arithmetic = Json::parse(read_file(file("forced.json")))["machine"]["arithmetic"];
    EXPECT_EQ(arithmetic.at("tiles"), name);
    EXPECT_EQ(arithmetic.at("reason"), "RILLKV_ARITHMETIC");
    EXPECT_TRUE(arithmetic.at("measured_gflops").is_null());
  }
}

TEST_F(Prefill, KeysWithoutEffectAreNamedOnceUnlessQuiet) {
  const Words words{"--model",       model(), "--prompt",     "a b c",     "--set",
                    "ema_decay=0.5", "--set", "value_bits=5", "--baseline"};
  const ProgramResult loud = run_program("prefill", words);
  ASSERT_EQ(loud.exit_code, 0) << loud.err;
  EXPECT_THAT(loud.err, HasSubstr("'ema_decay' has no effect under policy 'adaptive'"));
  const auto count = [&](const std::string& part) {
    size_t found = 0;
    for (size_t at = 0; (at = loud.err.find(part, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  EXPECT_EQ(count("has no effect"), 1u) << loud.err;
  Words quiet = words;
  quiet.push_back("--quiet");
  EXPECT_EQ(run_program("prefill", quiet).err, "");
}

TEST_F(Prefill, PromptBeyondTheModelsPositionsIsAWarning) {
  std::string ids;
  for (int i = 0; i < 1030; ++i) ids += std::to_string(10 + i % 600) + " ";
  folder_.write("ids", ids);
  const ProgramResult result =
      run_program("prefill", {"--model", model(), "--token-ids", file("ids"), "--max-new-tokens",
                              "1", "--json", file("report.json")});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("max_position_embeddings 1024"));
  EXPECT_EQ(Json::parse(read_file(file("report.json"))).at("prompt_tokens"), 1030);
}

}  // namespace
}  // namespace rillkv
