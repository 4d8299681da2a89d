// QueryMoment against numbers worked by hand and a plain loop in double, and its state.
#include "rillkv/query_moment.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <cmath>
#include <limits>
#include <sstream>

#include "rillkv/error.h"

namespace rillkv {
namespace {

// Two query heads on one kv head of two channels; decay 1/2: every expectation is exact in binary.
QueryMomentOptions small() { return {2, 1, 2, 0.5}; }

TEST(QueryMoment, IsTheSumOfOuterProductsOverTokensAndTheGroup) {
  QueryMoment moment(small());
  moment->accumulate(at::tensor({1.f, 2.f, 3.f, -1.f, 0.f, 4.f, 2.f, 2.f}).view({2, 2, 2}));
  EXPECT_EQ(moment->pending(), 2);
  EXPECT_TRUE(at::equal(moment->matrices(), at::tensor({1.f + 9 + 0 + 4, 2.f - 3 + 0 + 4,
                                                        2.f - 3 + 0 + 4, 4.f + 1 + 16 + 4})
                                                .view({1, 2, 2})));
}

TEST(QueryMoment, EndingABlockLetsThePastFade) {
  QueryMoment moment(small());
  const at::Tensor query = at::ones({1, 2, 2});
  moment->accumulate(query * 2);
  moment->seal();
  EXPECT_EQ(moment->pending(), 0);
  EXPECT_TRUE(at::equal(moment->matrices(), at::full({1, 2, 2}, 4.f)));
  moment->accumulate(query);
  EXPECT_TRUE(at::equal(moment->matrices(), at::full({1, 2, 2}, 6.f)));
  moment->seal();
  EXPECT_TRUE(at::equal(moment->matrices(), at::full({1, 2, 2}, 3.f)));
}

TEST(QueryMoment, KvHeadsAreIndependent) {
  QueryMoment moment(QueryMomentOptions{2, 2, 2, 0.5});
  moment->accumulate(at::tensor({1.f, 2.f, 3.f, 4.f}).view({1, 2, 2}));
  EXPECT_TRUE(at::equal(moment->matrices(),
                        at::tensor({1.f, 2.f, 2.f, 4.f, 9.f, 12.f, 12.f, 16.f}).view({2, 2, 2})));
}

// n products of fp32 factors, each added with one rounding: at most n * 2^-24 of the sum of
// magnitudes (Higham, Accuracy and Stability, section 3.1, to first order; 2 covers the rest).
TEST(QueryMoment, IsTheDoubleSumUpToRoundings) {
  at::manual_seed(1);
  const int64_t heads = 6, kv_heads = 2, dim = 40, tokens = 150;
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    QueryMoment moment(QueryMomentOptions{heads, kv_heads, dim, 0.9});
    const at::Tensor q = at::randn({tokens, heads, dim}).to(dtype);
    moment->accumulate(q);
    const at::Tensor rows = q.to(at::kDouble).view({tokens, kv_heads, heads / kv_heads, dim});
    const at::Tensor expected = at::einsum("tkgi,tkgj->kij", {rows, rows});
    const at::Tensor bound =
        at::einsum("tkgi,tkgj->kij", {rows.abs(), rows.abs()}) *
        (2.0 * static_cast<double>(tokens * heads) / kv_heads * std::ldexp(1.0, -24));
    EXPECT_TRUE(((moment->matrices().to(at::kDouble) - expected).abs() <= bound).all().item<bool>())
        << dtype;
  }
}

TEST(QueryMoment, DoesNotDependOnTheChunks) {
  at::manual_seed(2);
  const at::Tensor q = at::randn({97, 4, 24});
  QueryMoment whole(QueryMomentOptions{4, 2, 24, 0.9}), parts(QueryMomentOptions{4, 2, 24, 0.9});
  whole->accumulate(q);
  int64_t begin = 0;
  for (const int64_t count : {1, 30, 2, 64}) {
    parts->accumulate(q.slice(0, begin, begin + count));
    begin += count;
  }
  EXPECT_TRUE(at::equal(whole->moments(), parts->moments()));
}

TEST(QueryMoment, IsSavedAndLoadedAndReset) {
  QueryMoment moment(small()), other(small());
  moment->accumulate(at::randn({3, 2, 2}));
  std::stringstream file;
  torch::save(moment, file);
  torch::load(other, file);
  EXPECT_TRUE(at::equal(moment->moments(), other->moments()));
  EXPECT_EQ(other->pending(), 3);
  other->reset();
  EXPECT_EQ(other->pending(), 0);
  EXPECT_TRUE(at::equal(other->moments(), at::zeros_like(other->moments())));
}

TEST(QueryMoment, BadArgumentsThrow) {
  EXPECT_THROW(QueryMoment(QueryMomentOptions{3, 2, 4, 0.5}), Error);
  EXPECT_THROW(QueryMoment(QueryMomentOptions{2, 1, 3, 0.5}), Error);
  EXPECT_THROW(QueryMoment(QueryMomentOptions{2, 1, 4, 1.0}), Error);
  EXPECT_THROW(QueryMoment(QueryMomentOptions{2, 1, 4, std::numeric_limits<double>::quiet_NaN()}),
               Error);
  QueryMoment moment(small());
  EXPECT_THROW(moment->accumulate(at::ones({1, 2, 4})), Error);
  EXPECT_THROW(moment->seal(), Error);
}

}  // namespace
}  // namespace rillkv
