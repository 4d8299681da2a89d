// Rows of logits against the formulas in long double.
#include "rillkv/eval/distribution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/error_of.h"

namespace rillkv::eval {
namespace {

using testing::error_of;
using ::testing::HasSubstr;

const std::vector<float> kP = {1.5f, -2.0f, 80.0f, 79.25f, 0.0f};
const std::vector<float> kQ = {0.5f, -3.0f, 60.0f, 61.00f, 7.0f};

long double log_prob(const std::vector<float>& logits, size_t token) {
  long double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
  return logits[token] - std::log(sum);
}

// A handful of operations on numbers below 100, in double: 100 * 2^-53 each, < 1e-13 in all.
constexpr double kTolerance = 1e-13;

TEST(Distribution, LogProbabilitiesAreTheSoftmaxs) {
  const Distribution p(kP);
  EXPECT_EQ(p.vocab(), 5);
  EXPECT_EQ(p.best(), 2);
  for (size_t i = 0; i < kP.size(); ++i) {
    const double error =
        std::abs(static_cast<double>(p.log_prob(static_cast<int64_t>(i)) - log_prob(kP, i)));
    EXPECT_TRUE(error <= kTolerance) << i << ": " << error;
  }
}

TEST(Distribution, TheLowestIdIsBestAmongEquals) {
  const std::vector<float> logits = {1, 3, 3, 2};
  EXPECT_EQ(Distribution(logits).best(), 1);
  EXPECT_THAT(error_of([] { Distribution({}); }), HasSubstr("got none"));
}

TEST(Distribution, DivergenceIsKullbackLeiblers) {
  long double want = 0;
  for (size_t i = 0; i < kP.size(); ++i) {
    want += std::exp(log_prob(kP, i)) * (log_prob(kP, i) - log_prob(kQ, i));
  }
  const Distribution p(kP), q(kQ);
  EXPECT_GT(want, 0.1L);
  EXPECT_TRUE(std::abs(kl_divergence(p, q) - static_cast<double>(want)) <= kTolerance);
  EXPECT_EQ(kl_divergence(p, p), 0);
  const std::vector<float> fewer = {1, 2};
  EXPECT_THAT(error_of([&] { kl_divergence(p, Distribution(fewer)); }), HasSubstr("5 and 2"));
}

TEST(Distribution, MaskedTokensHaveNoProbability) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> masked = {1.5f, -kInf, 80.0f, 79.25f, 0.0f},
                           without = {1.5f, 80.0f, 79.25f, 0.0f}, wider = kP;
  const Distribution p(masked), q(wider);
  EXPECT_EQ(p.log_prob(1), -kInf);
  EXPECT_EQ(p.best(), 2);
  EXPECT_TRUE(std::abs(p.log_prob(2) - Distribution(without).log_prob(1)) <= kTolerance);
  long double want = 0;  // 0 log 0 is 0: the masked token adds nothing
  for (const size_t i : {0, 2, 3, 4}) {
    const long double log_p = log_prob(masked, i);
    want += std::exp(log_p) * (log_p - log_prob(wider, i));
  }
  EXPECT_TRUE(std::abs(kl_divergence(p, q) - static_cast<double>(want)) <= kTolerance);
  EXPECT_EQ(kl_divergence(p, p), 0);
  const std::vector<float> likely = {1, 1}, ruled_out = {1, -kInf};
  EXPECT_EQ(kl_divergence(Distribution(likely), Distribution(ruled_out)),
            std::numeric_limits<double>::infinity());
}

TEST(Distribution, WhatIsNoNumberIsAnError) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), kInf}) {
    for (size_t at = 0; at < kP.size(); ++at) {
      std::vector<float> logits = kP;
      logits[at] = bad;
      EXPECT_THAT(error_of([&] { Distribution{logits}; }), HasSubstr("finite")) << at << bad;
    }
  }
  const std::vector<float> nothing = {-kInf, -kInf};
  EXPECT_THAT(error_of([&] { Distribution{nothing}; }), HasSubstr("-inf"));
}

TEST(Agreement, IsTheShareOfEqualTokens) {
  EXPECT_EQ(agreement({1, 2, 3, 4}, {1, 0, 3, 4}), 0.75);
  EXPECT_TRUE(std::isnan(agreement({}, {})));
  EXPECT_THAT(error_of([] { agreement({1}, {1, 2}); }), HasSubstr("1 and 2"));
}

}  // namespace
}  // namespace rillkv::eval
