// --device as a user without a GPU meets it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace rillkv {
namespace {

TEST(DeviceOption, WithoutADeviceEveryProgramSaysSoInOneLine) {
  setenv("CUDA_VISIBLE_DEVICES", "", 1);  // where there is one, it is hidden
  const testing::TemporaryFolder folder;
  testing::write_tiny_checkpoint(folder.path());
  folder.write("text.txt", std::string(2000, 'a'));
  folder.write("bench/qasper.jsonl",
               R"({"input": "?", "context": "x", "answers": ["42"], "length": 3, )"
               R"("all_classes": null, "_id": "x"})"
               "\n");
  folder.write("bench/config/dataset2prompt.json", R"({"qasper": "{context} {input}"})");
  folder.write("bench/config/dataset2maxlen.json", R"({"qasper": 4})");
  const std::string model = folder.path(), text = folder.file("text.txt");
  const std::string report = folder.file("report.json");
  struct Call {
    const char* program;
    std::vector<std::string> arguments;
  };
  const Call calls[] = {
      {"prefill", {"--prompt", "x"}},
      {"evaluate", {"perplexity", "--text", text}},
      {"evaluate", {"needle", "--lengths", "300", "--json", report}},
      {"evaluate",
       {"longbench", "--data", folder.file("bench"), "--tasks", "qasper", "--json", report}},
      {"experiment", {"--tasks", "perplexity", "--text", text, "--output-dir", folder.file("out")}},
      {"ablate", {"--vary", "value_bits=4", "--text", text, "--json", report}}};
  for (const Call& call : calls) {
    for (const auto& [device, exit_code] : {std::pair("cuda", 1), {"cuda:0", 1}, {"gpu", 2}}) {
      std::vector<std::string> arguments = call.arguments;
      arguments.insert(arguments.end(), {"--model", model, "--device", device});
      const testing::ProgramResult result = testing::run_program(call.program, arguments);
      const std::string what = std::string(call.program) + " " + call.arguments[0] + " " + device;
      EXPECT_EQ(result.exit_code, exit_code) << what << ": " << result.err;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1)
          << what << ": " << result.err;
      const char* expected = exit_code == 2 ? "expected device" : "CUDA";
      EXPECT_NE(result.err.find(expected), std::string::npos) << what << ": " << result.err;
    }
  }
}

}  // namespace
}  // namespace rillkv
