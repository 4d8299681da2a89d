// Blocks packed with error feedback: the bytes of the reference's fp32 steps, those of
// pack_channels_affine where nothing is fed back, and what feedback gains.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/feedback_case.h"
#include "tests/reference/packed_block.h"

namespace rillkv::test {
namespace {

constexpr int kHeads = 2, kHead = 1;
using reference::PackedBlock;

std::vector<int> random_widths(int head_dim, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> width(1, 8);
  std::vector<int> widths(static_cast<size_t>(head_dim));
  for (int& w : widths) w = width(random);
  return widths;
}

/// Any order of channels, any weights.
PlanBuffers random_plan(int head_dim, double weight, uint32_t seed) {
  PlanBuffers plan(head_dim);
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<int> order(static_cast<size_t>(head_dim));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  for (int k = 0; k < head_dim; ++k) {
    plan.order(k) = static_cast<uint16_t>(order[size_t(k)]);
    for (int j = 0; j < k; ++j) {
      plan.weight(k, j) = static_cast<float>(weight * normal(random) / std::sqrt(k));
    }
  }
  return plan;
}

class FeedbackPackTest : public EveryIsa {
 protected:
  std::vector<uint8_t> pack(ActivationBuffer& x, int block_size, const PlanBuffers& plan,
                            const std::vector<int>& widths) {
    GuardedBuffer out(
        static_cast<size_t>(reference::channel_block_size(block_size, widths, false)));
    GuardedBuffer workspace(kernels::cpu::feedback_workspace_bytes(x.head_dim(), block_size), 0xff);
    const auto stored = stored_widths(widths);
    isa().pack_channels_feedback(x.pack_params(kHead, block_size), plan.view(), stored.data(),
                                 workspace.data(), out.data());
    EXPECT_TRUE(out.intact()) << "wrote outside the block";
    EXPECT_TRUE(workspace.intact()) << "wrote outside the workspace";
    EXPECT_TRUE(plan.intact());
    return out.bytes();
  }

  /// Bytes of the reference; returns how many numbers were clamped.
  int64_t check(ActivationBuffer& x, int block_size, const PlanBuffers& plan,
                const std::vector<int>& widths) {
    const int D = x.head_dim();
    std::vector<std::vector<float>> keys, weights;
    std::vector<int> order;
    for (int c = 0; c < D; ++c) {
      keys.push_back(x.channel(kHead, c));
      order.push_back(plan.order(c));
      weights.emplace_back();
      for (int j = 0; j < c; ++j) weights.back().push_back(plan.weight(c, j));
    }
    int64_t clamped = 0;
    const PackedBlock expected =
        reference::feed_back(keys, order, weights, widths, block_size, clamped);
    for (size_t c = 0; c < expected.lo.size(); ++c) {
      EXPECT_TRUE(std::isfinite(reference::half_value(expected.lo[c])) &&
                  std::isfinite(reference::half_value(expected.step[c])));
    }
    EXPECT_EQ(first_difference(pack(x, block_size, plan, widths),
                               reference::write_channel_block(expected, block_size, false)),
              -1)
        << isa().name << " " << dtype_name(x.dtype()) << " D " << D << " block " << block_size
        << " tokens " << x.tokens() << ": first differing byte";
    return clamped;
  }
};

TEST_P(FeedbackPackTest, BytesAreThoseOfTheReferencesSteps) {
  uint32_t seed = 1;
  for (Dtype dtype : kDtypes) {
    for (int D : {2, 6, 20, 64, 66, 80, 128}) {
      for (int block_size : {32, 64, 128, 256}) {
        for (int tokens : {block_size, block_size - 1, 17, 1}) {
          ++seed;
          if (D > 20 && tokens != block_size && seed % 3 != 0) continue;
          ActivationBuffer x(dtype, tokens, kHeads, D);
          x.fill_normal(seed, std::pow(10.0, double(seed % 5) - 2));
          check(x, block_size, random_plan(D, 0.7, seed), random_widths(D, seed));
          if (HasFailure()) return;
        }
      }
    }
  }
}

// Longer rows than the SIMD versions take.
TEST_P(FeedbackPackTest, AnyHeadDimension) {
  ActivationBuffer x(Dtype::kBFloat16, 20, kHeads, 514);
  x.fill_normal(9);
  check(x, 32, random_plan(514, 0.7, 9), random_widths(514, 9));
}

TEST_P(FeedbackPackTest, NothingFedBackIsAnAffineBlock) {
  for (int D : {6, 64, 80, 128}) {
    for (int block_size : {32, 64, 128, 256}) {
      for (int tokens : {block_size, block_size / 2 - 1}) {
        // A moment without products of different channels, and alike in the channels of a pair.
        FeedbackCase c(D, 1);
        std::fill(c.moment.begin(), c.moment.end(), 0.0f);
        for (int i = 0; i < D; ++i) {
          c.moment[kernels::moment_at(i, i)] = static_cast<float>(1 + i % (D / 2) * 7 % 5);
        }
        const PlanBuffers plan = c.plan(isa());
        for (int k = 0; k < D; ++k) {
          for (int j = 0; j < k; ++j) ASSERT_EQ(plan.weight(k, j), 0.0f);
        }
        ActivationBuffer x(Dtype::kBFloat16, tokens, kHeads, D);
        x.fill([&, random = std::mt19937(3), normal = std::normal_distribution<double>()](
                   int t, int, int channel) mutable {
          // Some constant, some of zeros of two signs.
          if (channel % 5 == 0) return channel % 2 == 0 ? -1.5 : 1.00001;
          return channel % 7 == 0 ? (t % 2 == 0 ? -0.0 : 0.0) : normal(random);
        });
        const auto widths = random_widths(D, static_cast<uint32_t>(D));
        const auto params = x.pack_params(kHead, block_size);
        std::vector<float> lo(static_cast<size_t>(D)), hi = lo;
        isa().min_max(params, lo.data(), hi.data());
        GuardedBuffer out(
            static_cast<size_t>(reference::channel_block_size(block_size, widths, false)));
        isa().pack_channels_affine(params, lo.data(), hi.data(), stored_widths(widths).data(),
                                   out.data());
        EXPECT_EQ(first_difference(pack(x, block_size, plan, widths), out.bytes()), -1)
            << isa().name << " D " << D << " block " << block_size << " tokens " << tokens;
      }
    }
  }
}

TEST_P(FeedbackPackTest, HugeKeysAndConstantChannels) {
  int64_t clamped = 0;
  for (Dtype dtype : kDtypes) {
    const double huge = dtype == Dtype::kBFloat16 ? 32640.0 : 32752.0;
    for (int kind = 0; kind < 4; ++kind) {
      ActivationBuffer x(dtype, 64, kHeads, 20);
      std::mt19937 random(static_cast<uint32_t>(kind));
      std::normal_distribution<double> normal;
      x.fill([&](int t, int, int c) {
        if (kind == 0) return (t + c) % 3 == 0 ? huge : -huge;
        if (kind == 1) return c % 2 == 0 ? -1.5 : 1.00001;           // steps of 0, and of one fp16
        if (kind == 2) return 1e-6 * normal(random) * (c % 4);       // subnormal steps, and none
        return (t * 31 + c * 17) % 97 == 0 ? huge : normal(random);  // outliers
      });
      // Weights of many times what a plan has, so that sums leave the range.
      clamped += check(x, 64, random_plan(20, 5.0, static_cast<uint32_t>(kind)),
                       random_widths(20, static_cast<uint32_t>(kind)));
    }
  }
  EXPECT_GT(clamped, 100) << "the clamp was not tested";
}

// What feedback is for. Rounding errors are uniform, so channel k's counts step_k^2 / 12: with
// feedback the loss of a token is sum d_k step_k^2 / 12 (the loss is a sum of squares of d_k's
// weight, and in each exactly one rounding is left), without it sum M_kk step_k^2 / 12.
TEST_P(FeedbackPackTest, TheExpectedLogitErrorFallsAsTheFactorisationSays) {
  for (int D : {64, 128}) {
    const int tokens = 128;
    const FeedbackCase c(D, 1);
    const PlanBuffers plan = c.plan(isa());
    PlanBuffers without = c.plan(isa());
    for (int k = 0; k < D; ++k) {
      for (int j = 0; j < k; ++j) without.weight(k, j) = 0;
    }
    ActivationBuffer x(Dtype::kFloat32, tokens, kHeads, D);
    x.fill_normal(11);
    const std::vector<int> widths(static_cast<size_t>(D), 6);
    double measured[2], predicted[2];
    for (int fed : {0, 1}) {
      const PlanBuffers& used = fed ? plan : without;
      const auto bytes = pack(x, tokens, used, widths);
      const PackedBlock block = reference::read_channel_block(bytes.data(), tokens, D, false);
      const auto values = reference::channel_block_values(block, false);
      measured[fed] = predicted[fed] = 0;
      for (int k = 0; k < D; ++k) {
        const double step = reference::half_value(block.step[plan.order(k)]);
        // M_kk = sum over l >= k of B_lk^2 d_l, B_kk = 1.
        double energy = double(plan.sensitivity(k));
        for (int l = k + 1; l < D && !fed; ++l) {
          energy += double(plan.sensitivity(l)) * std::pow(double(plan.weight(l, k)), 2);
        }
        predicted[fed] += tokens * energy * step * step / 12;
      }
      for (int t = 0; t < tokens; ++t) {
        const auto error = [&](int k) {
          return x.get(t, kHead, plan.order(k)) - values[size_t(t)][plan.order(k)];
        };
        for (int k = 0; k < D; ++k) {
          double sum = error(k);
          for (int j = 0; j < k; ++j) sum += double(plan.weight(k, j)) * error(j);
          measured[fed] += double(plan.sensitivity(k)) * sum * sum;
        }
      }
      // The squares of T D independent uniform errors: each has a relative deviation of 0.9, so
      // their weighted mean at most 0.9 / sqrt(T) even if one channel had all the weight: 8 %, and
      // four deviations are 32 %.
      EXPECT_TRUE(std::fabs(measured[fed] / predicted[fed] - 1) <= 0.32)
          << isa().name << " D " << D << " fed " << fed << ": " << measured[fed] << " "
          << predicted[fed];
    }
    // The queries of this case share a direction, which is half of their energy; by the formula
    // above feedback leaves 0.73 (D = 64) and 0.62 of the loss.
    EXPECT_LT(measured[1], 0.8 * measured[0]) << isa().name << " D " << D;
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_ISA(FeedbackPackTest);

}  // namespace
}  // namespace rillkv::test
