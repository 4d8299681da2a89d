// Attention of every instruction set against naive attention in double.
#include "kernels/cpu/kernels.h"
#include "tests/kernels/attention_scenario.h"

namespace rillkv::test {
namespace {

class AttentionTest : public ScenarioTest {
 protected:
  void check_every_dtype(Shape shape) {
    for (Dtype dtype : kDtypes) {
      shape.dtype = dtype;
      check(shape);
    }
  }
};

TEST_P(AttentionTest, HeadDims) {
  for (int head_dim : {2, 6, 8, 62, 64, 66, 80, 96, 126, 128, 130, 256}) {
    check_every_dtype({.head_dim = head_dim, .seed = 10});
  }
}

TEST_P(AttentionTest, GroupsAndChunkLengths) {
  for (int group : {1, 3, 4}) {
    for (int queries : {1, 7, 33, 128, 200}) {
      check_every_dtype({.heads = 2 * group,
                         .kv_heads = 2,
                         .blocks = 1,
                         .tail = 40,
                         .queries = queries,
                         .seed = 20});
    }
  }
}

// More heads a kv head than any fixed-size buffer is likely to be made for.
TEST_P(AttentionTest, LargeGroups) {
  for (int group : {25, 32, 71}) {
    for (int queries : {1, 9}) {
      check_every_dtype(
          {.heads = group, .kv_heads = 1, .blocks = 1, .tail = 9, .queries = queries, .seed = 27});
    }
  }
}

TEST_P(AttentionTest, LlamaTwoHeads) {
  check_every_dtype({.heads = 4,
                     .kv_heads = 4,
                     .head_dim = 128,
                     .value_groups = 2,
                     .rotate_output = true,
                     .blocks = 3,
                     .tail = 127,
                     .queries = 65,
                     .seed = 25});
}

TEST_P(AttentionTest, BlockSizes) {
  for (int block_size : {32, 64, 128, 256}) {
    for (int queries : {1, 40}) {
      check_every_dtype({.block_size = block_size,
                         .blocks = 3,
                         .tail = block_size - 1,
                         .queries = queries,
                         .seed = 30});
    }
  }
}

TEST_P(AttentionTest, EveryWidthAlone) {
  for (int width = 1; width <= 8; ++width) {
    check_every_dtype({.key_widths = {width}, .value_bits = std::max(2, width), .seed = 40});
  }
}

TEST_P(AttentionTest, EmaLayout) {
  for (int head_dim : {6, 64, 128}) {
    for (int queries : {1, 33}) {
      check_every_dtype({.head_dim = head_dim,
                         .ema = true,
                         .key_widths = {2, 4, 5, 8},
                         .queries = queries,
                         .seed = 50});
    }
  }
}

TEST_P(AttentionTest, EmaLayoutWithEveryWidthAndBlockSize) {
  for (int block_size : {32, 64, 256}) {
    check_every_dtype({.block_size = block_size,
                       .ema = true,
                       .key_widths = {2, 3, 4, 5, 6, 7, 8},
                       .queries = 9,
                       .seed = 55});
  }
}

TEST_P(AttentionTest, ValueGroupsAndRotatedOutput) {
  check_every_dtype(
      {.head_dim = 128, .value_bits = 2, .value_groups = 2, .rotate_output = true, .seed = 60});
  check_every_dtype(
      {.head_dim = 64, .value_bits = 3, .value_groups = 8, .rotate_output = true, .seed = 61});
  check_every_dtype({.head_dim = 80, .value_bits = 5, .value_groups = 3, .seed = 62});
  check_every_dtype({.head_dim = 8, .value_bits = 8, .rotate_output = true, .seed = 63});
}

TEST_P(AttentionTest, Sinks) {
  for (int sinks : {0, 1, 8, 31, 129, 256}) {
    for (int block_size : {32, 128}) {
      check_every_dtype({.block_size = block_size,
                         .sink_capacity = sinks,
                         .sinks = sinks,
                         .blocks = 1,
                         .queries = 5,
                         .seed = 70});
    }
  }
}

// A few queries read sinks without a tile, more put them in one; 80 and 6 channels are no whole
// registers. Keys and values of different bits show that neither is read as the other is.
TEST_P(AttentionTest, SinksOfEveryWidth) {
  for (int bits : kSinkBits) {
    for (int head_dim : {6, 64, 80, 128}) {
      for (int queries : {1, 5, 40}) {
        check_every_dtype({.head_dim = head_dim,
                           .sink_capacity = 19,
                           .sinks = queries == 5 ? 18 : 19,
                           .sink_bits = bits,
                           .sink_value_bits = queries == 40 ? 0
                                              : bits == 16  ? 8
                                                            : 16,
                           .blocks = queries == 5 ? 0 : 1,
                           .queries = queries,
                           .seed = 71});
      }
    }
  }
  // All of them, a part of them, and none visible; alone in their task.
  for (Dtype dtype : kDtypes) {
    Scenario scenario({.heads = 14,
                       .kv_heads = 2,
                       .dtype = dtype,
                       .rotate_output = true,
                       .sink_bits = 16,
                       .blocks = 2,
                       .tail = 9,
                       .queries = 17,
                       .seed = 72});
    expect_close(scenario, attend_in_parts(isa(), scenario, {}, {1}));
    expect_close(scenario, attend_in_parts(isa(), scenario, {1, 9}, {1, 3}));
  }
  check_every_dtype({.sink_capacity = 64,
                     .sinks = 64,
                     .sink_bits = 16,
                     .blocks = 1,
                     .queries = 60,
                     .provisional = 7,
                     .seed = 73});
}

// The comparison must see one wrong bit: the top one of a mantissa.
TEST_P(AttentionTest, OneWrongBitOfASinkIsSeen) {
  const Shape shape = {
      .sinks = 3, .sink_bits = 16, .blocks = 0, .tail = 0, .queries = 1, .seed = 74};
  Scenario right(shape);
  expect_close(right, attend_whole(isa(), right));
  for (bool keys : {false, true}) {
    Scenario wrong(shape);
    const kernels::cpu::AttentionParams params = wrong.params();
    const uint8_t* sinks = keys ? params.prefix.sink_keys : params.prefix.sink_values;
    const_cast<uint8_t*>(sinks)[1] ^= 2;
    GuardedBuffer workspace(isa().attention_workspace_bytes(params, params.query_count), 0xff);
    kernels::cpu::AttentionTask task;
    task.query_end = params.query_count;
    task.tile_end = wrong.tile_count();
    isa().attend(params, task, workspace.data());
    EXPECT_FALSE(wrong.error() <= wrong.tolerance(isa().name)) << (keys ? "keys" : "values");
  }
}

TEST_P(AttentionTest, PartsOfTheContextAlone) {
  // The first chunk, with and without some sinks; sinks and a chunk; a tail without blocks.
  check_every_dtype({.sink_capacity = 0, .sinks = 0, .blocks = 0, .tail = 0, .queries = 50});
  check_every_dtype({.sink_capacity = 0, .sinks = 0, .blocks = 0, .tail = 0, .queries = 1});
  check_every_dtype({.sink_capacity = 8, .sinks = 3, .blocks = 0, .tail = 0, .queries = 2});
  check_every_dtype({.blocks = 0, .tail = 127, .queries = 300});
  check_every_dtype({.blocks = 2, .tail = 0, .queries = 1});
}

TEST_P(AttentionTest, StressProtocol) {
  // Queries whose own keys are in the provisional block, in it and the one before, and in the
  // sinks.
  check_every_dtype({.blocks = 2, .queries = 10, .provisional = 77, .seed = 80});
  check_every_dtype({.blocks = 3, .queries = 200, .provisional = 100, .seed = 81});
  check_every_dtype({.blocks = 1, .queries = 128, .provisional = 128, .seed = 82});
  check_every_dtype({.blocks = 1, .queries = 9, .provisional = 1, .seed = 83});
  check_every_dtype({.ema = true,
                     .key_widths = {4, 8},
                     .blocks = 2,
                     .queries = 150,
                     .provisional = 50,
                     .seed = 84});
  check_every_dtype({.sink_capacity = 200,
                     .sinks = 200,
                     .blocks = 1,
                     .queries = 230,
                     .provisional = 33,
                     .seed = 85});
}

TEST_P(AttentionTest, LatePositions) {
  check({.position_shift = 100000, .seed = 90});
  check({.ema = true, .key_widths = {4}, .position_shift = 30000, .seed = 91});
}

TEST_P(AttentionTest, TasksThatShareTheWork) {
  for (Dtype dtype : kDtypes) {
    for (bool ema : {false, true}) {
      Shape shape = {.heads = 6,
                     .kv_heads = 2,
                     .dtype = dtype,
                     .ema = ema,
                     .key_widths = {3, 4, 8},
                     .rotate_output = !ema,
                     .blocks = 4,
                     .tail = 99,
                     .queries = 41,
                     .seed = 100};
      Scenario scenario(shape);
      expect_close(scenario, attend_in_parts(isa(), scenario, {13, 14}, {}));
      expect_close(scenario, attend_in_parts(isa(), scenario, {}, {3}));
      expect_close(scenario, attend_in_parts(isa(), scenario, {7}, {1, 2, 5, 6}));
      // A part without any tile, and one whose only tile no query sees.
      expect_close(scenario, attend_in_parts(isa(), scenario, {20}, {4, 4}));
      shape.provisional = 60;
      shape.queries = 80;
      Scenario stress(shape);
      expect_close(stress, attend_in_parts(isa(), stress, {10, 20}, {1, 4}));
      shape.queries = 1;
      shape.provisional = 0;
      Scenario decode(shape);
      expect_close(decode, attend_in_parts(isa(), decode, {}, {1, 2, 3, 4, 5, 6}));
    }
  }
}

// fp32 tiles keep fp32's accuracy for bfloat16 models too, up to the output's rounding; that bf16
// tiles do not shows that the comparison can tell them apart.
TEST_P(AttentionTest, TilesHaveTheirArithmeticsAccuracy) {
  const std::string tiles = isa().arithmetic.tiles;
  Scenario scenario(
      {.dtype = Dtype::kBFloat16, .blocks = 2, .tail = 77, .queries = 40, .seed = 105});
  ASSERT_TRUE(attend_whole(isa(), scenario));
  const bool accurate = scenario.error() <= scenario.tolerance("scalar");
  EXPECT_EQ(accurate, tiles == "fp32")
      << tiles << ": " << scenario.error() << ", fp32's " << scenario.tolerance("scalar");
}

/// Scores far apart, where an exponential without its maximum would overflow or vanish.
TEST_P(AttentionTest, LargeScores) {
  Shape shape = {.blocks = 2, .queries = 5, .seed = 110};
  Scenario scenario(shape);
  kernels::cpu::AttentionParams params = scenario.params();
  params.scale = 60.0f;
  GuardedBuffer workspace(isa().attention_workspace_bytes(params, params.query_count), 0xff);
  kernels::cpu::AttentionTask task;
  task.query_end = params.query_count;
  task.tile_end = scenario.tile_count();
  isa().attend(params, task, workspace.data());
  for (int t = 0; t < shape.queries; ++t) {
    for (int h = 0; h < shape.heads; ++h) {
      for (int c = 0; c < shape.head_dim; ++c) {
        // A convex combination of values, none of which exceeds 7 (random_block, normal values).
        EXPECT_TRUE(std::abs(scenario.out().get(t, h, c)) <= 7) << t << " " << h << " " << c;
      }
    }
  }
}

// The comparison must see a single wrong code. A short context, so that one token matters.
TEST_P(AttentionTest, OneWrongCodeIsSeen) {
  const Shape shape = {.block_size = 32,
                       .key_widths = {4},
                       .sink_capacity = 0,
                       .sinks = 0,
                       .blocks = 1,
                       .tail = 0,
                       .queries = 4,
                       .seed = 120};
  Scenario scenario(shape);
  expect_close(scenario, attend_whole(isa(), scenario));
  // The top bit of one nibble: the first code of the values, then of the keys.
  const size_t value_codes = 2 * 2 * 32, key_codes = (2 * 2 * 64 + 32 + 63) / 64 * 64;
  for (bool keys : {false, true}) {
    Scenario wrong(shape);
    (keys ? wrong.key_block(0, 0)[key_codes] : wrong.value_block(0, 0)[value_codes]) ^= 8;
    EXPECT_TRUE(attend_whole(isa(), wrong));
    EXPECT_FALSE(wrong.error() <= wrong.tolerance(isa().name)) << (keys ? "keys" : "values");
  }
}

// Nor may it accept NaN or a mask that is off by one.
TEST_P(AttentionTest, NaNAndAWrongMaskAreSeen) {
  const Shape shape = {.blocks = 1, .tail = 3, .queries = 6, .seed = 130};
  Scenario scenario(shape);
  ASSERT_TRUE(attend_whole(isa(), scenario));
  scenario.out().set(2, 1, 5, std::nan(""));
  EXPECT_FALSE(scenario.error() <= scenario.tolerance(isa().name));

  for (int64_t shift : {-1, 1}) {
    Scenario wrong(shape);
    kernels::cpu::AttentionParams params = wrong.params();
    params.chunk.first_index += shift;
    GuardedBuffer workspace(isa().attention_workspace_bytes(params, params.query_count), 0xff);
    kernels::cpu::AttentionTask task;
    task.query_end = params.query_count;
    task.tile_end = wrong.tile_count();
    isa().attend(params, task, workspace.data());
    EXPECT_FALSE(wrong.error() <= wrong.tolerance(isa().name)) << shift;
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_ARITHMETIC(AttentionTest);

}  // namespace
}  // namespace rillkv::test
