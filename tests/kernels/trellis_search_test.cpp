// The code, the steps and the search of policy "trellis", apart from blocks.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/scalar/trellis_search.h"
#include "kernels/packed_format.h"
#include "kernels/planes.h"
#include "kernels/steps8.h"
#include "tests/reference/trellis.h"

namespace rillkv {
namespace {

using reference::TrellisRow;

TEST(Trellis, LevelsAreThoseOfTheShiftRegister) {
  std::mt19937 random(1);
  for (int count : {32, 64, 128, 256}) {
    for (int width = 1; width <= format::kMaxTrellisWidth; ++width) {
      std::vector<uint8_t> path, b;
      TrellisRow row;
      for (int t = 0; t < count; ++t) {
        row.path.push_back(static_cast<int>(random() % 2));
        row.b.push_back(static_cast<int>(random() % (1u << (width - 1))));
        path.push_back(static_cast<uint8_t>(row.path.back()));
        b.push_back(static_cast<uint8_t>(row.b.back()));
      }
      std::vector<uint32_t> planes(static_cast<size_t>(count * width) / 32);
      uint8_t* bytes = reinterpret_cast<uint8_t*>(planes.data());
      const format::PlaneCounts all = format::planes_of(width - 1);
      const format::TrellisPlanes<uint8_t> begin = {
          bytes, format::planes_at(bytes + count / 8, format::plane_offsets({}, all, count))};
      format::TrellisPlanes<uint8_t> at = begin;
      format::Planes<uint8_t> path_at = {nullptr, nullptr, at.path};
      format::pack_codes(path.data(), count, 1, path_at);
      format::pack_codes(b.data(), count, width - 1, at.b);
      std::vector<uint8_t> levels(static_cast<size_t>(count));
      format::TrellisPlanes<const uint8_t> read = {begin.path,
                                                   {begin.b.nibbles, begin.b.crumbs, begin.b.bits}};
      format::unpack_levels(read, count, width, levels.data());
      EXPECT_EQ(read.path, begin.path + count / 8);
      const std::vector<int> expected = reference::trellis_levels(row);
      for (int t = 0; t < count; ++t) {
        ASSERT_EQ(levels[size_t(t)], expected[size_t(t)]) << width << " token " << t;
        ASSERT_LT(expected[size_t(t)], 2 << width);
      }
    }
  }
}

TEST(Steps8, AreFp32sNearestToTheirPowers) {
  for (int i = 0; i < 256; ++i) {
    // One rounding of 2^-24.
    EXPECT_TRUE(std::fabs(double(format::step8(i)) / reference::step8(i) - 1) <=
                std::ldexp(1.0, -24))
        << i;
    EXPECT_TRUE(std::fabs(double(format::inverse8(i)) * reference::step8(i) - 1) <=
                std::ldexp(1.0, -24))
        << i;
    EXPECT_EQ(format::nearest8(format::step8(i)), i);
  }
}

// A grid that is dense in ratio, from below the smallest step to above the largest. Within two
// places of a threshold either neighbour will do.
TEST(Steps8, NearestIsNearestInRatio) {
  for (int n = -20 * 4096; n <= 18 * 4096; ++n) {
    const float x = static_cast<float>(std::exp2(n / 4096.0 + 1e-5));
    const double exact = 8 * std::log2(double(x)) + 136;
    const double to_threshold = std::fabs(exact - std::floor(exact) - 0.5);
    if (to_threshold < std::ldexp(8.0, -22)) continue;
    ASSERT_EQ(format::nearest8(x), reference::nearest8(double(x))) << x;
  }
  // A threshold itself belongs to the step above, the number below it to the step below.
  for (int m = 0; m < 8; ++m) {
    const float near = static_cast<float>(std::exp2((m + 0.5) / 8));
    EXPECT_EQ(format::nearest8(near), 137 + m) << m;
    EXPECT_EQ(format::nearest8(std::nextafter(near, 0.0f)), 136 + m) << m;
  }
}

TEST(Steps8, NearestTakesAnyNumber) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (float x : {0.0f, -0.0f, -1.0f, -kInfinity, std::numeric_limits<float>::denorm_min(), 1e-38f,
                  std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_EQ(format::nearest8(x), 0) << x;
  }
  for (float x : {65504.0f, 1e38f, kInfinity}) EXPECT_EQ(format::nearest8(x), 255) << x;
}

// ---- the search ----

/// Rows that a search may get: about the levels, far outside, on ties.
std::vector<float> random_row(std::mt19937& random, int count, int width, int kind) {
  const float middle = static_cast<float>((2 << width) - 1) / 2;
  std::normal_distribution<float> normal;
  std::vector<float> v;
  for (int t = 0; t < count; ++t) {
    const float n = normal(random);
    switch (kind) {
      case 0:
        v.push_back(middle + 0.5f * middle * n);
        break;
      case 1:  // ties of rint and of metrics
        v.push_back(0.5f * static_cast<float>(static_cast<int>(random() % (4u << width))));
        break;
      case 2:  // mostly clipped
        v.push_back(middle + 8.0f * middle * n);
        break;
      default:  // what no int holds
        v.push_back(n > 0 ? 1e9f : -1e9f);
        break;
    }
  }
  return v;
}

struct Found {
  TrellisRow row;
  double cost, least;
  double tolerance;  // of the cost: see expect_least
};

/// fp32 rounds v - level (2^-24 of it, an error e), its square, the product with the weight and
/// every sum: a cost of T tokens is off by at most (T + 5) 2^-23 of itself. The path that fp32
/// finds best is therefore at most twice that above the best.
Found search(const std::vector<float>& v, const std::vector<float>& weights, int width) {
  const int count = static_cast<int>(v.size());
  std::vector<uint8_t> path(v.size()), b(v.size());
  kernels::cpu::search_trellis(v.data(), weights.empty() ? nullptr : weights.data(), count, width,
                               path.data(), b.data());
  Found found;
  found.row.path.assign(path.begin(), path.end());
  found.row.b.assign(b.begin(), b.end());
  const std::vector<double> exact(v.begin(), v.end());
  std::vector<double> exact_weights(weights.begin(), weights.end());
  exact_weights.resize(v.size(), 1.0);
  found.cost = reference::trellis_cost(exact, exact_weights, reference::trellis_levels(found.row));
  found.least = count <= 8 ? reference::least_cost_of_all_paths(exact, exact_weights, width)
                           : reference::least_trellis_cost(exact, exact_weights, width);
  found.tolerance = 2 * (count + 5) * std::ldexp(found.least, -23);
  return found;
}

TEST(TrellisSearch, FindsTheLeastOfAllPaths) {
  std::mt19937 random(2);
  for (int repeat = 0; repeat < 400; ++repeat) {
    const int count = 1 + repeat % 8, width = 1 + repeat / 8 % 2, kind = repeat / 16 % 4;
    const auto v = random_row(random, count, width, kind);
    std::vector<float> weights;
    for (int t = 0; repeat % 3 == 0 && t < count; ++t) {
      weights.push_back(std::exp2(static_cast<float>(random() % 40) - 20.0f));
    }
    const Found found = search(v, weights, width);
    ASSERT_TRUE(found.cost <= found.least + found.tolerance)
        << count << " tokens, width " << width << " kind " << kind << ": " << found.cost << " "
        << found.least;
  }
}

TEST(TrellisSearch, FindsWhatDynamicProgrammingFinds) {
  std::mt19937 random(3);
  for (int width = 1; width <= format::kMaxTrellisWidth; ++width) {
    for (int count : {9, 31, 32, 128, 255, 256}) {
      for (int kind = 0; kind < 4; ++kind) {
        const auto v = random_row(random, count, width, kind);
        std::vector<float> weights;
        for (int t = 0; kind % 2 == 0 && t < count; ++t) {
          weights.push_back(std::exp2(static_cast<float>(random() % 40) - 20.0f));
        }
        const Found found = search(v, weights, width);
        ASSERT_TRUE(found.cost <= found.least + found.tolerance)
            << count << " tokens, width " << width << " kind " << kind << ": " << found.cost << " "
            << found.least;
      }
    }
  }
}

// Whatever the state, the two next subsets together are all even or all odd levels. So a path that
// always takes the nearer of the two is never farther from v than a scalar quantiser of w bits is
// with the even levels or with the odd ones, whichever is worse, and the best path is no worse.
TEST(TrellisSearch, IsNeverWorseThanTheScalarQuantiser) {
  std::mt19937 random(4);
  for (int width = 1; width <= format::kMaxTrellisWidth; ++width) {
    for (int kind = 0; kind < 4; ++kind) {
      const auto v = random_row(random, 128, width, kind);
      double worst = 0;
      for (float each : v) {
        double errors[2];
        for (int odd = 0; odd < 2; ++odd) {
          const double most = (1 << width) - 1;
          const double code = std::clamp(std::nearbyint((double(each) - odd) / 2), 0.0, most);
          errors[odd] = std::pow(double(each) - (2 * code + odd), 2);
        }
        worst += std::max(errors[0], errors[1]);
      }
      const Found found = search(v, {}, width);
      ASSERT_TRUE(found.cost <= worst + found.tolerance) << width << " kind " << kind;
    }
  }
}

// ---- widths ----

// The best increment, one at a time, in double.
TEST(TrellisWidths, AreGreedyByTheTrellisError) {
  constexpr double kErrors[] = {1, .3255, .094, .0267, .00713, .00185, 4.7e-4, 1.2e-4};
  std::mt19937 random(5);
  std::lognormal_distribution<float> wide(0.0f, 2.0f);
  for (int head_dim : {2, 6, 64, 80, 128}) {
    const auto pairs = static_cast<size_t>(head_dim) / 2;
    const int most = head_dim / 2 * 6;
    for (int increments : {0, 1, most / 3, most / 2, most - 1, most, most + 5}) {
      std::vector<float> spread, energy;
      for (int c = 0; c < head_dim; ++c) {
        spread.push_back(wide(random));
        energy.push_back(wide(random));
      }
      std::vector<uint8_t> stored(pairs + 2, 0xee);
      kernels::cpu::allocate_trellis_widths(spread.data(), energy.data(), head_dim, increments,
                                            stored.data() + 1);
      EXPECT_EQ(stored.front(), 0xee);
      EXPECT_EQ(stored.back(), 0xee);
      std::vector<int> widths(pairs, 1);
      for (int i = 0; i < std::min(increments, most); ++i) {
        size_t best = 0;
        double gain = -1;
        for (size_t p = 0; p < pairs; ++p) {
          if (widths[p] == 7) continue;
          const double score = (double(spread[p]) + double(spread[p + pairs])) *
                               (double(energy[p]) + double(energy[p + pairs]));
          const double own = score * (kErrors[widths[p]] - kErrors[widths[p] + 1]);
          if (own > gain) {
            gain = own;
            best = p;
          }
        }
        ++widths[best];
      }
      for (size_t p = 0; p < pairs; ++p) {
        EXPECT_EQ(stored[p + 1], widths[p] * 17) << head_dim << " pair " << p;
      }
    }
  }
}

}  // namespace
}  // namespace rillkv
