// Trellis blocks in portable C++: the definition that the SIMD versions repeat byte for byte, and
// the shipped fallback. trellis.h says what every step computes.
#include <cstring>
#include <vector>

#include "kernels/cpu/generic/trellis_steps.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/scalar/feedback_loop.h"
#include "kernels/cpu/scalar/trellis_search.h"
#include "kernels/planes.h"
#include "kernels/steps8.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cpu::scalar {
namespace {

/// Path and b of one channel to its planes.
void pack_path(const uint8_t* path, const uint8_t* b, int count, int width,
               format::TrellisPlanes<uint8_t> at) {
  format::Planes<uint8_t> bits = {nullptr, nullptr, at.path};
  format::pack_codes(path, count, 1, bits);
  if (width > 1) format::pack_codes(b, count, width - 1, at.b);
}

// ---- keys ----

float magnitude(float x) { return x < 0.0f ? -x : x; }

/// The range of least scalar error.
KeyRange search_range(const KeySteps& steps, const float* x, int count, int width) {
  const float top = max_code(width);
  KeyRange best = {};
  float least_error = 0.0f;
  for (int k = 0; k < key_candidates(width); ++k) {
    const KeyRange range = steps.candidate(k);
    const KeyLattice lattice = steps.scalar(range);
    Sum16 squares;
    for (int t = 0; t < count; ++t) {
      const float v = __builtin_fmaf(x[t], lattice.scale, lattice.offset);
      const float error = v - clamped(round_to_integer(v), 0.0f, top);
      squares.add(t, error * error);
    }
    const float size = format::step8(range.step);
    const float error = squares.fold() * (size * size);
    if (k == 0 || error < least_error) {
      least_error = error;
      best = range;
    }
  }
  return best;
}

KeySteps steps_of(const float* x, int count, int width) {
  const Range range = range_of(x, count);
  Sum16 sum;
  for (int t = 0; t < count; ++t) sum.add(t, x[t]);
  return {range.lo + 0.0f, range.hi + 0.0f, sum.fold() / static_cast<float>(count), width};
}

/// The channels of a trellis key block, in any order.
class TrellisChannels {
 public:
  /// Writes what does not depend on the keys.
  TrellisChannels(const PackParams& p, const uint8_t* widths, uint8_t* out)
      : p_(p), widths_(widths), out_(out), planes_(static_cast<size_t>(p.head_dim)) {
    const int D = p.head_dim;
    std::memset(out, 0, format::trellis_key_bytes(D, p.block_size, format::width_sum(widths, D)));
    std::memcpy(out + format::trellis_widths_offset(D), widths, static_cast<size_t>(D) / 2);
    format::TrellisPlanes<uint8_t> at = format::trellis_key_planes(out, p.block_size, D);
    for (int i = 0; i < D; ++i) {
      const int c = format::channel_at(i, D);
      planes_[c] = at;
      format::advance(at, p.block_size, format::channel_width(widths, c, D));
    }
  }
  void operator()(int c, const float* x, float* y) const {
    const int width = format::channel_width(widths_, c, p_.head_dim), T = p_.tokens;
    const KeySteps steps = steps_of(x, T, width);
    const KeyLattice lattice = steps.trellis(search_range(steps, x, T, width));
    float v[kMaxBlockSize];
    for (int t = 0; t < T; ++t) v[t] = __builtin_fmaf(x[t], lattice.scale, lattice.offset);
    uint8_t path[kMaxBlockSize] = {}, b[kMaxBlockSize] = {};
    search_trellis(v, nullptr, T, width, path, b);

    const int32_t stored_zero = static_cast<int32_t>(lattice.zero);
    const int16_t zero_bits = static_cast<int16_t>(stored_zero);
    std::memcpy(out_ + 2 * static_cast<size_t>(c), &zero_bits, 2);
    out_[format::trellis_step_offset(p_.head_dim) + static_cast<size_t>(c)] =
        static_cast<uint8_t>(lattice.step);
    const float size = format::step8(lattice.step);
    uint32_t bits = 0;
    for (int t = 0; t < T; ++t) {
      bits = bits << 1 | path[t];
      const int32_t level = static_cast<int32_t>(format::trellis_level(b[t], bits));
      y[t] = size * static_cast<float>(stored_zero + level);
    }
    pack_path(path, b, p_.block_size, width, planes_[c]);
  }

 private:
  const PackParams& p_;
  const uint8_t* widths_;
  uint8_t* out_;
  std::vector<format::TrellisPlanes<uint8_t>> planes_;  // by channel
};

void pack_trellis_keys(const TrellisKeys* heads, int32_t count) {
  for (int h = 0; h < count; ++h) {
    const TrellisKeys& head = heads[h];
    feed_back(head.keys, head.plan, head.workspace,
              TrellisChannels(head.keys, head.widths, head.out));
  }
}

// ---- values ----

int search_scale(const float* x, int head_dim, int width, int wide_pairs) {
  const int pairs = head_dim / 2;
  float most = 0.0f;
  for (int c = 0; c < head_dim; ++c) most = magnitude(x[c]) > most ? magnitude(x[c]) : most;
  const int widest = format::nearest8(most / value_reach(width, width));
  const float granular = value_granular(head_dim, width, wide_pairs);
  int best = 0;
  float least_error = 0.0f;
  for (int k = 0; k < kValueCandidates; ++k) {
    const int scale = widest - k > 0 ? widest - k : 0;
    const float size = format::step8(scale);
    Sum16 squares;
    for (int c = 0; c < head_dim; ++c) {
      const int own = format::trellis_value_width(c % pairs, width, wide_pairs);
      const float beyond = __builtin_fmaf(-size, value_reach(own, width), magnitude(x[c]));
      squares.add_square(c, beyond > 0.0f ? beyond : 0.0f);
    }
    const float error = squares.fold() + granular * (size * size);
    if (k > 0 && !(error < least_error)) break;
    least_error = error;
    best = scale;
  }
  return best;
}

void pack_trellis_values(const PackParams& p, int32_t width, int32_t wide_pairs, uint8_t* out) {
  const int D = p.head_dim, T = p.tokens;
  std::memset(out, 0, format::trellis_value_bytes(D, p.block_size, width, wide_pairs));
  std::vector<float> row(static_cast<size_t>(D));
  float x[kMaxBlockSize], inverses[kMaxBlockSize], weights[kMaxBlockSize];
  for (int t = 0; t < T; ++t) {
    load_row(input_row(p, t), p.dtype, D, row.data());
    const int scale = search_scale(row.data(), D, width, wide_pairs);
    out[t] = static_cast<uint8_t>(scale);
    inverses[t] = format::inverse8(scale);
    weights[t] = format::step8(scale) * format::step8(scale);
  }
  format::TrellisPlanes<uint8_t> at =
      format::trellis_value_planes(out, p.block_size, D, width, wide_pairs);
  uint8_t path[kMaxBlockSize] = {}, b[kMaxBlockSize] = {};
  for (int i = 0; i < D; ++i) {
    const int own = format::trellis_value_width(i / 2, width, wide_pairs);
    const float unit = value_unit(own, width), middle_level = 0.5f * max_code(own + 1);
    load_channel(p, format::channel_at(i, D), x);
    for (int t = 0; t < T; ++t) x[t] = __builtin_fmaf(x[t], inverses[t] * unit, middle_level);
    search_trellis(x, weights, T, own, path, b);
    pack_path(path, b, p.block_size, own, at);
    format::advance(at, p.block_size, own);
  }
}

}  // namespace

constinit const TrellisKernels kTrellis = {
    .pack_trellis_keys = pack_trellis_keys,
    .pack_trellis_values = pack_trellis_values,
};

}  // namespace rillkv::kernels::cpu::scalar
