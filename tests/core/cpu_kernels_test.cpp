// A RILLKV_ISA or RILLKV_ARITHMETIC that cannot be is a wrong option, which programs end with 2
// for; what runs is said in the debug log.
#include "core/cpu_kernels.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "rillkv/error.h"
#include "rillkv/linear.h"
#include "rillkv/log.h"

namespace rillkv {
namespace {

/// Ends as a program does; 3 for any other exception.
template <typename Action>
[[noreturn]] void run_program(const char* isa, const Action& action, const char* arithmetic = "") {
  setenv("RILLKV_ISA", isa, 1);
  setenv("RILLKV_ARITHMETIC", arithmetic, 1);
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

TEST(CpuKernelsDeathTest, AnUnknownArithmeticIsAUsageErrorOfOneLine) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto two = ::testing::ExitedWithCode(2);
  EXPECT_EXIT(run_program(
                  "", [] { cpu_kernels(); }, "fp17"),
              two, "^error: RILLKV_ARITHMETIC: expected bf16, fp32 or .*, got \"fp17\"\n$");
  EXPECT_EXIT(run_program(
                  "scalar", [] { cpu_info(); }, "fp17"),
              two, "RILLKV_ARITHMETIC");
  EXPECT_EXIT(run_program(
                  "scalar", [] { cpu_info(); }, "tiles=bf16"),
              two, "^error: RILLKV_ARITHMETIC: scalar has fp32 for tiles, not bf16\n$");
}

TEST(CpuKernelsDeathTest, TheFirstUseIsLoggedOnce) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto use = [] {
    set_log_level(LogLevel::kDebug);
    cpu_kernels();
    cpu_info();
    cpu_kernels();
  };
  EXPECT_EXIT(run_program("scalar", use), ::testing::ExitedWithCode(0),
              "^rillkv debug: kernels scalar: tiles fp32, decode fp32, linear torch, one row torch "
              "\\(all that scalar has\\), [0-9]+ threads\n");
}

// ---- what is reported ----

constexpr kernels::cpu::ChipProfile kIntel = {
    .choice = {kernels::cpu::Arithmetic::kFp32, kernels::cpu::Arithmetic::kFp32,
               kernels::cpu::Arithmetic::kFp32},
    .forced = {},
    .rates = {.fp32 = 211.4, .bf16 = 105.6}};

kernels::cpu::KernelTable table_of(const char* name, const kernels::cpu::ArithmeticNames& names) {
  kernels::cpu::KernelTable table = *kernels::cpu::find_kernels("scalar");
  table.name = name;
  table.arithmetic = names;
  return table;
}

TEST(CpuInfo, SaysWhatRunsAndWhy) {
  const CpuInfo info =
      describe_kernels(table_of("amx", {"amx-bf16", "int16", "amx-bf16", "fp32", true}), &kIntel);
  EXPECT_EQ(info.isa, "amx");
  EXPECT_EQ(info.tiles, "amx-bf16");
  EXPECT_EQ(info.decode, "int16");
  EXPECT_EQ(info.linear, "amx-bf16");
  EXPECT_EQ(info.one_row, "fp32");
  EXPECT_EQ(info.fp32_gflops, 211.4);
  EXPECT_EQ(info.bf16_gflops, 105.6);
  EXPECT_EQ(summary(info),
            "kernels amx: tiles amx-bf16, decode int16, linear amx-bf16, one row fp32 (the fastest "
            "measured; a core does fp32 211, bf16 106 GFLOP/s)");
}

TEST(CpuInfo, SaysWhatWasForced) {
  const auto reason = [](const char* arithmetic) {
    kernels::cpu::ChipProfile profile = kIntel;
    profile.forced = kernels::cpu::parse_arithmetic(arithmetic);
    return describe_kernels(table_of("avx512", {"fp32", "int16", "fp32", "fp32", true}), &profile)
        .reason;
  };
  EXPECT_EQ(reason("fp32"), "RILLKV_ARITHMETIC");
  EXPECT_EQ(reason("tiles=fp32,one_row=fp32"),
            "RILLKV_ARITHMETIC for tiles, one_row, else the fastest measured");
}

TEST(CpuInfo, WithoutAChoiceNothingWasMeasured) {
  const CpuInfo info =
      describe_kernels(table_of("avx2", {"fp32", "fp32", nullptr, nullptr, false}), nullptr);
  EXPECT_EQ(info.linear, "torch");
  EXPECT_EQ(info.one_row, "torch");
  EXPECT_EQ(info.reason, "all that avx2 has");
  EXPECT_EQ(info.bf16_gflops, 0);
}

TEST(CpuInfo, IsOfTheKernelsInUse) {
  const CpuInfo& info = cpu_info();
  EXPECT_EQ(info.isa, cpu_kernels().name);
  EXPECT_EQ(info.tiles, cpu_kernels().arithmetic.tiles);
  EXPECT_EQ(&info, &cpu_info());
}

}  // namespace
}  // namespace rillkv
