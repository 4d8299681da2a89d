// QueryEnergy against numbers worked by hand and a plain loop in double, and its state.
#include "rillkv/query_energy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <cmath>
#include <sstream>

#include "rillkv/error.h"

namespace rillkv {
namespace {

// Two query heads on one kv head of two channels; decay 1/2: every expectation is exact in binary.
QueryEnergyOptions small() {
  QueryEnergyOptions o;
  o.heads = 2;
  o.kv_heads = 1;
  o.head_dim = 2;
  o.decay = 0.5;
  return o;
}

/// [tokens, 2 heads, 2 channels] whose channels are `first` and `second` everywhere.
at::Tensor queries(int64_t tokens, float first, float second) {
  return at::tensor({first, second}).expand({tokens, 2, 2}).contiguous();
}

void expect_energy(const at::Tensor& energy, float first, float second) {
  EXPECT_TRUE(at::equal(energy, at::tensor({first, second}).view({1, 2}))) << energy;
}

TEST(QueryEnergy, FirstBlockSetsTheEmaAndLaterOnesMoveIt) {
  QueryEnergy energy(small());
  energy->accumulate(queries(4, 2, -3));
  EXPECT_EQ(energy->pending(), 4);
  expect_energy(energy->seal(), 4, 9);
  EXPECT_EQ(energy->pending(), 0);
  energy->accumulate(queries(2, 4, 1));
  expect_energy(energy->seal(), 0.5f * 4 + 0.5f * 16, 0.5f * 9 + 0.5f * 1);
  energy->accumulate(queries(1, 0, 0));
  expect_energy(energy->seal(), 5, 2.5);
}

TEST(QueryEnergy, MeanIsOverTokensAndTheGroupsHeads) {
  QueryEnergy energy(small());
  // Squares of channel 0: 1, 4 in the first token, 9, 16 in the second; of channel 1 all 0 but one.
  energy->accumulate(at::tensor({1.f, 0.f, 2.f, 0.f, 3.f, 2.f, 4.f, 0.f}).view({2, 2, 2}));
  expect_energy(energy->seal(), (1 + 4 + 9 + 16) / 4.f, 1);
}

TEST(QueryEnergy, KvHeadsAreIndependent) {
  QueryEnergyOptions o = small();
  o.kv_heads = 2;
  QueryEnergy energy(o);
  energy->accumulate(at::tensor({1.f, 2.f, 3.f, 4.f}).view({1, 2, 2}));
  EXPECT_TRUE(at::equal(energy->seal(), at::tensor({1.f, 4.f, 9.f, 16.f}).view({2, 2})));
}

TEST(QueryEnergy, PreviewSaysWhatSealWouldAndChangesNothing) {
  QueryEnergy energy(small());
  EXPECT_THROW(energy->preview(), Error);
  energy->accumulate(queries(4, 2, 3));
  energy->seal();
  EXPECT_THROW(energy->preview(), Error);  // the next block is empty
  energy->accumulate(queries(3, 4, 1));
  for (int i = 0; i < 3; ++i) expect_energy(energy->preview(), 10, 5);
  EXPECT_EQ(energy->pending(), 3);
  expect_energy(energy->seal(), 10, 5);
}

TEST(QueryEnergy, ChunkingChangesNoBit) {
  QueryEnergyOptions o;
  o.heads = 6;
  o.kv_heads = 2;
  o.head_dim = 80;
  at::manual_seed(1);
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor all = at::randn({128, o.heads, o.head_dim}).to(dtype);
    QueryEnergy whole(o);
    whole->accumulate(all);
    const at::Tensor expected = whole->seal().clone();
    for (const int64_t chunk : {1, 7, 100}) {
      QueryEnergy energy(o);
      for (int64_t begin = 0; begin < 128; begin += chunk) {
        energy->accumulate(all.slice(0, begin, std::min<int64_t>(begin + chunk, 128)));
      }
      EXPECT_TRUE(at::equal(energy->seal(), expected)) << dtype << " in chunks of " << chunk;
    }
    // Against double: 128 squares a head, three heads, one division, all rounded to 2^-24.
    const at::Tensor exact = all.to(at::kDouble)
                                 .pow(2)
                                 .view({128, o.kv_heads, 3, o.head_dim})
                                 .mean(c10::IntArrayRef{0, 2});
    const double error = ((expected - exact) / exact).abs().max().item<double>();
    EXPECT_LE(error, (128 + 3 + 1) * 0x1p-24) << dtype;
  }
}

TEST(QueryEnergy, SavedAndLoadedStateGoesOnAlike) {
  QueryEnergy original(small()), copy(small());
  original->accumulate(queries(4, 2, 3));
  original->seal();
  original->accumulate(queries(3, 1, 5));  // an open block
  std::stringstream archive;
  torch::save(original, archive);
  torch::load(copy, archive);
  EXPECT_EQ(copy->pending(), 3);
  for (QueryEnergy* energy : {&original, &copy}) (*energy)->accumulate(queries(2, 7, 0.5));
  EXPECT_TRUE(at::equal(copy->seal(), original->seal()));
  for (QueryEnergy* energy : {&original, &copy}) (*energy)->accumulate(queries(1, 3, 3));
  EXPECT_TRUE(at::equal(copy->seal(), original->seal()));
}

TEST(QueryEnergy, ResetForgetsEverything) {
  QueryEnergy energy(small());
  energy->accumulate(queries(4, 2, 3));
  energy->seal();
  energy->accumulate(queries(1, 9, 9));
  energy->reset();
  EXPECT_EQ(energy->pending(), 0);
  EXPECT_THROW(energy->preview(), Error);
  energy->accumulate(queries(2, 1, 2));
  expect_energy(energy->seal(), 1, 4);  // as a first block: no trace of the past
}

TEST(QueryEnergy, WrongOptionsAndShapesThrow) {
  QueryEnergyOptions o = small();
  o.kv_heads = 3;
  EXPECT_THROW(QueryEnergy{o}, Error);
  o = small();
  o.decay = 1;
  EXPECT_THROW(QueryEnergy{o}, Error);
  QueryEnergy energy(small());
  EXPECT_THROW(energy->accumulate(at::zeros({1, 2, 4})), Error);
  EXPECT_THROW(energy->accumulate(at::zeros({1, 1, 2})), Error);
  EXPECT_THROW(energy->accumulate(at::zeros({2, 2})), Error);
  energy->accumulate(at::zeros({0, 2, 2}));
  EXPECT_EQ(energy->pending(), 0);
}

}  // namespace
}  // namespace rillkv
