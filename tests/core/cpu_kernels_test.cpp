// A RILLKV_ISA that cannot be is a wrong option, which programs end with 2 for.
#include "core/cpu_kernels.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "rillkv/error.h"
#include "rillkv/linear.h"

namespace rillkv {
namespace {

/// Ends as a program does; 3 for any other exception.
template <typename Action>
[[noreturn]] void run_program(const char* isa, const Action& action) {
  setenv("RILLKV_ISA", isa, 1);
  for (int attempt = 0; attempt < 2; ++attempt) {  // the second time it is as wrong as the first
    try {
      action();
    } catch (const UsageError& error) {
      if (attempt == 0) continue;
      std::fprintf(stderr, "error: %s\n", error.what());
      std::_Exit(2);
    } catch (...) {
      std::_Exit(3);
    }
  }
  std::_Exit(0);
}

// "threadsafe": the child is a new process, in which nobody has chosen the kernels yet.
TEST(CpuKernelsDeathTest, AnUnknownInstructionSetIsAUsageErrorOfOneLine) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(run_program("sse9", [] { cpu_kernels(); }), ::testing::ExitedWithCode(2),
              "^error: RILLKV_ISA: expected one of .*scalar, got \"sse9\"\n$");
  EXPECT_EXIT(run_program("sse9", [] { multiplies_bfloat16(); }), ::testing::ExitedWithCode(2),
              "RILLKV_ISA");
  EXPECT_EXIT(run_program("scalar", [] { cpu_kernels(); }), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace rillkv
