// The benchmarks run: their own checks of results hold on a tiny case, and their JSON is whole. No
// time is asserted.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/files.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace rillkv::testing {
namespace {

using Json = nlohmann::json;

TEST(BenchModel, MeasuresEverySideAtEveryDepth) {
  const TemporaryFolder folder;
  write_tiny_checkpoint(folder.path());
  for (const char* preset : {"balanced", "seed"}) {
    const ProgramResult run =
        run_program("bench_model", {"--model", folder.path(), "--config", preset, "--depths",
                                    "0,300", "--prompt", "140", "--generate", "2", "--repetitions",
                                    "1", "--parts", "--json", folder.file("out.json")});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const Json report = Json::parse(read_file(folder.file("out.json")));
    EXPECT_FALSE(report.at("context").at("commit").get<std::string>().empty());
    EXPECT_TRUE(report.at("context").at("isa").is_string());
    EXPECT_TRUE(report.at("context").at("arithmetic").at("tiles").is_string());
    ASSERT_EQ(report.at("results").size(), 6u);
    for (const Json& result : report.at("results")) {
      EXPECT_GT(result.at("prefill_tokens_per_s").get<double>(), 0);
      EXPECT_GT(result.at("decode_tokens_per_s").get<double>(), 0);
      EXPECT_GT(result.at("cache_bytes").get<double>(), 0);
    }
    EXPECT_GT(report.at("sealing_s").get<double>(), 0);
    EXPECT_GT(report.at("parts").at("linear layers").at("median_s").get<double>(), 0);
    EXPECT_GT(report.at("parts").at("attention").at("median_s").get<double>(), 0);
    // Our dense cache and the benchmark's own attention are the same computation in fp32.
    EXPECT_LT(report.at("kl_to_torch").at("dense").get<double>(), 1e-6);
  }
}

TEST(BenchModel, MeasuresTheSidesAskedForOnTheIdsGiven) {
  const TemporaryFolder folder;
  write_tiny_checkpoint(folder.path());
  write_file_atomically(folder.file("ids.txt"), "1 2 3\n4");
  const ProgramResult run = run_program(
      "bench_model", {"--model", folder.path(), "--depths", "0", "--prompt", "20", "--generate",
                      "1", "--repetitions", "1", "--sides", "compressed,dense", "--token-ids",
                      folder.file("ids.txt"), "--json", folder.file("out.json")});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json report = Json::parse(read_file(folder.file("out.json")));
  ASSERT_EQ(report.at("results").size(), 2u);
  EXPECT_EQ(report.at("results")[0].at("cache"), "compressed");
  EXPECT_EQ(report.at("results")[1].at("cache"), "dense");
  for (const Json& result : report.at("results")) {
    EXPECT_TRUE(result.at("prefill_vs_torch").is_null());
    EXPECT_GT(result.at("prefill_vs_dense").get<double>(), 0);
  }
  // No block is sealed yet: the rounding of sinks and of rotated values is all that differs.
  EXPECT_LT(report.at("kl_to_dense").at("compressed").get<double>(), 0.01);
}

TEST(BenchModel, BadArgumentsEndInOneLine) {
  const TemporaryFolder folder;
  write_tiny_checkpoint(folder.path());
  write_file_atomically(folder.file("ids.txt"), "1 99999999");
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"--model", "/nonexistent"},
           {"--model", folder.path(), "--token-ids", folder.file("ids.txt")},
           {"--model", folder.path(), "--sides", "ours"}}) {
    const ProgramResult run = run_program("bench_model", arguments);
    EXPECT_NE(run.exit_code, 0);
    EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  }
}

TEST(BenchAttention, EveryInstructionSetIsRightOnATinyCase) {
  const TemporaryFolder folder;
  const ProgramResult run =
      run_program("bench_attention", {"--smoke", "--json", folder.file("out.json")});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json report = Json::parse(read_file(folder.file("out.json")));
  EXPECT_GE(report.at("results").size(), 2u);
  for (const Json& result : report.at("results")) {
    EXPECT_LT(result.at("relative_error").get<double>(), 1e-4);
  }
  EXPECT_EQ(run_program("bench_attention", {"--nonsense"}).exit_code, 2);
}

// Google Benchmark's JSON on stdout stays JSON.
TEST(BenchAttention, JsonOnStdoutIsNothingElse) {
  const ProgramResult run = run_program(
      "bench_attention", {"--all", "--benchmark_filter=^prefill/9/3/64/1024/fp32/balanced/scalar",
                          "--benchmark_min_time=0.001", "--benchmark_format=json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json report = Json::parse(run.out);
  EXPECT_FALSE(report.at("context").at("commit").get<std::string>().empty());
  ASSERT_EQ(report.at("benchmarks").size(), 1u);
}

TEST(BenchLinear, EveryInstructionSetIsRightOnATinyLayer) {
  const TemporaryFolder folder;
  const ProgramResult run =
      run_program("bench_linear", {"--smoke", "--json", folder.file("out.json")});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json report = Json::parse(read_file(folder.file("out.json")));
  ASSERT_GE(report.at("results").size(), 3u);  // Torch's own at least, for three numbers of rows
  for (const Json& result : report.at("results")) {
    EXPECT_LT(result.at("relative_error").get<double>(), 1e-2) << result;
  }
  EXPECT_EQ(run_program("bench_linear", {"--nonsense"}).exit_code, 2);
  EXPECT_EQ(run_program("bench_linear", {"--rows", "1,x"}).exit_code, 1);
}

TEST(BenchQuantize, SealsATinyShare) {
  const ProgramResult run =
      run_program("bench_quantize", {"--benchmark_filter=^seal.*smollm2.*balanced.*",
                                     "--benchmark_min_time=0.001", "--benchmark_format=json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json report = Json::parse(run.out);
  ASSERT_GE(report.at("benchmarks").size(), 1u);
  for (const Json& benchmark : report.at("benchmarks")) {
    EXPECT_FALSE(benchmark.value("error_occurred", false)) << benchmark;
  }
}

}  // namespace
}  // namespace rillkv::testing
