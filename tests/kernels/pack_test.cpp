// Packers of every instruction set: the bytes of the reference quantiser, the format's own reading
// of them, and how far values are from what went in.
#include <gtest/gtest-spi.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/packed_format.h"
#include "tests/kernels/isa_fixture.h"
#include "tests/reference/packed_block.h"
#include "tests/reference/quantizer.h"

namespace rillkv::test {
namespace {

using kernels::cpu::PackParams;
using reference::PackedBlock;
using reference::QuantizedRow;

constexpr int kHeads = 2, kHead = 1;
constexpr int kHeadDims[] = {2, 6, 8, 64, 80, 128};
constexpr int kBlockSizes[] = {32, 64, 128, 256};

/// Inputs that have hurt quantisers before.
enum class Kind { kNormal, kOffset, kConstant, kOutliers, kTiny, kHuge, kSteps, kZeros };
constexpr Kind kKinds[] = {Kind::kNormal, Kind::kOffset, Kind::kConstant, Kind::kOutliers,
                           Kind::kTiny,   Kind::kHuge,   Kind::kSteps,    Kind::kZeros};

void fill(ActivationBuffer& x, Kind kind, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::uniform_int_distribution<int> small(-8, 7);
  // The largest magnitude that is let in, and bf16's next below it.
  const double huge = x.dtype() == Dtype::kBFloat16 ? 32640.0 : 32752.0;
  x.fill([&](int t, int h, int c) {
    const double n = normal(random);
    switch (kind) {
      case Kind::kNormal:
        return n;
      case Kind::kOffset:  // offset >> range, of either sign
        return (c % 2 == 0 ? 300.0 : -300.0) + 0.01 * n;
      case Kind::kConstant:  // some representable in fp16, some not
        return c % 3 == 0 ? 0.0 : c % 3 == 1 ? -1.5 : 1.00001;
      case Kind::kOutliers:
        return (t * 31 + c * 17 + h) % 97 == 0 ? 500 * n : n;
      case Kind::kTiny:  // steps in fp16's subnormal range and below it
        return 1e-6 * n * (c % 4);
      case Kind::kHuge:
        return (t + c) % 2 == 0 ? huge : (c % 5 == 0 ? 0.1 * n : -huge);
      case Kind::kSteps:  // ties of rint at many widths
        return 0.5 * small(random);
      case Kind::kZeros:  // zeros of either sign
        return (t + c) % 2 == 0 ? 0.0 : -0.0;
    }
    return 0.0;
  });
}

std::vector<int> random_widths(int head_dim, int least, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> width(least, 8);
  std::vector<int> widths(static_cast<size_t>(head_dim));
  for (int& w : widths) w = width(random);
  return widths;
}

void pad_codes(QuantizedRow& row, size_t count) { row.codes.resize(count, 0); }

class PackTest : public EveryIsa {
 protected:
  /// Every dtype, kind of input and a choice of block and token counts.
  template <typename Body>
  void for_every_input(int head_dim, Body&& body) {
    uint32_t seed = 1;
    for (Dtype dtype : kDtypes) {
      for (int block_size : kBlockSizes) {
        for (int tokens : {block_size, block_size - 1, 17, 1}) {
          for (Kind kind : kKinds) {
            // All kinds for one token count, one kind for each of the others.
            ++seed;
            if (tokens != block_size && static_cast<uint32_t>(kind) != seed % 8) continue;
            ActivationBuffer x(dtype, tokens, kHeads, head_dim);
            fill(x, kind, seed);
            SCOPED_TRACE(testing::Message()
                         << isa().name << " " << dtype_name(dtype) << " D " << head_dim << " block "
                         << block_size << " tokens " << tokens << " kind " << int(kind));
            body(x, block_size, seed);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }

  /// Bytes, values and steps of pack_channels_affine.
  void check_channels_affine(int head_dim);

  void expect_bytes(const GuardedBuffer& out, const std::vector<uint8_t>& expected) {
    ASSERT_TRUE(out.intact()) << "wrote outside the block";
    ASSERT_EQ(first_difference(out.bytes(), expected), -1) << "first differing byte";
  }
};

// What a value may be off by: half a step, plus what fp32 loses in x - lo and in the quotient
// (2^-23 of the range together), which can tip a value that lies between two codes to the farther
// one.
double affine_tolerance(double step, double lo, double hi) {
  return step / 2 + std::ldexp(hi - lo, -22);
}

// How far an unpacked lo + step * code may be from its exact value. step is fp16 and has 11
// significant bits, a code at most 8: fp32's 24 hold their product exactly. The sum rounds once, by
// at most 2^-24 of its value: it is a multiple of 2^-24, as lo and step are, so never subnormal.
double unpacked_tolerance(double value) { return std::ldexp(std::fabs(value), -24); }

void PackTest::check_channels_affine(int head_dim) {
  for_every_input(head_dim, [&](ActivationBuffer& x, int block_size, uint32_t seed) {
    const std::vector<int> widths = random_widths(head_dim, 1, seed);
    PackedBlock block;
    block.widths = widths;
    std::vector<float> lo, hi;
    for (int c = 0; c < head_dim; ++c) {
      const auto channel = x.channel(kHead, c);
      lo.push_back(*std::min_element(channel.begin(), channel.end()));
      hi.push_back(*std::max_element(channel.begin(), channel.end()));
      QuantizedRow row = reference::quantize_affine(channel, widths[size_t(c)]);
      ASSERT_EQ(row.clipped, 0);
      pad_codes(row, size_t(block_size));
      block.lo.push_back(row.lo);
      block.step.push_back(row.step);
      block.codes.push_back(row.codes);
    }
    GuardedBuffer out(
        static_cast<size_t>(reference::channel_block_size(block_size, widths, false)));
    ASSERT_EQ(format::channel_block_bytes(head_dim, block_size, false,
                                          std::accumulate(widths.begin(), widths.end(), 0)),
              out.size());
    const auto stored = stored_widths(widths);
    isa().pack_channels_affine(x.pack_params(kHead, block_size), lo.data(), hi.data(),
                               stored.data(), out.data());
    expect_bytes(out, reference::write_channel_block(block, block_size, false));
    if (HasFatalFailure()) return;

    const auto values = reference::channel_block_values(
        reference::read_channel_block(out.data(), block_size, head_dim, false), false);
    std::vector<float> unpacked(static_cast<size_t>(x.tokens() * head_dim));
    kernels::cpu::unpack_channels(out.data(), x.tokens(), block_size, head_dim, false,
                                  unpacked.data());
    for (int c = 0; c < head_dim; ++c) {
      const double step = reference::half_value(block.step[size_t(c)]);
      for (int t = 0; t < x.tokens(); ++t) {
        const double value = values[size_t(t)][size_t(c)];
        const double error = std::fabs(value - x.get(t, kHead, c));
        ASSERT_TRUE(error <= affine_tolerance(step, lo[size_t(c)], hi[size_t(c)]))
            << "channel " << c << " token " << t << " error " << error << " step " << step;
        ASSERT_TRUE(std::fabs(unpacked[size_t(t * head_dim + c)] - value) <=
                    unpacked_tolerance(value))
            << "channel " << c << " token " << t << " value " << value;
      }
      // The step is no coarser than needed: two fp16 roundings, of lo and of the step, each at
      // most 2^-10 relative or 2^-24.
      const int top = (1 << widths[size_t(c)]) - 1;
      const double range = double(hi[size_t(c)]) - double(lo[size_t(c)]) +
                           std::ldexp(std::fabs(lo[size_t(c)]), -10) + std::ldexp(1.0, -24);
      ASSERT_TRUE(step <= range / top * (1 + std::ldexp(1.0, -9)) + std::ldexp(1.0, -24)) << c;
    }
  });
}

TEST_P(PackTest, ChannelsAffine) {
  for (int head_dim : kHeadDims) check_channels_affine(head_dim);
}

TEST_P(PackTest, ConstantChannelsThatFp16RepresentsHaveStepAndCodesZero) {
  for (Dtype dtype : kDtypes) {
    ActivationBuffer x(dtype, 128, kHeads, 8);
    const double constants[] = {0, -0.0, 1, -1.5, 0.25, 32752, -32752, 1.0 / 1024};
    x.fill([&](int, int, int c) { return constants[c]; });
    std::vector<float> lo(8), hi(8);
    isa().min_max(x.pack_params(kHead, 128), lo.data(), hi.data());
    const std::vector<int> widths = {1, 2, 3, 4, 5, 6, 7, 8};
    const auto stored = stored_widths(widths);
    GuardedBuffer out(static_cast<size_t>(reference::channel_block_size(128, widths, false)));
    isa().pack_channels_affine(x.pack_params(kHead, 128), lo.data(), hi.data(), stored.data(),
                               out.data());
    const PackedBlock block = reference::read_channel_block(out.data(), 128, 8, false);
    const auto values = reference::channel_block_values(block, false);
    for (size_t c = 0; c < 8; ++c) {
      EXPECT_EQ(block.step[c], 0) << c;
      for (int code : block.codes[c]) ASSERT_EQ(code, 0) << c;
      for (size_t t = 0; t < 128; ++t) ASSERT_EQ(values[t][c], x.get(int(t), kHead, int(c)));
    }
  }
}

TEST_P(PackTest, ChannelsSymmetric) {
  for (int head_dim : kHeadDims) {
    for_every_input(head_dim, [&](ActivationBuffer& x, int block_size, uint32_t seed) {
      const std::vector<int> widths = random_widths(head_dim, 2, seed);
      PackedBlock block;
      block.widths = widths;
      std::vector<float> absmax;
      int64_t expected_clipped = 0;
      for (int c = 0; c < head_dim; ++c) {
        const auto channel = x.channel(kHead, c);
        float most = 1e-5f;  // the policy's floor
        for (float value : channel) most = std::max(most, std::fabs(value));
        // An EMA lags behind: smaller than some values in every third channel.
        absmax.push_back(c % 3 == 0 ? most : most * (c % 3 == 1 ? 0.6f : 1.7f));
        if (absmax.back() > 32752.0f) absmax.back() = 32752.0f;
        QuantizedRow row = reference::quantize_symmetric(channel, absmax.back(), widths[size_t(c)]);
        expected_clipped += row.clipped;
        pad_codes(row, size_t(block_size));
        block.step.push_back(row.step);
        block.codes.push_back(row.codes);
      }
      GuardedBuffer out(
          static_cast<size_t>(reference::channel_block_size(block_size, widths, true)));
      ASSERT_EQ(format::channel_block_bytes(head_dim, block_size, true,
                                            std::accumulate(widths.begin(), widths.end(), 0)),
                out.size());
      const auto stored = stored_widths(widths);
      const int64_t clipped = isa().pack_channels_symmetric(
          x.pack_params(kHead, block_size), absmax.data(), stored.data(), out.data());
      ASSERT_EQ(clipped, expected_clipped);
      expect_bytes(out, reference::write_channel_block(block, block_size, true));
      if (HasFatalFailure()) return;

      const auto values = reference::channel_block_values(
          reference::read_channel_block(out.data(), block_size, head_dim, true), true);
      std::vector<float> unpacked(static_cast<size_t>(x.tokens() * head_dim));
      kernels::cpu::unpack_channels(out.data(), x.tokens(), block_size, head_dim, true,
                                    unpacked.data());
      for (int c = 0; c < head_dim; ++c) {
        const double step = reference::half_value(block.step[size_t(c)]);
        const int half = 1 << (widths[size_t(c)] - 1);
        for (int t = 0; t < x.tokens(); ++t) {
          const double input = x.get(t, kHead, c), value = values[size_t(t)][size_t(c)];
          ASSERT_EQ(static_cast<double>(unpacked[size_t(t * head_dim + c)]), value);
          // Clipped values go to the nearest end; the others are within half a step, and fp32's
          // quotient is off by at most 2^-24 of it.
          const double nearest = std::clamp(input, -half * step, (half - 1) * step);
          const double tolerance = step / 2 + std::ldexp(std::fabs(input), -23);
          ASSERT_TRUE(std::fabs(value - nearest) <= tolerance) << c << " " << t;
        }
      }
    });
  }
}

TEST_P(PackTest, TokensAffine) {
  for (int head_dim : kHeadDims) {
    for_every_input(head_dim, [&](ActivationBuffer& x, int block_size, uint32_t seed) {
      const int bits = 1 + static_cast<int>(seed % 8);
      const int groups = std::min(head_dim / 2, static_cast<int>(1 + seed / 8 % 5));
      PackedBlock block;
      block.widths = {bits};
      block.lo.assign(size_t(groups * block_size), 0);
      block.step.assign(size_t(groups * block_size), 0);
      block.codes.assign(size_t(block_size), std::vector<int>(size_t(head_dim), 0));
      std::vector<QuantizedRow> rows;
      int64_t expected_clipped = 0;
      for (int t = 0; t < x.tokens(); ++t) {
        for (int g = 0; g < groups; ++g) {
          std::vector<float> values;
          std::vector<size_t> channels;
          for (int c = 0; c < head_dim; ++c) {
            if (reference::group_of(c, groups, head_dim) != g) continue;
            channels.push_back(size_t(c));
            values.push_back(static_cast<float>(x.get(t, kHead, c)));
          }
          const QuantizedRow row = bits == 2 ? reference::quantize_affine_clipped(values, bits)
                                             : reference::quantize_affine(values, bits);
          expected_clipped += row.clipped;
          block.lo[size_t(g * block_size + t)] = row.lo;
          block.step[size_t(g * block_size + t)] = row.step;
          for (size_t i = 0; i < channels.size(); ++i) {
            block.codes[size_t(t)][channels[i]] = row.codes[i];
          }
          if (bits != 2) {
            const auto [lo, hi] = std::minmax_element(values.begin(), values.end());
            const double step = reference::half_value(row.step);
            for (size_t i = 0; i < values.size(); ++i) {
              const double value = reference::half_value(row.lo) + step * row.codes[i];
              ASSERT_TRUE(std::fabs(value - double(values[i])) <= affine_tolerance(step, *lo, *hi));
            }
          }
        }
      }
      GuardedBuffer out(static_cast<size_t>(
          reference::token_block_size(block_size, head_dim, groups, false, bits)));
      ASSERT_EQ(format::token_block_bytes(block_size, head_dim, groups, false, bits), out.size());
      const int64_t clipped =
          isa().pack_tokens_affine(x.pack_params(kHead, block_size), groups, bits, out.data());
      ASSERT_EQ(clipped, expected_clipped) << "bits " << bits << " groups " << groups;
      expect_bytes(out, reference::write_token_block(block, head_dim, groups, false));
      if (HasFatalFailure()) return;

      std::vector<float> unpacked(static_cast<size_t>(x.tokens() * head_dim));
      kernels::cpu::unpack_tokens(out.data(), x.tokens(), block_size, head_dim, groups, false, bits,
                                  unpacked.data());
      const auto values = reference::token_block_values(
          reference::read_token_block(out.data(), block_size, head_dim, groups, false, bits),
          head_dim, groups, false);
      for (int t = 0; t < x.tokens(); ++t) {
        for (int c = 0; c < head_dim; ++c) {
          const double value = values[size_t(t)][size_t(c)];
          ASSERT_TRUE(std::fabs(unpacked[size_t(t * head_dim + c)] - value) <=
                      unpacked_tolerance(value))
              << "channel " << c << " token " << t << " value " << value;
        }
      }
    });
  }
}

// The search pays: with outliers in a row, the shrunk range has the smaller squared error, and it
// is never worse than the plain range.
TEST_P(PackTest, TheTwoBitSearchIsNeverWorseThanTheFullRange) {
  ActivationBuffer x(Dtype::kFloat32, 128, kHeads, 64);
  x.fill_normal(5);
  GuardedBuffer out(static_cast<size_t>(reference::token_block_size(128, 64, 1, false, 2)));
  EXPECT_GT(isa().pack_tokens_affine(x.pack_params(kHead, 128), 1, 2, out.data()), 0);
  const auto values = reference::token_block_values(
      reference::read_token_block(out.data(), 128, 64, 1, false, 2), 64, 1, false);
  double searched = 0, plain = 0;
  for (int t = 0; t < 128; ++t) {
    const auto row = x.row(t, kHead);
    const QuantizedRow full = reference::quantize_affine(row, 2);
    double searched_row = 0, plain_row = 0;
    for (size_t c = 0; c < 64; ++c) {
      const double value =
          reference::half_value(full.lo) + reference::half_value(full.step) * full.codes[c];
      searched_row += std::pow(values[size_t(t)][c] - double(row[c]), 2);
      plain_row += std::pow(value - double(row[c]), 2);
    }
    // fp32 sums of 64 squares: a relative 2^-24 * (4 + 4) each.
    EXPECT_TRUE(searched_row <= plain_row * (1 + 1e-6)) << t;
    searched += searched_row;
    plain += plain_row;
  }
  EXPECT_LT(searched, 0.9 * plain);
}

// Rows that are there already must survive. Values are within half a step of codes, plus what
// rounding the step takes from the largest value; as they are where rows are fp16.
TEST_P(PackTest, SinksWriteTheirRowsOnly) {
  for (int head_dim : kHeadDims) {
    for (Dtype dtype : kDtypes) {
      for (Kind kind : kKinds) {
        for (int bits = 2; bits <= 8; ++bits) {
          const int capacity = 19, tokens = 6, first = (static_cast<int>(kind) * 3 + bits) % 14;
          SCOPED_TRACE(testing::Message() << isa().name << " " << dtype_name(dtype) << " D "
                                          << head_dim << " kind " << int(kind) << " bits " << bits);
          ActivationBuffer x(dtype, tokens, kHeads, head_dim);
          fill(x, kind, static_cast<uint32_t>(bits));
          PackedBlock block;
          block.widths = {bits};
          std::mt19937 random(7);
          for (int t = 0; t < capacity; ++t) {
            block.step.push_back(static_cast<uint16_t>(random() & 0x3fff));
            block.codes.emplace_back();
            for (int c = 0; c < head_dim; ++c) {
              block.codes.back().push_back(static_cast<int>(random() % (1u << bits)));
            }
          }
          const auto before = reference::write_token_block(block, head_dim, 1, true);
          GuardedBuffer out(before.size());
          ASSERT_EQ(format::sink_block_bytes(capacity, head_dim, bits), out.size());
          std::copy(before.begin(), before.end(), out.data());
          for (int t = 0; t < tokens; ++t) {
            const auto row = x.row(t, kHead);
            float absmax = 0;
            for (float value : row) absmax = std::max(absmax, std::fabs(value));
            const QuantizedRow expected = reference::quantize_symmetric(row, absmax, bits);
            block.step[size_t(first + t)] = expected.step;
            block.codes[size_t(first + t)] = expected.codes;
            const double step = reference::half_value(expected.step);
            if (absmax > 0.01f) {
              for (int c = 0; c < head_dim; ++c) {
                const double value = step * (expected.codes[size_t(c)] - (1 << (bits - 1)));
                ASSERT_TRUE(std::fabs(value - double(row[size_t(c)])) <=
                            step / 2 + std::ldexp(double(absmax), -11));
              }
            }
          }
          isa().pack_sinks(x.pack_params(kHead, capacity), first, bits, out.data());
          expect_bytes(out, reference::write_token_block(block, head_dim, 1, true));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(PackTest, SinksOfSixteenBitsAreTheNumbersThemselves) {
  constexpr int kCapacity = 19, kTokens = 6;
  for (int head_dim : {2, 6, 8, 64, 80, 128, 640}) {
    for (Dtype dtype : kDtypes) {
      for (Kind kind : kKinds) {
        const int first = static_cast<int>(kind) * 2 % 14;
        SCOPED_TRACE(testing::Message() << isa().name << " " << dtype_name(dtype) << " D "
                                        << head_dim << " kind " << int(kind));
        ActivationBuffer x(dtype, kTokens, kHeads, head_dim);
        fill(x, kind, 5);
        std::mt19937 random(7);
        std::vector<std::vector<uint16_t>> rows(kCapacity);
        for (auto& row : rows) {
          for (int c = 0; c < head_dim; ++c)
            row.push_back(static_cast<uint16_t>(random() & 0x3fff));
        }
        const auto before = reference::write_sink_rows(rows);
        GuardedBuffer out(before.size());
        ASSERT_EQ(format::sink_block_bytes(kCapacity, head_dim, 16), out.size());
        std::copy(before.begin(), before.end(), out.data());
        for (int t = 0; t < kTokens; ++t) {
          const auto row = x.row(t, kHead);
          for (int c = 0; c < head_dim; ++c) {
            const double value = double(row[size_t(c)]);
            uint16_t& stored = rows[size_t(first + t)][size_t(c)];
            stored = reference::half_round(value, reference::Direction::kNearest);
            if (stored == 0 && std::signbit(value)) stored = 0x8000;  // half_round has one zero
            // fp16's half unit: 2^-11 of the number, 2^-25 where it is subnormal. An fp16 model's
            // numbers are fp16; a bf16 model's fit from 2^-17 on (packed_format.h).
            const double error = std::fabs(reference::half_value(stored) - value);
            const bool exact = dtype == Dtype::kFloat16 ||
                               (dtype == Dtype::kBFloat16 && std::fabs(value) >= 0x1p-17);
            ASSERT_TRUE(error <= (exact ? 0 : std::max(0x1p-11 * std::fabs(value), 0x1p-25)))
                << value;
          }
        }
        isa().pack_sinks(x.pack_params(kHead, kCapacity), first, 16, out.data());
        expect_bytes(out, reference::write_sink_rows(rows));
        if (HasFatalFailure()) return;

        std::vector<float> unpacked(size_t(kCapacity) * size_t(head_dim));
        kernels::cpu::unpack_sinks(out.data(), kCapacity, kCapacity, head_dim, 16, unpacked.data());
        for (size_t i = 0; i < unpacked.size(); ++i) {
          ASSERT_EQ(double(unpacked[i]),
                    reference::half_value(rows[i / size_t(head_dim)][i % size_t(head_dim)]));
        }
      }
    }
  }
}

// pack with A, unpack with the portable code, for A of every pair: identical bytes are what the
// tests above demand of each; here two tables meet directly, on input that no reference sees.
TEST_P(PackTest, BytesAreTheSameAsEveryOtherInstructionSets) {
  const auto tables = available_kernels();
  std::mt19937 random(99);
  for (int round = 0; round < 60; ++round) {
    const int head_dim = round == 0 ? 640 : 2 * static_cast<int>(1 + random() % 80);
    const int block_size = kBlockSizes[random() % 4];
    const int tokens = 1 + static_cast<int>(random() % unsigned(block_size));
    const Dtype dtype = kDtypes[random() % 3];
    ActivationBuffer x(dtype, tokens, kHeads, head_dim);
    fill(x, kKinds[random() % 8], static_cast<uint32_t>(round));
    const auto widths = random_widths(head_dim, 2, static_cast<uint32_t>(round));
    const auto stored = stored_widths(widths);
    const int groups = 1 + static_cast<int>(random() % 4) % (head_dim / 2);
    const int bits = 2 + static_cast<int>(random() % 7);
    const auto pack_all = [&](const KernelTable& table) {
      std::vector<float> lo(size_t(head_dim), 0.0f), hi = lo, most = lo, sums = lo;
      const auto params = x.pack_params(kHead, block_size);
      table.min_max(params, lo.data(), hi.data());
      table.absmax(params, most.data());
      table.add_squares(params, sums.data());
      std::vector<std::vector<uint8_t>> bytes;
      for (const auto& floats : {lo, hi, most, sums}) {
        const auto* at = reinterpret_cast<const uint8_t*>(floats.data());
        bytes.emplace_back(at, at + 4 * floats.size());
      }
      GuardedBuffer affine(size_t(reference::channel_block_size(block_size, widths, false)));
      table.pack_channels_affine(params, lo.data(), hi.data(), stored.data(), affine.data());
      bytes.push_back(affine.bytes());
      for (float& m : most) m = std::max(1e-5f, 0.7f * m);
      GuardedBuffer symmetric(size_t(reference::channel_block_size(block_size, widths, true)));
      table.pack_channels_symmetric(params, most.data(), stored.data(), symmetric.data());
      bytes.push_back(symmetric.bytes());
      GuardedBuffer rows(
          size_t(reference::token_block_size(block_size, head_dim, groups, false, bits)));
      table.pack_tokens_affine(params, groups, bits, rows.data());
      bytes.push_back(rows.bytes());
      for (int sink_bits : {bits, 16}) {
        GuardedBuffer sinks(format::sink_block_bytes(block_size, head_dim, sink_bits), 0);
        table.pack_sinks(params, 0, sink_bits, sinks.data());
        bytes.push_back(sinks.bytes());
      }
      return bytes;
    };
    const auto mine = pack_all(isa());
    for (const KernelTable* other : tables) {
      const auto theirs = pack_all(*other);
      for (size_t i = 0; i < mine.size(); ++i) {
        ASSERT_EQ(first_difference(mine[i], theirs[i]), -1)
            << isa().name << " and " << other->name << " item " << i << " D " << head_dim
            << " block " << block_size << " tokens " << tokens << " round " << round;
      }
    }
  }
}

// The comparison of bytes must see one wrong code in the last channel of the last plane.
TEST(PackComparison, OneWrongBitIsSeen) {
  ActivationBuffer x(Dtype::kFloat32, 32, kHeads, 8);
  x.fill_normal(1);
  PackedBlock block;
  block.widths = std::vector<int>(8, 3);
  for (int c = 0; c < 8; ++c) {
    const QuantizedRow row = reference::quantize_affine(x.channel(kHead, c), 3);
    block.lo.push_back(row.lo);
    block.step.push_back(row.step);
    block.codes.push_back(row.codes);
  }
  const auto right = reference::write_channel_block(block, 32, false);
  block.codes[7][31] ^= 1;
  EXPECT_NE(first_difference(right, reference::write_channel_block(block, 32, false)), -1);
}

// Packers broken on purpose, each by a mistake that has been made before, must not pass.
const KernelTable* original = nullptr;

int width_sum(const PackParams& p, const uint8_t* widths) {
  int sum = 0;
  for (int c = 0; c < p.head_dim; ++c) sum += format::channel_width(widths, c, p.head_dim);
  return sum;
}

/// lo rounds up: the smallest value lies below the range.
void lo_rounds_up(const PackParams& p, const float* lo, const float* hi, const uint8_t* widths,
                  uint8_t* out) {
  original->pack_channels_affine(p, lo, hi, widths, out);
  auto* stored = reinterpret_cast<uint16_t*>(out);
  for (int c = 0; c < p.head_dim; ++c) {
    if (reference::half_value(stored[c]) < double(lo[c])) {
      stored[c] = reference::half_round(double(lo[c]), reference::Direction::kUp);
    }
  }
}

void low_planes_missing(const PackParams& p, const float* lo, const float* hi,
                        const uint8_t* widths, uint8_t* out) {
  original->pack_channels_affine(p, lo, hi, widths, out);
  size_t at = format::channel_codes_offset(p.head_dim, false);
  for (int c = 0; c < p.head_dim; ++c) {
    at += static_cast<size_t>(format::nibble_planes(format::channel_width(widths, c, p.head_dim))) *
          format::plane_bytes(p.block_size, 4);
  }
  std::fill(
      out + at,
      out + format::channel_block_bytes(p.head_dim, p.block_size, false, width_sum(p, widths)),
      uint8_t{0});
}

void pair_swapped(const PackParams& p, const float* lo, const float* hi, const uint8_t* widths,
                  uint8_t* out) {
  std::vector<uint8_t> swapped(widths, widths + p.head_dim / 2);
  for (uint8_t& pair : swapped) pair = static_cast<uint8_t>(pair >> 4 | pair << 4);
  original->pack_channels_affine(p, lo, hi, swapped.data(), out);
}

TEST_P(PackTest, BrokenPackersAreCaught) {
  original = &isa();
  for (auto mutant : {lo_rounds_up, low_planes_missing, pair_swapped}) {
    KernelTable table = *original;
    table.pack_channels_affine = mutant;
    use(table);
    testing::TestPartResultArray results;
    {
      testing::ScopedFakeTestPartResultReporter intercept(
          testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
      check_channels_affine(64);
    }
    use(*original);
    EXPECT_GT(results.size(), 0) << (mutant == lo_rounds_up         ? "lo rounds up"
                                     : mutant == low_planes_missing ? "low planes missing"
                                                                    : "pair swapped");
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_ISA(PackTest);

}  // namespace
}  // namespace rillkv::test
