// Which table runs, and what happens to a name that cannot.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/cpu/kernels.h"

namespace rillkv::kernels::cpu {
namespace {

TEST(Dispatch, ScalarIsAlwaysThereAndNamesAreTheirOwn) {
  ASSERT_NE(find_kernels("scalar"), nullptr);
  for (const char* name : {"scalar", "avx2", "avx512", "amx", "amx_plain"}) {
    if (const KernelTable* table = find_kernels(name)) {
      EXPECT_STREQ(table->name, name);
    }
  }
  EXPECT_EQ(find_kernels("neon"), nullptr);
  EXPECT_EQ(find_kernels(""), nullptr);
}

TEST(Dispatch, EveryTableIsComplete) {
  for (const char* name : {"scalar", "avx2", "avx512", "amx", "amx_plain"}) {
    const KernelTable* table = find_kernels(name);
    if (table == nullptr) continue;
    EXPECT_TRUE(table->attention_workspace_bytes && table->attend && table->absmax &&
                table->min_max && table->add_squares && table->pack_channels_affine &&
                table->pack_channels_symmetric && table->pack_tokens_affine &&
                table->pack_tokens_symmetric && table->hadamard)
        << name;
  }
}

// kernels() decides once a process, so each choice needs its own: a death test's child.
[[noreturn]] void report(const char* isa) {
  setenv("RILLKV_ISA", isa, 1);
  try {
    fprintf(stderr, "chose %s\n", kernels().name);
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
  for (const char* name : {"scalar", "avx2", "avx512", "amx", "amx_plain"}) {
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

}  // namespace
}  // namespace rillkv::kernels::cpu
