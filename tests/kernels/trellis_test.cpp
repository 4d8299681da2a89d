// Packers of trellis blocks of every instruction set: the scalar kernels' bytes, their layout and
// their values against the reference, and what the trellis gains.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/packed_format.h"
#include "tests/kernels/isa_fixture.h"
#include "tests/reference/trellis.h"

namespace rillkv::test {
namespace {

using kernels::FeedbackPlan;
using kernels::cpu::PackParams;
using reference::TrellisBlock;

constexpr int kHeads = 2, kHead = 1;

enum class Kind { kNormal, kOffset, kConstant, kOutliers, kTiny, kHuge, kSteps, kZeros };
constexpr Kind kKinds[] = {Kind::kNormal, Kind::kOffset, Kind::kConstant, Kind::kOutliers,
                           Kind::kTiny,   Kind::kHuge,   Kind::kSteps,    Kind::kZeros};

void fill(ActivationBuffer& x, Kind kind, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const double huge = x.dtype() == Dtype::kBFloat16 ? 32640.0 : 32752.0;
  x.fill([&](int t, int h, int c) {
    const double n = normal(random);
    switch (kind) {
      case Kind::kNormal:
        return n * (1 + c % 5);
      case Kind::kOffset:  // offset >> range, of either sign
        return (c % 2 == 0 ? 300.0 : -300.0) + 0.01 * n;
      case Kind::kConstant:
        return c % 3 == 0 ? 0.0 : c % 3 == 1 ? -1.5 : 1.00001;
      case Kind::kOutliers:
        return (t * 31 + c * 17 + h) % 97 == 0 ? 500 * n : n;
      case Kind::kTiny:  // below the smallest step, down to denormal numbers
        return (c % 4 == 3 ? 1e-40 : 1e-6) * n * (c % 4);
      case Kind::kHuge:
        return (t + c) % 2 == 0 ? huge : (c % 5 == 0 ? 0.1 * n : -huge);
      case Kind::kSteps:
        return 0.5 * std::nearbyint(4 * n);
      case Kind::kZeros:  // of either sign
        return (t + c) % 2 == 0 ? 0.0 : -0.0;
    }
    return 0.0;
  });
}

/// A plan with random weights; its order is any.
class Plan {
 public:
  Plan(int head_dim, uint32_t seed, double deviation) : D_(static_cast<size_t>(head_dim)) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0.0, 1.0);
    order_.resize(D_);
    std::iota(order_.begin(), order_.end(), uint16_t{0});
    std::shuffle(order_.begin(), order_.end(), random);
    sensitivities_.assign(D_, 1.0f);
    weights_.assign(D_ * D_, std::nanf(""));
    for (size_t k = 0; k < D_; ++k) {
      for (size_t j = 0; j < k; ++j) {
        weights_[k * D_ + j] = static_cast<float>(deviation * normal(random));
      }
    }
  }
  FeedbackPlan params() { return {order_.data(), sensitivities_.data(), weights_.data()}; }
  size_t channel(size_t position) const { return order_[position]; }
  double weight(size_t k, size_t j) const { return double(weights_[k * D_ + j]); }

 private:
  size_t D_;
  std::vector<uint16_t> order_;
  std::vector<float> sensitivities_, weights_;
};

std::vector<int> random_widths(int head_dim, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int> widths(static_cast<size_t>(head_dim));
  for (int p = 0; p < head_dim / 2; ++p) {
    widths[size_t(p)] = widths[size_t(p + head_dim / 2)] = 1 + static_cast<int>(random() % 7);
  }
  return widths;
}

size_t key_bytes(const std::vector<int>& widths, int block_size) {
  return format::trellis_key_bytes(static_cast<int>(widths.size()), block_size,
                                   std::accumulate(widths.begin(), widths.end(), 0));
}

class TrellisTest : public EveryIsa {
 protected:
  static std::vector<uint8_t> pack_keys(const KernelTable& table, ActivationBuffer& x,
                                        int block_size, Plan& plan, const std::vector<int>& widths,
                                        int kv_head = kHead) {
    GuardedBuffer out(key_bytes(widths, block_size));
    GuardedBuffer workspace(kernels::cpu::feedback_workspace_bytes(x.head_dim(), block_size));
    const auto stored = stored_widths(widths);
    const kernels::cpu::TrellisKeys head = {x.pack_params(kv_head, block_size), plan.params(),
                                            stored.data(), workspace.data(), out.data()};
    table.pack_trellis_keys(&head, 1);
    EXPECT_TRUE(out.intact() && workspace.intact()) << "wrote outside the block";
    EXPECT_TRUE(x.gaps_intact());
    return out.bytes();
  }
  static std::vector<uint8_t> pack_values(const KernelTable& table, ActivationBuffer& x,
                                          int block_size, int width, int wide_pairs) {
    GuardedBuffer out(format::trellis_value_bytes(x.head_dim(), block_size, width, wide_pairs));
    table.pack_trellis_values(x.pack_params(kHead, block_size), width, wide_pairs, out.data());
    EXPECT_TRUE(out.intact()) << "wrote outside the block";
    return out.bytes();
  }

  /// All kinds at the block's size, two of them for shorter blocks.
  template <typename Body>
  void for_every_input(const std::vector<int>& head_dims, const Body& body) {
    uint32_t seed = 1;
    for (int head_dim : head_dims) {
      for (int block_size : {32, 64, 128, 256}) {
        for (int tokens : {block_size, block_size - 1, 17, 1}) {
          for (Kind kind : kKinds) {
            ++seed;
            if (tokens != block_size && static_cast<uint32_t>(kind) % 4 != seed / 8 % 4) continue;
            const Dtype dtype = kDtypes[seed % 3];
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
};

TEST_P(TrellisTest, KeysAreTheScalarKernelsBytes) {
  const KernelTable& scalar = *kernels::cpu::find_kernels("scalar");
  for_every_input({2, 20, 64, 80, 128}, [&](ActivationBuffer& x, int block_size, uint32_t seed) {
    Plan plan(x.head_dim(), seed, 0.05);
    const auto widths = random_widths(x.head_dim(), seed);
    const auto expected = pack_keys(scalar, x, block_size, plan, widths);
    ASSERT_EQ(first_difference(pack_keys(isa(), x, block_size, plan, widths), expected), -1);
  });
}

// Two heads side by side are what they are one after the other.
TEST_P(TrellisTest, TwoHeadsAreEachByItself) {
  for_every_input({20, 64, 128}, [&](ActivationBuffer& x, int block_size, uint32_t seed) {
    Plan first_plan(x.head_dim(), seed, 0.05), second_plan(x.head_dim(), seed + 1, 0.05);
    const auto first = random_widths(x.head_dim(), seed),
               second = random_widths(x.head_dim(), ~seed);
    const auto first_stored = stored_widths(first), second_stored = stored_widths(second);
    GuardedBuffer first_out(key_bytes(first, block_size)),
        second_out(key_bytes(second, block_size));
    const size_t bytes = kernels::cpu::feedback_workspace_bytes(x.head_dim(), block_size);
    GuardedBuffer first_workspace(bytes), second_workspace(bytes);
    const kernels::cpu::TrellisKeys heads[] = {
        {x.pack_params(kHead, block_size), first_plan.params(), first_stored.data(),
         first_workspace.data(), first_out.data()},
        {x.pack_params(1 - kHead, block_size), second_plan.params(), second_stored.data(),
         second_workspace.data(), second_out.data()}};
    isa().pack_trellis_keys(heads, 2);
    EXPECT_TRUE(first_out.intact() && second_out.intact() && first_workspace.intact() &&
                second_workspace.intact());
    ASSERT_EQ(
        first_difference(first_out.bytes(), pack_keys(isa(), x, block_size, first_plan, first)),
        -1);
    ASSERT_EQ(first_difference(second_out.bytes(),
                               pack_keys(isa(), x, block_size, second_plan, second, 1 - kHead)),
              -1);
  });
}

TEST_P(TrellisTest, ValuesAreTheScalarKernelsBytes) {
  const KernelTable& scalar = *kernels::cpu::find_kernels("scalar");
  for_every_input({2, 20, 64, 80, 128}, [&](ActivationBuffer& x, int block_size, uint32_t seed) {
    const int width = 1 + static_cast<int>(seed % 7);
    const int wide_pairs = width == 7 ? 0 : static_cast<int>(seed / 7) % (x.head_dim() / 2 + 1);
    const auto expected = pack_values(scalar, x, block_size, width, wide_pairs);
    ASSERT_EQ(first_difference(pack_values(isa(), x, block_size, width, wide_pairs), expected), -1)
        << "width " << width << " wide pairs " << wide_pairs;
  });
}

// Rows that are too long for the SIMD versions' stacks go the portable way.
TEST_P(TrellisTest, LongRowsArePackedToo) {
  const KernelTable& scalar = *kernels::cpu::find_kernels("scalar");
  ActivationBuffer x(Dtype::kFloat32, 32, kHeads, 640);
  fill(x, Kind::kNormal, 1);
  Plan plan(640, 1, 0.01);
  const auto widths = random_widths(640, 1);
  EXPECT_EQ(first_difference(pack_keys(isa(), x, 32, plan, widths),
                             pack_keys(scalar, x, 32, plan, widths)),
            -1);
  EXPECT_EQ(first_difference(pack_values(isa(), x, 32, 2, 100), pack_values(scalar, x, 32, 2, 100)),
            -1);
}

// ---- against the reference ----

/// Checks a row's path: v in double, off by `off` per token from the kernel's. The path that is
/// best for the kernel's v costs at most twice sum of w (2 |e| off + off^2) more than the best one
/// for v, e the larger error of the two, and rounding (T + 5) 2^-23 of the cost: see
/// trellis_search_test.cpp.
void expect_best_path(const std::vector<double>& v, const std::vector<double>& weights,
                      const std::vector<double>& off, int width, const reference::TrellisRow& row) {
  reference::TrellisRow head = row;
  head.path.resize(v.size());
  head.b.resize(v.size());
  const auto levels = reference::trellis_levels(head);
  const double cost = reference::trellis_cost(v, weights, levels);
  const double least = reference::least_trellis_cost(v, weights, width);
  double slack = static_cast<double>(v.size() + 5) * std::ldexp(cost, -22);
  for (size_t t = 0; t < v.size(); ++t) {
    // No best path takes a level that is more than 4 from v, or from the range's end next to v.
    const double beyond = std::max({0.0, -v[t], v[t] - ((2 << width) - 1)});
    const double error = beyond + 4;
    slack += 2 * weights[t] * (2 * error * off[t] + off[t] * off[t]);
  }
  ASSERT_TRUE(cost <= least + slack) << cost << " least " << least << " slack " << slack;
  for (size_t t = v.size(); t < row.path.size(); ++t) {
    ASSERT_EQ(row.path[t] + row.b[t], 0) << "after the last token, at " << t;
  }
}

TEST_P(TrellisTest, KeysAreWhatTheDefinitionAllows) {
  int channels = 0, checked = 0;
  for_every_input({6, 20, 64}, [&](ActivationBuffer& x, int block_size, uint32_t seed) {
    Plan plan(x.head_dim(), seed, 0.05);
    const auto widths = random_widths(x.head_dim(), seed);
    const auto bytes = pack_keys(isa(), x, block_size, plan, widths);
    const TrellisBlock block = reference::read_trellis_keys(bytes.data(), block_size, x.head_dim());
    ASSERT_EQ(block.widths, widths);
    ASSERT_EQ(first_difference(reference::write_trellis_block(block, block_size), bytes), -1)
        << "layout or padding";
    const auto values = reference::trellis_key_values(block);
    const auto D = static_cast<size_t>(x.head_dim()), T = static_cast<size_t>(x.tokens());
    for (size_t k = 0; k < D; ++k) {
      // What the block stores of earlier channels is what this one was told.
      const size_t c = plan.channel(k);
      std::vector<double> keys(T), off(T);
      for (size_t t = 0; t < T; ++t) {
        double sum = x.get(int(t), kHead, int(c)), magnitude = std::fabs(sum);
        for (size_t j = 0; j < k; ++j) {
          const size_t other = plan.channel(j);
          const double error = x.get(int(t), kHead, int(other)) - values[t][other];
          sum += plan.weight(k, j) * error;
          // fp32 rounds y twice, the error once, and every partial sum.
          magnitude +=
              std::fabs(plan.weight(k, j)) * (std::fabs(error) + std::fabs(values[t][other]) * 2);
        }
        keys[t] = std::clamp(sum, -32752.0, 32752.0);
        off[t] = std::ldexp(magnitude, -24) * static_cast<double>(k + 4);
      }
      const int width = widths[c], step = block.steps[c];
      const double size = reference::step8(step);
      const double most_off = *std::max_element(off.begin(), off.end());
      // Where feedback from outliers leaves the keys known to less than a 16th of a level, only
      // their path is checked: seldom enough.
      ++channels;
      if (most_off < size / 16) {
        bool allowed = false;
        for (const auto& choice : reference::key_choices(keys, most_off, width)) {
          // centre / step is off by two roundings of at most 2^15, and by what the keys are off.
          const double zero_off = 0.5 + std::ldexp(1.0, -7) + most_off / size;
          allowed = allowed ||
                    (choice.step == step && std::fabs(choice.zero - block.zeros[c]) <= zero_off);
        }
        ASSERT_TRUE(allowed) << "channel " << c << " width " << width << " step " << step
                             << " zero " << block.zeros[c];
        ++checked;
      }
      std::vector<double> v(T), off_level(T);
      double largest = 0;
      for (double each : keys) largest = std::max(largest, std::fabs(each));
      const double gain = reference::trellis_gain(width);
      double average = 0;
      for (double each : keys) average += each / static_cast<double>(T);
      for (size_t t = 0; t < T; ++t) {
        const double coded = average + gain * (keys[t] - average);
        v[t] = coded / size - block.zeros[c];
        // Rounded: inverse, gain and their product; the average's T sums and two of its products,
        // times gain - 1 < 1/2; the offset and the multiply-add.
        off_level[t] =
            (gain * (2 * most_off + std::ldexp(3 * std::fabs(keys[t]), -24)) +
             std::ldexp(largest * (static_cast<double>(T) / 16 + 8), -25)) /
                size +
            std::ldexp(std::fabs(v[t]) + std::fabs(coded) / size + std::fabs(block.zeros[c]), -24);
      }
      expect_best_path(v, std::vector<double>(T, 1.0), off_level, width, block.rows[c]);
      if (HasFatalFailure()) return;
    }
  });
  EXPECT_GT(checked, channels * 3 / 4) << "of " << channels;
}

TEST_P(TrellisTest, ValuesAreWhatTheDefinitionAllows) {
  for_every_input({6, 20, 64}, [&](ActivationBuffer& x, int block_size, uint32_t seed) {
    const int width = 1 + static_cast<int>(seed % 7);
    const int wide_pairs = width == 7 ? 0 : static_cast<int>(seed / 7) % (x.head_dim() / 2 + 1);
    const auto bytes = pack_values(isa(), x, block_size, width, wide_pairs);
    const TrellisBlock block =
        reference::read_trellis_values(bytes.data(), block_size, x.head_dim(), width, wide_pairs);
    ASSERT_EQ(first_difference(reference::write_trellis_block(block, block_size), bytes), -1)
        << "layout or padding";
    const auto T = static_cast<size_t>(x.tokens());
    std::vector<double> weights(T);
    for (size_t t = 0; t < size_t(block_size); ++t) {
      if (t >= T) {
        ASSERT_EQ(block.scales[t], 0) << "after the last token, at " << t;
        continue;
      }
      const auto row = x.row(int(t), kHead);
      const auto choices =
          reference::scale_choices(std::vector<double>(row.begin(), row.end()), width, wide_pairs);
      ASSERT_TRUE(std::find(choices.begin(), choices.end(), block.scales[t]) != choices.end())
          << "token " << t << " scale " << block.scales[t] << ", not " << choices.front();
      weights[t] = std::pow(reference::step8(block.scales[t]), 2);
    }
    for (size_t c = 0; c < block.rows.size(); ++c) {
      const int own = block.widths[c];
      const double unit = reference::trellis_gain(own) / (own > width ? std::exp2(1.0 / 8) : 2.0);
      std::vector<double> v(T), off(T);
      for (size_t t = 0; t < T; ++t) {
        const double scaled =
            unit * x.get(int(t), kHead, int(c)) / reference::step8(block.scales[t]);
        v[t] = scaled + std::exp2(own) - 0.5;
        // Two rounded constants and their rounded product, and the multiply-add.
        off[t] = std::ldexp(3 * std::fabs(scaled) + std::fabs(v[t]), -24);
      }
      expect_best_path(v, weights, off, own, block.rows[c]);
      if (HasFatalFailure()) return;
    }
  });
}

// Random bits are a valid block, and so are the packers' bytes.
TEST(TrellisUnpack, GivesTheReferencesValues) {
  std::mt19937 random(6);
  for (int head_dim : {2, 20, 64, 80, 128}) {
    for (int block_size : {32, 64, 128, 256}) {
      const auto widths = random_widths(head_dim, random());
      const int width = 1 + static_cast<int>(random() % 6);
      const int wide_pairs = static_cast<int>(random() % static_cast<uint32_t>(head_dim / 2 + 1));
      GuardedBuffer keys(key_bytes(widths, block_size));
      GuardedBuffer values(format::trellis_value_bytes(head_dim, block_size, width, wide_pairs));
      for (GuardedBuffer* block : {&keys, &values}) {
        for (size_t i = 0; i < block->size(); ++i) block->data()[i] = uint8_t(random());
      }
      const auto stored = stored_widths(widths);
      std::copy(stored.begin(), stored.end(),
                keys.data() + format::trellis_widths_offset(head_dim));
      const auto key_rows = reference::trellis_key_values(
          reference::read_trellis_keys(keys.data(), block_size, head_dim));
      const auto value_rows = reference::trellis_value_values(
          reference::read_trellis_values(values.data(), block_size, head_dim, width, wide_pairs),
          width);
      const int tokens = block_size - 3;
      std::vector<float> key_out(static_cast<size_t>(tokens * head_dim)), value_out = key_out;
      kernels::cpu::unpack_trellis_keys(keys.data(), tokens, block_size, head_dim, key_out.data());
      kernels::cpu::unpack_trellis_values(values.data(), tokens, block_size, head_dim, width,
                                          wide_pairs, value_out.data());
      for (int t = 0; t < tokens; ++t) {
        for (int c = 0; c < head_dim; ++c) {
          const auto i = static_cast<size_t>(t * head_dim + c);
          const double key = key_rows[size_t(t)][size_t(c)];
          const double value = value_rows[size_t(t)][size_t(c)];
          // A rounded step and a rounded product; values: step, gain and two products.
          ASSERT_TRUE(std::fabs(double(key_out[i]) - key) <= std::ldexp(std::fabs(key), -23))
              << head_dim << " key " << t << " " << c;
          ASSERT_TRUE(std::fabs(double(value_out[i]) - value) <= std::ldexp(std::fabs(value), -22))
              << head_dim << " value " << t << " " << c;
        }
      }
    }
  }
}

// ---- what it is for ----

// The best uniform quantiser of 2^w levels leaves this much of a unit Gaussian's power (Max 1960).
constexpr double kUniformError[] = {1, .3634, .1188, .03744, .01154, .003495, .001041, .0003035};

/// Sums over numbers x and what comes back of them.
struct Likeness {
  double xx = 0, xy = 0, yy = 0;
  void add(double x, double y) {
    xx += x * x;
    xy += x * y;
    yy += y * y;
  }
  /// What comes back of a number on average.
  double slope() const { return xy / xx; }
  /// Squared error, of the power, if levels were scaled for the least: 1 - correlation^2.
  double error() const { return 1 - xy * xy / (xx * yy); }
};

// On Gaussian rows the trellis is at least 0.1 bit better than the best uniform quantiser at the
// same width: 2^-0.2 of its error. 1024 rows of 128 tokens, whose errors differ by less than a
// fifth of each other, settle the mean to 1 % (more than one and a half standard deviations), and
// the least gain that is asked for, of 2 bits, is 1.3 % below the bar. One bit: the zero is a
// multiple of the step, and two levels cannot lie on either side of the mean; no gain is asked for.
// Numbers come back as themselves on average, to half of what a quantiser of least error shrinks
// them by, and two thousandths: a twentieth of a step of an eighth of an octave, which no gain of a
// width can follow.
TEST_P(TrellisTest, GaussianRowsGainATenthOfABitAndDoNotShrink) {
  constexpr int kDim = 64, kBlocks = 16;
  for (int width = 1; width <= 7; ++width) {
    Likeness keys, values;
    for (int n = 0; n < kBlocks; ++n) {
      ActivationBuffer x(Dtype::kFloat32, 128, kHeads, kDim);
      x.fill_normal(static_cast<uint32_t>(100 * width + n));
      Plan plan(kDim, 1, 0.0);
      const std::vector<int> widths(kDim, width);
      const auto key_block = pack_keys(isa(), x, 128, plan, widths);
      const auto value_block = pack_values(isa(), x, 128, width, 0);
      const auto key_rows =
          reference::trellis_key_values(reference::read_trellis_keys(key_block.data(), 128, kDim));
      const auto value_rows = reference::trellis_value_values(
          reference::read_trellis_values(value_block.data(), 128, kDim, width, 0), width);
      for (int t = 0; t < 128; ++t) {
        for (int c = 0; c < kDim; ++c) {
          const double exact = x.get(t, kHead, c);
          keys.add(exact, key_rows[size_t(t)][size_t(c)]);
          values.add(exact, value_rows[size_t(t)][size_t(c)]);
        }
      }
    }
    const double slope_bar = (1 - 1 / reference::trellis_gain(width)) / 2 + 0.002;
    const double bar = (width == 1 ? 1.06 : std::exp2(-0.2)) * kUniformError[width];
    EXPECT_LT(keys.error(), bar) << "keys, width " << width;
    EXPECT_LT(values.error(), bar) << "values, width " << width;
    EXPECT_LT(std::fabs(keys.slope() - 1), slope_bar) << "keys, width " << width;
    EXPECT_LT(std::fabs(values.slope() - 1), slope_bar) << "values, width " << width;
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_ISA(TrellisTest);

}  // namespace
}  // namespace rillkv::test
