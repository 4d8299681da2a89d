// Which table runs, and what happens to a name that cannot.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/profile.h"
#include "tests/kernels/isa_fixture.h"

namespace rillkv::kernels::cpu {
namespace {

constexpr const char* kNames[] = {"scalar",      "avx2",        "avx512",   "amx",
                                  "avx512_bf16", "avx512_fp32", "amx_plain"};

TEST(Dispatch, ScalarIsAlwaysThereAndNamesAreTheirOwn) {
  ASSERT_NE(find_kernels("scalar"), nullptr);
  for (const char* name : kNames) {
    if (const KernelTable* table = find_kernels(name)) {
      EXPECT_STREQ(table->name, name);
    }
  }
  EXPECT_EQ(find_kernels("neon"), nullptr);
  EXPECT_EQ(find_kernels(""), nullptr);
}

TEST(Dispatch, EveryTableIsComplete) {
  for (const char* name : kNames) {
    const KernelTable* table = find_kernels(name);
    if (table == nullptr) continue;
    EXPECT_TRUE(table->attention_workspace_bytes && table->attend && table->absmax &&
                table->min_max && table->add_squares && table->pack_channels_affine &&
                table->pack_channels_symmetric && table->pack_tokens_affine && table->pack_sinks &&
                table->hadamard)
        << name;
  }
}

TEST(Dispatch, ATableSaysWhatItComputesWith) {
  for (const char* name : kNames) {
    const KernelTable* table = find_kernels(name);
    if (table == nullptr) continue;
    ASSERT_TRUE(table->arithmetic.tiles && table->arithmetic.decode) << name;
    EXPECT_EQ(table->arithmetic.linear != nullptr, table->linear != nullptr) << name;
    EXPECT_EQ(table->arithmetic.one_row != nullptr, table->linear != nullptr) << name;
  }
  for (const char* name : {"bf16", "fp32"}) {
    const KernelTable* table = find_kernels((std::string("avx512_") + name).c_str());
    if (table == nullptr) continue;
    EXPECT_STREQ(table->arithmetic.tiles, name);
    EXPECT_STREQ(table->arithmetic.linear, name);
    EXPECT_STREQ(table->arithmetic.one_row, name);
    EXPECT_FALSE(table->arithmetic.by_profile);
  }
}

TEST(Dispatch, TheProfileChoosesTheTable) {
  const KernelTable* table = find_kernels("avx512");
  if (table == nullptr) GTEST_SKIP() << "this machine lacks AVX-512";
  const ArithmeticChoice& choice = chip_profile().choice;
  EXPECT_TRUE(table->arithmetic.by_profile);
  EXPECT_STREQ(table->arithmetic.tiles, name_of(choice.tiles));
  EXPECT_STREQ(table->arithmetic.linear, name_of(choice.linear));
  EXPECT_STREQ(table->arithmetic.one_row, name_of(choice.one_row));
  const auto fixed = [](Arithmetic a) {
    return find_kernels((std::string("avx512_") + name_of(a)).c_str());
  };
  EXPECT_EQ(table->attend, fixed(choice.tiles)->attend);
  EXPECT_NE(
      table->attend,
      fixed(choice.tiles == Arithmetic::kFp32 ? Arithmetic::kBf16 : Arithmetic::kFp32)->attend);
  if (choice.linear == choice.one_row) {
    EXPECT_EQ(table->linear, fixed(choice.linear)->linear);
  }
}

// kernels() decides once a process, so each choice needs its own: a death test's child.
[[noreturn]] void report(const char* isa, const char* arithmetic = "") {
  setenv("RILLKV_ISA", isa, 1);
  setenv("RILLKV_ARITHMETIC", arithmetic, 1);
  try {
    const KernelTable& table = kernels();
    const ArithmeticNames& by = table.arithmetic;
    fprintf(stderr, "chose %s\n", table.name);
    fprintf(stderr, "tiles %s linear %s one row %s\n", by.tiles, by.linear ? by.linear : "none",
            by.one_row ? by.one_row : "none");
    // What is forced leaves nothing to measure.
    fprintf(stderr, "measured %d\n", by.by_profile && chip_profile().rates.bf16 > 0);
  } catch (const std::invalid_argument& error) {
    fprintf(stderr, "refused: %s\n", error.what());
  }
  std::exit(0);
}

class DispatchDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(DispatchDeathTest, TheEnvironmentForcesATableTheMachineHas) {
  for (const char* name : kNames) {
    if (find_kernels(name) != nullptr) {
      EXPECT_EXIT(report(name), testing::ExitedWithCode(0), std::string("chose ") + name + "\n");
    } else {
      EXPECT_EXIT(report(name), testing::ExitedWithCode(0),
                  std::string("refused: RILLKV_ISA: .*") + name);
    }
  }
}

TEST_F(DispatchDeathTest, AnUnknownNameIsRefusedByName) {
  EXPECT_EXIT(report("avx1024"), testing::ExitedWithCode(0),
              "refused: RILLKV_ISA: expected one of .*scalar.*, got \"avx1024\"");
}

TEST_F(DispatchDeathTest, AnEmptyNameMeansTheBest) {
  EXPECT_EXIT(report(""), testing::ExitedWithCode(0), "chose ");
}

TEST_F(DispatchDeathTest, TheEnvironmentForcesEachUse) {
  // find_kernels() would have the profile decided before report() sets the environment.
  if (!has_avx512()) GTEST_SKIP() << "this machine lacks AVX-512";
  const auto exits = testing::ExitedWithCode(0);
  EXPECT_EXIT(report("avx512", "fp32"), exits, "tiles fp32 linear fp32 one row fp32\nmeasured 0\n");
  EXPECT_EXIT(report("avx512", "bf16"), exits, "tiles bf16 linear bf16 one row bf16\nmeasured 0\n");
  EXPECT_EXIT(report("avx512", "tiles=fp32,linear=bf16,one_row=fp32"), exits,
              "tiles fp32 linear bf16 one row fp32\nmeasured 0\n");
  EXPECT_EXIT(report("avx512", "fp32,linear=bf16"), exits,
              "tiles fp32 linear bf16 one row fp32\nmeasured 0\n");
  EXPECT_EXIT(report("avx512", "one_row=fp32"), exits, "one row fp32\nmeasured 1\n");
  EXPECT_EXIT(report("avx512"), exits, "measured 1\n");
}

/// The bits of a layer of 64 inputs and 32 outputs.
std::vector<uint32_t> multiply(const KernelTable& isa, int64_t rows) {
  constexpr int64_t kIn = 64;
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  const auto numbers = [&](int64_t count) {
    test::GuardedBuffer x(static_cast<size_t>(count) * 2);
    for (int64_t i = 0; i < count; ++i) {
      test::store_element(normal(random), Dtype::kBFloat16, x.as<uint16_t>() + i);
    }
    return x.bytes();
  };
  const std::vector<uint8_t> w = numbers(kLinearPanel * kIn), x = numbers(rows * kIn);
  test::GuardedBuffer packed(w.size());
  isa.pack_linear(w.data(), kLinearPanel, kIn, 0, 1, packed.data());
  std::vector<uint32_t> out(static_cast<size_t>(rows * kLinearPanel));
  LinearParams params;
  params.x = x.data();
  params.packed = packed.data();
  params.out = out.data();
  params.out_float32 = true;
  params.rows = rows;
  params.in_features = kIn;
  params.out_features = kLinearPanel;
  isa.linear(params, 0, 1, 0, rows, nullptr);
  return out;
}

// Told apart by their rounding.
TEST_F(DispatchDeathTest, OneRowAndManyHaveTheirOwnArithmetic) {
  if (!has_avx512()) GTEST_SKIP() << "this machine lacks AVX-512";
  const auto compare = [](const char* many, const char* one) {
    setenv("RILLKV_ISA", "avx512", 1);
    setenv("RILLKV_ARITHMETIC", (std::string("linear=") + many + ",one_row=" + one).c_str(), 1);
    for (const char* name : {"fp32", "bf16"}) {
      const KernelTable& fixed = *find_kernels((std::string("avx512_") + name).c_str());
      fprintf(stderr, "%s: many %d, one %d\n", name, multiply(kernels(), 13) == multiply(fixed, 13),
              multiply(kernels(), 1) == multiply(fixed, 1));
    }
    std::exit(0);
  };
  // The tile unit's table leaves few rows to the profile's choice.
  const auto compare_amx = [](const char* one) {
    setenv("RILLKV_ARITHMETIC", (std::string("one_row=") + one).c_str(), 1);
    fprintf(stderr, "one %d\n",
            multiply(*find_kernels("amx_plain"), 1) ==
                multiply(*find_kernels((std::string("avx512_") + one).c_str()), 1));
    std::exit(0);
  };
  const auto exits = testing::ExitedWithCode(0);
  EXPECT_EXIT(compare_amx("fp32"), exits, "one 1\n");
  EXPECT_EXIT(compare_amx("bf16"), exits, "one 1\n");
  EXPECT_EXIT(compare("fp32", "fp32"), exits, "fp32: many 1, one 1\nbf16: many 0, one 0\n");
  EXPECT_EXIT(compare("bf16", "bf16"), exits, "fp32: many 0, one 0\nbf16: many 1, one 1\n");
  EXPECT_EXIT(compare("fp32", "bf16"), exits, "fp32: many 1, one 0\nbf16: many 0, one 1\n");
  EXPECT_EXIT(compare("bf16", "fp32"), exits, "fp32: many 0, one 1\nbf16: many 1, one 0\n");
}

TEST_F(DispatchDeathTest, AnArithmeticThatTheTableLacksIsRefused) {
  const auto exits = testing::ExitedWithCode(0);
  EXPECT_EXIT(report("scalar", "bf16"), exits,
              "refused: RILLKV_ARITHMETIC: scalar has fp32 for tiles, not bf16\n");
  EXPECT_EXIT(report("scalar", "one_row=bf16"), exits,
              "refused: RILLKV_ARITHMETIC: scalar has fp32 for one_row, not bf16\n");
  EXPECT_EXIT(report("scalar", "fp32"), exits, "chose scalar\n");
  if (has_avx512()) {
    EXPECT_EXIT(report("avx512_fp32", "linear=bf16"), exits,
                "refused: RILLKV_ARITHMETIC: avx512_fp32 has fp32 for linear, not bf16\n");
  }
}

TEST_F(DispatchDeathTest, AnUnknownArithmeticIsRefused) {
  for (const char* isa : {"", "scalar", "avx512"}) {
    if (*isa != '\0' && find_kernels(isa) == nullptr) continue;
    EXPECT_EXIT(report(isa, "fp17"), testing::ExitedWithCode(0),
                "refused: RILLKV_ARITHMETIC: expected bf16, fp32 or .*, got \"fp17\"\n");
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu
