// Quantizer from tensors to packed bytes and back, against the oracles of tests/reference, which
// know neither the library nor the kernels.
#include "rillkv/quantizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "rillkv/error.h"
#include "rillkv/kv_cache.h"
#include "tests/reference/half.h"
#include "tests/reference/packed_block.h"
#include "tests/reference/quantizer.h"
#include "tests/reference/width_allocation.h"

namespace rillkv {
namespace {

constexpr int64_t kKvHeads = 2;

struct Input {
  at::Tensor keys, values;  // [tokens, kv_heads, head_dim] f32
};

Input random_input(int64_t tokens, int64_t head_dim, uint64_t seed) {
  at::manual_seed(seed);
  const at::Tensor scale = at::rand({kKvHeads, head_dim}) * 3 + 0.1;
  const at::Tensor offset = at::randn({kKvHeads, head_dim}) * 2;
  return {at::randn({tokens, kKvHeads, head_dim}) * scale + offset,
          at::randn({tokens, kKvHeads, head_dim})};
}

/// One channel over all tokens, one token's channels begin..end-1.
std::vector<float> column(const at::Tensor& x, int64_t head, int64_t channel) {
  const at::Tensor flat = x.select(1, head).select(1, channel).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}
std::vector<float> row(const at::Tensor& x, int64_t token, int64_t head, int64_t begin,
                       int64_t end) {
  const at::Tensor flat = x[token][head].slice(0, begin, end).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

/// dequantize(block) equals what the oracle reads from the same bytes: lo + step * code, one
/// product and one sum in float32, both of which round by 2^-24 of the result's parts.
void expect_dequantized(const at::Tensor& got, int64_t head,
                        const std::vector<std::vector<double>>& expected) {
  for (size_t t = 0; t < expected.size(); ++t) {
    for (size_t c = 0; c < expected[t].size(); ++c) {
      const double value = got[t][head][c].item<double>();
      ASSERT_NEAR(value, expected[t][c], 0x1p-22 * (1 + std::abs(expected[t][c])) * 8)
          << "token " << t << ", channel " << c;
    }
  }
}

struct AdaptiveCase {
  int64_t head_dim, tokens;
  const char* json;
};

void PrintTo(const AdaptiveCase& c, std::ostream* out) {
  *out << "D " << c.head_dim << ", " << c.tokens << " tokens, " << c.json;
}

class AdaptiveQuantizer : public ::testing::TestWithParam<AdaptiveCase> {};

TEST_P(AdaptiveQuantizer, BytesAreTheOracles) {
  const auto& [dim, tokens, text] = GetParam();
  const CompressionConfig config = CompressionConfig::from_json(text);
  const Quantizer quantizer(QuantizerOptions{kKvHeads, dim, config});
  const Input in = random_input(tokens, dim, 1);
  const at::Tensor energy = at::rand({kKvHeads, dim}) * 10;
  const auto block = quantizer->seal_adaptive(in.keys, in.values, energy);
  const auto plain = quantizer->dequantize(*block);
  ASSERT_EQ(block->tokens, tokens);
  ASSERT_EQ(plain.keys.sizes(), in.keys.sizes());

  const int width = static_cast<int>(config.value_bits);
  const int block_size = static_cast<int>(config.block_size), idim = static_cast<int>(dim);
  const std::vector<int> classes(config.bit_classes.begin(), config.bit_classes.end());
  const int spacing = classes[1] - classes[0];
  const int increments = static_cast<int>(std::floor(
      (config.key_bits_mean - classes[0]) * static_cast<double>(dim / 2) / spacing + 1e-6));
  int64_t value_bytes = 0, key_bytes = 0;
  for (int64_t head = 0; head < kKvHeads; ++head) {
    // Keys: widths by the greedy choice, ranges and codes a channel.
    std::vector<double> range2, e;
    for (int64_t c = 0; c < dim; ++c) {
      const auto x = column(in.keys, head, c);
      const auto [lo, hi] = std::minmax_element(x.begin(), x.end());
      const float range = *hi - *lo;
      range2.push_back(static_cast<double>(range) * range);
      e.push_back(energy[head][c].item<double>());
    }
    std::vector<double> scores;
    const int64_t half = dim / 2;
    for (int64_t p = 0; p < half; ++p) {
      scores.push_back((range2[p] + range2[p + half]) * (e[p] + e[p + half]));
    }
    const auto widths = reference::allocate_widths(scores, classes, increments);
    const auto keys = reference::read_channel_block(block->keys[head], block_size, idim, false);
    double sum = 0;
    for (int64_t c = 0; c < dim; ++c) {
      ASSERT_EQ(keys.widths[c], widths[c % half]) << "channel " << c;
      sum += widths[c % half];
      const auto expected = reference::quantize_affine(column(in.keys, head, c), keys.widths[c]);
      ASSERT_EQ(keys.lo[c], expected.lo) << "channel " << c;
      ASSERT_EQ(keys.step[c], expected.step) << "channel " << c;
      for (int64_t t = 0; t < block_size; ++t) {
        ASSERT_EQ(keys.codes[c][t], t < tokens ? expected.codes[t] : 0) << c << ", token " << t;
      }
      EXPECT_EQ(expected.clipped, 0);
    }
    EXPECT_DOUBLE_EQ(quantizer->key_bits_mean(), sum / static_cast<double>(dim));
    EXPECT_LE(quantizer->key_bits_mean(), config.key_bits_mean + 1e-9);
    key_bytes += reference::channel_block_size(block_size, keys.widths, false);

    // Values: a token and group of channels.
    const int groups = static_cast<int>(std::max<int64_t>(1, dim / config.value_group_size));
    ASSERT_EQ(quantizer->value_groups(), groups);
    const auto values =
        reference::read_token_block(block->values[head], block_size, idim, groups, false, width);
    value_bytes += reference::token_block_size(block_size, idim, groups, false, width);
    for (int64_t t = 0; t < block_size; ++t) {
      for (int64_t begin = 0; begin < dim;) {
        const int group = reference::group_of(static_cast<int>(begin), groups, idim);
        int64_t end = begin;
        while (end < dim && reference::group_of(static_cast<int>(end), groups, idim) == group)
          ++end;
        reference::QuantizedRow expected;
        expected.codes.assign(static_cast<size_t>(end - begin), 0);
        if (t < tokens) {
          const auto x = row(in.values, t, head, begin, end);
          expected = width == 2 ? reference::quantize_affine_clipped(x, width)
                                : reference::quantize_affine(x, width);
        }
        ASSERT_EQ(values.lo[group * block_size + t], expected.lo) << "token " << t;
        ASSERT_EQ(values.step[group * block_size + t], expected.step) << "token " << t;
        for (int64_t c = begin; c < end; ++c) {
          ASSERT_EQ(values.codes[t][c], expected.codes[c - begin]) << "token " << t << ", " << c;
        }
        begin = end;
      }
    }
    auto key_values = reference::channel_block_values(keys, false);
    auto value_values = reference::token_block_values(values, idim, groups, false);
    key_values.resize(tokens);
    value_values.resize(tokens);
    expect_dequantized(plain.keys, head, key_values);
    expect_dequantized(plain.values, head, value_values);
  }
  EXPECT_EQ(block->key_bytes, key_bytes);
  EXPECT_EQ(block->value_bytes, value_bytes);
  EXPECT_EQ(block->storage.numel(), key_bytes + value_bytes);
  EXPECT_EQ(block->tally.value_widths[width], kKvHeads * dim);
}

INSTANTIATE_TEST_SUITE_P(
    All, AdaptiveQuantizer,
    ::testing::Values(
        AdaptiveCase{64, 128, "{}"}, AdaptiveCase{128, 128, R"({"block_size": 128})"},
        AdaptiveCase{80, 128, R"({"value_bits": 3})"},        // no power of two: one group of 80
        AdaptiveCase{80, 57, R"({"value_group_size": 24})"},  // groups of 27, 27 and 26
        AdaptiveCase{8, 32, R"({"block_size": 32, "value_group_size": 8, "value_bits": 2})"},
        AdaptiveCase{64, 1, R"({"key_bits_mean": 3, "value_bits": 2})"},
        AdaptiveCase{64, 256, R"({"block_size": 256, "bit_classes": [2, 4, 6, 8]})"},
        AdaptiveCase{2, 64, R"({"block_size": 64, "key_bits_mean": 8, "value_bits": 8})"}));

struct EmaCase {
  int64_t head_dim, tokens;
  int key_bits, value_bits;
};

class EmaQuantizer : public ::testing::TestWithParam<EmaCase> {};

TEST_P(EmaQuantizer, BytesAreTheOracles) {
  const auto& [dim, tokens, key_bits, value_bits] = GetParam();
  CompressionConfig config = CompressionConfig::preset("seed");
  config.key_bits_normal = key_bits;
  config.value_bits_normal = value_bits;
  const Quantizer quantizer(QuantizerOptions{kKvHeads, dim, config});
  Input in = random_input(tokens, dim, 2);
  // Scales from the past: smaller than some of the block's values, so that codes clip.
  const at::Tensor absmax[2] = {in.keys.abs().amax(0) * 0.8, in.values.abs().amax(0) * 0.9};
  const at::Tensor outliers[2] = {at::rand({kKvHeads, dim}) < 0.3, at::rand({kKvHeads, dim}) < 0.1};
  const auto block =
      quantizer->seal_ema(in.keys, in.values, absmax[0], outliers[0], absmax[1], outliers[1]);
  const auto plain = quantizer->dequantize(*block);
  int64_t clipped[2] = {};
  for (int side = 0; side < 2; ++side) {
    const at::Tensor& x = side == 0 ? in.keys : in.values;
    for (int64_t head = 0; head < kKvHeads; ++head) {
      const uint8_t* bytes = side == 0 ? block->keys[head] : block->values[head];
      const auto stored = reference::read_channel_block(bytes, 128, static_cast<int>(dim), true);
      for (int64_t c = 0; c < dim; ++c) {
        const bool outlier = outliers[side][head][c].item<bool>();
        ASSERT_EQ(stored.widths[c], outlier ? 8 : side == 0 ? key_bits : value_bits);
        const auto expected = reference::quantize_symmetric(
            column(x, head, c), absmax[side][head][c].item<float>(), stored.widths[c]);
        ASSERT_EQ(stored.step[c], expected.step);
        for (int64_t t = 0; t < tokens; ++t) {
          ASSERT_EQ(stored.codes[c][t], expected.codes[t]) << "channel " << c << ", token " << t;
        }
        clipped[side] += expected.clipped;
      }
      auto values = reference::channel_block_values(stored, true);
      values.resize(tokens);
      expect_dequantized(side == 0 ? plain.keys : plain.values, head, values);
    }
  }
  EXPECT_EQ(block->tally.key_clipped, clipped[0]);
  EXPECT_EQ(block->tally.value_clipped, clipped[1]);
  EXPECT_GT(clipped[0], 0);
  EXPECT_EQ(block->tally.key_outliers, outliers[0].sum().item<int64_t>());
  EXPECT_EQ(block->tally.value_outliers, outliers[1].sum().item<int64_t>());
}

INSTANTIATE_TEST_SUITE_P(All, EmaQuantizer,
                         ::testing::Values(EmaCase{64, 128, 4, 4}, EmaCase{80, 128, 3, 5},
                                           EmaCase{128, 77, 2, 7}, EmaCase{8, 1, 6, 2}));

// "ema" with n value groups a head, n odd too: the channels of a group share the largest magnitude.
TEST(Quantizer, EmaValueGroupsShareAScale) {
  constexpr int64_t kDim = 80, kSinks = 4, kTokens = 128;
  const Input in = random_input(kSinks + kTokens, kDim, 4);
  CacheGeometry geometry{1, kKvHeads, kKvHeads, kDim, std::vector<double>(kDim / 2, 0.1)};
  for (const int64_t groups : {1, 5, 16, 80}) {
    CompressionConfig config = CompressionConfig::preset("seed");
    config.attention_sink_size = kSinks;
    config.value_quant_groups = groups;
    config.outlier_threshold_abs.reset();
    QuantizedKvCache cache(geometry, config, at::kFloat);
    cache.attend(0, in.keys, in.keys, in.values);
    ASSERT_EQ(cache.blocks(0).size(), 1u);
    for (int64_t head = 0; head < kKvHeads; ++head) {
      const auto block =
          reference::read_channel_block(cache.blocks(0)[0]->values[head], 128, kDim, true);
      const int64_t size = kDim / groups;
      for (int64_t c = 0; c < kDim; ++c) {
        const at::Tensor members = in.values.slice(0, kSinks).select(1, head).slice(
            1, c / size * size, (c / size + 1) * size);
        const float absmax = members.abs().max().item<float>();
        const uint16_t step = reference::half_round(absmax / 7, reference::Direction::kNearest);
        EXPECT_EQ(block.step[c], step) << groups << " groups, channel " << c;
      }
    }
  }
  EXPECT_THROW(
      Quantizer(QuantizerOptions{
          1, kDim, CompressionConfig::from_json(R"({"policy": "ema", "value_quant_groups": 3})")}),
      UsageError);
}

TEST(Quantizer, RotationIsItsDefinitionAndItsOwnInverse) {
  const Quantizer quantizer(QuantizerOptions{kKvHeads, 64, CompressionConfig()});
  ASSERT_TRUE(quantizer->rotates_values());
  const at::Tensor x = random_input(5, 64, 3).values;
  const at::Tensor y = quantizer->rotate_values(x);
  // The matrix by its definition: (-1)^popcount(i & j) / 8.
  at::Tensor matrix = at::empty({64, 64}, at::kDouble);
  for (int64_t i = 0; i < 64; ++i) {
    for (int64_t j = 0; j < 64; ++j) {
      matrix[i][j] = __builtin_popcountll(static_cast<uint64_t>(i & j)) % 2 == 0 ? 0.125 : -0.125;
    }
  }
  // Six butterflies, each rounding by 2^-24 sums of up to |x| sqrt(64) < 40.
  EXPECT_LE((y - at::matmul(x.to(at::kDouble), matrix)).abs().max().item<double>(),
            6 * 40 * 0x1p-24);
  EXPECT_LE((quantizer->rotate_values(y) - x).abs().max().item<double>(), 12 * 40 * 0x1p-24);
  for (const char* text : {R"({"value_rotation": false})", R"({"policy": "ema"})"}) {
    const auto config = CompressionConfig::from_json(text);
    EXPECT_FALSE(Quantizer(QuantizerOptions{1, 64, config})->rotates_values()) << text;
  }
  EXPECT_FALSE(Quantizer(QuantizerOptions{1, 80, CompressionConfig()})->rotates_values());
}

TEST(Quantizer, WhatCannotBeRepresentedIsNamed) {
  const Quantizer quantizer(QuantizerOptions{kKvHeads, 64, CompressionConfig()});
  at::Tensor x = at::zeros({3, kKvHeads, 64});
  EXPECT_NO_THROW(quantizer->check_representable(x, "keys"));
  x[2][1][63] = 32752;  // the largest that fp16 metadata covers
  EXPECT_NO_THROW(quantizer->check_representable(x, "keys"));
  for (const double bad : {32768.0, -1e9, static_cast<double>(INFINITY), std::nan("")}) {
    x[2][1][63] = bad;
    try {
      quantizer->check_representable(x, "keys");
      ADD_FAILURE() << bad;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("finite keys"), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace rillkv
