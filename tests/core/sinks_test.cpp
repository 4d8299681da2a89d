// Attention sinks in a cache: what is stored of them, what they cost, and what they are worth where
// keys have a bias, as Qwen2's do. The packers and kernels are proven in tests/kernels.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/block_device.h"
#include "core/cpu_rotation_table.h"
#include "core/huge_page_arena.h"
#include "kernels/packed_format.h"
#include "rillkv/error.h"
#include "rillkv/kv_cache.h"
#include "tests/reference/half.h"
#include "tests/reference/packed_block.h"

namespace rillkv {
namespace {

constexpr int64_t kSinks = 8;

CompressionConfig preset_with(const std::string& preset, int64_t sink_bits) {
  CompressionConfig config = CompressionConfig::preset(preset);
  config.set(str_cat("key_bits_sink_outlier=", sink_bits));
  config.set(str_cat("value_bits_sink_outlier=", sink_bits));
  return config;
}

// ---- what is stored ----

std::vector<uint8_t> rows_of(const at::Tensor& x, int64_t head) {  // [tokens, kv_heads, head_dim]
  const at::Tensor wide = x.select(1, head).to(at::kDouble).contiguous();
  std::vector<std::vector<uint16_t>> rows;
  for (int64_t t = 0; t < wide.size(0); ++t) {
    rows.emplace_back();
    for (int64_t c = 0; c < wide.size(1); ++c) {
      rows.back().push_back(
          reference::half_round(wide[t][c].item<double>(), reference::Direction::kNearest));
    }
  }
  return reference::write_sink_rows(rows);
}

// Keys before RoPE; values rotated under "adaptive" and rounded to the model's dtype there, as the
// open tail's are. In two parts, as the first chunks may bring them.
TEST(Sinks, OfSixteenBitsAreWhatTheTailWouldHold) {
  constexpr int64_t kHeads = 2, kDim = 16;
  const std::vector<double> frequencies(kDim / 2, 0.1);
  for (const char* preset : {"balanced", "seed"}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const CompressionConfig config = preset_with(preset, 16);
      const Quantizer quantizer(QuantizerOptions{kHeads, kDim, config});
      CpuRotationTable rotations(frequencies, kSinks, config.block_size);
      HugePageArena memory;
      const auto device = make_cpu_block_device(quantizer, rotations, memory);
      at::manual_seed(3);
      const at::Tensor k = (at::randn({kSinks, kHeads, kDim}) * 50).to(dtype);
      const at::Tensor v = at::randn({kSinks, kHeads, kDim}).to(dtype);
      at::Tensor stored;
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 3}, {3, 8}}) {
        const Chunk chunk{k.slice(0, begin, end),
                          k.slice(0, begin, end),
                          v.slice(0, begin, end),
                          {0, end - begin},
                          {}};
        const Measured measured = device->measure(chunk, at::zeros({kHeads, kDim}));
        device->seal_sinks(chunk.k, measured.values, begin);
        stored = stored.defined() ? at::cat({stored, measured.values}) : measured.values;
      }
      EXPECT_EQ(stored.scalar_type(), dtype);
      EXPECT_EQ(at::equal(stored, v), !quantizer->rotates_values()) << preset;
      for (int64_t head = 0; head < kHeads; ++head) {
        for (const bool keys : {true, false}) {
          const at::Tensor bytes = (keys ? device->sinks().keys : device->sinks().values)[head];
          const auto* data = bytes.const_data_ptr<uint8_t>();
          EXPECT_EQ(std::vector<uint8_t>(data, data + bytes.numel()),
                    rows_of(keys ? k : stored, head))
              << preset << " " << dtype << (keys ? " keys of " : " values of ") << head;
        }
      }
    }
  }
}

CacheGeometry geometry(int64_t heads, int64_t kv_heads, int64_t dim) {
  CacheGeometry g;
  g.layers = 1;
  g.heads = heads;
  g.kv_heads = kv_heads;
  g.head_dim = dim;
  for (int64_t p = 0; p < dim / 2; ++p) {  // Qwen2's theta
    g.inverse_frequencies.push_back(std::pow(1e6, -2.0 * static_cast<double>(p) / dim));
  }
  return g;
}

TEST(Sinks, CountAsTheBytesTheyTake) {
  at::manual_seed(1);
  for (const int64_t dim : {64, 80, 128}) {
    const at::Tensor q = at::randn({20, 4, dim}), k = at::randn({20, 2, dim});
    for (const int64_t key_bits : {2, 4, 8, 16}) {
      for (const int64_t value_bits : {2, 4, 8, 16}) {
        CompressionConfig config = preset_with("balanced", key_bits);
        config.set(str_cat("value_bits_sink_outlier=", value_bits));
        config.set("block_size=32");
        QuantizedKvCache cache(geometry(4, 2, dim), config, at::kFloat);
        cache.attend(0, q, k, k);
        const CacheReport report = cache.report();
        // packed_format.h: an fp16 number an element; or so many bits an element after a step of
        // two bytes a token, both rounded up to 64 bytes. A plane is whole words of 4 bytes.
        const auto bytes = [&](int64_t bits) -> int64_t {
          const auto up = [](int64_t x, int64_t to) { return (x + to - 1) / to * to; };
          if (bits == 16) return up(kSinks * dim * 2, 64);
          const int64_t planes = bits == 8 ? 2 : 1;
          return up(up(2 * kSinks, 64) + kSinks * planes * up(dim * bits / planes / 8, 4), 64);
        };
        const int64_t tail = 32 * 2 * dim * 4;  // of keys, or values
        EXPECT_EQ(report.kv_bytes, 2 * (bytes(key_bits) + bytes(value_bits)) + 2 * tail);
        EXPECT_EQ(report.sink_tokens, kSinks);
        const double elements = 20 * 2 * static_cast<double>(dim);
        EXPECT_DOUBLE_EQ(report.kv_bits_per_element.key,
                         8.0 * static_cast<double>(2 * bytes(key_bits) + tail) / elements);
        EXPECT_DOUBLE_EQ(report.kv_bits_per_element.value,
                         8.0 * static_cast<double>(2 * bytes(value_bits) + tail) / elements);
      }
    }
  }
}

// Codes end at 8 bits: outlier channels of policy "ema" have no more where its sinks have 16.
TEST(Sinks, OfSixteenBitsLeaveOutlierChannelsAtEight) {
  at::manual_seed(2);
  const at::Tensor q = at::randn({300, 4, 64});
  const at::Tensor k = at::randn({300, 2, 64}) * (at::rand({64}) * 5 + 0.1);
  const auto storage = [&](int64_t bits) {
    QuantizedKvCache cache(geometry(4, 2, 64), preset_with("seed", bits), at::kFloat);
    cache.attend(0, q, k, k);
    const auto blocks = cache.blocks(0);
    EXPECT_EQ(blocks.size(), 2u);
    EXPECT_GT(blocks[0]->tally.key_outliers, 0);
    EXPECT_EQ(blocks[0]->tally.key_widths[8], blocks[0]->tally.key_outliers);
    return blocks[0]->storage;
  };
  EXPECT_TRUE(at::equal(storage(16), storage(8)));
}

// ---- what they are worth ----

/// Queries, keys and values like a Qwen2's: keys and values of spread 1, with a constant bias in
/// four channels of the slowest pairs, and first tokens that take about half of all attention.
struct Biased {
  CacheGeometry g;
  at::Tensor q, k, v;
  at::Tensor exact;  // [tokens, heads, head_dim] f64

  Biased(int64_t heads, int64_t kv_heads, int64_t dim, double bias, at::ScalarType dtype,
         uint64_t seed)
      : g(geometry(heads, kv_heads, dim)) {
    constexpr int64_t kTokens = kSinks + 2 * 128 + 60;
    at::manual_seed(seed);
    q = at::randn({kTokens, heads, dim});
    k = at::randn({kTokens, kv_heads, dim});
    v = at::randn({kTokens, kv_heads, dim});
    const double signs[] = {1, -1, 1, -1};
    const int64_t channels[] = {dim / 2 - 1, dim / 2 - 2, dim - 1, dim - 3};
    for (int i = 0; i < 4; ++i) k.select(2, channels[i]) += signs[i] * bias;
    // 3.6 nats more for each sink: exp(3.6) * 8 is 290, about as much as the other tokens' 300.
    q.select(2, dim / 4) += 4;
    k.slice(0, 0, kSinks).select(2, dim / 4) += 3.6 / 4 * std::sqrt(static_cast<double>(dim));
    q = q.to(dtype);
    k = k.to(dtype);
    v = v.to(dtype);
    exact = attention();
  }

  at::Tensor attention() const {
    const int64_t tokens = q.size(0), half = g.head_dim / 2, group = g.heads / g.kv_heads;
    const at::Tensor angles = at::arange(tokens, at::kDouble).unsqueeze(1) *
                              at::tensor(g.inverse_frequencies, at::kDouble).unsqueeze(0);
    const at::Tensor cosine = angles.cos().unsqueeze(1), sine = angles.sin().unsqueeze(1);
    const auto rotate = [&](const at::Tensor& x) {
      const at::Tensor wide = x.to(at::kDouble), a = wide.slice(2, 0, half),
                       b = wide.slice(2, half);
      return at::cat({a * cosine - b * sine, a * sine + b * cosine}, 2).transpose(0, 1);
    };
    const at::Tensor logits =
        at::matmul(rotate(q), rotate(k).repeat_interleave(group, 0).transpose(1, 2)) /
        std::sqrt(static_cast<double>(g.head_dim));
    const at::Tensor future = at::ones({tokens, tokens}, at::kBool).triu(1);
    const at::Tensor weights =
        logits.masked_fill(future, -std::numeric_limits<double>::infinity()).softmax(-1);
    const at::Tensor values = v.to(at::kDouble).transpose(0, 1).repeat_interleave(group, 0);
    return at::matmul(weights, values).transpose(0, 1);
  }

  /// Root mean square error of the outputs from the first block's tokens on.
  double error(const CompressionConfig& config, CacheProtocol protocol) const {
    QuantizedKvCache cache(g, config, q.scalar_type(), protocol);
    std::vector<at::Tensor> out;
    const int64_t tokens = q.size(0), decoded = 24;  // one at a time
    for (int64_t begin = 0, end = 0; begin < tokens; begin = end) {
      end = begin < tokens - decoded ? std::min(begin + 50, tokens - decoded) : begin + 1;
      out.push_back(
          cache.attend(0, q.slice(0, begin, end), k.slice(0, begin, end), v.slice(0, begin, end)));
    }
    const at::Tensor difference = at::cat(out).to(at::kDouble) - exact;
    return difference.slice(0, kSinks).pow(2).mean().sqrt().item<double>();
  }
};

// Sinks as they are against none, and against 8 bits. Errors of one channel of the output, D = 64:
//   8 bits   Steps of bias / 127 and uniform errors: logits err by bias / 127 / sqrt(12) and a
//            little, 0.34 at 150. Each sink weighs 1/16 (half of all by eight) and its value has a
//            spread of 1: 0.34 sqrt(8) / 16 = 0.06.
//   16 bits  What blocks err by. 4.25 bits over the range of 128 normal numbers, 5.2: steps of
//            0.3, logits err by 0.1 and so do values of 4 bits; 300 tokens of weight 1/600: 0.14
//            sqrt(300) / 600 = 0.004. An fp32 model's bias of 350 is rounded to steps of 0.25, its
//            logits by 0.25 / sqrt(12) sqrt(4 channels / 64) = 0.018, the output by 0.018 sqrt(8)
//            / 16 = 0.003.
//   none     The eight are in a block: 0.14 sqrt(8) / 16 = 0.025. At 5 bits half of that.
// So 16 bits are 12 times as good as 8, of which 5 are demanded, and 3 times as good as none, of
// which 1.5 are. Where keys have no bias, 8 bits are good enough.
TEST(Sinks, OfSixteenBitsHelpWhateverTheBias) {
  struct Heads {
    int64_t heads, kv_heads, dim;
  };
  for (const Heads& h : {Heads{14, 2, 64}, Heads{12, 2, 128}}) {
    for (const double bias : {0.0, 150.0, 250.0, 350.0}) {
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
        const Biased problem(h.heads, h.kv_heads, h.dim, bias, dtype,
                             static_cast<uint64_t>(bias) + 1);
        for (const char* preset : {"balanced", "quality"}) {
          for (const auto protocol : {CacheProtocol::kStress, CacheProtocol::kPrefill}) {
            SCOPED_TRACE(str_cat("head_dim ", h.dim, " bias ", bias, " ", dtype, " ", preset,
                                 protocol == CacheProtocol::kStress ? " stress" : " prefill"));
            CompressionConfig none = CompressionConfig::preset(preset);
            none.set("attention_sink_size=0");
            const double whole = problem.error(CompressionConfig::preset(preset), protocol);
            const double codes = problem.error(preset_with(preset, 8), protocol);
            const double without = problem.error(none, protocol);
            EXPECT_TRUE(whole <= without / 1.5) << whole << ", without sinks " << without;
            if (bias == 0) continue;
            EXPECT_TRUE(whole <= codes / 5) << whole << ", with 8 bits " << codes;
            EXPECT_TRUE(codes > without) << "this is no problem: " << codes << ", " << without;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace rillkv
