// Moments, distances and plans for the tests of error feedback.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "kernels/feedback.h"
#include "kernels/moment_layout.h"
#include "tests/kernels/isa_fixture.h"
#include "tests/reference/feedback.h"

namespace rillkv::test {

inline uint32_t bits_of(float x) {
  uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline std::vector<uint32_t> bits_of(const std::vector<float>& x) {
  std::vector<uint32_t> bits;
  for (float value : x) bits.push_back(bits_of(value));
  return bits;
}

inline const KernelTable* scalar() { return kernels::cpu::find_kernels("scalar"); }

/// A FeedbackPlan with memory of its own, guarded, and at first all NaN.
class PlanBuffers {
 public:
  explicit PlanBuffers(int head_dim)
      : head_dim_(head_dim),
        order_(std::make_unique<GuardedBuffer>(2 * size(1), 0xff)),
        sensitivities_(std::make_unique<GuardedBuffer>(4 * size(1), 0xff, 4)),
        weights_(std::make_unique<GuardedBuffer>(4 * size(2), 0xff, 4)) {}
  kernels::FeedbackPlan view() const {
    return {order_->as<uint16_t>(), sensitivities_->as<float>(), weights_->as<float>()};
  }
  bool intact() const { return order_->intact() && sensitivities_->intact() && weights_->intact(); }
  uint16_t& order(int k) const { return order_->as<uint16_t>()[k]; }
  float& sensitivity(int k) const { return sensitivities_->as<float>()[k]; }
  float& weight(int k, int j) const { return weights_->as<float>()[k * head_dim_ + j]; }

 private:
  size_t size(int rank) const {
    const auto dim = static_cast<size_t>(head_dim_);
    return rank == 1 ? dim : dim * dim;
  }
  int head_dim_;
  std::unique_ptr<GuardedBuffer> order_, sensitivities_, weights_;
};

/// A moment and what turns it into a plan.
struct FeedbackCase {
  int head_dim;
  std::vector<double> frequencies;
  std::vector<float> distances, moment;

  /// kind 0: one query; 1: many, with energies that differ between pairs; 2: as many as channels,
  /// energies from 1e-6 to 1e6; 3: alike in all channels.
  FeedbackCase(int D, int kind) : head_dim(D), moment(kernels::moment_floats(D), 0.0f) {
    for (int p = 0; p < D / 2; ++p) frequencies.push_back(std::pow(1e4, -2.0 * p / D));
    distances = table_of(frequencies);
    std::mt19937 random(static_cast<uint32_t>(4 * D + kind));
    std::normal_distribution<float> normal;
    const int count = kind == 0 ? 1 : kind == 2 ? D : 2 * D;
    std::vector<float> scale(static_cast<size_t>(D)), shared(static_cast<size_t>(D));
    for (float& s : scale) {
      s = kind == 1 ? std::exp(normal(random)) : kind == 2 ? std::exp(4 * normal(random)) : 1.0f;
    }
    for (float& s : shared) s = normal(random);
    for (int n = 0; n < count; ++n) {
      // A part that all queries share makes channels depend on one another.
      const float along = kind == 3 ? 4.0f : normal(random);
      std::vector<float> q(static_cast<size_t>(D));
      for (size_t i = 0; i < q.size(); ++i) {
        q[i] = scale[i] * (normal(random) + (kind == 3 ? along : along * shared[i]));
      }
      for (int i = 0; i < D; ++i) {
        for (int j = 0; j < kernels::moment_columns(i) && j < D; ++j) {
          float& sum = moment[kernels::moment_row(i) + static_cast<size_t>(j)];
          sum = std::fma(q[size_t(i)], q[size_t(j)], sum);
        }
      }
    }
  }

  PlanBuffers plan(const KernelTable& isa) const {
    PlanBuffers plan(head_dim);
    GuardedBuffer workspace(kernels::cpu::feedback_workspace_bytes(head_dim, 32), 0xff);
    isa.plan_feedback(moment.data(), distances.data(), head_dim, workspace.data(), plan.view());
    EXPECT_TRUE(workspace.intact()) << isa.name;
    return plan;
  }

 private:
  /// Slow to make, so once a size. Large ones, which compare kernels only, make do with frequencies
  /// that repeat.
  static const std::vector<float>& table_of(const std::vector<double>& frequencies) {
    static std::map<size_t, std::vector<float>> known;
    std::vector<float>& table = known[frequencies.size()];
    if (!table.empty()) return table;
    const size_t half = frequencies.size(), few = std::min<size_t>(half, 64);
    const auto small = reference::distance_table(
        {frequencies.begin(), frequencies.begin() + static_cast<std::ptrdiff_t>(few)});
    for (size_t a = 0; a < half; ++a) {
      for (size_t b = 0; b < half; ++b) {
        const float* at = small.data() + 4 * (a % few * few + b % few);
        table.insert(table.end(), at, at + 4);
      }
    }
    return table;
  }
};

}  // namespace rillkv::test
