// Public functions of core check what they are given: every mistake is a rillkv::Error of one line
// that names it, before anything is read or changed.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "rillkv/kv_cache.h"
#include "rillkv/quantizer.h"
#include "rillkv/query_energy.h"
#include "rillkv/streaming_stats.h"
#include "tests/support/expect_error.h"

namespace rillkv {
namespace {

using testing::expect_error;

constexpr int64_t kHeads = 2, kDim = 16;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Quantizer quantizer(const char* preset) {
  return Quantizer(QuantizerOptions{kHeads, kDim, CompressionConfig::preset(preset)});
}

at::Tensor tokens(int64_t count, int64_t heads = kHeads, int64_t dim = kDim) {
  at::manual_seed(1);
  return at::randn({count, heads, dim});
}

/// A copy of x with one element replaced.
at::Tensor with(const at::Tensor& x, float value) {
  at::Tensor copy = x.clone();
  copy.view({-1})[copy.numel() - 1] = value;
  return copy;
}

TEST(PublicChecks, SealAdaptive) {
  const Quantizer q = quantizer("balanced");
  const at::Tensor x = tokens(5), energy = at::ones({kHeads, kDim});
  EXPECT_EQ(q->seal_adaptive(x, x, energy)->tokens, 5);
  const auto refused = [&](const at::Tensor& keys, const at::Tensor& values,
                           const at::Tensor& energies, const std::vector<std::string>& parts) {
    expect_error([&] { q->seal_adaptive(keys, values, energies); }, parts);
  };
  refused(tokens(5, 1), x, energy, {"seal_adaptive", "keys", "[tokens, 2, 16]", "[5, 1, 16]"});
  refused(x, tokens(5, 3), energy, {"values", "[5, 3, 16]"});
  refused(tokens(5, kHeads, 8), x, energy, {"keys", "[5, 2, 8]"});
  refused(x[0], x, energy, {"keys", "[2, 16]"});
  refused({}, x, energy, {"keys", "undefined"});
  refused(x.to(at::kDouble), x, energy, {"keys", "Double"});
  refused(x.to(at::kMeta), x, energy, {"keys", "meta"});
  refused(x.transpose(1, 2).contiguous().transpose(1, 2), x, energy, {"keys", "strides"});
  refused(x, tokens(4), energy, {"as many values as keys", "4 and 5"});
  refused(tokens(0), tokens(0), energy, {"1..128 tokens", "got 0"});
  refused(tokens(129), tokens(129), energy, {"1..128 tokens", "got 129"});
  refused(with(x, kNan), x, energy, {"finite keys"});
  refused(x, with(x, 40000), energy, {"finite values"});
  refused(x, x, at::ones({kHeads, kDim / 2}), {"energy", "[2, 16]", "[2, 8]"});
  refused(x, x, at::ones({kHeads + 1, kDim}), {"energy", "[3, 16]"});
  refused(x, x, energy.to(at::kDouble), {"energy", "Float", "Double"});
  refused(x, x, {}, {"energy", "undefined"});
  refused(x, x, with(energy, -1), {"energy", "got -1"});
  refused(x, x, with(energy, kNan), {"energy", "got nan"});
  refused(x, x, with(energy, INFINITY), {"energy", "got inf"});
  expect_error([&] { quantizer("seed")->seal_adaptive(x, x, energy); },
               {"policy 'adaptive'", "'ema'"});
}

TEST(PublicChecks, SealEma) {
  const Quantizer q = quantizer("seed");
  const at::Tensor x = tokens(5), most = at::ones({kHeads, kDim});
  const at::Tensor flags = at::zeros({kHeads, kDim}, at::kBool);
  EXPECT_EQ(q->seal_ema(x, x, most, flags, most, flags)->tokens, 5);
  expect_error([&] { q->seal_ema(tokens(5, 3), x, most, flags, most, flags); },
               {"seal_ema", "keys", "[5, 3, 16]"});
  expect_error([&] { q->seal_ema(tokens(200), tokens(200), most, flags, most, flags); },
               {"1..128 tokens", "got 200"});
  expect_error([&] { q->seal_ema(x, with(x, kNan), most, flags, most, flags); }, {"finite values"});
  const at::Tensor narrow = most.slice(1, 0, 8);
  expect_error([&] { q->seal_ema(x, x, narrow, flags, most, flags); }, {"key_absmax", "[2, 8]"});
  expect_error([&] { q->seal_ema(x, x, most, flags, narrow, flags); }, {"value_absmax"});
  expect_error([&] { q->seal_ema(x, x, with(most, kNan), flags, most, flags); },
               {"key_absmax", "nan"});
  expect_error([&] { q->seal_ema(x, x, most, flags, with(most, 1e9f), flags); },
               {"value_absmax", "0..32752"});
  expect_error([&] { q->seal_ema(x, x, most, most, most, flags); }, {"key_outliers", "Bool"});
  expect_error([&] { q->seal_ema(x, x, most, flags, most, flags[0]); }, {"value_outliers"});
  expect_error([&] { quantizer("balanced")->seal_ema(x, x, most, flags, most, flags); },
               {"policy 'ema'", "'adaptive'"});
}

TEST(PublicChecks, Dequantize) {
  const at::Tensor x = tokens(5), ones = at::ones({kHeads, kDim});
  const at::Tensor flags = at::zeros({kHeads, kDim}, at::kBool);
  const Quantizer adaptive = quantizer("balanced"), ema = quantizer("seed");
  const auto good = adaptive->seal_adaptive(x, x, ones);
  const auto symmetric = ema->seal_ema(x, x, ones, flags, ones, flags);
  EXPECT_EQ(adaptive->dequantize(*good).keys.size(0), 5);
  EXPECT_EQ(ema->dequantize(*symmetric).values.size(0), 5);
  const auto refused = [&](const Quantizer& by, SealedBlock block, const auto& spoil,
                           const std::vector<std::string>& parts) {
    spoil(block);
    expect_error([&] { by->dequantize(block); }, parts);
  };
  const auto nothing = [](SealedBlock&) {};
  refused(quantizer("extreme"), *good, nothing, {"this quantizer's configuration"});
  refused(ema, *good, nothing, {"this quantizer's configuration"});
  refused(adaptive, *symmetric, nothing, {"this quantizer's configuration"});
  refused(quantizer("dense"), *good, nothing, {"'dense'"});
  refused(Quantizer(QuantizerOptions{3, kDim, CompressionConfig()}), *good, nothing,
          {"3 kv heads", "got 2"});
  refused(adaptive, *good, [](SealedBlock& b) { b.tokens = 129; }, {"1..128", "got 129"});
  refused(adaptive, *good, [](SealedBlock& b) { b.tokens = -1; }, {"got -1"});
  refused(adaptive, *good, [](SealedBlock& b) { b.storage = at::Tensor(); },
          {"storage", "undefined"});
  refused(adaptive, *good, [](SealedBlock& b) { b.keys.pop_back(); }, {"got 1 of keys"});
  refused(adaptive, *good, [](SealedBlock& b) { std::swap(b.keys[0], b.keys[1]); },
          {"one after the other"});
  // Storage that ends before the last head does.
  refused(adaptive, *good,
          [](SealedBlock& b) { b.storage = b.storage.slice(0, 0, b.storage.numel() - 64); },
          {"this quantizer's configuration"});
  // A width in the metadata that the bytes do not hold.
  refused(ema, *symmetric,
          [](SealedBlock& b) {
            const uint8_t* old = b.storage.const_data_ptr<uint8_t>();
            b.storage = at::full_like(b.storage, 0x88);
            const uint8_t* begin = b.storage.const_data_ptr<uint8_t>();
            for (auto* side : {&b.keys, &b.values}) {
              for (const uint8_t*& part : *side) part = begin + (part - old);
            }
          },
          {"this quantizer's configuration"});
}

TEST(PublicChecks, QuantizerOptionsRotationAndRepresentability) {
  expect_error([] { Quantizer(QuantizerOptions{0, kDim, {}}); }, {"kv_heads >= 1", "got 0"});
  expect_error([] { Quantizer(QuantizerOptions{1, 15, {}}); }, {"even head_dim", "got 15"});
  expect_error([] { Quantizer(QuantizerOptions{1, -2, {}}); }, {"even head_dim", "got -2"});
  const Quantizer q = quantizer("balanced");
  expect_error([&] { q->rotate_values(tokens(3, kHeads, 8)); }, {"rotate_values", "[3, 2, 8]"});
  expect_error([&] { q->rotate_values({}); }, {"undefined"});
  expect_error([&] { q->rotate_values(tokens(3).to(at::kLong)); }, {"Long"});
  const Quantizer odd(QuantizerOptions{kHeads, 48, CompressionConfig()});
  expect_error([&] { odd->rotate_values(tokens(3, kHeads, 48)); }, {"power of two", "got 48"});
  expect_error([&] { q->check_representable(tokens(3)[0], "keys"); }, {"[2, 16]"});
  expect_error([&] { q->check_representable({}, "keys"); }, {"undefined"});
  expect_error([&] { q->check_representable(tokens(3, kHeads, 8), "keys"); }, {"[3, 2, 8]"});
}

TEST(PublicChecks, QueryEnergy) {
  expect_error([] { QueryEnergy(QueryEnergyOptions{0, 1, 4, 0.5}); }, {"heads", "0 and 1"});
  expect_error([] { QueryEnergy(QueryEnergyOptions{2, 1, 0, 0.5}); }, {"head_dim >= 1"});
  expect_error([] { QueryEnergy(QueryEnergyOptions{2, 1, 4, kNan}); }, {"decay"});
  QueryEnergy energy(QueryEnergyOptions{2, 1, kDim, 0.5});
  for (const at::Tensor& bad :
       {at::Tensor(), tokens(3).to(at::kDouble), tokens(3).to(at::kMeta),
        tokens(3).transpose(1, 2).contiguous().transpose(1, 2), tokens(3, 1)}) {
    expect_error([&] { energy->accumulate(bad); }, {"QueryEnergy::accumulate", "queries"});
  }
  EXPECT_EQ(energy->pending(), 0);
  expect_error([&] { energy->seal(); }, {"open block", "none"});
}

TEST(PublicChecks, StreamingStats) {
  StreamingStatsOptions options;
  options.kv_heads = kHeads;
  options.head_dim = kDim;
  options.groups = 4;
  StreamingStats stats(options);
  expect_error([&] { stats->update({}); }, {"undefined"});
  expect_error([&] { stats->update(at::ones({kHeads, 3, kDim}, at::kLong)); }, {"Long"});
  EXPECT_TRUE(stats->empty());
  stats->update(at::ones({kHeads, 3, kDim}));
  expect_error([&] { stats->block_outliers(-1); }, {"got -1"});
  expect_error([&] { stats->consume(-1); }, {"0..3", "got -1"});
  expect_error([&] { stats->consume(4); }, {"0..3", "got 4"});
  stats->consume(2);
  expect_error([&] { stats->consume(2); }, {"0..1", "got 2"});
  stats->consume(1);
  expect_error([&] { stats->per_channel(at::ones({kHeads, kDim})); }, {"[2, 4]", "[2, 16]"});
  expect_error([&] { stats->per_channel({}); }, {"undefined"});
}

TEST(PublicChecks, CacheLayersTensorsAndGeometry) {
  CacheGeometry geometry{2, kHeads, kHeads, kDim, std::vector<double>(kDim / 2, 0.1)};
  for (const char* preset : {"balanced", "seed", "dense"}) {
    QuantizedKvCache cache(geometry, CompressionConfig::preset(preset), at::kFloat);
    const at::Tensor x = tokens(3);
    for (const int64_t layer : {int64_t{-1}, int64_t{2}, std::numeric_limits<int64_t>::max()}) {
      expect_error([&] { cache.length(layer); }, {"length", "layer 0..1"});
      expect_error([&] { cache.blocks(layer); }, {"blocks", "layer 0..1"});
      expect_error([&] { cache.attend(layer, x, x, x); }, {"attend", "layer 0..1"});
    }
    expect_error([&] { cache.attend(0, {}, x, x); }, {"q", "undefined"});
    expect_error([&] { cache.attend(0, x, {}, x); }, {"k", "undefined"});
    expect_error([&] { cache.attend(0, x, x, {}); }, {"v", "undefined"});
    EXPECT_EQ(cache.length(0), 0);
  }
  const auto make = [](const CacheGeometry& g, at::ScalarType dtype = at::kFloat) {
    return [=] { QuantizedKvCache(g, CompressionConfig(), dtype); };
  };
  CacheGeometry bad = geometry;
  bad.layers = 0;
  expect_error(make(bad), {"layers >= 1"});
  bad = geometry;
  bad.kv_heads = -1;
  expect_error(make(bad), {"-1 kv heads"});
  bad = geometry;
  bad.inverse_frequencies.pop_back();
  expect_error(make(bad), {"8 inverse frequencies", "got 7"});
  bad = geometry;
  bad.inverse_frequencies[3] = kNan;
  expect_error(make(bad), {"finite inverse frequencies"});
  expect_error(make(geometry, at::kDouble), {"float32, bfloat16 or float16", "Double"});
}

}  // namespace
}  // namespace rillkv
