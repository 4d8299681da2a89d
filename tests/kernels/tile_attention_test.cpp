// What is particular to attention on a tile unit: row blocks of 32, the deferred maximum and its
// repair, the state of the processor that a call changes. attention_test.cpp has everything else.
#include <gtest/gtest.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/kernels.h"
#include "tests/kernels/attention_scenario.h"

namespace rillkv::test {
namespace {

class TileAttention : public EveryIsa {
 protected:
  void check(Shape shape) {
    shape.dtype = Dtype::kBFloat16;
    Scenario scenario(shape);
    EXPECT_TRUE(attend_whole(isa(), scenario))
        << isa().name << " wrote outside its buffers: " << shape;
    const double error = scenario.error(), tolerance = scenario.tolerance(isa().name);
    EXPECT_TRUE(error <= tolerance)
        << isa().name << ": error " << error << " > " << tolerance << ": " << shape;
  }
};

TEST_P(TileAttention, EveryNumberOfRows) {
  for (int rows = 1; rows <= 70; ++rows) {
    check({.heads = 1, .sinks = 3, .blocks = 1, .tail = 5, .queries = rows, .seed = 300});
  }
  for (int rows : {9, 16, 17, 31, 32, 33, 63, 64, 65, 96, 97}) {
    check({.heads = 1,
           .head_dim = 128,
           .value_groups = 2,
           .rotate_output = true,
           .blocks = 3,
           .tail = 0,
           .queries = rows,
           .seed = 301});
  }
}

// Several chunks beside several row blocks: each is filled while the one before is multiplied.
TEST_P(TileAttention, ManyChunks) {
  for (int head_dim : {64, 128}) {
    for (int queries : {11, 24, 70}) {
      check({.heads = 6,
             .kv_heads = 2,
             .head_dim = head_dim,
             .value_bits = head_dim == 64 ? 5 : 3,
             .blocks = 9,
             .tail = 100,
             .queries = queries,
             .seed = 305});
    }
  }
  check({.ema = true, .key_widths = {2, 4, 8}, .blocks = 7, .queries = 30, .seed = 306});
  check({.block_size = 256, .blocks = 4, .tail = 255, .queries = 30, .seed = 307});
}

// Scores of later keys exceed a row's deferred maximum by far more than fp32's exponent holds,
// again and again: without repair this overflows.
TEST_P(TileAttention, GrowingKeys) {
  for (int head_dim : {64, 128}) {
    for (int queries : {4, 11, 40}) {
      check({.head_dim = head_dim,
             .blocks = 6,
             .tail = 50,
             .queries = queries,
             .key_growth = 1.7,
             .seed = 310});
    }
  }
  check(
      {.sink_capacity = 0, .sinks = 0, .blocks = 8, .queries = 25, .key_growth = 1.5, .seed = 311});
}

// The last 32 rows see keys that no others do: two units of theirs follow each other, the first of
// which is repaired.
TEST_P(TileAttention, RowBlockThatSeesAChunkAlone) {
  for (int queries : {280, 288}) {
    check({.heads = 1,
           .sink_capacity = 0,
           .sinks = 0,
           .blocks = 0,
           .tail = 0,
           .queries = queries,
           .key_growth = 5,
           .seed = 312});
  }
}

// Blocks come before sinks: the first chunk has nothing for the queries among the sinks, and rows
// of one row block begin in different chunks.
TEST_P(TileAttention, RowsThatBeginLate) {
  for (int heads : {1, 3, 5}) {
    check({.heads = heads,
           .sink_capacity = 200,
           .sinks = 200,
           .blocks = 2,
           .queries = 300,
           .provisional = 10,
           .seed = 320});
  }
  check({.sink_capacity = 200,
         .sinks = 200,
         .blocks = 2,
         .queries = 250,
         .provisional = 100,
         .key_growth = 3,
         .seed = 321});
}

TEST_P(TileAttention, LargeAndSmallScores) {
  for (double deviation : {0.0, 1e-30, 1e-3, 30.0, 300.0}) {
    check({.blocks = 3, .tail = 20, .queries = 20, .query_deviation = deviation, .seed = 330});
  }
}

#if defined(__x86_64__)
TEST_P(TileAttention, TheCallersFloatingPointStateIsKept) {
  if (std::string(isa().name) == "avx512") GTEST_SKIP() << "changes none but the exceptions seen";
  Scenario scenario({.dtype = Dtype::kBFloat16, .queries = 20, .seed = 340});
  const kernels::cpu::AttentionParams params = scenario.params();
  GuardedBuffer workspace(isa().attention_workspace_bytes(params, params.query_count));
  kernels::cpu::AttentionTask task;
  task.query_end = params.query_count;
  task.tile_end = scenario.tile_count();
  const unsigned before = _mm_getcsr(), cleared = before & ~static_cast<unsigned>(_MM_EXCEPT_MASK);
  _mm_setcsr(cleared);
  isa().attend(params, task, workspace.data());
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  EXPECT_EQ(after, cleared);
}
#endif

// avx512, which has an online softmax of the usual kind, says what the problems deserve.
INSTANTIATE_TEST_SUITE_P(Isa, TileAttention, testing::Values("avx512", "amx_plain", "amx"),
                         [](const auto& info) { return std::string(info.param); });

// The plain tiles and the instructions do the same sums in the same order. (Hardware may add in
// another.)
TEST(TileAttentionUnits, PlainAndEmulatedTilesAgreeBitForBit) {
  const KernelTable *plain = runnable_kernels("amx_plain"), *emulated = runnable_kernels("amx");
  if (plain == nullptr) GTEST_SKIP() << "this machine lacks AVX-512";
  if (kernels::cpu::find_kernels("amx") != nullptr) GTEST_SKIP() << "this machine has a tile unit";
  for (int head_dim : {64, 128}) {
    for (double growth : {1.0, 3.0}) {
      const Shape shape = {.head_dim = head_dim,
                           .dtype = Dtype::kBFloat16,
                           .blocks = 3,
                           .tail = 33,
                           .queries = 45,
                           .key_growth = growth,
                           .seed = 350};
      Scenario a(shape), b(shape);
      ASSERT_TRUE(attend_whole(*plain, a));
      const int64_t before = emulated_tile_instructions();
      ASSERT_TRUE(attend_whole(*emulated, b));
      EXPECT_GT(emulated_tile_instructions(), before);
      EXPECT_EQ(first_difference(a.out().bytes(), b.out().bytes()), -1) << shape;
    }
  }
}

TEST(TileAttentionDeathTest, TilesAreReleased) {
  const KernelTable* emulated = runnable_kernels("amx");
  if (emulated == nullptr) GTEST_SKIP() << "this machine lacks AVX-512";
  if (kernels::cpu::find_kernels("amx") != nullptr) GTEST_SKIP() << "this machine has a tile unit";
  Scenario scenario({.dtype = Dtype::kBFloat16, .queries = 20, .seed = 360});
  ASSERT_TRUE(attend_whole(*emulated, scenario));
  EXPECT_EXIT(kernels::cpu::amx::HardwareTiles::zero<0>(), testing::ExitedWithCode(132),
              "without a configuration");
}

}  // namespace
}  // namespace rillkv::test
