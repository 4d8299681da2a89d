// Quantizer with error feedback and trellis codes, as its callers see it: what comes back, what it
// costs the logits, what is refused. Bytes are proven in tests/kernels.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "rillkv/quantizer.h"
#include "rillkv/query_energy.h"
#include "rillkv/query_moment.h"
#include "tests/support/error_of.h"

namespace rillkv {
namespace {

using testing::error_of;
using ::testing::HasSubstr;

constexpr int64_t kHeads = 4, kKvHeads = 2, kDim = 64, kTokens = 128;

std::vector<double> frequencies() {
  std::vector<double> all;
  for (int64_t p = 0; p < kDim / 2; ++p) all.push_back(std::pow(10000.0, -2.0 * p / kDim));
  return all;
}

Quantizer quantizer(const char* json) {
  return Quantizer(
      QuantizerOptions{kKvHeads, kDim, CompressionConfig::from_json(json), frequencies()});
}

struct Block {
  at::Tensor queries, keys, values;
};

/// Queries of a few directions, as real ones are, and keys whose channels go together.
Block block() {
  at::manual_seed(3);
  const at::Tensor few = at::randn({6, kDim}), mix = at::randn({kDim, kDim}) / 8 + at::eye(kDim);
  Block b;
  b.queries =
      at::matmul(at::randn({kTokens, kHeads, 6}), few) + 0.2 * at::randn({kTokens, kHeads, kDim});
  b.keys = at::matmul(at::randn({kTokens, kKvHeads, kDim}), mix) + at::randn({kDim});
  b.values = at::randn({kTokens, kKvHeads, kDim});
  return b;
}

at::Tensor moments(const Block& b) {
  QueryMoment moment(QueryMomentOptions{kHeads, kKvHeads, kDim, 0.9});
  moment->accumulate(b.queries);
  return moment->moments();
}

/// Mean square over queries and keys of <R(d) q, k - k'>, d = 0 .. 63, in double.
double logit_error(const Block& b, const at::Tensor& keys) {
  const at::Tensor error = (b.keys - keys).to(at::kDouble);
  const at::Tensor q = b.queries.to(at::kDouble).view({kTokens, kKvHeads, -1, kDim});
  double sum = 0, total = 0;
  for (int64_t d = 0; d < 64; ++d) {
    at::Tensor angle = at::tensor(frequencies(), at::kDouble) * static_cast<double>(d);
    const at::Tensor cos = angle.cos(), sin = angle.sin();
    const at::Tensor x = q.narrow(3, 0, kDim / 2), y = q.narrow(3, kDim / 2, kDim / 2);
    const at::Tensor turned = at::cat({x * cos - y * sin, y * cos + x * sin}, 3);
    const at::Tensor logits = at::einsum("tkgc,skc->ktgs", {turned, error});
    sum += logits.square().mean().item<double>() / static_cast<double>(d + 1);
    total += 1.0 / static_cast<double>(d + 1);
  }
  return sum / total;
}

// The same widths' bits, and logits move less: by a third at least here, where queries have six
// directions to speak of (measured: 0.3 to 0.4 of the error without feedback).
TEST(FeedbackQuantizer, LogitsMoveLessAtTheSameBits) {
  const Block b = block();
  QueryEnergy energy(QueryEnergyOptions{kHeads, kKvHeads, kDim, 0.9});
  energy->accumulate(b.queries);
  for (const char* bits : {"3", "4.25"}) {
    const std::string json = std::string(R"({"key_bits_mean": )") + bits;
    Quantizer nearest = quantizer((json + "}").c_str());
    Quantizer feedback = quantizer((json + R"(, "error_feedback": true})").c_str());
    const auto plain = nearest->seal_adaptive(b.keys, b.values, energy->preview());
    const auto fed = feedback->seal_adaptive(b.keys, b.values, moments(b));
    EXPECT_EQ(plain->key_bytes, fed->key_bytes);
    const double before = logit_error(b, nearest->dequantize(*plain).keys);
    const double after = logit_error(b, feedback->dequantize(*fed).keys);
    EXPECT_LT(after, before * 2 / 3) << bits;
    EXPECT_TRUE(at::equal(feedback->dequantize(*fed).values, nearest->dequantize(*plain).values));
  }
}

// A code of 8 states leaves less than a scalar quantiser of the same bits. (From about six bits on
// a token's own offset, which affine blocks pay 24 bits more for, makes up for it in values.)
TEST(FeedbackQuantizer, TrellisBeatsScalarCodesOfTheSameWidth) {
  const Block b = block();
  for (const int bits : {2, 4}) {
    Quantizer scalar = quantizer(
        (std::string(R"({"value_rotation": false, "value_bits": )") + std::to_string(bits) +
         R"(, "error_feedback": true, "key_bits_mean": )" + std::to_string(bits) + "}")
            .c_str());
    Quantizer trellis = quantizer(
        (std::string(R"({"policy": "trellis", "value_rotation": false, "value_bits_mean": )") +
         std::to_string(bits) + R"(, "key_bits_mean": )" + std::to_string(bits) + "}")
            .c_str());
    const auto plain = scalar->seal_adaptive(b.keys, b.values, moments(b));
    const auto coded = trellis->seal_adaptive(b.keys, b.values, moments(b));
    EXPECT_LT(coded->value_bytes, plain->value_bytes);
    EXPECT_LT(coded->key_bytes, plain->key_bytes);
    EXPECT_LT(logit_error(b, trellis->dequantize(*coded).keys),
              logit_error(b, scalar->dequantize(*plain).keys))
        << bits;
    const auto error = [&](const at::Tensor& values) {
      return (values - b.values).square().mean().item<double>();
    };
    EXPECT_LT(error(trellis->dequantize(*coded).values), error(scalar->dequantize(*plain).values))
        << bits;
    EXPECT_EQ(coded->tally.value_widths[bits], kKvHeads * kDim);
  }
}

TEST(FeedbackQuantizer, FractionsOfAValueBitAreWiderPairs) {
  const Block b = block();
  Quantizer trellis = quantizer(R"({"policy": "trellis", "value_bits_mean": 3.75})");
  const auto coded = trellis->seal_adaptive(b.keys, b.values, moments(b));
  EXPECT_EQ(coded->tally.value_widths[4], kKvHeads * 48);
  EXPECT_EQ(coded->tally.value_widths[3], kKvHeads * 16);
  EXPECT_EQ(coded->value_bytes, kKvHeads * (128 + kTokens * kDim * 15 / 4 / 8));
}

TEST(FeedbackQuantizer, WhatItNeedsIsNamed) {
  const auto config = CompressionConfig::from_json(R"({"policy": "trellis"})");
  EXPECT_THAT(error_of([&] {
                Quantizer(QuantizerOptions{kKvHeads, kDim, config});
              }),
              HasSubstr("expected 32 inverse frequencies for error feedback, got 0"));
  const Block b = block();
  Quantizer trellis = quantizer(R"({"policy": "trellis"})");
  EXPECT_THAT(error_of([&] {
                trellis->seal_adaptive(b.keys, b.values, at::ones({kKvHeads, kDim}));
              }),
              HasSubstr("moments"));
  at::Tensor bad = moments(b).clone();
  bad[1][5] = std::nan("");
  EXPECT_THAT(error_of([&] { trellis->seal_adaptive(b.keys, b.values, bad); }),
              HasSubstr("expected finite moments"));
  at::Tensor keys = b.keys.clone();
  keys[3][1][7] = 40000;
  EXPECT_THAT(error_of([&] { trellis->seal_adaptive(keys, b.values, moments(b)); }),
              HasSubstr("of magnitude at most 32752"));
}

}  // namespace
}  // namespace rillkv
