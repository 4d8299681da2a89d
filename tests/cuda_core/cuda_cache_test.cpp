// QuantizedKvCache on CUDA against the one on the CPU, which has its own tests: the same blocks,
// byte for byte, the same reports, outputs within what the kernels may be off by, and no state
// changed by bad input.
#include <cmath>
#include <functional>
#include <limits>

#include "rillkv/error.h"
#include "tests/cuda_core/cuda_fixture.h"
#include "tests/support/error_of.h"

namespace rillkv::testing {
namespace {

CacheGeometry geometry(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  CacheGeometry g;
  g.heads = heads;
  g.kv_heads = kv_heads;
  g.head_dim = head_dim;
  for (int64_t p = 0; p < head_dim / 2; ++p) {
    g.inverse_frequencies.push_back(
        std::pow(10000.0, -2.0 * static_cast<double>(p) / static_cast<double>(head_dim)));
  }
  return g;
}

struct Input {
  at::Tensor q, k, v;
  Input slice(int64_t begin, int64_t end) const {
    return {q.slice(0, begin, end), k.slice(0, begin, end), v.slice(0, begin, end)};
  }
  Input on(at::Device device) const { return {q.to(device), k.to(device), v.to(device)}; }
};

/// Keys with channels of different scale and offset, some of them outliers to policy "ema".
Input random_input(const CacheGeometry& g, int64_t tokens, at::ScalarType dtype, uint64_t seed) {
  at::manual_seed(seed);
  const at::Tensor scale = at::rand({g.head_dim}) * 3 + 0.1, offset = at::randn({g.head_dim}) * 2;
  return {at::randn({tokens, g.heads, g.head_dim}).to(dtype),
          (at::randn({tokens, g.kv_heads, g.head_dim}) * scale + offset).to(dtype),
          at::randn({tokens, g.kv_heads, g.head_dim}).to(dtype)};
}

/// Feeds all tokens, a chunk of chunks[0], of chunks[1], ... and again from the start.
at::Tensor feed(QuantizedKvCache& cache, const Input& in, const std::vector<int64_t>& chunks) {
  std::vector<at::Tensor> out;
  size_t next = 0;
  for (int64_t begin = 0; begin < in.q.size(0);) {
    const int64_t end = std::min(begin + chunks[next++ % chunks.size()], in.q.size(0));
    const Input part = in.slice(begin, end).on(cache.device());
    out.push_back(cache.attend(0, part.q, part.k, part.v).cpu());
    begin = end;
  }
  return at::cat(out);
}

/// Causal attention in double with, where `dtype` is not double, the roundings of code that
/// computes in it: rotated queries and keys, values, weights and the output.
at::Tensor naive_attention(const CacheGeometry& g, const Input& in, at::ScalarType dtype) {
  const auto round = [&](const at::Tensor& x) { return x.to(dtype).to(at::kDouble); };
  const int64_t tokens = in.q.size(0), half = g.head_dim / 2;
  const at::Tensor angles = at::arange(tokens, at::kDouble).unsqueeze(1) *
                            at::tensor(g.inverse_frequencies, at::kDouble).unsqueeze(0);
  const at::Tensor cosine = angles.cos().unsqueeze(1), sine = angles.sin().unsqueeze(1);
  const auto rotate = [&](const at::Tensor& x) {
    const at::Tensor wide = x.to(at::kDouble), a = wide.slice(2, 0, half), b = wide.slice(2, half);
    return round(at::cat({a * cosine - b * sine, a * sine + b * cosine}, 2)).transpose(0, 1);
  };
  const int64_t group = g.heads / g.kv_heads;
  const at::Tensor q = rotate(in.q), k = rotate(in.k).repeat_interleave(group, 0);
  const at::Tensor v = round(in.v.to(at::kDouble)).transpose(0, 1).repeat_interleave(group, 0);
  const at::Tensor future = at::ones({tokens, tokens}, at::kBool).triu(1);
  const at::Tensor logits =
      at::matmul(q, k.transpose(1, 2)) / std::sqrt(static_cast<double>(g.head_dim));
  const at::Tensor weights =
      logits.masked_fill(future, -std::numeric_limits<double>::infinity()).softmax(-1);
  return round(at::matmul(round(weights), v)).transpose(0, 1);
}

/// What outputs of the two caches may differ by. A kernel with 16-bit tiles may be off by twice
/// what plain bf16 code is, and by four times what fp32 code is
/// (tests/kernels/attention_scenario.cpp), plus the approximate exponential; here both sides are
/// off. The naive errors are those on the uncompressed input, whose keys and values are of the same
/// size.
double tolerance(const CacheGeometry& g, const Input& in, at::ScalarType dtype) {
  const at::Tensor exact = naive_attention(g, in, at::kDouble);
  const auto error = [&](at::ScalarType low) {
    return (naive_attention(g, in, low) - exact).abs().max().item<double>();
  };
  const double exponential = 2 * 2 * 4e-7 * in.v.abs().max().item<double>();
  const double float32 = 2 * (4 * error(at::kFloat) + exponential);
  return dtype == at::kFloat ? float32 : 2 * 2 * error(at::kBFloat16) + float32;
}

void expect_same_blocks(const QuantizedKvCache& cuda, const QuantizedKvCache& cpu) {
  const auto found = cuda.blocks(0), expected = cpu.blocks(0);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t n = 0; n < found.size(); ++n) {
    const at::Tensor bytes = found[n]->storage.cpu();
    ASSERT_EQ(found[n]->key_bytes, expected[n]->key_bytes);
    ASSERT_EQ(bytes.numel(), expected[n]->storage.numel());
    const at::Tensor differ = (bytes != expected[n]->storage).nonzero();
    ASSERT_EQ(differ.numel(), 0) << "block " << n << " differs in " << differ.numel()
                                 << " bytes, first " << differ[0].item<int64_t>();
    EXPECT_EQ(found[n]->tally.key_widths, expected[n]->tally.key_widths);
    EXPECT_EQ(found[n]->tally.value_widths, expected[n]->tally.value_widths);
    EXPECT_EQ(found[n]->tally.key_outliers, expected[n]->tally.key_outliers);
    EXPECT_EQ(found[n]->tally.value_outliers, expected[n]->tally.value_outliers);
    EXPECT_EQ(found[n]->tally.key_clipped, expected[n]->tally.key_clipped);
    EXPECT_EQ(found[n]->tally.value_clipped, expected[n]->tally.value_clipped);
  }
}

void expect_same_total(const KeyValueTotal& found, const KeyValueTotal& expected) {
  EXPECT_EQ(found.key, expected.key);
  EXPECT_EQ(found.value, expected.value);
  EXPECT_EQ(found.total, expected.total);
}

void expect_same_report(const CacheReport& found, const CacheReport& expected) {
  EXPECT_EQ(found.tokens, expected.tokens);
  EXPECT_EQ(found.sink_tokens, expected.sink_tokens);
  EXPECT_EQ(found.kv_bytes, expected.kv_bytes);
  EXPECT_EQ(found.compression_ratio, expected.compression_ratio);
  expect_same_total(found.kv_bits_per_element, expected.kv_bits_per_element);
  expect_same_total(found.kv_bits_sealed, expected.kv_bits_sealed);
  expect_same_total(found.estimated_bits, expected.estimated_bits);
  expect_same_total(found.outlier_rate, expected.outlier_rate);
  expect_same_total(found.clip_rate, expected.clip_rate);
}

class CudaCache : public EveryBackend {
 protected:
  void check(const char* preset, CacheProtocol protocol, const CacheGeometry& g,
             at::ScalarType dtype, const std::vector<int64_t>& chunks, uint64_t seed,
             const std::vector<std::string>& settings = {"block_size=128"}) {
    const bool stress = protocol == CacheProtocol::kStress;
    SCOPED_TRACE(str_cat(preset, stress ? " stress" : "", ", ", g.heads, "/", g.kv_heads,
                         " heads of ", g.head_dim, ", ", dtype, ", chunks of ",
                         at::IntArrayRef(chunks)));
    CompressionConfig config = CompressionConfig::preset(preset);
    for (const std::string& setting : settings) config.set(setting);
    // Sinks, two blocks, and a tail.
    const int64_t tokens = config.attention_sink_size + 2 * config.block_size + 16;
    const Input in = random_input(g, tokens, dtype, seed);
    QuantizedKvCache cpu(g, config, dtype, protocol);
    const at::Tensor expected = feed(cpu, in, chunks).to(at::kDouble);
    use_seed(seed % 4);
    QuantizedKvCache cuda = make_cache(g, config, dtype, protocol);
    const at::Tensor found = feed(cuda, in, chunks).to(at::kDouble);
    const double error = (found - expected).abs().max().item<double>();
    const double allowed = tolerance(g, in, dtype);
    EXPECT_TRUE(error <= allowed) << error << " > " << allowed;
    worst_ratio_ = std::max(worst_ratio_, error / allowed);
    expect_same_blocks(cuda, cpu);
    expect_same_report(cuda.report(), cpu.report());
    // A reset cache is a new one.
    cuda.reset();
    EXPECT_EQ(cuda.length(), 0);
    EXPECT_TRUE(cuda.blocks(0).empty());
  }
  void TearDown() override {
    RecordProperty("worst_error_over_tolerance", std::to_string(worst_ratio_));
  }

 private:
  double worst_ratio_ = 0;
};

constexpr const char* kPresets[] = {"seed", "balanced", "quality", "compact", "extreme"};
constexpr CacheProtocol kProtocols[] = {CacheProtocol::kPrefill, CacheProtocol::kStress};

// The fast paths: every preset under both protocols. Dtypes, chunk sizes and groups of heads go
// round.
TEST_P(CudaCache, FastPathsAreTheSameAsTheCpu) {
  const std::vector<int64_t> chunks[] = {{280}, {100}, {1, 7, 150}};
  uint64_t i = 0;
  for (int64_t head_dim : {64, 128}) {
    for (const char* preset : kPresets) {
      for (CacheProtocol protocol : kProtocols) {
        const int64_t kv_heads = 1 + static_cast<int64_t>(i % 2);
        const int64_t group = kv_heads == 2 ? 1 : 1 + static_cast<int64_t>(i / 2 % 3);
        check(preset, protocol, geometry(kv_heads * group, kv_heads, head_dim),
              (i + i / 10) % 2 == 0 ? at::kBFloat16 : at::kHalf, chunks[(i + i / 3) % 3], i);
        if (HasFatalFailure()) return;
        ++i;
      }
    }
  }
}

// The generic path: every preset under both protocols, every dtype, head_dims with and without a
// fast path, small blocks.
TEST_P(CudaCache, TheGenericPathIsTheSameAsTheCpu) {
  const std::vector<int64_t> chunks[] = {{88}, {30}, {1, 7, 50}};
  const at::ScalarType dtypes[] = {at::kFloat, at::kBFloat16, at::kHalf};
  uint64_t i = 0;
  for (int64_t head_dim : {64, 80, 128}) {
    for (const char* preset : kPresets) {
      for (CacheProtocol protocol : kProtocols) {
        const int64_t kv_heads = 1 + static_cast<int64_t>(i / 2 % 2);
        const int64_t group = 1 + static_cast<int64_t>(i % 3);
        check(preset, protocol, geometry(kv_heads * group, kv_heads, head_dim),
              dtypes[(i + i / 10) % 3], chunks[(i + i / 3) % 3], i, {"block_size=32"});
        if (HasFatalFailure()) return;
        ++i;
      }
    }
  }
}

// Error feedback, with affine codes and with trellis codes: tiles and any other shape, chunks that
// complete several blocks or part of one, and under the stress protocol short blocks.
TEST_P(CudaCache, ErrorFeedbackIsTheSameAsTheCpus) {
  struct Case {
    int64_t heads, kv_heads, head_dim;
    at::ScalarType dtype;
    CacheProtocol protocol;
    std::vector<int64_t> chunks;
    int64_t block_size;
  };
  constexpr CacheProtocol kPrefill = CacheProtocol::kPrefill, kStress = CacheProtocol::kStress;
  const Case cases[] = {
      {4, 1, 128, at::kBFloat16, kPrefill, {280}, 128},
      {4, 2, 64, at::kHalf, kPrefill, {100}, 128},
      {3, 1, 64, at::kBFloat16, kStress, {1, 7, 150}, 128},
      {2, 2, 128, at::kHalf, kStress, {100}, 128},
      {4, 2, 80, at::kBFloat16, kPrefill, {1, 7, 50}, 32},
      {2, 1, 64, at::kFloat, kStress, {30}, 32},
      // Token by token over the end of a block.
      {4, 2, 64, at::kBFloat16, kPrefill, {130, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 128},
  };
  uint64_t i = 0;
  for (const Case& c : cases) {
    const CacheGeometry g = geometry(c.heads, c.kv_heads, c.head_dim);
    const std::string block_size = str_cat("block_size=", c.block_size);
    check("balanced", c.protocol, g, c.dtype, c.chunks, ++i, {block_size, "error_feedback=true"});
    if (HasFatalFailure()) return;
    const char* preset = i % 2 == 0 ? "balanced-trellis" : "compact-trellis";
    check(preset, c.protocol, g, c.dtype, c.chunks, i, {block_size});
    if (HasFatalFailure()) return;
  }
}

TEST_P(CudaCache, DecodesTokenByToken) {
  for (const char* preset : {"balanced", "seed"}) {
    check(preset, CacheProtocol::kPrefill, geometry(4, 2, 64), at::kBFloat16,
          {130, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 7);
  }
}

// The dense baseline: RoPE by the kernel, and LibTorch's attention, on a GPU by another path than
// on a CPU. A first chunk, chunks after a past, single tokens, with groups of heads and without; 12
// is a head_dim that FlashAttention would pad.
TEST_P(CudaCache, DenseIsTheSameUpToRoundings) {
  const CacheGeometry geometries[] = {geometry(4, 2, 64), geometry(3, 3, 80), geometry(6, 2, 12)};
  uint64_t i = 0;
  for (const CacheGeometry& g : geometries) {
    for (at::ScalarType dtype : {at::kBFloat16, at::kFloat, at::kHalf}) {
      check("dense", CacheProtocol::kPrefill, g, dtype, {100, 1}, 11 + i++);
      check("dense", CacheProtocol::kPrefill, g, dtype, {37, 70, 1, 1, 3}, 11 + i++);
    }
  }
}

// Tables of blocks grow when the ninth block is packed, and again at the seventeenth.
TEST_P(CudaCache, TablesGrowWithTheContext) {
  const CacheGeometry g = geometry(2, 1, 64);
  CompressionConfig config = CompressionConfig::preset("balanced");
  config.set("block_size=32");
  const Input in = random_input(g, 8 + 18 * 32 + 5, at::kBFloat16, 9);
  QuantizedKvCache cpu(g, config, at::kBFloat16);
  QuantizedKvCache cuda = make_cache(g, config, at::kBFloat16);
  const at::Tensor expected = feed(cpu, in, {100}).to(at::kDouble);
  const at::Tensor found = feed(cuda, in, {100}).to(at::kDouble);
  const double error = (found - expected).abs().max().item<double>();
  EXPECT_TRUE(error <= tolerance(g, in, at::kBFloat16)) << error;
  EXPECT_EQ(cuda.blocks(0).size(), 18u);
  expect_same_blocks(cuda, cpu);
}

// A chunk of more blocks than a launch packs.
TEST_P(CudaCache, AChunkOfManyBlocksTakesSeveralLaunches) {
  const CacheGeometry g = geometry(1, 1, 64);
  CompressionConfig config = CompressionConfig::preset("balanced");
  config.set("block_size=32");
  const Input in = random_input(g, 8 + 67 * 32 + 5, at::kBFloat16, 10);
  QuantizedKvCache cpu(g, config, at::kBFloat16);
  QuantizedKvCache cuda = make_cache(g, config, at::kBFloat16);
  feed(cpu, in.slice(0, 20), {20});
  feed(cuda, in.slice(0, 20), {20});
  feed(cpu, in.slice(20, in.q.size(0)), {in.q.size(0)});
  feed(cuda, in.slice(20, in.q.size(0)), {in.q.size(0)});
  EXPECT_EQ(cuda.blocks(0).size(), 67u);
  expect_same_blocks(cuda, cpu);
}

// Work on another stream waits for what the cache's kernels do on the one before, and LibTorch's
// allocator is told of all memory that the other stream uses.
TEST_P(CudaCache, FollowsTheCurrentStream) {
  if (!on_executor()) GTEST_SKIP() << "the executor's back end counts";
  for (const char* preset : {"balanced", "seed", "dense"}) {
    SCOPED_TRACE(preset);
    const CacheGeometry g = geometry(2, 2, 64);
    CompressionConfig config = CompressionConfig::preset(preset);
    config.set("block_size=32");
    const Input in = random_input(g, 100, at::kBFloat16, 11);
    QuantizedKvCache cuda = make_cache(g, config, at::kBFloat16);
    feed(cuda, in.slice(0, 80), {40});
    DeviceTraffic& seen = traffic(*backend());
    seen = {};
    feed(cuda, in.slice(80, 90), {5});
    EXPECT_EQ(seen.joins, 0);
    set_stream(*backend(), 7);
    feed(cuda, in.slice(90, 100), {5});
    EXPECT_EQ(seen.joins, 1);
    EXPECT_FALSE(seen.recorded.empty());
    for (const auto& block : cuda.blocks(0)) {
      // Sealed on the stream before.
      EXPECT_EQ(seen.recorded.count(block->storage.storage().mutable_data()), 1u);
    }
    set_stream(*backend(), 0);
    cuda.reset();
    EXPECT_EQ(seen.joins, 2);
  }
}

struct BadInput {
  Input in, bad;
};
/// 80 good tokens, and 20 with one bad number.
BadInput bad_input(const CacheGeometry& g, int which, float value) {
  BadInput made = {random_input(g, 80, at::kFloat, 5), random_input(g, 20, at::kFloat, 6)};
  at::Tensor& x = which == 0 ? made.bad.q : which == 1 ? made.bad.k : made.bad.v;
  // Rotation spreads a single value of 40000 over the head.
  if (which == 2 && value == 40000.0f) x[13][1].fill_(value);
  x[13][1][9] = value;
  return made;
}

constexpr float kBad[] = {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(), 40000.0f};

std::string attend_error(QuantizedKvCache& cache, const Input& in) {
  return error_of([&] {
    const Input part = in.on(cache.device());
    cache.attend(0, part.q, part.k, part.v);
  });
}

// Policy "ema" brings a chunk's magnitudes to the CPU anyway: as there, a bad chunk is refused as
// if it had never been.
TEST_P(CudaCache, BadInputChangesNothingUnderPolicyEma) {
  const CacheGeometry g = geometry(2, 2, 64);
  CompressionConfig config = CompressionConfig::preset("seed");
  config.set("block_size=32");
  for (float value : kBad) {
    for (int which : {1, 2}) {
      SCOPED_TRACE(str_cat(value, " in ", "qkv"[which]));
      const auto [in, bad] = bad_input(g, which, value);
      QuantizedKvCache cuda = make_cache(g, config, at::kFloat), cpu(g, config, at::kFloat);
      feed(cpu, in.slice(0, 60), {40});
      feed(cuda, in.slice(0, 60), {40});
      const std::string expected = attend_error(cpu, bad);
      ASSERT_NE(expected, "");
      // Which of several numbers is named is the device's choice.
      const std::string found = attend_error(cuda, bad);
      EXPECT_EQ(found.substr(0, found.find(", got")), expected.substr(0, expected.find(", got")));
      EXPECT_EQ(cuda.length(), 60);
      feed(cpu, in.slice(60, 80), {20});
      feed(cuda, in.slice(60, 80), {20});
      expect_same_blocks(cuda, cpu);
      if (HasFatalFailure()) return;
    }
  }
}

// Policy "adaptive" waits for nothing: the device notes the bad number, and every way to look at
// the cache, or to go on, says it.
TEST_P(CudaCache, BadInputIsSaidAtTheNextLook) {
  const CacheGeometry g = geometry(2, 2, 64);
  CompressionConfig config = CompressionConfig::preset("balanced");
  config.set("block_size=32");
  const std::function<void(QuantizedKvCache&, const Input&)> looks[] = {
      [](QuantizedKvCache& cache, const Input&) { cache.check(); },
      [](QuantizedKvCache& cache, const Input&) { cache.report(); },
      [](QuantizedKvCache& cache, const Input&) { cache.blocks(0); },
      [](QuantizedKvCache& cache, const Input& in) {
        const Input part = in.slice(60, 80).on(cache.device());
        cache.attend(0, part.q, part.k, part.v);
      }};
  size_t next = 0;
  for (float value : kBad) {
    for (int which : {0, 1, 2}) {
      SCOPED_TRACE(str_cat(value, " in ", "qkv"[which]));
      const auto [in, bad] = bad_input(g, which, value);
      QuantizedKvCache cuda = make_cache(g, config, at::kFloat), cpu(g, config, at::kFloat);
      feed(cpu, in.slice(0, 60), {40});
      feed(cuda, in.slice(0, 60), {40});
      cuda.check();
      const std::string expected = attend_error(cpu, bad);
      ASSERT_NE(expected, "");
      EXPECT_EQ(attend_error(cuda, bad), "");
      const auto& look = looks[next++ % 4];
      const std::string found = error_of([&] { look(cuda, in); });
      EXPECT_EQ(found.substr(0, found.find(", got")), expected.substr(0, expected.find(", got")));
      EXPECT_NE(found.find("in head 1"), std::string::npos) << found;
      EXPECT_FALSE(cuda.in_step());
      EXPECT_NE(attend_error(cuda, in).find("reset() it"), std::string::npos);
      // As good as new.
      cuda.reset();
      cpu.reset();
      feed(cpu, in, {40});
      feed(cuda, in, {40});
      expect_same_blocks(cuda, cpu);
      if (HasFatalFailure()) return;
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_BACKEND(CudaCache);

}  // namespace
}  // namespace rillkv::testing
