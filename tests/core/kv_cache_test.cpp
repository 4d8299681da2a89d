// QuantizedKvCache: its contracts. The attention's numbers are proven in tests/kernels.
#include "rillkv/kv_cache.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "rillkv/error.h"
#include "rillkv/log.h"
#include "tests/support/expect_error.h"

namespace rillkv {
namespace {

constexpr int64_t kHeads = 4, kKvHeads = 2;

CacheGeometry geometry(int64_t head_dim, int64_t layers = 1) {
  CacheGeometry g;
  g.layers = layers;
  g.heads = kHeads;
  g.kv_heads = kKvHeads;
  g.head_dim = head_dim;
  for (int64_t p = 0; p < head_dim / 2; ++p) {
    g.inverse_frequencies.push_back(std::pow(10000.0, -2.0 * p / head_dim));
  }
  return g;
}

struct Input {
  at::Tensor q, k, v;
  Input slice(int64_t begin, int64_t end) const {
    return {q.slice(0, begin, end), k.slice(0, begin, end), v.slice(0, begin, end)};
  }
};

Input random_input(int64_t tokens, int64_t head_dim, uint64_t seed,
                   at::ScalarType dtype = at::kFloat) {
  at::manual_seed(seed);
  const at::Tensor scale = at::rand({head_dim}) * 3 + 0.1, offset = at::randn({head_dim}) * 2;
  Input in;
  in.q = at::randn({tokens, kHeads, head_dim}).to(dtype);
  in.k = (at::randn({tokens, kKvHeads, head_dim}) * scale + offset).to(dtype);
  in.v = at::randn({tokens, kKvHeads, head_dim}).to(dtype);
  return in;
}

at::Tensor feed(QuantizedKvCache& cache, const Input& in, int64_t chunk, int64_t layer = 0) {
  std::vector<at::Tensor> out;
  for (int64_t begin = 0; begin < in.q.size(0); begin += chunk) {
    const Input part = in.slice(begin, std::min(begin + chunk, in.q.size(0)));
    out.push_back(cache.attend(layer, part.q, part.k, part.v));
  }
  return at::cat(out);
}

bool same_bytes(const SealedBlock& a, const SealedBlock& b) {
  return a.storage.numel() == b.storage.numel() &&
         std::memcmp(a.storage.const_data_ptr(), b.storage.const_data_ptr(), a.storage.numel()) ==
             0;
}

struct ChunkCase {
  const char* preset;
  int64_t head_dim;
  at::ScalarType dtype;
  bool feedback = false;
};

class AdaptiveChunks : public ::testing::TestWithParam<ChunkCase> {};

TEST_P(AdaptiveChunks, SealedBytesDoNotDependOnTheChunkSize) {
  const auto [preset, dim, dtype, feedback] = GetParam();
  const Input in = random_input(600, dim, 1, dtype);
  CompressionConfig config = CompressionConfig::preset(preset);
  config.error_feedback = feedback;
  QuantizedKvCache whole(geometry(dim), config, dtype);
  feed(whole, in, 600);
  const auto expected = whole.blocks(0);
  ASSERT_EQ(expected.size(), (600 - 8) / 128u);
  for (int64_t chunk : {1, 7, 128, 256}) {
    QuantizedKvCache cache(geometry(dim), config, dtype);
    feed(cache, in, chunk);
    const auto blocks = cache.blocks(0);
    ASSERT_EQ(blocks.size(), expected.size());
    for (size_t n = 0; n < blocks.size(); ++n) {
      EXPECT_TRUE(same_bytes(*blocks[n], *expected[n])) << "chunk " << chunk << ", block " << n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, AdaptiveChunks,
                         ::testing::Values(ChunkCase{"balanced", 64, at::kFloat},
                                           ChunkCase{"balanced", 64, at::kBFloat16},
                                           ChunkCase{"extreme", 128, at::kFloat},
                                           ChunkCase{"quality", 80, at::kHalf},
                                           ChunkCase{"compact", 8, at::kFloat},
                                           ChunkCase{"balanced", 64, at::kBFloat16, true},
                                           ChunkCase{"extreme", 80, at::kFloat, true}));

TEST(QuantizedKvCache, DenseChunkedEqualsOneShot) {
  const Input in = random_input(300, 64, 2);
  const auto config = CompressionConfig::preset("dense");
  QuantizedKvCache whole(geometry(64), config, at::kFloat);
  const at::Tensor expected = feed(whole, in, 1000);
  for (int64_t chunk : {1, 7, 256}) {
    QuantizedKvCache cache(geometry(64), config, at::kFloat);
    const at::Tensor out = feed(cache, in, chunk);
    // Both are f32 attentions over 300 tokens of values of order 1; sums in another order differ by
    // a few f32 roundings of the logits (order 30, so 30 * 2^-24 * sqrt(64)), amplified at most to
    // that by softmax.
    EXPECT_LT((out - expected).abs().max().item<double>(), 5e-5) << "chunk " << chunk;
  }
}

TEST(QuantizedKvCache, EightBitsAreCloseToDense) {
  // A grid of every policy and odd chunk sizes: at 8 bits the cache must be nearly the dense one.
  const Input in = random_input(700, 64, 3);
  QuantizedKvCache dense(geometry(64), CompressionConfig::preset("dense"), at::kFloat);
  const at::Tensor expected = feed(dense, in, 256);
  for (
      const char* text :
      {R"({"key_bits_mean": 8, "value_bits": 8})",
       R"({"key_bits_mean": 8, "value_bits": 8, "value_rotation": false, "attention_sink_size": 0})",
       R"({"policy": "ema", "key_bits_normal": 8, "value_bits_normal": 8})"}) {
    // "ema" clips what exceeds its running maximum, so it gets chunks that show it the whole range.
    const bool ema = std::string_view(text).find("ema") != std::string_view::npos;
    for (int64_t chunk : ema ? std::vector<int64_t>{256, 700} : std::vector<int64_t>{33, 256}) {
      QuantizedKvCache cache(geometry(64), CompressionConfig::from_json(text), at::kFloat);
      const at::Tensor out = feed(cache, in, chunk);
      const double error = (out - expected).norm().item<double>() / expected.norm().item<double>();
      // Keys of range r ~ 20 at 8 bits err by r / 255 / sqrt(12) ~ 0.02 a channel: logits by
      // 0.02 * |q| / sqrt(64) ~ 0.02, so weights by 2 %, which averaging over tokens only lowers.
      EXPECT_LT(error, 0.05) << text << " chunk " << chunk;
      EXPECT_GT(error, 0);
    }
  }
}

// Torch refuses to write outside inference mode to what was made in it: a model's forward is in it,
// a caller of the cache may not be.
TEST(QuantizedKvCache, GoesOnOutsideOfInferenceMode) {
  for (const char* preset : {"balanced", "seed", "dense"}) {
    const Input in = random_input(700, 64, 21);
    const auto config = CompressionConfig::preset(preset);
    QuantizedKvCache plain(geometry(64), config, at::kFloat);
    const at::Tensor expected = feed(plain, in, 100);
    std::unique_ptr<QuantizedKvCache> cache;
    at::Tensor first;
    {
      const c10::InferenceMode inference;
      cache = std::make_unique<QuantizedKvCache>(geometry(64), config, at::kFloat);
      first = feed(*cache, in.slice(0, 300), 100);
    }
    const at::Tensor rest = feed(*cache, in.slice(300, 700), 100);
    EXPECT_TRUE(at::equal(at::cat({first, rest}), expected)) << preset;
    cache->reset();
    EXPECT_TRUE(at::equal(feed(*cache, in, 100), expected)) << preset << " after reset";
  }
}

TEST(QuantizedKvCache, AppendingNeverChangesTheBytesOfSealedBlocks) {
  const Input in = random_input(900, 64, 4);
  QuantizedKvCache cache(geometry(64), CompressionConfig(), at::kFloat);
  const Input first = in.slice(0, 400), rest = in.slice(400, 900);
  feed(cache, first, 100);
  const auto blocks = cache.blocks(0);
  ASSERT_FALSE(blocks.empty());
  std::vector<at::Tensor> copies;
  for (const auto& block : blocks) copies.push_back(block->storage.clone());
  feed(cache, rest, 100);
  for (size_t n = 0; n < blocks.size(); ++n) {
    EXPECT_EQ(cache.blocks(0)[n], blocks[n]);
    EXPECT_TRUE(at::equal(blocks[n]->storage, copies[n]));
  }
}

TEST(QuantizedKvCache, BadInputThrowsBeforeAnyStateChanges) {
  for (const char* preset : {"balanced", "seed"}) {
    const Input in = random_input(520, 64, 5);
    QuantizedKvCache cache(geometry(64), CompressionConfig::preset(preset), at::kFloat);
    QuantizedKvCache untouched(geometry(64), CompressionConfig::preset(preset), at::kFloat);
    const Input head = in.slice(0, 200), next = in.slice(200, 500), last = in.slice(500, 520);
    feed(cache, head, 64);
    feed(untouched, head, 64);
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (double bad : {nan, static_cast<double>(std::numeric_limits<float>::infinity()), 1e6}) {
      for (int which : {0, 1, 2}) {
        Input broken{next.q.clone(), next.k.clone(), next.v.clone()};
        // Queries are statistics under "adaptive" only.
        if (which == 0 && cache.config().policy != Policy::kAdaptive) continue;
        (which == 0 ? broken.q : which == 1 ? broken.k : broken.v)[299][1][63] = bad;
        EXPECT_THROW(cache.attend(0, broken.q, broken.k, broken.v), Error)
            << preset << bad << which;
      }
    }
    EXPECT_EQ(cache.length(), 200);
    const at::Tensor a = feed(cache, next, 300), b = feed(untouched, next, 300);
    EXPECT_TRUE(at::equal(a, b));
    EXPECT_TRUE(at::equal(feed(cache, last, 1), feed(untouched, last, 1)));
    for (size_t n = 0; n < cache.blocks(0).size(); ++n) {
      EXPECT_TRUE(same_bytes(*cache.blocks(0)[n], *untouched.blocks(0)[n]));
    }
  }
}

TEST(QuantizedKvCache, AStepThatFailsHalfWayIsRefusedUntilReset) {
  for (const char* preset : {"balanced", "seed"}) {
    const Input in = random_input(300, 64, 13);
    const Input head = in.slice(0, 200), next = in.slice(200, 300);
    const auto step = [](QuantizedKvCache& cache, const Input& part) {
      std::vector<at::Tensor> out;
      for (int64_t layer = 0; layer < 3; ++layer) {
        out.push_back(cache.attend(layer, part.q, part.k, part.v));
      }
      return at::stack(out);
    };
    QuantizedKvCache cache(geometry(64, 3), CompressionConfig::preset(preset), at::kFloat);
    const at::Tensor first = step(cache, head);
    EXPECT_TRUE(cache.in_step());
    Input broken{next.q, next.k.clone(), next.v};
    broken.k[0][0][0] = std::numeric_limits<float>::quiet_NaN();

    // In layer 0 nothing has happened yet: the cache goes on.
    EXPECT_THROW(cache.attend(0, broken.q, broken.k, broken.v), Error);
    EXPECT_TRUE(cache.in_step());
    const at::Tensor second = step(cache, next);

    cache.reset();
    step(cache, head);
    cache.attend(0, next.q, next.k, next.v);
    EXPECT_FALSE(cache.in_step());
    EXPECT_THROW(cache.attend(1, broken.q, broken.k, broken.v), Error);
    // Layer 0 holds 300 tokens, layers 1 and 2 hold 200: no layer may go on.
    for (int64_t layer = 0; layer < 3; ++layer) {
      testing::expect_error([&] { cache.attend(layer, next.q, next.k, next.v); },
                            {"half way", "reset()"});
    }
    EXPECT_EQ(cache.length(0), 300);
    EXPECT_EQ(cache.length(1), 200);
    cache.reset();
    EXPECT_TRUE(cache.in_step());
    EXPECT_TRUE(at::equal(step(cache, head), first)) << preset;
    EXPECT_TRUE(at::equal(step(cache, next), second)) << preset;
  }
}

TEST(QuantizedKvCache, KeysWithoutEffectAreNamedOnceInTheLog) {
  const auto log_of = [](const CompressionConfig& config) {
    ::testing::internal::CaptureStderr();
    QuantizedKvCache cache(geometry(64), config, at::kFloat);
    return ::testing::internal::GetCapturedStderr();
  };
  set_log_level(LogLevel::kWarning);
  const auto config = CompressionConfig::from_json(R"({"ema_decay": 0.5, "value_bits": 5})");
  const std::string first = log_of(config);
  EXPECT_EQ(first,
            "rillkv warning: configuration key 'ema_decay' has no effect under policy "
            "'adaptive'\n");
  EXPECT_EQ(log_of(config), "");
  EXPECT_EQ(log_of(config.baseline()), "");
  set_log_level(LogLevel::kQuiet);
  EXPECT_EQ(log_of(CompressionConfig::from_json(R"({"policy": "ema", "value_bits": 5})")), "");
  set_log_level(LogLevel::kWarning);
}

TEST(QuantizedKvCache, WrongShapesThrow) {
  QuantizedKvCache cache(geometry(64), CompressionConfig(), at::kFloat);
  const Input in = random_input(5, 64, 6);
  EXPECT_THROW(cache.attend(1, in.q, in.k, in.v), Error);
  EXPECT_THROW(cache.attend(0, in.q, in.k.slice(0, 0, 4), in.v), Error);
  EXPECT_THROW(cache.attend(0, in.q, in.k.slice(2, 0, 32), in.v), Error);
  EXPECT_THROW(cache.attend(0, in.k, in.k, in.v), Error);
  EXPECT_THROW(cache.attend(0, in.q.to(at::kHalf), in.k, in.v), Error);
  EXPECT_EQ(cache.length(), 0);
}

TEST(QuantizedKvCache, StridedInputEqualsContiguous) {
  // Q, K and V as views of one fused projection.
  at::manual_seed(7);
  const at::Tensor qkv = at::randn({300, kHeads + 2 * kKvHeads, 64});
  const Input view{qkv.narrow(1, 0, kHeads), qkv.narrow(1, kHeads, kKvHeads),
                   qkv.narrow(1, kHeads + kKvHeads, kKvHeads)};
  const Input copy{view.q.contiguous(), view.k.contiguous(), view.v.contiguous()};
  QuantizedKvCache a(geometry(64), CompressionConfig(), at::kFloat);
  QuantizedKvCache b(geometry(64), CompressionConfig(), at::kFloat);
  EXPECT_TRUE(at::equal(feed(a, view, 100), feed(b, copy, 100)));
}

TEST(QuantizedKvCache, ReportCountsAllocatedBytes) {
  const int64_t dim = 64, tokens = 8 + 3 * 128 + 50;
  const Input in = random_input(tokens, dim, 8, at::kBFloat16);
  QuantizedKvCache cache(geometry(dim, 2), CompressionConfig(), at::kBFloat16);
  feed(cache, in, 100, 0);
  feed(cache, in, 100, 1);
  const CacheReport report = cache.report();
  EXPECT_EQ(report.tokens, tokens);
  EXPECT_EQ(report.sink_tokens, 8);
  const int64_t blocks = 3 * kKvHeads * (4672 + 4608);  // packed_format.h's own figures
  const int64_t tail = 2 * 128 * kKvHeads * dim * 2;
  const int64_t sinks = 2 * kKvHeads * (8 * dim * 2);  // fp16, without padding here
  EXPECT_EQ(report.kv_bytes, 2 * (blocks + tail + sinks));
  EXPECT_EQ(report.kv_bytes_bf16, 2 * 2 * 2 * tokens * kKvHeads * dim);
  EXPECT_DOUBLE_EQ(report.kv_bits_sealed.key, 4672 * 8.0 / (64 * 128));
  EXPECT_DOUBLE_EQ(report.kv_bits_sealed.value, 4608 * 8.0 / (64 * 128));
  EXPECT_LE(report.kv_bits_sealed.total, 4.54);  // docs/architecture.md: 4.531
  EXPECT_DOUBLE_EQ(report.estimated_bits.key, 4.25);
  EXPECT_DOUBLE_EQ(report.clip_rate.total, 0);
  EXPECT_EQ(report.layers.size(), 2u);
  EXPECT_EQ(report.layers[1].sealed_blocks, 3);
}

TEST(QuantizedKvCache, EmaCountsOutliersAndClips) {
  Input in = random_input(8 + 256, 64, 9);
  in.k.slice(2, 3, 4).mul_(50);  // one channel of each kv head far beyond threshold 6
  QuantizedKvCache cache(geometry(64), CompressionConfig::preset("seed"), at::kFloat);
  feed(cache, in, 264);
  const CacheReport report = cache.report();
  EXPECT_GE(report.outlier_rate.key, 1.0 / 64);
  EXPECT_GE(report.layers[0].key_widths[8], 2 * kKvHeads);  // in both blocks
  EXPECT_EQ(report.layers[0].key_widths[8] + report.layers[0].key_widths[4], 2 * kKvHeads * 64);
  EXPECT_DOUBLE_EQ(report.clip_rate.key, 0);  // one chunk: its own maximum is the scale
}

TEST(QuantizedKvCache, ResetStartsAnew) {
  const Input in = random_input(400, 64, 10);
  for (const char* preset : {"balanced", "seed", "dense"}) {
    QuantizedKvCache cache(geometry(64), CompressionConfig::preset(preset), at::kFloat);
    const at::Tensor first = feed(cache, in, 150);
    cache.reset();
    EXPECT_EQ(cache.length(), 0);
    EXPECT_TRUE(at::equal(feed(cache, in, 150), first)) << preset;
  }
}

TEST(QuantizedKvCache, SurvivesBeingMoved) {
  const Input in = random_input(400, 64, 11);
  QuantizedKvCache plain(geometry(64), CompressionConfig(), at::kFloat);
  auto original = std::make_unique<QuantizedKvCache>(geometry(64), CompressionConfig(), at::kFloat);
  const Input head = in.slice(0, 200), rest = in.slice(200, 400);
  feed(plain, head, 64);
  feed(*original, head, 64);
  QuantizedKvCache moved = std::move(*original);
  original.reset();
  EXPECT_TRUE(at::equal(feed(moved, rest, 64), feed(plain, rest, 64)));
}

TEST(QuantizedKvCache, StressReadsOwnChunkThroughTheQuantizer) {
  // At 8 bits stress is close to dense, at 3/2 it is far from the prefill protocol: the chunk is
  // quantised.
  const Input in = random_input(400, 64, 12);
  QuantizedKvCache dense(geometry(64), CompressionConfig::preset("dense"), at::kFloat);
  const at::Tensor expected = feed(dense, in, 100);
  const auto error = [&](const char* text, CacheProtocol protocol) {
    QuantizedKvCache cache(geometry(64), CompressionConfig::from_json(text), at::kFloat, protocol);
    const at::Tensor out = feed(cache, in, 100);
    return (out - expected).norm().item<double>() / expected.norm().item<double>();
  };
  EXPECT_LT(error(R"({"key_bits_mean": 8, "value_bits": 8})", CacheProtocol::kStress), 0.05);
  const char* coarse = R"({"key_bits_mean": 3, "value_bits": 2})";
  EXPECT_GT(error(coarse, CacheProtocol::kStress), 1.3 * error(coarse, CacheProtocol::kPrefill));
}

}  // namespace
}  // namespace rillkv
