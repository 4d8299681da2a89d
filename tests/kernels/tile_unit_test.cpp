// The two tile units, hardware (emulated where the machine lacks it) and plain C++, against
// double precision and each other. The test says which hardware it used.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/kernels.h"
#include "tests/kernels/isa_fixture.h"
#include "tests/kernels/tile_emulator.h"
#include "tests/reference/half.h"

namespace rillkv::kernels::cpu::amx {
namespace {

template <class Unit>
class TileUnits : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::is_same_v<Unit, HardwareTiles>) return;
    if (test::runnable_kernels("amx") == nullptr) GTEST_SKIP() << "this machine lacks AVX-512";
    RecordProperty("tiles", find_kernels("amx") != nullptr ? "hardware" : "emulated");
  }
};
using Units = testing::Types<HardwareTiles, PlainTiles>;
TYPED_TEST_SUITE(TileUnits, Units);

constexpr int kWords = 16 * 16;

std::vector<uint16_t> random_bfloat16(uint32_t seed, size_t count) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> x(count);
  for (uint16_t& value : x) test::store_element(normal(random), Dtype::kBFloat16, &value);
  return x;
}

double value(uint16_t x) { return reference::bfloat16_value(x); }

TYPED_TEST(TileUnits, MultiplyBfloat16Pairs) {
  using Unit = TypeParam;
  const auto a = random_bfloat16(1, 2 * kWords), b = random_bfloat16(2, 2 * kWords);
  std::vector<float> c(kWords);
  for (int i = 0; i < kWords; ++i) c[i] = 0.25f * static_cast<float>(i % 7);
  const std::vector<float> before = c;
  {
    typename Unit::Session session;
    Unit::template load<3>(c.data());
    Unit::template load<5>(a.data());
    Unit::template stream<6>(b.data());
    Unit::template dot<3, 5, 6>();
    Unit::template store<3>(c.data());
  }
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      double sum = before[m * 16 + n], size = std::abs(sum);
      for (int k = 0; k < 32; ++k) {
        const double product = value(a[m * 32 + k]) * value(b[k / 2 * 32 + 2 * n + k % 2]);
        sum += product;
        size += std::abs(product);
      }
      // Products of bf16 are exact in fp32; each of at most 34 additions rounds by 2^-24 of a
      // partial sum, which is below `size`. The unit flushes subnormals only.
      EXPECT_TRUE(std::abs(c[m * 16 + n] - sum) <= 34 * std::ldexp(1.0, -24) * size)
          << m << ", " << n << ": " << c[m * 16 + n] << " for " << sum;
    }
  }
}

TYPED_TEST(TileUnits, MultiplySignedBytesExactly) {
  using Unit = TypeParam;
  std::mt19937 random(3);
  std::vector<int8_t> a(4 * kWords), b(4 * kWords);
  for (auto* side : {&a, &b}) {
    for (int8_t& x : *side) x = static_cast<int8_t>(random());
  }
  std::vector<int32_t> c(kWords, 5);
  {
    typename Unit::Session session;
    Unit::template load<0>(c.data());
    Unit::template load<1>(a.data());
    Unit::template load<7>(b.data());
    Unit::template dot_bytes<0, 1, 7>();
    Unit::template store<0>(c.data());
  }
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      int32_t sum = 5;
      for (int k = 0; k < 64; ++k) sum += a[m * 64 + k] * b[k / 4 * 64 + 4 * n + k % 4];
      EXPECT_EQ(c[m * 16 + n], sum) << m << ", " << n;
    }
  }
}

TYPED_TEST(TileUnits, StridesReachMemoryAndNothingElse) {
  using Unit = TypeParam;
  constexpr size_t kStride = 192;  // bytes
  std::vector<uint8_t> from(16 * kStride), to(16 * kStride, 0xee);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint8_t>(i * 7);
  {
    typename Unit::Session session;
    Unit::template load<2>(from.data(), kStride);
    Unit::template store<2>(to.data(), kStride);
  }
  for (size_t i = 0; i < to.size(); ++i) {
    EXPECT_EQ(to[i], i % kStride < 64 ? from[i] : 0xee) << "byte " << i;
  }
}

TYPED_TEST(TileUnits, ZeroClearsATile) {
  using Unit = TypeParam;
  std::vector<uint32_t> x(kWords, 0x3f800000);
  {
    typename Unit::Session session;
    Unit::template load<4>(x.data());
    Unit::template zero<4>();
    Unit::template store<4>(x.data());
  }
  EXPECT_EQ(x, std::vector<uint32_t>(kWords, 0));
}

TYPED_TEST(TileUnits, SubnormalOperandsCountAsZero) {
  using Unit = TypeParam;
  const std::vector<uint16_t> tiny(2 * kWords, 0x0001), large(2 * kWords, 0x7f00);
  std::vector<float> c(kWords, 1.0f);
  {
    typename Unit::Session session;
    Unit::template load<0>(c.data());
    Unit::template load<1>(tiny.data());
    Unit::template load<2>(large.data());
    Unit::template dot<0, 1, 2>();
    Unit::template store<0>(c.data());
  }
  EXPECT_EQ(c, std::vector<float>(kWords, 1.0f));
}

// A kernel that used another unit than it says would pass every other test.
TEST(TileEmulator, HardwareKernelsReachTheEmulatorWhereTheMachineHasNoUnit) {
  if (test::runnable_kernels("amx") == nullptr) GTEST_SKIP() << "this machine lacks AVX-512";
  if (find_kernels("amx") != nullptr) GTEST_SKIP() << "this machine has a tile unit";
  const int64_t before = test::emulated_tile_instructions();
  {
    HardwareTiles::Session session;
    HardwareTiles::zero<0>();
  }
  EXPECT_EQ(test::emulated_tile_instructions() - before, 3);
  {
    PlainTiles::Session session;
    PlainTiles::zero<0>();
  }
  EXPECT_EQ(test::emulated_tile_instructions() - before, 3);
}

TEST(TileEmulatorDeathTest, TilesWithoutAConfigurationEndTheProcess) {
  if (test::runnable_kernels("amx") == nullptr) GTEST_SKIP() << "this machine lacks AVX-512";
  if (find_kernels("amx") != nullptr) GTEST_SKIP() << "this machine has a tile unit";
  EXPECT_EXIT(HardwareTiles::zero<0>(), testing::ExitedWithCode(132), "without a configuration");
}

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
