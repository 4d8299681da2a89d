// Decode of one query over full blocks of 128 tokens, where AVX-512 reads the packed codes in
// integers of its own units: every value width and group, and input at the ends of what those units
// hold. decode_test.cpp has the shapes.
#include <cmath>

#include "tests/kernels/attention_scenario.h"

namespace rillkv::test {
namespace {

struct Heads {
  int heads, kv_heads, head_dim;
};
constexpr Heads kHeadShapes[] = {{2, 2, 128}, {6, 2, 128}, {2, 2, 64}, {3, 1, 64}};

Shape decode_shape(const Heads& h, uint32_t seed) {
  return {.heads = h.heads,
          .kv_heads = h.kv_heads,
          .head_dim = h.head_dim,
          .dtype = Dtype::kBFloat16,
          .rotate_output = true,
          .blocks = 3,
          .tail = 5,
          .queries = 1,
          .seed = seed};
}

class DecodeExtremes : public ScenarioTest {};

TEST_P(DecodeExtremes, EveryValueWidthAndGroup) {
  for (const Heads& heads : kHeadShapes) {
    for (int bits = 2; bits <= 8; ++bits) {
      for (int groups : {1, 2, 4}) {
        Shape shape = decode_shape(heads, 220 + static_cast<uint32_t>(bits));
        shape.value_bits = bits;
        shape.value_groups = groups;
        check(shape);
      }
    }
  }
}

TEST_P(DecodeExtremes, MixedWidthsAndBothLayoutsOfKeys) {
  for (const Heads& heads : kHeadShapes) {
    for (bool ema : {false, true}) {
      Shape shape = decode_shape(heads, 240);
      shape.ema = ema;
      if (ema) {
        shape.key_widths = {2, 4, 5, 8};
        shape.rotate_output = false;
      }
      shape.blocks = 5;
      check(shape);
    }
  }
}

TEST_P(DecodeExtremes, TheContextInShares) {
  for (const Heads& heads : kHeadShapes) {
    Shape shape = decode_shape(heads, 250);
    shape.value_groups = 2;
    shape.blocks = 5;
    Scenario scenario(shape);
    expect_close(scenario, attend_in_parts(isa(), scenario, {}, {1, 2, 3, 4, 5, 6, 7}));
    expect_close(scenario, attend_in_parts(isa(), scenario, {}, {3}));
    expect_close(scenario, attend_in_parts(isa(), scenario, {}, {2, 2, 6}));
  }
}

TEST_P(DecodeExtremes, BlocksAloneAndAfterSinks) {
  for (const Heads& heads : kHeadShapes) {
    Shape shape = decode_shape(heads, 260);
    shape.tail = 0;
    check(shape);
    shape.sink_capacity = shape.sinks = 0;
    check(shape);
    shape.blocks = 1;
    check(shape);
  }
}

// Under the stress protocol the last block holds less than it has room for.
TEST_P(DecodeExtremes, AShortLastBlock) {
  for (const Heads& heads : kHeadShapes) {
    for (int held : {1, 63, 64, 65, 127, 128}) {
      Shape shape = decode_shape(heads, 270);
      shape.provisional = held;
      check(shape);
    }
  }
}

// Offsets a thousand times the range, which no common unit of 16-bit coefficients holds: the kernel
// has to give way. The offset moves all scores of a token's channel alike up to its rotation, so
// they stay far apart and the tolerance comes from the same numbers.
TEST_P(DecodeExtremes, OffsetsFarBeyondTheRange) {
  for (const Heads& heads : kHeadShapes) {
    for (double offset : {30.0, 300.0}) {
      Shape shape = decode_shape(heads, 280);
      shape.key_offset = offset;
      shape.sink_capacity = shape.sinks = 0;
      check(shape);
    }
  }
}

// One pair is all of the sum that the units are made for: its 16-bit words must hold it alone.
TEST_P(DecodeExtremes, OnePairIsTheWholeScore) {
  for (const Heads& heads : kHeadShapes) {
    for (int width = 1; width <= 8; ++width) {
      for (int pair : {0, heads.head_dim / 2 - 1}) {
        Shape shape = decode_shape(heads, 285 + static_cast<uint32_t>(width));
        shape.key_widths = {width};
        shape.query_pair = pair;
        shape.query_deviation = 6;
        shape.tail = 0;
        shape.sink_capacity = shape.sinks = 0;
        check(shape);
      }
    }
  }
}

// All scores are 0: the mean of the values, and nothing divided by the query's norm.
TEST_P(DecodeExtremes, ZeroQuery) {
  for (const Heads& heads : kHeadShapes) {
    Shape shape = decode_shape(heads, 290);
    shape.query_deviation = 0;
    check(shape);
  }
}

TEST_P(DecodeExtremes, HugeQueryPicksOneToken) {
  for (const Heads& heads : kHeadShapes) {
    Shape shape = decode_shape(heads, 295);
    shape.query_deviation = 40;
    Scenario scenario(shape);
    EXPECT_TRUE(attend_whole(isa(), scenario));
    for (int h = 0; h < shape.heads; ++h) {
      for (int c = 0; c < shape.head_dim; ++c) {
        // A convex combination of values up to 7, rotated: no component above 7 sqrt(D).
        EXPECT_TRUE(std::abs(scenario.out().get(0, h, c)) <= 7 * std::sqrt(shape.head_dim));
      }
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_ARITHMETIC(DecodeExtremes);

}  // namespace
}  // namespace rillkv::test
