// RILLKV_ASSERT: names file, line and condition, and ends the process.
#include "core/assert.h"

#include <gtest/gtest.h>

#include <string>

namespace rillkv {
namespace {

TEST(AssertDeathTest, ABrokenInvariantNamesItsPlaceAndAborts) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  int count = 3;
  RILLKV_ASSERT(count == 3);
  const std::string line = std::to_string(__LINE__ + 1);
  EXPECT_EXIT(RILLKV_ASSERT(count == 4), ::testing::KilledBySignal(SIGABRT),
              "rillkv: broken invariant at .*assert_test.cpp:" + line + ": count == 4\n");
}

TEST(AssertDeathTest, ThePathOfTheMachineThatBuiltItIsLeftOut) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(broken_invariant("/home/builder/rillkv/src/core/x.cpp", 7, "a < b"),
              ::testing::KilledBySignal(SIGABRT),
              "^rillkv: broken invariant at src/core/x.cpp:7: a < b\n$");
}

}  // namespace
}  // namespace rillkv
