// Attention of every instruction set over trellis blocks against naive attention in double. Any
// bits are a trellis block, so the blocks are noise with sensible scales.
#include "tests/kernels/attention_scenario.h"

namespace rillkv::test {
namespace {

class TrellisAttention : public ScenarioTest {
 protected:
  void check_every_dtype(Shape shape) {
    shape.trellis = true;
    if (shape.key_widths.size() == 8) shape.key_widths.pop_back();
    for (Dtype dtype : kDtypes) {
      shape.dtype = dtype;
      check(shape);
    }
  }
};

TEST_P(TrellisAttention, HeadDims) {
  for (int head_dim : {2, 6, 20, 64, 66, 80, 128, 130}) {
    for (int queries : {1, 9}) {
      check_every_dtype({.heads = 1,
                         .head_dim = head_dim,
                         .value_wide_pairs = head_dim / 4,
                         .blocks = 1,
                         .queries = queries,
                         .seed = 400});
    }
  }
}

TEST_P(TrellisAttention, EveryWidthAlone) {
  for (int head_dim : {20, 64, 128}) {
    for (int width = 1; width <= 7; ++width) {
      for (int queries : {1, 9}) {
        check_every_dtype({.heads = 1,
                           .head_dim = head_dim,
                           .key_widths = {width},
                           .value_width = width,
                           .blocks = 1,
                           .queries = queries,
                           .seed = 410});
      }
    }
  }
}

TEST_P(TrellisAttention, EverySplitOfTheValuesWidths) {
  for (int head_dim : {64, 128}) {
    for (int width = 1; width <= 6; ++width) {
      for (int wide : {1, head_dim / 8 + 1, head_dim / 2 - 1}) {
        check_every_dtype({.head_dim = head_dim,
                           .value_width = width,
                           .value_wide_pairs = wide,
                           .rotate_output = true,
                           .blocks = 1,
                           .queries = wide % 2 == 0 ? 1 : 11,
                           .seed = 420});
      }
    }
  }
}

TEST_P(TrellisAttention, BlockSizes) {
  for (int block_size : {32, 64, 128, 256}) {
    for (int head_dim : {20, 64, 80, 128}) {
      if (block_size == 256 && head_dim == 80) continue;
      for (int queries : {1, 11}) {
        check_every_dtype({.heads = 1,
                           .head_dim = head_dim,
                           .block_size = block_size,
                           .value_wide_pairs = head_dim / 4,
                           .blocks = 2,
                           .tail = 9,
                           .queries = queries,
                           .seed = 430});
      }
    }
  }
}

TEST_P(TrellisAttention, GroupsAndChunkLengths) {
  for (int head_dim : {64, 128}) {
    for (int group : {1, 2, 3, 4, 5, 7, 9, 25}) {
      for (int queries : {1, 2}) {
        check_every_dtype({.heads = group,
                           .kv_heads = 1,
                           .head_dim = head_dim,
                           .value_wide_pairs = head_dim / 4,
                           .rotate_output = true,
                           .blocks = 2,
                           .tail = 3,
                           .queries = queries,
                           .seed = 440});
      }
    }
  }
}

// Queries whose own keys are in a provisional block, whose rest is noise that no query may see.
TEST_P(TrellisAttention, ProvisionalBlocks) {
  check_every_dtype({.blocks = 2, .queries = 10, .provisional = 77, .seed = 450});
  check_every_dtype({.heads = 1, .blocks = 2, .queries = 150, .provisional = 100, .seed = 451});
  check_every_dtype(
      {.heads = 1, .head_dim = 128, .blocks = 1, .queries = 128, .provisional = 128, .seed = 452});
  for (int held : {1, 63, 127, 128}) {
    check_every_dtype(
        {.head_dim = 128, .blocks = 3, .queries = 1, .provisional = held, .seed = 453});
  }
  check_every_dtype({.block_size = 64, .blocks = 3, .queries = 50, .provisional = 33, .seed = 454});
}

TEST_P(TrellisAttention, TasksThatShareTheWork) {
  for (Dtype dtype : kDtypes) {
    Shape shape = {.heads = 6,
                   .kv_heads = 2,
                   .dtype = dtype,
                   .trellis = true,
                   .key_widths = {3, 4, 5},
                   .value_wide_pairs = 16,
                   .rotate_output = true,
                   .blocks = 4,
                   .tail = 99,
                   .queries = 41,
                   .seed = 460};
    Scenario scenario(shape);
    expect_close(scenario, attend_in_parts(isa(), scenario, {13, 14}, {3}));
    expect_close(scenario, attend_in_parts(isa(), scenario, {7}, {1, 2, 5, 6}));
    shape.queries = 1;
    for (int head_dim : {64, 128}) {
      shape.head_dim = head_dim;
      Scenario decode(shape);
      expect_close(decode, attend_in_parts(isa(), decode, {}, {1, 2, 3, 4, 5, 6}));
      expect_close(decode, attend_in_parts(isa(), decode, {}, {2, 2, 5}));
    }
  }
}

// Several chunks beside several row blocks of a tile unit, and scores that outgrow their first
// maximum.
TEST_P(TrellisAttention, ManyBlocks) {
  for (int head_dim : {64, 128}) {
    for (int queries : {11, 23}) {
      check_every_dtype({.heads = 3,
                         .kv_heads = 1,
                         .head_dim = head_dim,
                         .value_wide_pairs = head_dim / 4,
                         .blocks = 5,
                         .tail = 30,
                         .queries = queries,
                         .seed = 470});
    }
    check_every_dtype({.head_dim = head_dim,
                       .blocks = 4,
                       .tail = 20,
                       .queries = 11,
                       .key_growth = 1.5,
                       .seed = 471});
  }
}

// Key biases far beyond the channels' ranges, and one pair that is the whole score.
TEST_P(TrellisAttention, Extremes) {
  for (int head_dim : {64, 128}) {
    for (int group : {1, 3}) {
      for (double offset : {30.0, 100.0}) {
        check_every_dtype({.heads = group,
                           .head_dim = head_dim,
                           .key_widths = {1, 2, 3, 4, 5},
                           .sink_capacity = 0,
                           .sinks = 0,
                           .queries = 1,
                           .key_offset = offset,
                           .seed = 480});
      }
      for (int width = 1; width <= 7; ++width) {
        check_every_dtype({.heads = group,
                           .head_dim = head_dim,
                           .key_widths = {width},
                           .value_width = width,
                           .sink_capacity = 0,
                           .sinks = 0,
                           .tail = 0,
                           .queries = 1,
                           .query_deviation = 6,
                           .query_pair = width % 2 == 0 ? 0 : head_dim / 2 - 1,
                           .seed = 481});
      }
      check_every_dtype(
          {.heads = group, .head_dim = head_dim, .queries = 1, .query_deviation = 0, .seed = 482});
    }
  }
}

// The comparison must see one wrong bit of a path, of b, of a zero, a step and a scale.
TEST_P(TrellisAttention, OneWrongBitIsSeen) {
  const Shape shape = {.block_size = 32,
                       .trellis = true,
                       .key_widths = {2},
                       .value_width = 2,
                       .sink_capacity = 0,
                       .sinks = 0,
                       .blocks = 1,
                       .tail = 0,
                       .queries = 4,
                       .seed = 490};
  Scenario scenario(shape);
  expect_close(scenario, attend_whole(isa(), scenario));
  const size_t key_path = 256, value_path = 64, codes = 4 * 64;
  struct Wrong {
    bool keys;
    size_t byte;
    int bit;
  };
  for (const Wrong& w : {Wrong{true, 0, 1}, Wrong{true, 2 * 64 + 2, 2}, Wrong{true, key_path, 0},
                         Wrong{true, key_path + codes, 3}, Wrong{false, 0, 2},
                         Wrong{false, value_path, 0}, Wrong{false, value_path + codes, 3}}) {
    Scenario wrong(shape);
    (w.keys ? wrong.key_block(0, 0) : wrong.value_block(0, 0))[w.byte] ^=
        static_cast<uint8_t>(1 << w.bit);
    EXPECT_TRUE(attend_whole(isa(), wrong));
    EXPECT_FALSE(wrong.error() <= wrong.tolerance(isa().name))
        << (w.keys ? "keys" : "values") << " byte " << w.byte;
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_ARITHMETIC(TrellisAttention);

}  // namespace
}  // namespace rillkv::test
