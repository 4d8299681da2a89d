// CUDA attention over trellis blocks against naive attention in double, generic and prefill, and
// such blocks back to fp32. Any bits are a trellis block, so the blocks are noise with sensible
// scales.
#include <cmath>

#include "tests/cuda/attention_fixture.h"
#include "tests/reference/trellis_block.h"

namespace rillkv::test {
namespace {

class CudaTrellisAttention : public CudaAttentionTest {
 protected:
  static constexpr const char* kGeneric = "rillkv_attention_generic";
  void check_trellis(Shape shape, const std::string& entry, int multiprocessors = 1) {
    shape.trellis = true;
    if (shape.key_widths.size() == 8) shape.key_widths.pop_back();
    check(shape, entry, multiprocessors);
  }
};

TEST_P(CudaTrellisAttention, GenericPath) {
  for (int head_dim : {2, 6, 80, 256}) {
    check_trellis({.heads = 2,
                   .head_dim = head_dim,
                   .value_wide_pairs = head_dim / 4,
                   .blocks = 1,
                   .queries = 3,
                   .seed = 500 + static_cast<uint32_t>(head_dim)},
                  kGeneric);
  }
  for (int block_size : {32, 64, 128, 256}) {
    for (int head_dim : {64, 128}) {
      for (Dtype dtype : kDtypes) {
        if (block_size == 128 && dtype != Dtype::kFloat32) continue;
        check_trellis({.heads = 2,
                       .head_dim = head_dim,
                       .block_size = block_size,
                       .dtype = dtype,
                       .value_wide_pairs = head_dim / 4,
                       .blocks = 1,
                       .tail = 3,
                       .queries = 2,
                       .seed = 510},
                      kGeneric);
      }
    }
  }
}

TEST_P(CudaTrellisAttention, GenericWidths) {
  for (int width = 1; width <= 7; ++width) {
    for (int wide : {0, 1, 10, 31, 32}) {
      if (width + (wide > 0 ? 1 : 0) > 7) continue;
      check_trellis({.heads = 2,
                     .block_size = 32,
                     .key_widths = {width},
                     .value_width = width,
                     .value_wide_pairs = wide,
                     .rotate_output = true,
                     .blocks = 2,
                     .queries = 2,
                     .seed = 520 + static_cast<uint32_t>(width)},
                    kGeneric);
    }
  }
}

/// Sinks, blocks of mixed widths, tail and chunk.
TEST_P(CudaTrellisAttention, EveryPrefill) {
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      for (Dtype dtype : kFastDtypes) {
        check_trellis({.heads = 6,
                       .kv_heads = 2,
                       .head_dim = head_dim,
                       .dtype = dtype,
                       .value_wide_pairs = head_dim / 2 - 11,
                       .rotate_output = true,
                       .tail = 37,
                       .queries = 45,
                       .seed = 540},
                      fast_entry("prefill_trellis", head_dim, dtype));
      }
    }
  });
}

TEST_P(CudaTrellisAttention, PrefillOfEveryWidth) {
  for (int head_dim : {64, 128}) {
    for (int width = 1; width <= 7; ++width) {
      for (int wide : {0, 1, head_dim / 8 + 3, head_dim / 2}) {
        if (wide > 0 && width == 7) continue;
        const Dtype dtype = (width + wide) % 2 == 0 ? Dtype::kBFloat16 : Dtype::kFloat16;
        check_trellis({.heads = 1,
                       .head_dim = head_dim,
                       .dtype = dtype,
                       .key_widths = {width},
                       .value_width = width,
                       .value_wide_pairs = wide,
                       .rotate_output = width % 2 == 0,
                       .blocks = 1,
                       .tail = 0,
                       .queries = 33,
                       .seed = 550 + static_cast<uint32_t>(width)},
                      fast_entry("prefill_trellis", head_dim, dtype));
      }
    }
  }
}

// Blocks follow one another, are split among CTAs, or are all there is.
TEST_P(CudaTrellisAttention, PrefillOverManyBlocks) {
  for (int head_dim : {64, 128}) {
    for (int multiprocessors : {1, 3, 132}) {
      check_trellis({.heads = 3,
                     .head_dim = head_dim,
                     .dtype = Dtype::kBFloat16,
                     .key_widths = {3, 4, 4, 5},
                     .equal_shares = true,
                     .value_wide_pairs = head_dim / 4,
                     .rotate_output = true,
                     .sink_capacity = multiprocessors == 3 ? 0 : 8,
                     .sinks = multiprocessors == 3 ? 0 : 8,
                     .blocks = 5,
                     .tail = multiprocessors == 3 ? 0 : 30,
                     .queries = 40,
                     .seed = 560},
                    fast_entry("prefill_trellis", head_dim, Dtype::kBFloat16), multiprocessors);
    }
    check_trellis({.heads = 2,
                   .head_dim = head_dim,
                   .dtype = Dtype::kFloat16,
                   .blocks = 2,
                   .queries = 70,
                   .provisional = 77,
                   .key_offset = 100,
                   .seed = 561},
                  fast_entry("prefill_trellis", head_dim, Dtype::kFloat16));
    check_trellis({.heads = 2,
                   .head_dim = head_dim,
                   .dtype = Dtype::kFloat16,
                   .blocks = 0,
                   .queries = 40,
                   .seed = 562},
                  fast_entry("prefill_trellis", head_dim, Dtype::kFloat16));
  }
}

// Sequences of other lengths and value widths in one launch.
TEST_P(CudaTrellisAttention, PrefillOfBatches) {
  std::vector<std::unique_ptr<Scenario>> scenarios;
  std::vector<Scenario*> pointers;
  for (int i = 0; i < 4; ++i) {
    const Shape shape = {.heads = 2,
                         .dtype = Dtype::kFloat16,
                         .trellis = true,
                         .key_widths = {4 - i},
                         .value_width = 3 + i % 2,
                         .value_wide_pairs = 5 * i,
                         .rotate_output = true,
                         .blocks = i,
                         .tail = 17 * i,
                         .queries = 20 + i,
                         .seed = 570 + static_cast<uint32_t>(i)};
    scenarios.push_back(std::make_unique<Scenario>(shape));
    pointers.push_back(scenarios.back().get());
  }
  DeviceQueue queue(device(), 8);
  attend_on_device(device(), queue, pointers);
  EXPECT_EQ(queue.entries()[0], "rillkv_prefill_trellis_d64_fp16");
  for (Scenario* scenario : pointers) expect_close(*scenario, false);
}

// What every device of compute capability 8.6 and up has (99 KB) is enough for the presets: widths
// of keys, and of values in quarters of a bit.
TEST_P(CudaTrellisAttention, SharedMemoryOfEveryDeviceIsEnough) {
  struct Preset {
    int key_width, value_quarters;
  };
  for (const Preset& preset : {Preset{5, 22}, {4, 19}, {2, 8}}) {
    Scenario scenario({.heads = 1,
                       .head_dim = 128,
                       .dtype = Dtype::kBFloat16,
                       .trellis = true,
                       .key_widths = {preset.key_width},
                       .value_width = preset.value_quarters / 4,
                       .value_wide_pairs = preset.value_quarters % 4 * 16,
                       .blocks = 1,
                       .queries = 40,
                       .seed = 580});
    DeviceScenario on_device(device(), scenario);
    DeviceQueue queue(device(), 1);
    queue.set_shared_memory_limit(99 * 1024);
    EXPECT_STREQ(kernels::cuda::attention_entry(queue, &on_device.params(), 1),
                 "rillkv_prefill_trellis_d128_bf16")
        << preset.key_width;
  }
}

// The comparison must see one wrong bit of a path, of b, of a zero, a step and a scale.
TEST_P(CudaTrellisAttention, OneWrongBitIsSeen) {
  const Shape shape = {.heads = 2,
                       .dtype = Dtype::kFloat16,
                       .trellis = true,
                       .key_widths = {2},
                       .value_width = 2,
                       .sink_capacity = 0,
                       .sinks = 0,
                       .blocks = 1,
                       .tail = 0,
                       .queries = 20,
                       .provisional = 20,
                       .seed = 590};
  DeviceQueue queue(device(), 1);
  const size_t key_path = 256, value_path = 128, codes = 16 * 64;
  struct Wrong {
    bool keys;
    size_t byte;
    int bit;
  };
  for (const Wrong& w : {Wrong{true, 0, 1}, Wrong{true, 2 * 64 + 2, 2}, Wrong{true, key_path, 0},
                         Wrong{true, key_path + codes, 0}, Wrong{false, 0, 2},
                         Wrong{false, value_path, 0}, Wrong{false, value_path + codes, 0}}) {
    Scenario right(shape), wrong(shape);
    attend_on_device(device(), queue, {&right});
    expect_close(right, false);
    (w.keys ? wrong.key_block(0, 0) : wrong.value_block(0, 0))[w.byte] ^=
        static_cast<uint8_t>(1 << w.bit);
    attend_on_device(device(), queue, {&wrong});
    EXPECT_FALSE(wrong.error() <= device_tolerance(wrong, false))
        << (w.keys ? "keys" : "values") << " byte " << w.byte;
  }
  EXPECT_EQ(queue.entries()[0], "rillkv_prefill_trellis_d64_fp16");
}

// To fp32 exactly, but for the rounding of the oracle's steps and, of wide values, their gain.
TEST_P(CudaTrellisAttention, Dequantise) {
  for (int head_dim : {6, 64, 128}) {
    for (int block_size : {32, 128}) {
      for (bool keys : {true, false}) {
        Scenario scenario({.head_dim = head_dim,
                           .block_size = block_size,
                           .trellis = true,
                           .key_widths = {1, 2, 3, 4, 5, 6, 7},
                           .value_width = 3,
                           .value_wide_pairs = head_dim / 4,
                           .blocks = 1,
                           .seed = 530});
        const std::vector<uint8_t>& bytes =
            keys ? scenario.key_block(0, 0) : scenario.value_block(0, 0);
        ptx::DeviceArray<uint8_t> block(device(), bytes);
        ptx::DeviceArray<uint8_t*> blocks(device(), std::vector<uint8_t*>{block.data()});
        const int tokens = block_size - 1;
        ptx::DeviceArray<float> out(device(), static_cast<size_t>(tokens * head_dim));
        DeviceQueue queue(device(), 1);
        kernels::cuda::DequantiseParams p;
        p.blocks = blocks.data();
        p.tokens = tokens;
        p.block_size = block_size;
        p.head_dim = head_dim;
        p.channel_major = keys;
        p.trellis = true;
        p.bits = 3;
        p.wide_pairs = head_dim / 4;
        p.out = out.data();
        kernels::cuda::dequantise(queue, p, 1);
        const auto expected =
            keys ? reference::trellis_key_values(bytes.data(), block_size, head_dim)
                 : reference::trellis_value_values(bytes.data(), block_size, head_dim, 3,
                                                   head_dim / 4);
        const std::vector<float> got = out.to_vector();
        for (int t = 0; t < tokens; ++t) {
          for (int c = 0; c < head_dim; ++c) {
            const double want = expected[static_cast<size_t>(t)][static_cast<size_t>(c)];
            const double error =
                std::abs(static_cast<double>(got[static_cast<size_t>(t * head_dim + c)]) - want);
            ASSERT_TRUE(error <= 0x1p-22 * std::abs(want))
                << "head_dim " << head_dim << " block " << block_size
                << (keys ? " keys" : " values") << " token " << t << " channel " << c << ": "
                << error;
          }
        }
      }
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaTrellisAttention);

}  // namespace
}  // namespace rillkv::test
