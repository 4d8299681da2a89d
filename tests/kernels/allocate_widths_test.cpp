// The allocation of key bit widths against independent greedy choice and exhaustive search.
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "kernels/cpu/kernels.h"
#include "tests/reference/width_allocation.h"

namespace rillkv {
namespace {

std::vector<int> allocate(const std::vector<float>& range, const std::vector<float>& energy,
                          const std::vector<int>& classes, int increments) {
  const size_t pairs = range.size() / 2;
  std::vector<uint8_t> stored(pairs + 2, 0xee);
  std::vector<float> spread;
  for (float r : range) spread.push_back(r * r);
  kernels::cpu::allocate_widths(spread.data(), energy.data(), static_cast<int>(range.size()),
                                classes.data(), static_cast<int>(classes.size()), increments,
                                stored.data() + 1);
  EXPECT_EQ(stored.front(), 0xee);
  EXPECT_EQ(stored.back(), 0xee);
  std::vector<int> widths;
  for (size_t p = 1; p <= pairs; ++p) {
    EXPECT_EQ(stored[p] & 15, stored[p] >> 4) << "the channels of pair " << p - 1 << " differ";
    widths.push_back(stored[p] & 15);
  }
  return widths;
}

std::vector<double> scores(const std::vector<float>& range, const std::vector<float>& energy) {
  std::vector<double> result;
  const size_t pairs = range.size() / 2;
  for (size_t p = 0; p < pairs; ++p) {
    const double r = range[p], s = range[p + pairs];
    result.push_back((r * r + s * s) * (double(energy[p]) + double(energy[p + pairs])));
  }
  return result;
}

int spent(const std::vector<int>& widths, const std::vector<int>& classes) {
  const int spacing = classes.size() > 1 ? classes[1] - classes[0] : 1;
  int sum = 0;
  for (int width : widths) sum += (width - classes[0]) / spacing;
  return sum;
}

const std::vector<std::vector<int>> kClasses = {
    {1, 2, 3, 4, 5, 6, 7, 8}, {2, 4, 6, 8}, {3, 4, 5}, {4, 8}, {4}};

TEST(AllocateWidths, SpendsTheBudgetExactlyAsIndependentGreedyDoes) {
  std::mt19937 random(1);
  std::lognormal_distribution<float> wide(0.0f, 1.5f);
  for (int head_dim : {2, 6, 8, 64, 80, 128}) {
    for (const auto& classes : kClasses) {
      const int most = head_dim / 2 * (static_cast<int>(classes.size()) - 1);
      for (int increments : {0, 1, most / 3, most / 2, most - 1, most}) {
        if (increments < 0 || increments > most) continue;
        std::vector<float> range(static_cast<size_t>(head_dim)), energy = range;
        for (float& x : range) x = wide(random);
        for (float& x : energy) x = wide(random);
        const auto widths = allocate(range, energy, classes, increments);
        EXPECT_EQ(spent(widths, classes), increments);
        const auto s = scores(range, energy);
        const auto expected = reference::allocate_widths(s, classes, increments);
        // fp32 and double may order two gains differently only if they are equal to fp32's
        // precision; then the logit error is the same to that precision.
        if (widths != expected) {
          EXPECT_NEAR(reference::logit_error(s, widths) / reference::logit_error(s, expected), 1.0,
                      1e-6);
        }
      }
    }
  }
}

TEST(AllocateWidths, IsOptimal) {
  std::mt19937 random(2);
  std::lognormal_distribution<float> wide(0.0f, 1.0f);
  const std::vector<int> classes = {1, 2, 3, 4, 5};
  for (int increments = 0; increments <= 20; ++increments) {
    std::vector<float> range(10), energy(10);
    for (float& x : range) x = wide(random);
    for (float& x : energy) x = wide(random);
    const auto s = scores(range, energy);
    const double error = reference::logit_error(s, allocate(range, energy, classes, increments));
    const double least = reference::least_logit_error(s, classes, increments);
    EXPECT_TRUE(error <= least * (1 + 1e-6)) << increments << ": " << error << " > " << least;
  }
}

TEST(AllocateWidths, TiesGoToTheLowerClassThenTheLowerPair) {
  const std::vector<float> ones(12, 1.0f);
  const std::vector<int> classes = {1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_EQ(allocate(ones, ones, classes, 0), (std::vector<int>{1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(allocate(ones, ones, classes, 2), (std::vector<int>{2, 2, 1, 1, 1, 1}));
  EXPECT_EQ(allocate(ones, ones, classes, 8), (std::vector<int>{3, 3, 2, 2, 2, 2}));
  // Without any range every gain is 0: still the lower class first.
  const std::vector<float> zeros(12, 0.0f);
  EXPECT_EQ(allocate(zeros, ones, classes, 7), (std::vector<int>{3, 2, 2, 2, 2, 2}));
  EXPECT_EQ(allocate(ones, zeros, {2, 4, 6, 8}, 7), (std::vector<int>{6, 4, 4, 4, 4, 4}));
}

TEST(AllocateWidths, PrecisionGoesWhereTheLogitsFeelIt) {
  std::vector<float> range(8, 1.0f), energy(8, 1.0f);
  range[2] = 10.0f;   // pair 2
  energy[7] = 30.0f;  // pair 3
  const auto widths = allocate(range, energy, {1, 2, 3, 4, 5, 6, 7, 8}, 12);
  EXPECT_GT(widths[2], widths[0]);
  EXPECT_GT(widths[3], widths[0]);
  EXPECT_EQ(std::accumulate(widths.begin(), widths.end(), 0), 4 + 12);
}

}  // namespace
}  // namespace rillkv
