// CUDA decode attention over trellis blocks against naive attention in double. Any bits are a
// trellis block, so the blocks are noise with sensible scales.
#include "tests/cuda/attention_fixture.h"

namespace rillkv::test {
namespace {

class CudaTrellisDecode : public CudaAttentionTest {
 protected:
  void check_trellis(Shape shape, int multiprocessors = 1) {
    shape.trellis = true;
    if (shape.key_widths.size() == 8) shape.key_widths.pop_back();
    check(shape, fast_entry("decode_trellis", shape.head_dim, shape.dtype), multiprocessors);
  }
};

// All four entries over sinks, blocks of mixed widths, tail and chunk.
TEST_P(CudaTrellisDecode, EveryEntry) {
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      for (Dtype dtype : kFastDtypes) {
        check_trellis({.heads = 6,
                       .kv_heads = 2,
                       .head_dim = head_dim,
                       .dtype = dtype,
                       .value_wide_pairs = 5 * head_dim / 16,
                       .rotate_output = true,
                       .blocks = 3,
                       .tail = 127,
                       .queries = 1,
                       .seed = 600},
                      2);
      }
    }
  });
}

TEST_P(CudaTrellisDecode, EveryKeyWidthAlone) {
  for (int head_dim : {64, 128}) {
    for (int width = 1; width <= 7; ++width) {
      check_trellis({.heads = 2,
                     .head_dim = head_dim,
                     .dtype = kFastDtypes[width % 2],
                     .key_widths = {width},
                     .blocks = 2,
                     .tail = 1,
                     .queries = 1,
                     .seed = 610});
    }
  }
}

// Operands of one width, of two, and none of the other.
TEST_P(CudaTrellisDecode, EverySplitOfTheValuesWidths) {
  for (int head_dim : {64, 128}) {
    for (int width = 1; width <= 7; ++width) {
      for (int wide : {0, 1, 8, head_dim / 4 + 5, head_dim / 2 - 1, head_dim / 2}) {
        if (width == 7 && wide > 0) continue;
        check_trellis({.heads = 2,
                       .head_dim = head_dim,
                       .dtype = kFastDtypes[wide % 2],
                       .key_widths = {4},
                       .value_width = width,
                       .value_wide_pairs = wide,
                       .rotate_output = true,
                       .blocks = 1,
                       .tail = 2,
                       .queries = 1,
                       .seed = 620 + static_cast<uint32_t>(width)});
      }
    }
  }
}

TEST_P(CudaTrellisDecode, GroupsAndChunkLengths) {
  for (int group : {1, 2, 3, 5, 8, 9}) {
    for (int queries : {1, 2, 3}) {
      check_trellis({.heads = 2 * group,
                     .kv_heads = 2,
                     .head_dim = group % 2 == 0 ? 128 : 64,
                     .dtype = kFastDtypes[queries % 2],
                     .key_widths = {3, 4, 5},
                     .value_wide_pairs = 20,
                     .blocks = 1,
                     .tail = 40,
                     .queries = queries,
                     .seed = 630});
    }
  }
}

TEST_P(CudaTrellisDecode, TailsAndSinks) {
  for (int head_dim : {64, 128}) {
    for (int tail : {0, 1, 63, 64, 127}) {
      check_trellis({.head_dim = head_dim,
                     .dtype = Dtype::kBFloat16,
                     .value_wide_pairs = 9,
                     .sink_capacity = tail,
                     .sinks = tail,
                     .sink_bits = tail % 2 == 0 ? 16 : 8,
                     .blocks = tail % 3,
                     .tail = tail,
                     .queries = 1,
                     .seed = 640});
    }
  }
}

// Queries whose own keys are in a provisional block, whose rest is noise that no query may see.
TEST_P(CudaTrellisDecode, ProvisionalBlocks) {
  for (int held : {1, 63, 100, 128}) {
    for (int head_dim : {64, 128}) {
      check_trellis({.head_dim = head_dim,
                     .dtype = Dtype::kFloat16,
                     .blocks = 3,
                     .queries = 1,
                     .provisional = held,
                     .seed = 650});
    }
  }
}

// Scores that pass the maximum of earlier blocks, by little and by so much that sums must be
// rescaled, over more blocks than there are pointers to.
TEST_P(CudaTrellisDecode, MaximaThatGrow) {
  for (int head_dim : {64, 128}) {
    for (double growth : {1.1, 1.5}) {
      check_trellis({.heads = 8,
                     .kv_heads = 1,
                     .head_dim = head_dim,
                     .dtype = Dtype::kFloat16,
                     .key_widths = {5},
                     .value_wide_pairs = 17,
                     .blocks = 9,
                     .queries = 1,
                     .key_growth = growth,
                     .seed = 660});
    }
  }
}

// Scales of values that grow from block to block, and that shrink, by 2^3, less than what sums are
// kept for, and by 2^10, more.
TEST_P(CudaTrellisDecode, ScalesOfValues) {
  for (int head_dim : {64, 128}) {
    for (int octaves : {-10, -3, 0, 3, 10}) {
      for (int first : {-5, 0, 5}) {
        check_trellis({.heads = 4,
                       .kv_heads = 1,
                       .head_dim = head_dim,
                       .dtype = Dtype::kBFloat16,
                       .key_widths = {4},
                       .value_width = 3,
                       .value_wide_pairs = 12,
                       .value_octaves = {first, first + octaves},
                       .sink_capacity = 0,
                       .sinks = 0,
                       .blocks = 2,
                       .tail = 0,
                       .queries = 1,
                       .seed = 670});
      }
    }
  }
}

// The comparison must see one wrong bit of a path, of b, of a zero, a step and a scale.
TEST_P(CudaTrellisDecode, OneWrongBitIsSeen) {
  const Shape shape = {.dtype = Dtype::kFloat16,
                       .trellis = true,
                       .key_widths = {2},
                       .value_width = 2,
                       .sink_capacity = 0,
                       .sinks = 0,
                       .blocks = 1,
                       .queries = 1,
                       .provisional = 12,
                       .seed = 680};
  check_trellis(shape);
  const size_t key_path = 256, value_path = 128, codes = 16 * 64;
  struct Wrong {
    bool keys;
    size_t byte;
    int bit, planes;  // in so many planes of 16 bytes
  };
  // Token 0 of word 0 and, of word 3, the token before word 0's second.
  for (const Wrong& w :
       {Wrong{true, 0, 1, 1}, Wrong{true, 2 * 64 + 2, 2, 1}, Wrong{true, key_path, 0, 8},
        Wrong{true, key_path + 12, 0, 8}, Wrong{true, key_path + codes, 0, 8},
        Wrong{false, 0, 2, 1}, Wrong{false, value_path, 0, 1}, Wrong{false, value_path + 12, 0, 1},
        Wrong{false, value_path + codes, 0, 1}}) {
    Scenario wrong(shape);
    auto& block = w.keys ? wrong.key_block(0, 0) : wrong.value_block(0, 0);
    for (int i = 0; i < w.planes; ++i) {
      block[w.byte + 16 * static_cast<size_t>(i)] ^= static_cast<uint8_t>(1 << w.bit);
    }
    DeviceQueue queue(device(), 1);
    attend_on_device(device(), queue, {&wrong});
    EXPECT_EQ(queue.entries().at(0), fast_entry("decode_trellis", 64, Dtype::kFloat16));
    EXPECT_FALSE(wrong.error() <= device_tolerance(wrong, false))
        << (w.keys ? "keys" : "values") << " byte " << w.byte;
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaTrellisDecode);

}  // namespace
}  // namespace rillkv::test
