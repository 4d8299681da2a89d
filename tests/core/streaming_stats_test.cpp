// StreamingStats against numbers worked by hand, and its state.
#include "rillkv/streaming_stats.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <cmath>
#include <limits>
#include <sstream>

#include "rillkv/error.h"

namespace rillkv {
namespace {

// One kv head of two channels, chunks of 4 tokens, decay 0.5: every expectation below is exact in
// binary.
StreamingStatsOptions small() {
  StreamingStatsOptions o;
  o.kv_heads = 1;
  o.head_dim = 2;
  o.chunk_size = 4;
  o.decay = 0.5;
  o.threshold_abs = 6.0;
  o.threshold_relative = 5.0;
  return o;
}

// A chunk whose channels have the given largest magnitudes (of alternating sign).
at::Tensor chunk(int64_t tokens, double first, double second) {
  at::Tensor x = at::zeros({1, tokens, 2});
  x[0][tokens - 1][0] = -first;
  x[0][0][1] = second;
  return x;
}

void expect_equal(const at::Tensor& actual, const std::vector<double>& expected) {
  const at::Tensor flat = actual.flatten().to(at::kDouble);
  ASSERT_EQ(flat.numel(), static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_FLOAT_EQ(flat[i].item<double>(), expected[i]) << "at " << i;
  }
}

TEST(StreamingStats, FirstChunkSetsTheEma) {
  StreamingStats stats(small());
  EXPECT_TRUE(stats->empty());
  EXPECT_THROW(stats->ema(), Error);
  stats->update(chunk(4, 2, 7));
  EXPECT_FALSE(stats->empty());
  expect_equal(stats->ema(), {2, 7});
  expect_equal(stats->outliers(),
               {0, 1});  // 7 > 6; the relative threshold waits for a second chunk
}

TEST(StreamingStats, FullChunkMovesTheEmaByOneMinusDecay) {
  StreamingStats stats(small());
  stats->update(chunk(4, 2, 4));
  stats->update(chunk(4, 4, 2));
  expect_equal(stats->ema(), {0.5 * 2 + 0.5 * 4, 0.5 * 4 + 0.5 * 2});
}

TEST(StreamingStats, PartialChunkMovesItLess) {
  StreamingStats stats(small());
  stats->update(chunk(4, 2, 4));
  stats->update(chunk(2, 4, 2));  // half a chunk: d = 0.5^(2/4)
  const double d = std::sqrt(0.5);
  expect_equal(stats->ema(), {d * 2 + (1 - d) * 4, d * 4 + (1 - d) * 2});
}

TEST(StreamingStats, TwoHalfChunksEqualOneWhole) {
  StreamingStats halves(small()), whole(small());
  halves->update(chunk(4, 2, 4));
  whole->update(chunk(4, 2, 4));
  halves->update(chunk(2, 8, 1));
  halves->update(chunk(2, 8, 1));
  whole->update(chunk(4, 8, 1));
  // Equal up to two roundings of an f32 of size 8: 2 * 8 * 2^-24 < 1e-6.
  EXPECT_LT((halves->ema() - whole->ema()).abs().max().item<double>(), 1e-6);
}

TEST(StreamingStats, RelativeThresholdComparesWithTheEmaBeforeTheUpdate) {
  StreamingStats stats(small());
  stats->update(chunk(4, 1, 1));
  stats->update(chunk(4, 5.5, 5));  // 5.5 > 5 * 1, 5 is not; after the update the ema would be 3.25
  expect_equal(stats->outliers(), {1, 0});
}

TEST(StreamingStats, NullThresholdsAreOff) {
  StreamingStatsOptions o = small();
  o.threshold_abs = std::nullopt;
  StreamingStats relative_only(o);
  relative_only->update(chunk(4, 100, 1));
  expect_equal(relative_only->outliers(), {0, 0});
  relative_only->update(chunk(4, 100, 6));
  expect_equal(relative_only->outliers(), {0, 1});

  o.threshold_relative = std::nullopt;
  StreamingStats neither(o);
  neither->update(chunk(4, 1, 1));
  neither->update(chunk(4, 1000, 1000));
  expect_equal(neither->outliers(), {0, 0});
}

TEST(StreamingStats, BlockTakesTheFlagsOfEveryChunkThatFedIt) {
  StreamingStats stats(small());
  stats->update(chunk(4, 7, 1));  // flags {1, 0}
  stats->update(chunk(4, 1, 1));  // flags {0, 0}
  stats->update(chunk(4, 1, 9));  // flags {0, 1}
  expect_equal(stats->block_outliers(4), {1, 0});
  expect_equal(stats->block_outliers(6), {1, 0});  // the first chunk and half of the second
  stats->consume(6);
  expect_equal(stats->block_outliers(2), {0, 0});  // the rest of the second
  expect_equal(stats->block_outliers(3), {0, 1});  // and a token of the third
  stats->consume(2);
  expect_equal(stats->block_outliers(1), {0, 1});
  stats->consume(4);
  expect_equal(stats->block_outliers(4), {0, 0});
  expect_equal(stats->outliers(), {0, 1});  // the latest chunk's flags stay
}

TEST(StreamingStats, GroupsShareOneStatistic) {
  StreamingStatsOptions o = small();
  o.head_dim = 4;
  o.groups = 2;
  StreamingStats stats(o);
  stats->update(at::tensor({1.f, -3.f, 2.f, 0.5f, 2.f, 1.f, -7.f, 0.f}).view({1, 2, 4}));
  expect_equal(stats->ema(), {3, 7});
  expect_equal(stats->per_channel(stats->ema()), {3, 3, 7, 7});
  expect_equal(stats->per_channel(stats->outliers()), {0, 0, 1, 1});
}

TEST(StreamingStats, SilentChannelHasAFloor) {
  StreamingStats stats(small());
  stats->update(chunk(4, 0, 1));
  expect_equal(stats->ema(), {1e-5, 1});
}

TEST(StreamingStats, ResetForgetsEverything) {
  StreamingStats stats(small());
  stats->update(chunk(4, 7, 7));
  stats->reset();
  EXPECT_TRUE(stats->empty());
  expect_equal(stats->block_outliers(4), {0, 0});
  stats->update(chunk(4, 3, 3));
  expect_equal(stats->ema(), {3, 3});
}

TEST(StreamingStats, EmptyChunkChangesNothing) {
  StreamingStats stats(small());
  stats->update(at::zeros({1, 0, 2}));
  EXPECT_TRUE(stats->empty());
}

TEST(StreamingStats, NonFiniteInputThrowsBeforeAnythingChanges) {
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    StreamingStats stats(small());
    stats->update(chunk(4, 2, 4));
    at::Tensor x = chunk(4, 1, 1);
    x[0][1][1] = bad;
    EXPECT_THROW(stats->update(x), Error);
    expect_equal(stats->ema(), {2, 4});
    expect_equal(stats->block_outliers(100), {0, 0});
  }
}

TEST(StreamingStats, WrongShapeThrows) {
  StreamingStats stats(small());
  EXPECT_THROW(stats->update(at::zeros({1, 4, 3})), Error);
  EXPECT_THROW(stats->update(at::zeros({2, 4, 2})), Error);
  EXPECT_THROW(stats->update(at::zeros({4, 2})), Error);
}

TEST(StreamingStats, SavesAndLoadsLikeAnyModule) {
  StreamingStats stats(small());
  stats->update(chunk(4, 7, 1));
  stats->update(chunk(3, 1, 2));
  stats->consume(2);
  std::stringstream file;
  torch::serialize::OutputArchive out;
  stats->save(out);
  out.save_to(file);

  StreamingStats copy(small());
  torch::serialize::InputArchive in;
  in.load_from(file);
  copy->load(in);
  stats->update(chunk(4, 3, 3));
  copy->update(chunk(4, 3, 3));
  EXPECT_TRUE(at::equal(stats->ema(), copy->ema()));
  EXPECT_TRUE(at::equal(stats->block_outliers(2), copy->block_outliers(2)));
  EXPECT_TRUE(at::equal(stats->block_outliers(9), copy->block_outliers(9)));
}

}  // namespace
}  // namespace rillkv
