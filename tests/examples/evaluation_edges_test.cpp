// evaluate, experiment and ablate at the edges: broken weights, limits, BOS.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "rillkv/eval/result_log.h"
#include "rillkv/safetensors.h"
#include "tests/examples/evaluation_programs.h"
#include "tests/support/llama2_checkpoint.h"

namespace rillkv {
namespace {

TEST_F(EvaluationPrograms, AShortLimitOfNewTokensIsSaidToCutOff) {
  Words words = needle(out("n.json"));
  words.insert(words.end(), {"--needle-tokens", "1"});
  const ProgramResult result = run("evaluate", words, 0);
  EXPECT_THAT(result.out, HasSubstr("cut off: 1, dense: 1"));
  EXPECT_THAT(result.out, ::testing::Not(HasSubstr("unsolvable")));
  const Json report = eval::read_json(out("n.json"));
  EXPECT_EQ(report.at("cut_off"), 4);
  EXPECT_EQ(report.at("unsolvable_lengths"), Json::array());
  EXPECT_TRUE(report.at("score").is_null());
  // Another limit is another run.
  set_option(words, "--needle-tokens", "2");
  { eval::ResultLog(out("n.cells.jsonl"), {{"model", "another"}}).append("0", Json::object()); }
  run("evaluate", words, 1, "made differently");
  set_option(words, "--needle-tokens", "-1");
  run("evaluate", words, 2, "got -1");
}

/// A copy of the checkpoint with one number of one weight replaced.
void damage(const std::string& from, const std::string& to, const std::string& weight, float bad) {
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
  std::map<std::string, at::Tensor> tensors;
  {
    const Checkpoint checkpoint = Checkpoint::open(to);
    for (const std::string& name : checkpoint.names()) {
      tensors[name] = checkpoint.tensor(name).clone();
    }
  }
  at::Tensor flat = tensors.at(weight).view({-1});
  flat[flat.numel() / 2] = bad;
  write_safetensors(to + "/model.safetensors", tensors);
}

TEST_F(EvaluationPrograms, ANumberThatIsNoneEndsEveryProgram) {
  struct Broken {
    const char *folder, *weight, *preset;
    float bad;
  };
  for (const Broken& b :
       {Broken{"broken0", "model.norm.weight", "balanced", std::numeric_limits<float>::quiet_NaN()},
        Broken{"broken1", "model.layers.1.mlp.down_proj.weight", "dense",
               std::numeric_limits<float>::infinity()}}) {
    const std::string broken = out(b.folder);
    damage(model(), broken, b.weight, b.bad);
    const auto program = [&](const std::string& name, Words words) {
      words.insert(words.end(), {"--model", broken, "--config", b.preset, "--quiet"});
      run(name, words, 1, std::string("weight '") + b.weight + "' holds");
    };
    program("evaluate", {"perplexity", "--text", text(), "--context", "160", "--windows", "1",
                         "--json", out("x.json")});
    program("evaluate", {"needle", "--lengths", "300", "--depths", "0", "--json", out("x.json")});
    program("evaluate", {"longbench", "--data", bench(), "--tasks", "qasper", "--json",
                         out(std::string("lb_") + b.folder + ".json")});
    program("experiment", {"--text", text(), "--context", "160", "--windows", "1", "--output-dir",
                           out("r"), "--experiment-name", b.folder});
    program("prefill", {"--prompt", "Some text", "--json", out("x.json")});
    program("prefill", {"--prompt", "Some text", "--baseline"});
    EXPECT_FALSE(std::filesystem::exists(out("x.json")));
  }
  // One row of an ablation is as bad as the next; each says so.
  const std::string broken = out("broken0");
  run("ablate",
      {"--model", broken, "--text", text(), "--context", "160", "--windows", "1", "--vary",
       "value_bits=4,5", "--json", out("a.json"), "--quiet"},
      1, "some rows failed");
  const Json rows = eval::read_json(out("a.json")).at("rows");
  ASSERT_EQ(rows.size(), 2u);
  for (const Json& row : rows) {
    EXPECT_THAT(
        row.at("error").get<std::string>(),
        ::testing::AllOf(HasSubstr("window 0"), HasSubstr("'model.norm.weight' holds NaN")));
  }
}

TEST_F(EvaluationPrograms, BosIsAutoYesOrNo) {
  const auto report_of = [&](Words words, const std::string& bos) {
    if (!bos.empty()) words.insert(words.end(), {"--bos", bos});
    run("evaluate", words, 0);
    return eval::read_json(out("p.json"));
  };
  // SmolLM2's tokenizer has a BOS and adds none.
  const Json none = report_of(perplexity(out("p.json")), "no");
  EXPECT_TRUE(none.at("bos").is_null());
  for (const char* bos : {"", "auto"}) {
    const Json automatic = report_of(perplexity(out("p.json")), bos);
    EXPECT_TRUE(automatic.at("bos").is_null());
    EXPECT_EQ(automatic.at("perplexity"), none.at("perplexity"));
  }
  const Json asked = report_of(perplexity(out("p.json")), "yes");
  EXPECT_EQ(asked.at("bos"), 1);
  EXPECT_NE(asked.at("perplexity"), none.at("perplexity"));
  // LLaMA 2's adds one, and a file of ids counts as its text would.
  const std::string llama = out("llama2");
  rillkv::testing::write_llama2_checkpoint(llama);
  Words words = {"perplexity", "--model",   llama, "--text",  text(),   "--context",
                 "100",        "--windows", "1",   "--quiet", "--json", out("p.json")};
  const Json added = report_of(words, "");
  EXPECT_EQ(added.at("bos"), 1);
  EXPECT_EQ(report_of(words, "yes").at("perplexity"), added.at("perplexity"));
  const Json left = report_of(words, "no");
  EXPECT_TRUE(left.at("bos").is_null());
  EXPECT_NE(left.at("perplexity"), added.at("perplexity"));
  set_option(words, "--text", out("ids"));
  *std::find(words.begin(), words.end(), "--text") = "--token-ids";
  std::string ids;
  for (int i = 0; i < 120; ++i) ids += std::to_string(10 + i * i % 900) + " ";
  folder_.write("ids", ids);
  const Json plain = report_of(words, "auto");
  folder_.write("ids", "1 " + ids);  // as a tokenizer writes them
  EXPECT_EQ(report_of(words, "auto").at("perplexity"), plain.at("perplexity"));
  // Without a tokenizer: what config.json says is there for who asks; auto says that it cannot.
  std::filesystem::remove(llama + "/tokenizer.model");
  words.erase(std::find(words.begin(), words.end(), "--quiet"));
  words.insert(words.end(), {"--bos", "auto"});
  const ProgramResult blind = run("evaluate", words, 0);
  EXPECT_THAT(blind.err, HasSubstr("--bos auto: no BOS without a tokenizer"));
  EXPECT_TRUE(eval::read_json(out("p.json")).at("bos").is_null());
  set_option(words, "--bos", "yes");
  run("evaluate", words, 0);
  EXPECT_EQ(eval::read_json(out("p.json")).at("bos"), 1);
  set_option(words, "--bos", "perhaps");
  run("evaluate", words, 2, "expected --bos auto, yes or no, got \"perhaps\"");
}

TEST_F(EvaluationPrograms, BosYesNeedsOneAndDecidesTheLog) {
  const std::string llama = out("llama2");
  rillkv::testing::write_llama2_checkpoint(llama);
  std::filesystem::remove(llama + "/tokenizer.model");
  Json config = eval::read_json(llama + "/config.json");
  config["bos_token_id"] = nullptr;
  folder_.write("llama2/config.json", config.dump());
  std::string ids;
  for (int i = 0; i < 120; ++i) ids += std::to_string(10 + i * i % 900) + " ";
  folder_.write("ids", ids);
  Words words = {"perplexity", "--model", llama,    "--token-ids", out("ids"),
                 "--context",  "100",     "--bos",  "yes",         "--windows",
                 "1",          "--quiet", "--json", out("p.json")};
  run("evaluate", words, 2, "--bos yes: expected a BOS token");
  // Windows of a run with BOS are no use to one without.
  const Words experiment = {"--model", model(),        "--text", text(),    "--context",
                            "160",     "--windows",    "1",      "--tasks", "perplexity",
                            "--quiet", "--output-dir", out("r")};
  Words with = experiment, without = experiment;
  with.insert(with.end(), {"--bos", "yes"});
  run("experiment", with, 0);
  EXPECT_EQ(eval::read_json(out("r/experiment/experiment.json")).at("bos"), "yes");
  run("experiment", without, 1, "/perplexity/bos was 1, is null");
}

TEST_F(EvaluationPrograms, LongBenchsLengthRespectsSmallContexts) {
  const auto with_context = [&](int64_t positions, const std::string& tasks, Words more, int code,
                                const std::string& message) {
    const std::string small = out("m" + std::to_string(positions));
    std::filesystem::create_directories(small);
    std::filesystem::copy(model(), small,
                          std::filesystem::copy_options::recursive |
                              std::filesystem::copy_options::overwrite_existing);
    Json config = eval::read_json(small + "/config.json");
    config["max_position_embeddings"] = positions;
    eval::write_json_atomically(small + "/config.json", config);
    Words words = {"longbench",    "--model",       small,
                   "--data",       bench(),         "--tasks",
                   tasks,          "--quiet",       "--json",
                   out("lb.json"), "--predictions", out("p" + std::to_string(positions) + tasks)};
    words.insert(words.end(), more.begin(), more.end());
    run("evaluate", words, code, message);
    return code == 0 ? eval::read_json(out("lb.json")) : Json();
  };
  EXPECT_EQ(with_context(4096, "qasper", {}, 0, "").at("max_prompt_tokens"), 3500);
  EXPECT_EQ(with_context(1192, "qasper", {}, 0, "").at("max_prompt_tokens"), 596);
  const Json small = with_context(200, "qasper,samsum", {}, 0, "");
  EXPECT_EQ(small.at("max_prompt_tokens"), 196);  // 4 new tokens
  EXPECT_LE(small.at("tasks").at("qasper").at("cut_off"), 2);
  const Json chat = with_context(150, "qasper", {"--chat", "chatml"}, 0, "");
  EXPECT_LT(chat.at("max_prompt_tokens"), 146);
  EXPECT_GT(chat.at("max_prompt_tokens"), 100);
  with_context(5, "qasper", {}, 2, "expected a context that holds a prompt beside the 4 tokens");
  EXPECT_EQ(with_context(5, "qasper", {"--max-length", "9"}, 0, "").at("max_prompt_tokens"), 9);
}

}  // namespace
}  // namespace rillkv
