// Error feedback of every instruction set: moment, plan and variance against double precision, and
// all of them to the bit against the order of operations that feedback.h prescribes.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/moment_layout.h"
#include "tests/kernels/feedback_case.h"
#include "tests/reference/feedback.h"

namespace rillkv::test {
namespace {

using kernels::moment_at;
using kernels::moment_floats;
using reference::Matrix;

const double kUnit = std::ldexp(1.0, -24);  // of fp32's rounding
constexpr int kHeadDims[] = {2, 6, 20, 64, 66, 80, 128};

// ---- the layout ----

TEST(MomentLayout, HoldsEveryElementOfTheTriangleOnce) {
  for (int D : {2, 16, 20, 64, 80, 128, 256}) {
    std::vector<int> seen(moment_floats(D), 0);
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j <= i; ++j) {
        ASSERT_LT(moment_at(i, j), seen.size());
        ++seen[moment_at(i, j)];
        EXPECT_EQ(moment_at(i, j), moment_at(j, i));
      }
    }
    EXPECT_EQ(*std::max_element(seen.begin(), seen.end()), 1) << D;
    EXPECT_EQ(std::accumulate(seen.begin(), seen.end(), 0), D * (D + 1) / 2) << D;
  }
}

// ---- the moment ----

class MomentTest : public EveryIsa {};

TEST_P(MomentTest, IsTheSumOfProductsInItsOrder) {
  for (Dtype dtype : kDtypes) {
    for (int D : kHeadDims) {
      for (int group : {1, 3}) {
        const int tokens = D == 64 ? 70 : 9, kv_head = 1;
        SCOPED_TRACE(testing::Message()
                     << isa().name << " " << dtype_name(dtype) << " D " << D << " group " << group);
        ActivationBuffer x(dtype, tokens, 2 * group, D);
        x.fill_normal(static_cast<uint32_t>(D));
        GuardedBuffer out(sizeof(float) * moment_floats(D), 0);
        isa().add_moment(x.pack_params(kv_head, 128), group, out.as<float>());
        ASSERT_TRUE(out.intact());
        std::vector<float> expected(moment_floats(D), 0.0f);
        for (int i = 0; i < D; ++i) {
          for (int j = 0; j < D; ++j) {
            float sum = 0;
            double exact = 0, magnitude = 0;
            for (int t = 0; t < tokens; ++t) {
              for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
                sum = std::fma(static_cast<float>(x.get(t, h, i)),
                               static_cast<float>(x.get(t, h, j)), sum);
                exact += x.get(t, h, i) * x.get(t, h, j);
                magnitude += std::fabs(x.get(t, h, i) * x.get(t, h, j));
              }
            }
            // One rounding a term, of a partial sum that never exceeds `magnitude`.
            ASSERT_TRUE(std::fabs(double(sum) - exact) <= tokens * group * kUnit * magnitude);
            // Whole tiles: the upper half of the diagonal's too.
            if (j / 16 <= i / 16) {
              expected[kernels::moment_row(i) + static_cast<size_t>(j)] = sum;
            }
          }
        }
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_EQ(out.as<float>()[i], expected[i]) << "float " << i;
        }
      }
    }
  }
}

TEST_P(MomentTest, DoesNotDependOnHowTokensAreSplitIntoCalls) {
  for (int D : {20, 64, 128}) {
    ActivationBuffer x(Dtype::kBFloat16, 130, 4, D);
    x.fill_normal(5);
    const auto params = x.pack_params(1, 128);
    std::vector<float> whole(moment_floats(D), 0.25f), split = whole;
    isa().add_moment(params, 2, whole.data());
    for (int begin = 0, step = 1; begin < 130; begin += step, step = step * 3 + 1) {
      auto part = params;
      part.input.data = x.at(begin, 0, 0);
      part.tokens = std::min(step, 130 - begin);
      isa().add_moment(part, 2, split.data());
    }
    EXPECT_EQ(bits_of(whole), bits_of(split)) << isa().name << " D " << D;
  }
}

// ---- the plan ----

class PlanTest : public EveryIsa {};

/// S as the kernels store it, in double.
Matrix matrix_of(const std::vector<float>& moment, int D) {
  Matrix m(static_cast<size_t>(D), std::vector<double>(static_cast<size_t>(D)));
  for (int i = 0; i < D; ++i) {
    for (int j = 0; j < D; ++j) m[size_t(i)][size_t(j)] = double(moment[moment_at(i, j)]);
  }
  return m;
}

// The tolerance of M = U diag(d) U^T, element (i, j), as a multiple of sqrt(e_i e_j), e the
// energies of their pairs:
//   the Hessian: eight roundings, the distances' included, of terms whose magnitudes add up to at
//   most |A| + |B| + |C| + |E| <= (|q_a| + |q_a+h|)(|q_b| + |q_b+h|) <= 4 sqrt(e_a e_b), twice
//   (u and v): 64 u;
//   damping: two roundings of a number below 2.1 e: 5 u;
//   the factorisation: a multiply-add and a division for each of D steps. As for Cholesky's
//   (Higham, Accuracy and Stability, theorem 10.3): (D + 2) u |U| d |U^T| <= (D + 2) u sqrt(M_ii
//   M_jj), M_ii <= 2.1 e_i.
double plan_tolerance(int D, double energy_i, double energy_j) {
  return (64 + 5 + 2.1 * (D + 2)) * kUnit * std::sqrt(energy_i * energy_j);
}

TEST_P(PlanTest, FactorsTheExpectationOverDistances) {
  for (int D : {2, 6, 20, 64, 80}) {
    SCOPED_TRACE(testing::Message() << isa().name << " D " << D);
    const FeedbackCase c(D, 1);
    const PlanBuffers plan = c.plan(isa());
    ASSERT_TRUE(plan.intact());
    const Matrix hessian = reference::rotated_moment(matrix_of(c.moment, D), c.frequencies);
    const auto expected = reference::plan_channels(hessian);
    for (int k = 0; k < D; ++k) ASSERT_EQ(plan.order(k), expected.order[size_t(k)]) << k;
    const auto energy = [&](int i) {
      const auto p = size_t(expected.order[size_t(i)] % (D / 2));
      return (hessian[p][p] + hessian[p + size_t(D / 2)][p + size_t(D / 2)]) / 2;
    };
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j <= i; ++j) {
        // U_ik = B_ki above the diagonal, 1 on it.
        double sum = 0;
        for (int k = i; k < D; ++k) {
          const double left = k == i ? 1.0 : double(plan.weight(k, i));
          const double right = k == j ? 1.0 : double(plan.weight(k, j));
          sum += left * double(plan.sensitivity(k)) * right;
        }
        const double error = std::fabs(sum - expected.hessian[size_t(i)][size_t(j)]);
        ASSERT_TRUE(error <= plan_tolerance(D, energy(i), energy(j)))
            << i << " " << j << " error " << error << " energies " << energy(i) << " " << energy(j);
      }
    }
  }
}

// What the plan is for: the loss that it minimises is the expected squared error of the logits of
// queries and keys that RoPE has turned to positions up to 1023 apart.
TEST_P(PlanTest, ItsLossIsTheExpectedSquaredLogitError) {
  const int D = 16, tokens = 12;
  ActivationBuffer queries(Dtype::kFloat32, tokens, 1, D);
  queries.fill_normal(3);
  FeedbackCase c(D, 1);
  std::fill(c.moment.begin(), c.moment.end(), 0.0f);
  isa().add_moment(queries.pack_params(0, 128), 1, c.moment.data());
  const PlanBuffers plan = c.plan(isa());
  Matrix rows;
  for (int t = 0; t < tokens; ++t) {
    rows.emplace_back();
    for (int i = 0; i < D; ++i) rows.back().push_back(queries.get(t, 0, i));
  }
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  for (int trial = 0; trial < 5; ++trial) {
    std::vector<double> error(static_cast<size_t>(D));
    for (double& e : error) e = normal(random);
    double loss = 0;
    for (int k = 0; k < D; ++k) {
      double sum = error[size_t(plan.order(k))];
      for (int j = 0; j < k; ++j) sum += double(plan.weight(k, j)) * error[size_t(plan.order(j))];
      loss += double(plan.sensitivity(k)) * sum * sum;
    }
    // The damping is part of the loss: 2 % of each pair's energy, and a little of the mean.
    const auto hessian = reference::rotated_moment(matrix_of(c.moment, D), c.frequencies);
    const auto damped = reference::plan_channels(hessian);
    double expected = reference::expected_squared_logit(rows, error, c.frequencies);
    for (int k = 0; k < D; ++k) {
      const auto channel = size_t(damped.order[size_t(k)]);
      const double damping = damped.hessian[size_t(k)][size_t(k)] - hessian[channel][channel];
      expected += damping * error[channel] * error[channel];
    }
    // 1e-4: fp32's moment and factors (above), a hundred roundings each.
    ASSERT_TRUE(std::fabs(loss - expected) <= 1e-4 * expected) << loss << " " << expected;
  }
}

// The same integers as another formulation of the method finds.
TEST_P(PlanTest, RoundsAsTheInverseHessianDoes) {
  const int D = 20, tokens = 200;
  const FeedbackCase c(D, 1);
  const PlanBuffers plan = c.plan(isa());
  const auto expected =
      reference::plan_channels(reference::rotated_moment(matrix_of(c.moment, D), c.frequencies));
  std::mt19937 random(5);
  std::normal_distribution<double> normal(0.0, 10.0);
  int compared = 0;
  for (int t = 0; t < tokens; ++t) {
    std::vector<double> x(static_cast<size_t>(D));
    for (double& value : x) value = normal(random);
    double margin = 0;
    const auto integers = reference::round_by_inverse(expected.hessian, x, margin);
    // The weights are good to about plan_tolerance of a damped, so not worse than 50 times
    // conditioned, matrix: 1e-3 in the sum of twenty errors of half a step.
    if (margin < 1e-3) continue;
    ++compared;
    std::vector<double> errors;
    for (size_t k = 0; k < x.size(); ++k) {
      double target = x[k];
      for (size_t j = 0; j < k; ++j) target += double(plan.weight(int(k), int(j))) * errors[j];
      ASSERT_EQ(std::nearbyint(target), integers[k]) << isa().name << " token " << t << " " << k;
      errors.push_back(x[k] - integers[k]);
    }
  }
  EXPECT_GT(compared, tokens / 2);
}

TEST_P(PlanTest, IsTheScalarKernelsToTheBit) {
  for (int D : {2, 6, 14, 16, 20, 34, 64, 66, 80, 128, 256, 514}) {
    for (int kind = D > 128 ? 2 : 0; kind < (D > 128 ? 3 : 4); ++kind) {
      const FeedbackCase c(D, kind);
      const PlanBuffers plan = c.plan(isa()), expected = c.plan(*scalar());
      ASSERT_TRUE(plan.intact());
      for (int k = 0; k < D; ++k) {
        ASSERT_EQ(plan.order(k), expected.order(k))
            << isa().name << " D " << D << " position " << k;
        ASSERT_EQ(bits_of(plan.sensitivity(k)), bits_of(expected.sensitivity(k)))
            << isa().name << " D " << D << " kind " << kind << " position " << k;
        for (int j = 0; j < k; ++j) {
          ASSERT_EQ(bits_of(plan.weight(k, j)), bits_of(expected.weight(k, j)))
              << isa().name << " D " << D << " kind " << kind << " position " << k << " " << j;
          ASSERT_TRUE(std::isfinite(plan.weight(k, j)));
        }
        ASSERT_TRUE(plan.sensitivity(k) > 0 && std::isfinite(plan.sensitivity(k)));
      }
    }
  }
}

TEST_P(PlanTest, PairsOfEqualEnergyKeepTheirOrder) {
  const int D = 12;
  FeedbackCase c(D, 1);
  std::fill(c.moment.begin(), c.moment.end(), 0.0f);
  const float energies[] = {1, 4, 1, 4, 9, 1};
  for (int p = 0; p < 6; ++p) {
    c.moment[moment_at(p, p)] = c.moment[moment_at(p + 6, p + 6)] = energies[p];
  }
  const PlanBuffers plan = c.plan(isa());
  const int expected[] = {4, 1, 3, 0, 2, 5};
  for (int rank = 0; rank < 6; ++rank) {
    EXPECT_EQ(plan.order(2 * rank), expected[rank]);
    EXPECT_EQ(plan.order(2 * rank + 1), expected[rank] + 6);
  }
}

TEST_P(PlanTest, WithoutUsableQueriesNothingIsFedBack) {
  const float inf = std::numeric_limits<float>::infinity();
  for (float energy : {0.0f, 1e-38f, 1e-27f, 1e31f, 1e38f, inf, std::nanf("")}) {
    for (int D : {6, 64}) {
      FeedbackCase c(D, 1);
      for (int i = 0; i < D; ++i) c.moment[moment_at(i, i)] = energy;
      if (energy < 1) {
        for (int i = 0; i < D; ++i) {
          for (int j = 0; j < i; ++j) c.moment[moment_at(i, j)] = c.moment[moment_at(j, i)] = 0;
        }
      }
      const PlanBuffers plan = c.plan(isa());
      for (int k = 0; k < D; ++k) {
        ASSERT_EQ(plan.order(k), k / 2 + k % 2 * (D / 2)) << energy;
        ASSERT_EQ(plan.sensitivity(k), 1.0f);
        for (int j = 0; j < k; ++j) ASSERT_EQ(plan.weight(k, j), 0.0f);
      }
    }
  }
}

// ---- variances ----

class VarianceTest : public EveryIsa {};

TEST_P(VarianceTest, IsExactToItsRoundingsAndKeepsItsOrder) {
  for (Dtype dtype : kDtypes) {
    for (int D : kHeadDims) {
      for (int tokens : {1, 2, 31, 128, 256}) {
        ActivationBuffer x(dtype, tokens, 3, D);
        std::mt19937 random(static_cast<uint32_t>(D + tokens));
        std::normal_distribution<double> normal;
        x.fill([&](int, int, int c) { return c % 3 * 10.0 + normal(random); });
        GuardedBuffer out(sizeof(float) * static_cast<size_t>(D), 0xff);
        isa().variance(x.pack_params(1, 256), out.as<float>());
        ASSERT_TRUE(out.intact());
        for (int c = 0; c < D; ++c) {
          const auto channel = x.channel(1, c);
          float mean = 0, sum = 0;
          double magnitude = 0;
          for (float value : channel) {
            mean += value;
            magnitude = std::max(magnitude, std::fabs(double(value)));
          }
          mean /= static_cast<float>(tokens);
          for (float value : channel) sum = std::fma(value - mean, value - mean, sum);
          ASSERT_EQ(out.as<float>()[c], sum / static_cast<float>(tokens))
              << isa().name << " " << dtype_name(dtype) << " D " << D << " tokens " << tokens;
          // The mean is off by at most (tokens + 1) u times the largest value, which counts
          // squared; the differences round once each, and their squares' sum once a term.
          const double exact = reference::variance(channel);
          const double shift = (tokens + 1) * kUnit * magnitude;
          const double tolerance = shift * shift + (tokens + 4) * kUnit * (exact + shift * shift) +
                                   2 * kUnit * magnitude * std::sqrt(exact);
          ASSERT_TRUE(std::fabs(double(out.as<float>()[c]) - exact) <= tolerance) << c;
        }
      }
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_ISA(MomentTest);
RILLKV_INSTANTIATE_FOR_EVERY_ISA(PlanTest);
RILLKV_INSTANTIATE_FOR_EVERY_ISA(VarianceTest);

}  // namespace
}  // namespace rillkv::test
