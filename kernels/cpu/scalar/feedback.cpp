// Error feedback in portable C++: the definition that the SIMD versions repeat to the bit, and the
// shipped fallback. feedback.h says what every step computes. fma is the library's where the
// target has no such instruction; the compiler contracts nothing.
#include <cstring>
#include <vector>

#include "kernels/cpu/generic/feedback_steps.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/scalar/feedback_loop.h"
#include "kernels/moment_layout.h"
#include "kernels/planes.h"

namespace rillkv::kernels::cpu::scalar {
namespace {

void add_moment(const PackParams& p, int32_t group, float* moment) {
  const int D = p.head_dim;
  std::vector<float> q(moment_columns(D - 1), 0.0f);
  for (int t = 0; t < p.tokens; ++t) {
    for (int g = 0; g < group; ++g) {
      load_row(row_of(p.input, p.dtype, t, p.kv_head * group + g), p.dtype, D, q.data());
      for (int i = 0; i < D; ++i) {
        float* row = moment + moment_row(i);
        for (int j = 0; j < moment_columns(i); ++j) row[j] = __builtin_fmaf(q[i], q[j], row[j]);
      }
    }
  }
}

// ---- the plan ----

/// U diag(d) U^T = M from the last position to the first; M's lower triangle becomes B.
void factorise(int D, const float* damping, float* matrix, float* sensitivities) {
  std::vector<float> weights(static_cast<size_t>(D));
  const auto row_of_matrix = [&](int k) {
    return matrix + static_cast<size_t>(k) * static_cast<size_t>(D);
  };
  for (int k = D - 1; k >= 0; --k) {
    float* row = row_of_matrix(k);
    const float least = kLeastSensitivity * damping[k];
    const float d = row[k] > least ? row[k] : least;
    sensitivities[k] = d;
    for (int j = 0; j < k; ++j) weights[j] = row[j] / d;
    for (int i = 0; i < k; ++i) {
      float* to = row_of_matrix(i);
      for (int j = 0; j <= i; ++j) to[j] = __builtin_fmaf(-weights[i], row[j], to[j]);
    }
    std::memcpy(row, weights.data(), sizeof(float) * static_cast<size_t>(k));
  }
}

void plan_feedback(const float* moment, const float* distances, int32_t head_dim,
                   void* /*workspace*/, const FeedbackPlan& out) {
  const int D = head_dim, half = D / 2;
  std::vector<float> energies(static_cast<size_t>(half)), damping(static_cast<size_t>(D));
  std::vector<int32_t> pairs(static_cast<size_t>(half));
  const bool usable = order_channels(moment, distances, D, energies.data(), pairs.data(), out.order,
                                     damping.data());
  for (int row = 0; row < half; ++row) {
    for (int column = 0; column <= row; ++column) {
      const PairHessian pair = hessian_of(moment, distances, half, pairs[row], pairs[column]);
      for (int s = 0; s < 2; ++s) {
        const int i = 2 * row + s;
        float* to = out.weights + static_cast<size_t>(i) * static_cast<size_t>(D);
        for (int r = 0; r < 2; ++r) {
          const int j = 2 * column + r;
          if (j > i) continue;
          to[j] = usable ? pair.at[s][r] : (i == j ? 1.0f : 0.0f);
          if (i == j) to[j] += damping[i];
        }
      }
    }
  }
  factorise(D, damping.data(), out.weights, out.sensitivities);
}

void variance(const PackParams& p, float* out) {
  float x[kMaxBlockSize];
  const float count = static_cast<float>(p.tokens);
  for (int c = 0; c < p.head_dim; ++c) {
    load_channel(p, c, x);
    float sum = 0.0f;
    for (int t = 0; t < p.tokens; ++t) sum += x[t];
    const float mean = sum / count;
    float squares = 0.0f;
    for (int t = 0; t < p.tokens; ++t) {
      const float from_mean = x[t] - mean;
      squares = __builtin_fmaf(from_mean, from_mean, squares);
    }
    out[c] = squares / count;
  }
}

// ---- rounding ----

/// The affine channels of pack_channels_affine, in any order.
class AffineCoder {
 public:
  /// Writes what does not depend on the codes.
  AffineCoder(const PackParams& p, const uint8_t* widths, uint8_t* out)
      : p_(p), widths_(widths), out_(out), planes_(static_cast<size_t>(p.head_dim)) {
    const int D = p.head_dim;
    std::memset(out, 0,
                format::channel_block_bytes(D, p.block_size, false, format::width_sum(widths, D)));
    std::memcpy(out + format::channel_widths_offset(D, false), widths, static_cast<size_t>(D) / 2);
    format::Planes<uint8_t> at = format::channel_planes(out, p.block_size, D, false).begin;
    for (int i = 0; i < D; ++i) {
      const int c = format::channel_at(i, D);
      planes_[c] = at;
      format::advance(at, p.block_size, format::channel_width(widths, c, D));
    }
  }
  void operator()(int c, const float* x, float* y) const {
    const int width = format::channel_width(widths_, c, p_.head_dim);
    const Range range = range_of(x, p_.tokens);
    const AffineScale scale = affine_scale(range.lo + 0.0f, range.hi + 0.0f, width);
    std::memcpy(out_ + 2 * static_cast<size_t>(c), &scale.lo_bits, 2);
    std::memcpy(out_ + format::channel_step_offset(p_.head_dim, false) + 2 * static_cast<size_t>(c),
                &scale.step_bits, 2);
    uint8_t codes[kMaxBlockSize] = {};
    affine_codes(x, p_.tokens, scale, width, codes);
    for (int t = 0; t < p_.tokens; ++t) {
      y[t] = __builtin_fmaf(scale.step, static_cast<float>(codes[t]), scale.lo);
    }
    format::Planes<uint8_t> at = planes_[c];
    format::pack_codes(codes, p_.block_size, width, at);
  }

 private:
  const PackParams& p_;
  const uint8_t* widths_;
  uint8_t* out_;
  std::vector<format::Planes<uint8_t>> planes_;  // by channel
};

void pack_channels_feedback(const PackParams& p, const FeedbackPlan& plan, const uint8_t* widths,
                            void* workspace, uint8_t* out) {
  feed_back(p, plan, workspace, AffineCoder(p, widths, out));
}

}  // namespace

constinit const FeedbackKernels kFeedback = {
    .add_moment = add_moment,
    .plan_feedback = plan_feedback,
    .variance = variance,
    .pack_channels_feedback = pack_channels_feedback,
};

}  // namespace rillkv::kernels::cpu::scalar
