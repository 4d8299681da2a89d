// Key blocks with error feedback as the CPU's scalar table packs them, and what a launch that packs
// the same needs: moments of queries of every kind, and the distances.
#pragma once

#include <cmath>

#include "kernels/cuda/ingest.h"
#include "kernels/moment_layout.h"
#include "kernels/planes.h"
#include "tests/cuda/pack_blocks_fixture.h"

namespace rillkv::test {

using kernels::moment_floats;

inline std::vector<float> random_floats(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> out(count);
  for (float& x : out) x = normal(random);
  return out;
}

/// What kernels/feedback.h calls the distances, as core computes them.
inline std::vector<float> distance_factors(int half) {
  std::vector<double> frequencies, weights;
  for (int p = 0; p < half; ++p) frequencies.push_back(std::pow(10000.0, -p / (1.0 * half)));
  double sum = 0;
  for (int d = 0; d < 1024; ++d) {
    weights.push_back(1.0 / (d + 1));
    sum += weights.back();
  }
  std::vector<float> out;
  for (double a : frequencies) {
    for (double b : frequencies) {
      double moments[4] = {};
      for (int d = 0; d < 1024; ++d) {
        const double weight = weights[static_cast<size_t>(d)] / sum;
        moments[0] += weight * std::cos(d * (a - b));
        moments[1] += weight * std::sin(d * (a - b));
        moments[2] += weight * std::cos(d * (a + b));
        moments[3] += weight * std::sin(d * (a + b));
      }
      for (double x : moments) out.push_back(static_cast<float>(x));
    }
  }
  return out;
}

/// How queries behind a block's moment are made.
enum class Queries { kUsual, kNone, kTiny, kHuge, kOneDirection, kWideRange };

class FeedbackPacker : public KeyPacker {
 public:
  FeedbackPacker(const PackCase& c, uint32_t seed, Queries queries, float decay,
                 const kernels::cpu::KernelTable& scalar)
      : c_(c),
        scalar_(scalar),
        size_(moment_floats(c.head_dim)),
        distances_(distance_factors(c.head_dim / 2)),
        moments_(static_cast<size_t>(c.blocks * c.kv_heads) * size_, 0.0f),
        decay_(decay) {
    const int D = c.head_dim, count = 2 * D;
    const auto dim = static_cast<size_t>(D);
    for (int n = 0; n < c.blocks * c.kv_heads && queries != Queries::kNone; ++n) {
      // Channels that go together, of scales that differ.
      const std::vector<float> mix = random_floats(dim * dim, seed + static_cast<uint32_t>(n));
      std::vector<float> x = random_floats(static_cast<size_t>(count) * dim, seed + 1), q(x.size());
      for (int t = 0; t < count; ++t) {
        const float* from = x.data() + static_cast<size_t>(t) * dim;
        for (size_t j = 0; j < dim; ++j) {
          float sum = 0;
          const size_t least = queries == Queries::kOneDirection ? 0 : j;
          for (size_t i = least; i <= (queries == Queries::kOneDirection ? 0 : j + 3); ++i) {
            sum += mix[(j * 7 + i) % (dim * dim)] * from[i % dim];
          }
          float scale = 1.0f + static_cast<float>(j % 5);
          if (queries == Queries::kTiny) scale *= 1e-11f;
          if (queries == Queries::kHuge) scale *= 1e14f;
          // Quotients of factors that no shortcut may take; and pairs without any energy.
          if (queries == Queries::kWideRange) {
            scale *= j % 8 == 2 ? 0.0f : std::ldexp(1.0f, -static_cast<int>(j % 7) * 8);
          }
          q[static_cast<size_t>(t) * dim + j] = sum * scale;
        }
      }
      kernels::cpu::PackParams p;
      p.input = {q.data(), D, D};
      p.dtype = Dtype::kFloat32;
      p.tokens = count;
      p.head_dim = D;
      scalar.add_moment(p, 1, moments_.data() + static_cast<size_t>(n) * size_);
    }
  }

  std::vector<uint8_t> pack(const kernels::cpu::PackParams& params, int n, int h,
                            int increments) const override {
    const int D = c_.head_dim;
    const auto dim = static_cast<size_t>(D);
    std::vector<uint16_t> order(dim);
    std::vector<float> sensitivities(dim), weights(dim * dim), spread(dim), energy(dim);
    std::vector<float> workspace(kernels::cpu::feedback_workspace_bytes(D, c_.block_size) / 4);
    const kernels::FeedbackPlan plan = {order.data(), sensitivities.data(), weights.data()};
    scalar_.plan_feedback(moments_.data() + static_cast<size_t>(n * c_.kv_heads + h) * size_,
                          distances_.data(), D, workspace.data(), plan);
    scalar_.variance(params, spread.data());
    for (size_t k = 0; k < dim; ++k) energy[order[k]] = sensitivities[k];
    std::vector<uint8_t> widths(dim / 2);
    return code(params, plan, spread.data(), energy.data(), increments, widths.data(),
                workspace.data());
  }
  void set(ptx::Device& device, cuda::PackParams& p) const override {
    device_moments_ = std::make_unique<ptx::DeviceArray<float>>(device, moments_);
    device_distances_ = std::make_unique<ptx::DeviceArray<float>>(device, distances_);
    p.error_feedback = 1;
    p.moments = device_moments_->data();
    p.distances = device_distances_->data();
    p.decay = decay_;
    scratch_ = std::make_unique<ptx::DeviceArray<float>>(
        device, std::max<size_t>(cuda::pack_scratch_floats(p), 1));
    p.scratch = cuda::pack_scratch_floats(p) > 0 ? scratch_->data() : nullptr;
  }
  /// The moments after the launch.
  void check_moments() const {
    std::vector<float> expected = moments_;
    for (float& x : expected) x = mul32(x, decay_);
    ASSERT_TRUE(device_moments_->to_vector() == expected) << c_;
  }

 protected:
  /// The block of keys whose plan is known; widths: [D / 2] and workspace are its to use.
  virtual std::vector<uint8_t> code(const kernels::cpu::PackParams& params,
                                    const kernels::FeedbackPlan& plan, const float* spread,
                                    const float* energy, int increments, uint8_t* widths,
                                    void* workspace) const {
    const int D = c_.head_dim;
    kernels::cpu::allocate_widths(spread, energy, D, c_.classes.data(),
                                  static_cast<int>(c_.classes.size()), increments, widths);
    GuardedBuffer one(
        format::channel_block_bytes(D, c_.block_size, false, format::width_sum(widths, D)));
    scalar_.pack_channels_feedback(params, plan, widths, workspace, one.data());
    const auto bytes = one.bytes();
    return {bytes.begin(), bytes.end()};
  }

  const PackCase& c_;
  const kernels::cpu::KernelTable& scalar_;

 private:
  const size_t size_;
  std::vector<float> distances_, moments_;
  const float decay_;
  mutable std::unique_ptr<ptx::DeviceArray<float>> device_moments_, device_distances_, scratch_;
};

}  // namespace rillkv::test
