// Which arithmetic a chip gets: the choice as a function of measured rates, what the environment
// may say, and that measuring measures.
#include "kernels/cpu/profile.h"

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/rates.h"
#include "tests/kernels/isa_fixture.h"

namespace rillkv::kernels::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST(ChipProfile, TheFasterArithmeticIsChosen) {
  // Two cores of an Intel server with a tile unit, lowest and highest of several days.
  EXPECT_EQ(faster({.fp32 = 420, .bf16 = 190}), Arithmetic::kFp32);
  EXPECT_EQ(faster({.fp32 = 460, .bf16 = 230}), Arithmetic::kFp32);
  // Two cores of an AMD Zen 4.
  EXPECT_EQ(faster({.fp32 = 166, .bf16 = 394}), Arithmetic::kBf16);
  EXPECT_EQ(faster({.fp32 = 236, .bf16 = 472}), Arithmetic::kBf16);
}

TEST(ChipProfile, BesideTheThreshold) {
  EXPECT_EQ(faster({.fp32 = 100, .bf16 = 100}), Arithmetic::kBf16);
  EXPECT_EQ(faster({.fp32 = 100.001, .bf16 = 100}), Arithmetic::kFp32);
  EXPECT_EQ(faster({.fp32 = 100, .bf16 = 100.001}), Arithmetic::kBf16);
}

TEST(ChipProfile, RatesThatSayNothingChooseTheInstructionSetsOwn) {
  for (const double bad : {0.0, -1.0, kNaN, kInfinity, -kInfinity}) {
    EXPECT_EQ(faster({.fp32 = bad, .bf16 = 100}), Arithmetic::kBf16) << bad;
    EXPECT_EQ(faster({.fp32 = 100, .bf16 = bad}), Arithmetic::kBf16) << bad;
    EXPECT_EQ(faster({.fp32 = bad, .bf16 = bad}), Arithmetic::kBf16) << bad;
  }
}

TEST(ChipProfile, AnythingThatIsForcedIsFollowedAndTheRestMeasured) {
  static int measured;
  measured = 0;
  const auto intel = [] {
    ++measured;
    return ArithmeticRates{.fp32 = 440, .bf16 = 210};
  };
  const ChipProfile free = make_profile({}, intel);
  EXPECT_EQ(measured, 1);
  EXPECT_EQ(free.choice.tiles, Arithmetic::kFp32);
  EXPECT_EQ(free.choice.linear, Arithmetic::kFp32);
  EXPECT_EQ(free.choice.one_row, Arithmetic::kFp32);
  EXPECT_EQ(free.rates.bf16, 210);

  const ChipProfile part = make_profile(parse_arithmetic("linear=bf16"), intel);
  EXPECT_EQ(measured, 2);
  EXPECT_EQ(part.choice.tiles, Arithmetic::kFp32);
  EXPECT_EQ(part.choice.linear, Arithmetic::kBf16);
  EXPECT_EQ(part.choice.one_row, Arithmetic::kFp32);
  EXPECT_TRUE(part.forced.linear && !part.forced.tiles && !part.forced.one_row);

  const ChipProfile all = make_profile(parse_arithmetic("bf16"), intel);
  EXPECT_EQ(measured, 2) << "nothing was left to measure";
  EXPECT_EQ(all.choice.tiles, Arithmetic::kBf16);
  EXPECT_EQ(all.choice.linear, Arithmetic::kBf16);
  EXPECT_EQ(all.choice.one_row, Arithmetic::kBf16);
  EXPECT_EQ(all.rates.bf16, 0);
}

TEST(ChipProfile, WhatTheEnvironmentMaySay) {
  for (const char* nothing : {static_cast<const char*>(nullptr), ""}) {
    const ForcedArithmetic forced = parse_arithmetic(nothing);
    EXPECT_FALSE(forced.tiles || forced.linear || forced.one_row);
  }
  const ForcedArithmetic fp32 = parse_arithmetic("fp32");
  EXPECT_TRUE(fp32.tiles && fp32.linear && fp32.one_row);
  EXPECT_EQ(fp32.to.tiles, Arithmetic::kFp32);
  EXPECT_EQ(fp32.to.linear, Arithmetic::kFp32);
  EXPECT_EQ(fp32.to.one_row, Arithmetic::kFp32);
  const ForcedArithmetic two = parse_arithmetic("one_row=fp32,tiles=bf16");
  EXPECT_TRUE(two.tiles && !two.linear && two.one_row);
  EXPECT_EQ(two.to.tiles, Arithmetic::kBf16);
  EXPECT_EQ(two.to.one_row, Arithmetic::kFp32);
  const ForcedArithmetic later = parse_arithmetic("tiles=fp32,bf16,linear=fp32");
  EXPECT_EQ(later.to.tiles, Arithmetic::kBf16);
  EXPECT_EQ(later.to.linear, Arithmetic::kFp32);
}

TEST(ChipProfile, AnythingElseIsRefusedInOneLine) {
  for (const char* bad : {"fp16", "BF16", "bf16 ", " bf16", "auto", ",", "bf16,", ",bf16", "=",
                          "tiles", "tiles=", "=bf16", "decode=bf16", "tiles=fp17",
                          "tiles=fp32=bf16", "tiles:fp32", "bf16;fp32", "bf16\n"}) {
    try {
      parse_arithmetic(bad);
      ADD_FAILURE() << "accepted \"" << bad << '"';
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(std::string(error.what()),
                std::string("RILLKV_ARITHMETIC: expected bf16, fp32 or a list of tiles=, linear= "
                            "and one_row= with one of these, got \"") +
                    bad + '"');
    }
  }
}

// No test asserts a time, so no more than that there is a figure, and one machine's own opinion of
// what it is: a core does between 1 and 10000 GFLOP/s.
TEST(ChipProfile, MeasuringFindsBothRates) {
  const ArithmeticRates rates = measure_arithmetic();
  if (find_kernels("avx512") == nullptr) {
    EXPECT_EQ(rates.fp32, 0);
    EXPECT_EQ(rates.bf16, 0);
    return;
  }
  for (const double rate : {rates.fp32, rates.bf16}) EXPECT_TRUE(rate > 1 && rate < 1e4) << rate;
}

// The one loop that most machines cannot time: that it runs at all, on the emulator if need be.
TEST(ChipProfile, TileRoundsRun) {
  if (test::runnable_kernels("amx") == nullptr) GTEST_SKIP() << "this machine lacks AVX-512";
  amx::tile_rounds(2);
}

}  // namespace
}  // namespace rillkv::kernels::cpu
