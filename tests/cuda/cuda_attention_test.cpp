// CUDA attention kernels against naive attention in double: sinks, sealed blocks, tail and chunk,
// both policies, prefill, decode and the generic path, splits and batches.
#include "tests/cuda/attention_fixture.h"

namespace rillkv::test {
namespace {

// All eight fast paths over sinks, two blocks of mixed widths, tail and chunk.
TEST_P(CudaAttentionTest, EveryFastPath) {
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      for (Dtype dtype : kFastDtypes) {
        Shape shape = {.heads = 6,
                       .kv_heads = 2,
                       .head_dim = head_dim,
                       .dtype = dtype,
                       .value_groups = head_dim / 64,
                       .rotate_output = true,
                       .tail = 37,
                       .queries = 45,
                       .seed = 10};
        check(shape, fast_entry("prefill", head_dim, dtype));
        shape.queries = 1;
        shape.tail = 127;
        check(shape, fast_entry("decode", head_dim, dtype));
      }
    }
  });
}

TEST_P(CudaAttentionTest, MixedWidthsAndTheGenericPath) {
  under_every_order([&] {
    for (bool ema : {false, true}) {
      const Shape shape = {.head_dim = 64,
                           .dtype = Dtype::kBFloat16,
                           .ema = ema,
                           .key_widths = {2, 3, 4, 8},
                           .queries = 45,
                           .seed = 20};
      check(shape, "rillkv_prefill_d64_bf16");
      Shape decode = shape;
      decode.queries = 2;
      check(decode, "rillkv_decode_d64_bf16", 2);
    }
    check({.heads = 1, .head_dim = 80, .key_widths = {4, 5}, .tail = 3, .queries = 5, .seed = 21},
          "rillkv_attention_generic");
  });
}

TEST_P(CudaAttentionTest, EveryKeyWidthAlone) {
  for (int width = 1; width <= 8; ++width) {
    const Dtype dtype = kFastDtypes[width % 2];
    const int head_dim = width % 3 == 0 ? 128 : 64;
    check({.head_dim = head_dim,
           .dtype = dtype,
           .key_widths = {width},
           .value_bits = std::max(2, width),
           .blocks = 1,
           .queries = 1,
           .seed = 30},
          fast_entry("decode", head_dim, dtype));
  }
}

TEST_P(CudaAttentionTest, EveryValueWidth) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (int head_dim : {64, 128}) {
      check({.heads = 1,
             .head_dim = head_dim,
             .dtype = Dtype::kBFloat16,
             .key_widths = {4},
             .value_bits = bits,
             .value_groups = head_dim / 64,
             .blocks = 1,
             .queries = 2,
             .seed = 35},
            fast_entry("decode", head_dim, Dtype::kBFloat16));
    }
  }
}

TEST_P(CudaAttentionTest, EmaLayout) {
  for (int head_dim : {64, 128}) {
    for (int queries : {1, 33}) {
      check({.heads = 2,
             .kv_heads = 2,
             .head_dim = head_dim,
             .dtype = Dtype::kFloat16,
             .ema = true,
             .key_widths = {2, 3, 4, 5, 6, 7, 8},
             .queries = queries,
             .seed = 40},
            fast_entry(queries == 1 ? "decode" : "prefill", head_dim, Dtype::kFloat16));
    }
  }
}

TEST_P(CudaAttentionTest, GroupsAndChunkLengths) {
  for (int group : {1, 3, 5}) {
    for (int queries : {1, 7, 33, 129}) {
      const bool decode = group * queries <= 32;
      check({.heads = 2 * group,
             .kv_heads = 2,
             .dtype = Dtype::kBFloat16,
             .key_widths = {3, 5},
             .blocks = 1,
             .tail = 40,
             .queries = queries,
             .seed = 50},
            fast_entry(decode ? "decode" : "prefill", 64, Dtype::kBFloat16));
    }
  }
}

// Scores that pass the maximum of earlier blocks, by little and by so much that probabilities must
// be rescaled, in every row by another factor.
TEST_P(CudaAttentionTest, MaximaThatGrow) {
  for (int head_dim : {64, 128}) {
    for (double growth : {1.1, 1.25, 1.5}) {
      for (double deviation : {1.0, 4.0}) {
        check({.heads = 8,
               .kv_heads = 1,
               .head_dim = head_dim,
               .dtype = Dtype::kFloat16,
               .key_widths = {5},
               .value_groups = head_dim / 64,
               .blocks = 12,
               .queries = 1,
               .key_growth = growth,
               .query_deviation = deviation,
               .seed = 55},
              fast_entry("decode", head_dim, Dtype::kFloat16));
      }
    }
  }
}

TEST_P(CudaAttentionTest, Sinks) {
  for (int sinks : {0, 1, 31, 129, 256}) {
    for (int queries : {2, 40}) {
      // Of one head's two rows the oracle's own error, the largest of 128, may happen to be small.
      check({.heads = 4,
             .dtype = Dtype::kFloat16,
             .key_widths = {4},
             .sink_capacity = sinks,
             .sinks = sinks,
             .blocks = 1,
             .queries = queries,
             .seed = 60},
            fast_entry(queries == 2 ? "decode" : "prefill", 64, Dtype::kFloat16));
    }
  }
}

// Keys and values of different bits show that neither is read as the other is.
TEST_P(CudaAttentionTest, SinksOfEveryWidth) {
  for (int bits : kSinkBits) {
    Shape shape = {.heads = 1,
                   .head_dim = 128,
                   .dtype = Dtype::kBFloat16,
                   .sink_capacity = 40,
                   .sinks = 33,
                   .sink_bits = bits,
                   .blocks = 0,
                   .tail = 0,
                   .queries = 2,
                   .seed = 61};
    check(shape, "rillkv_decode_d128_bf16");
    shape.sink_value_bits = bits == 16 ? 8 : 16;
    check(shape, "rillkv_decode_d128_bf16");
    shape.head_dim = 80;
    check(shape, "rillkv_attention_generic");
  }
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      for (Dtype dtype : kFastDtypes) {
        for (int queries : {1, 40}) {
          check({.heads = 14,
                 .kv_heads = 2,
                 .head_dim = head_dim,
                 .dtype = dtype,
                 .key_widths = {4},
                 .value_groups = head_dim / 64,
                 .rotate_output = true,
                 .sink_bits = 16,
                 .blocks = 1,
                 .queries = queries,
                 .seed = 62},
                fast_entry(queries == 1 ? "decode" : "prefill", head_dim, dtype));
        }
      }
    }
  });
}

TEST_P(CudaAttentionTest, PartsOfTheContextAlone) {
  const auto both = [&](Shape shape) {
    shape.dtype = Dtype::kBFloat16;
    for (int queries : {1, 140}) {
      shape.queries = queries;
      check(shape, fast_entry(queries == 1 ? "decode" : "prefill", 64, Dtype::kBFloat16));
    }
  };
  both({.heads = 2, .sink_capacity = 0, .sinks = 0, .blocks = 0, .tail = 0, .seed = 70});
  both({.heads = 2, .sink_capacity = 8, .sinks = 3, .blocks = 0, .tail = 0, .seed = 71});
  both({.heads = 2, .blocks = 0, .tail = 127, .seed = 72});
  both({.heads = 2, .sink_capacity = 0, .sinks = 0, .blocks = 2, .tail = 0, .seed = 73});
}

TEST_P(CudaAttentionTest, StressProtocol) {
  for (bool ema : {false, true}) {
    const Shape shape = {
        .heads = 2, .dtype = Dtype::kBFloat16, .ema = ema, .key_widths = {4, 8}, .seed = 80};
    const auto run = [&](int blocks, int queries, int provisional) {
      Shape s = shape;
      s.blocks = blocks;
      s.queries = queries;
      s.provisional = provisional;
      check(s, fast_entry(2 * queries <= 32 ? "decode" : "prefill", 64, Dtype::kBFloat16), 4);
    };
    run(2, 10, 77);
    run(3, 200, 100);
    run(1, 128, 128);
    run(1, 9, 1);
  }
}

TEST_P(CudaAttentionTest, SplitsGiveTheSameAsOne) {
  under_every_order([&] {
    for (int queries : {1, 50}) {
      for (int multiprocessors : {1, 3, 16, 132}) {
        check({.heads = 3,
               .dtype = Dtype::kBFloat16,
               .key_widths = {4},
               .rotate_output = true,
               .blocks = 4,
               .tail = 99,
               .queries = queries,
               .seed = 90},
              fast_entry(queries == 1 ? "decode" : "prefill", 64, Dtype::kBFloat16),
              multiprocessors);
      }
    }
  });
}

// Sequences of different length in one launch; seven need two launches.
TEST_P(CudaAttentionTest, BatchesOfDifferentLength) {
  for (int queries : {1, 40}) {
    std::vector<std::unique_ptr<Scenario>> scenarios;
    std::vector<Scenario*> pointers;
    for (int i = 0; i < 7; ++i) {
      const Shape shape = {.heads = 2,
                           .dtype = Dtype::kFloat16,
                           .key_widths = {4},
                           .rotate_output = true,
                           .sink_capacity = i == 3 ? 0 : 8,
                           .sinks = i == 3 ? 0 : 8,
                           .blocks = i % 3,
                           .tail = 17 * i,
                           .queries = std::max(1, queries - 9 * (i % 2)),
                           .seed = 100 + static_cast<uint32_t>(i)};
      scenarios.push_back(std::make_unique<Scenario>(shape));
      pointers.push_back(scenarios.back().get());
    }
    DeviceQueue queue(device(), 8);
    attend_on_device(device(), queue, pointers);
    EXPECT_EQ(queue.entries()[0],
              fast_entry(queries == 1 ? "decode" : "prefill", 64, Dtype::kFloat16));
    for (Scenario* scenario : pointers) expect_close(*scenario, false);
  }
}

TEST_P(CudaAttentionTest, GenericPath) {
  const std::string entry = "rillkv_attention_generic";
  for (int head_dim : {2, 6, 80, 96, 256}) {
    check({.heads = 2,
           .head_dim = head_dim,
           .blocks = 1,
           .queries = 3,
           .seed = 110 + static_cast<uint32_t>(head_dim)},
          entry);
  }
  for (int block_size : {32, 64, 256}) {
    for (Dtype dtype : kDtypes) {
      check({.heads = 2,
             .head_dim = 64,
             .block_size = block_size,
             .dtype = dtype,
             .key_widths = {3, 4},
             .blocks = 2,
             .tail = 3,
             .queries = 4,
             .seed = 120},
            entry);
    }
  }
  check({.dtype = Dtype::kFloat32, .rotate_output = true, .queries = 9, .seed = 130}, entry);
  check({.head_dim = 128, .ema = true, .key_widths = {2, 5, 8}, .queries = 5, .seed = 131}, entry);
  check({.head_dim = 80, .value_bits = 5, .value_groups = 3, .queries = 2, .seed = 132}, entry);
  check({.dtype = Dtype::kBFloat16, .value_groups = 8, .queries = 2, .seed = 133}, entry);
  check({.ema = true, .key_widths = {4}, .blocks = 2, .queries = 20, .provisional = 9, .seed = 134},
        entry);
}

TEST_P(CudaAttentionTest, LatePositions) {
  check({.dtype = Dtype::kBFloat16, .queries = 2, .position_shift = 100000, .seed = 140},
        "rillkv_decode_d64_bf16");
  check({.head_dim = 128,
         .dtype = Dtype::kFloat16,
         .queries = 50,
         .position_shift = 30000,
         .seed = 141},
        "rillkv_prefill_d128_fp16");
}

// Keys near the largest that the format holds stay finite in tiles of fp16, rotated and on the way.
TEST_P(CudaAttentionTest, LargestKeys) {
  for (Dtype dtype : kFastDtypes) {
    for (int queries : {1, 40}) {
      check({.heads = 2,
             .head_dim = 128,
             .dtype = dtype,
             .key_widths = {1, 4, 8},
             .value_groups = 2,
             .queries = queries,
             .key_offset = 32700,
             .query_deviation = 1e-5,
             .seed = 142},
            fast_entry(queries == 1 ? "decode" : "prefill", 128, dtype));
    }
  }
}

// A device with less shared memory than the fast path needs takes the generic one.
TEST_P(CudaAttentionTest, LittleSharedMemory) {
  Scenario scenario(
      {.head_dim = 128, .dtype = Dtype::kBFloat16, .blocks = 1, .queries = 40, .seed = 145});
  DeviceQueue queue(device(), 1);
  queue.set_shared_memory_limit(80 * 1024);
  attend_on_device(device(), queue, {&scenario});
  EXPECT_EQ(queue.entries()[0], "rillkv_attention_generic");
  expect_close(scenario, true);
}

// What every device of compute capability 8.6 and up has (99 KB) is enough for all presets.
TEST_P(CudaAttentionTest, SharedMemoryOfEveryDeviceIsEnough) {
  struct Preset {
    bool ema;
    int key_width, value_bits;
  };
  for (const Preset& preset : {Preset{true, 4, 4}, {false, 4, 4}, {false, 5, 5}, {false, 3, 2}}) {
    Scenario scenario({.heads = 1,
                       .head_dim = 128,
                       .dtype = Dtype::kBFloat16,
                       .ema = preset.ema,
                       .key_widths = {preset.key_width},
                       .value_bits = preset.value_bits,
                       .value_groups = preset.ema ? 1 : 2,
                       .blocks = 1,
                       .queries = 40,
                       .seed = 146});
    DeviceScenario on_device(device(), scenario);
    DeviceQueue queue(device(), 1);
    queue.set_shared_memory_limit(99 * 1024);
    EXPECT_STREQ(kernels::cuda::attention_entry(queue, &on_device.params(), 1),
                 "rillkv_prefill_d128_bf16");
  }
}

// The comparison must see a single wrong code. A short context, so that one token matters.
TEST_P(CudaAttentionTest, OneWrongCodeIsSeen) {
  const Shape shape = {.dtype = Dtype::kFloat16,
                       .key_widths = {4},
                       .sink_capacity = 0,
                       .sinks = 0,
                       .blocks = 1,
                       .queries = 4,
                       .provisional = 4,
                       .seed = 150};
  DeviceQueue queue(device(), 1);
  const size_t value_codes = 2 * 2 * 128, key_codes = (2 * 2 * 64 + 32 + 63) / 64 * 64;
  for (bool keys : {false, true}) {
    Scenario right(shape), wrong(shape);
    attend_on_device(device(), queue, {&right});
    expect_close(right, false);
    (keys ? wrong.key_block(0, 0)[key_codes] : wrong.value_block(0, 0)[value_codes]) ^= 8;
    attend_on_device(device(), queue, {&wrong});
    EXPECT_FALSE(wrong.error() <= device_tolerance(wrong, false)) << (keys ? "keys" : "values");
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaAttentionTest);

}  // namespace
}  // namespace rillkv::test
