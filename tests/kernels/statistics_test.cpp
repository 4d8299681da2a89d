// absmax, min_max, add_squares and hadamard of every instruction set.
#include <cmath>
#include <limits>

#include "tests/kernels/isa_fixture.h"
#include "tests/reference/attention.h"

namespace rillkv::test {
namespace {

constexpr int kHeads = 3, kHead = 1;
constexpr int kHeadDims[] = {2, 6, 8, 14, 16, 30, 64, 66, 80, 128, 256};
constexpr int kTokens[] = {1, 2, 7, 8, 9, 31, 32, 33, 128, 200};

class StatisticsTest : public EveryIsa {
 protected:
  template <typename Body>
  void for_every_input(Body&& body) {
    for (Dtype dtype : kDtypes) {
      for (int head_dim : kHeadDims) {
        for (int tokens : kTokens) {
          ActivationBuffer x(dtype, tokens, kHeads, head_dim);
          x.fill_normal(static_cast<uint32_t>(head_dim * 1000 + tokens));
          SCOPED_TRACE(testing::Message() << isa().name << " " << dtype_name(dtype) << " D "
                                          << head_dim << " tokens " << tokens);
          body(x);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
};

TEST_P(StatisticsTest, AbsmaxIsExact) {
  for_every_input([&](ActivationBuffer& x) {
    GuardedBuffer out(sizeof(float) * static_cast<size_t>(x.head_dim()), 0xff);
    isa().absmax(x.pack_params(kHead, 128), out.as<float>());
    ASSERT_TRUE(out.intact());
    for (int c = 0; c < x.head_dim(); ++c) {
      double expected = 0;
      for (int t = 0; t < x.tokens(); ++t)
        expected = std::max(expected, std::fabs(x.get(t, kHead, c)));
      ASSERT_EQ(static_cast<double>(out.as<float>()[c]), expected) << c;
    }
  });
}

TEST_P(StatisticsTest, AbsmaxReportsNaNAndInfinityWhereverTheyAre) {
  for (Dtype dtype : kDtypes) {
    for (int bad = 0; bad < 9; ++bad) {
      for (double value : {std::nan(""), -std::nan(""), double(INFINITY), -double(INFINITY)}) {
        ActivationBuffer x(dtype, 9, kHeads, 24);
        x.fill_normal(3);
        // set() rounds finite numbers only; write the pattern of the special value.
        const uint32_t single = (std::signbit(value) ? 0xff800000u : 0x7f800000u) |
                                (std::isnan(value) ? 0x00400001u : 0u);
        const auto half = static_cast<uint16_t>((std::signbit(value) ? 0xfc00 : 0x7c00) |
                                                (std::isnan(value) ? 0x0201 : 0));
        const auto brain = static_cast<uint16_t>(single >> 16);
        const int c = (bad * 7) % 24;
        if (dtype == Dtype::kFloat32) std::memcpy(x.at(bad, kHead, c), &single, 4);
        if (dtype == Dtype::kFloat16) std::memcpy(x.at(bad, kHead, c), &half, 2);
        if (dtype == Dtype::kBFloat16) std::memcpy(x.at(bad, kHead, c), &brain, 2);
        float out[24];
        isa().absmax(x.pack_params(kHead, 32), out);
        for (int i = 0; i < 24; ++i) {
          if (i != c) {
            EXPECT_TRUE(std::isfinite(out[i])) << i;
          } else if (std::isnan(value)) {
            EXPECT_TRUE(std::isnan(out[i])) << dtype_name(dtype) << " token " << bad;
          } else {
            EXPECT_EQ(out[i], INFINITY) << dtype_name(dtype) << " token " << bad;
          }
        }
      }
    }
  }
}

TEST_P(StatisticsTest, MinMaxIsExact) {
  for_every_input([&](ActivationBuffer& x) {
    const size_t bytes = sizeof(float) * static_cast<size_t>(x.head_dim());
    GuardedBuffer lo(bytes, 0xff), hi(bytes, 0xff);
    isa().min_max(x.pack_params(kHead, 128), lo.as<float>(), hi.as<float>());
    ASSERT_TRUE(lo.intact() && hi.intact());
    for (int c = 0; c < x.head_dim(); ++c) {
      const auto channel = x.channel(kHead, c);
      ASSERT_EQ(lo.as<float>()[c], *std::min_element(channel.begin(), channel.end())) << c;
      ASSERT_EQ(hi.as<float>()[c], *std::max_element(channel.begin(), channel.end())) << c;
    }
  });
}

TEST_P(StatisticsTest, MinMaxOfMixedZerosIsPositiveZero) {
  for (Dtype dtype : kDtypes) {
    ActivationBuffer x(dtype, 5, kHeads, 40);
    x.fill([](int t, int, int c) { return (t + c) % 2 == 0 ? 0.0 : -0.0; });
    float lo[40], hi[40];
    isa().min_max(x.pack_params(kHead, 32), lo, hi);
    for (int c = 0; c < 40; ++c) {
      EXPECT_FALSE(std::signbit(lo[c]) || std::signbit(hi[c])) << c;
      EXPECT_EQ(lo[c], 0.0f);
      EXPECT_EQ(hi[c], 0.0f);
    }
  }
}

// The order is part of the definition: tokens ascending, square rounded, sum rounded.
TEST_P(StatisticsTest, AddSquaresKeepsItsOrder) {
  for_every_input([&](ActivationBuffer& x) {
    GuardedBuffer sums(sizeof(float) * static_cast<size_t>(x.head_dim()), 0);
    for (int c = 0; c < x.head_dim(); ++c) sums.as<float>()[c] = 0.1f * static_cast<float>(c);
    isa().add_squares(x.pack_params(kHead, 128), sums.as<float>());
    ASSERT_TRUE(sums.intact());
    for (int c = 0; c < x.head_dim(); ++c) {
      volatile float expected = 0.1f * static_cast<float>(c);
      for (float value : x.channel(kHead, c)) {
        volatile float square = value * value;
        expected = expected + square;
      }
      ASSERT_EQ(sums.as<float>()[c], expected) << c;
    }
  });
}

class HadamardTest : public EveryIsa {};

TEST_P(HadamardTest, MatchesItsDefinitionAndItsOrder) {
  for (Dtype dtype : kDtypes) {
    for (int head_dim : {2, 4, 8, 16, 32, 64, 128, 256}) {
      for (int tokens : {1, 3, 33}) {
        SCOPED_TRACE(testing::Message()
                     << isa().name << " " << dtype_name(dtype) << " D " << head_dim);
        ActivationBuffer x(dtype, tokens, kHeads, head_dim), y(dtype, tokens, kHeads, head_dim);
        x.fill_normal(static_cast<uint32_t>(head_dim));
        const auto untouched = y.bytes();
        isa().hadamard(x.pack_params(kHead, 128), y.mutable_activation());
        ASSERT_TRUE(y.gaps_intact());
        for (int t = 0; t < tokens; ++t) {
          // Exactly: the butterflies in fp32 in ascending span, one product, one rounding.
          std::vector<float> z = x.row(t, kHead);
          for (size_t span = 1; span < z.size(); span *= 2) {
            for (size_t i = 0; i < z.size(); ++i) {
              if ((i & span) != 0) continue;
              const float a = z[i], b = z[i + span];
              z[i] = a + b;
              z[i + span] = a - b;
            }
          }
          const auto factor = static_cast<float>(1.0 / std::sqrt(double(head_dim)));
          reference::Vector exact(static_cast<size_t>(head_dim));
          for (int c = 0; c < head_dim; ++c) exact[size_t(c)] = x.get(t, kHead, c);
          double norm = 0;
          for (double element : exact) norm += element * element;
          exact = reference::hadamard(exact);
          for (int c = 0; c < head_dim; ++c) {
            uint8_t expected[4];
            const float product = z[size_t(c)] * factor;
            store_element(static_cast<double>(product), dtype, expected);
            ASSERT_EQ(y.get(t, kHead, c), load_element(dtype, expected)) << t << " " << c;
            // log2(D) + 1 roundings of partial sums that never exceed the row's length in all, and
            // the rounding of the result.
            const double fp32 = (std::log2(head_dim) + 2) * std::ldexp(std::sqrt(norm), -24);
            const double last = dtype == Dtype::kFloat32
                                    ? 0
                                    : std::fabs(exact[size_t(c)]) *
                                          std::ldexp(1.0, dtype == Dtype::kFloat16 ? -11 : -8);
            const double error = std::fabs(y.get(t, kHead, c) - exact[size_t(c)]);
            ASSERT_TRUE(error <= fp32 + last + 1e-7) << t << " " << c << " " << error;
          }
        }
        // Other heads stay as they were, and in place gives the same.
        isa().hadamard(x.pack_params(kHead, 128), x.mutable_activation());
        ASSERT_TRUE(x.gaps_intact());
        for (int t = 0; t < tokens; ++t) {
          for (int c = 0; c < head_dim; ++c) {
            ASSERT_EQ(x.get(t, kHead, c), y.get(t, kHead, c));
            ASSERT_TRUE(std::isnan(y.get(t, 0, c)) && std::isnan(y.get(t, 2, c)));
          }
        }
      }
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_ISA(StatisticsTest);
RILLKV_INSTANTIATE_FOR_EVERY_ISA(HadamardTest);

}  // namespace
}  // namespace rillkv::test
