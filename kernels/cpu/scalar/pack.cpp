// Statistics, quantisation and packing in portable C++: the definition that the SIMD versions
// repeat byte for byte, and the shipped fallback. The inner loops run over the channels of a token
// or the tokens of a channel, without branches, so that a compiler vectorises them.
#include <cstring>
#include <vector>

#include "kernels/cpu/generic/hadamard.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/scales.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/scalar/channels.h"
#include "kernels/planes.h"

namespace rillkv::kernels::cpu::scalar {
namespace {

/// Returns how many codes were clipped. A step of 0 stands for "all values are 0".
int64_t symmetric_codes(const float* x, int count, float step, int width, uint8_t* codes) {
  const float half = static_cast<float>(1 << (width - 1));
  if (step == 0.0f) {
    std::memset(codes, 1 << (width - 1), static_cast<size_t>(count));
    return 0;
  }
  int32_t clipped = 0;
  for (int i = 0; i < count; ++i) {
    float code = x[i] / step;
    // One step beyond the range is enough to see that a value is clipped.
    code = code < -half - 1.0f ? -half - 1.0f : code;
    code = code > half ? half : code;
    code = round_to_integer(code);
    clipped += (code < -half ? 1 : 0) + (code > half - 1.0f ? 1 : 0);
    code = code < -half ? -half : code;
    code = code > half - 1.0f ? half - 1.0f : code;
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code + half));
  }
  return clipped;
}

/// Squared error of the codes, in the one order that every back end keeps: 16 accumulators, element
/// i goes to number i % 16, then number l takes l + 8, l + 4, l + 2, l + 1.
float squared_error(const float* x, int count, const AffineScale& scale, const uint8_t* codes) {
  float sums[16] = {};
  for (int i = 0; i < count; ++i) {
    const float value = scale.lo + scale.step * static_cast<float>(codes[i]);
    const float error = x[i] - value;
    sums[i % 16] += error * error;
  }
  for (int span = 8; span > 0; span /= 2) {
    for (int l = 0; l < span; ++l) sums[l] += sums[l + span];
  }
  return sums[0];
}

int64_t count_clipped(const float* x, int count, const AffineScale& scale, int width) {
  if (scale.step == 0.0f) return 0;
  const float top = max_code(width);
  int64_t clipped = 0;
  for (int i = 0; i < count; ++i) {
    float code = (x[i] - scale.lo) / scale.step;
    code = code < -1.0f ? -1.0f : code;
    code = code > top + 1.0f ? top + 1.0f : code;
    code = round_to_integer(code);
    clipped += (code < 0.0f ? 1 : 0) + (code > top ? 1 : 0);
  }
  return clipped;
}

/// The 2-bit search of pack_tokens_affine; on a tie the wider range wins.
AffineScale clipped_scale(const float* x, int count, Range range, int width, uint8_t* codes) {
  constexpr float kFactors[] = {.95f, .9f, .85f, .8f, .75f, .7f};
  AffineScale best = affine_scale(range.lo, range.hi, width);
  affine_codes(x, count, best, width, codes);
  float least = squared_error(x, count, best, codes);
  const float middle = (range.lo + range.hi) * 0.5f;
  const float radius = (range.hi - range.lo) * 0.5f;
  for (float factor : kFactors) {
    const float shrunk = radius * factor;
    const AffineScale scale = affine_scale(middle - shrunk, middle + shrunk, width);
    affine_codes(x, count, scale, width, codes);
    const float error = squared_error(x, count, scale, codes);
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

void absmax(const PackParams& p, float* out) {
  std::vector<float> row(static_cast<size_t>(p.head_dim));
  // The magnitudes' bit patterns compare as integers, and NaN is greater than every number.
  std::vector<uint32_t> most(static_cast<size_t>(p.head_dim), 0u);
  for (int t = 0; t < p.tokens; ++t) {
    load_row(input_row(p, t), p.dtype, p.head_dim, row.data());
    for (int c = 0; c < p.head_dim; ++c) {
      const uint32_t magnitude = float_bits(row[c]) & 0x7fffffffu;
      most[c] = magnitude > most[c] ? magnitude : most[c];
    }
  }
  for (int c = 0; c < p.head_dim; ++c) {
    // One NaN for all, whatever the input's payload.
    out[c] = float_from_bits(most[c] > 0x7f800000u ? 0x7fc00000u : most[c]);
  }
}

void min_max(const PackParams& p, float* lo, float* hi) {
  std::vector<float> row(static_cast<size_t>(p.head_dim));
  for (int t = 0; t < p.tokens; ++t) {
    load_row(input_row(p, t), p.dtype, p.head_dim, row.data());
    if (t == 0) {
      std::memcpy(lo, row.data(), sizeof(float) * row.size());
      std::memcpy(hi, row.data(), sizeof(float) * row.size());
    }
    for (int c = 0; c < p.head_dim; ++c) {
      lo[c] = row[c] < lo[c] ? row[c] : lo[c];
      hi[c] = row[c] > hi[c] ? row[c] : hi[c];
    }
  }
  for (int c = 0; c < p.head_dim; ++c) {  // -0 becomes +0, see affine_scale
    lo[c] += 0.0f;
    hi[c] += 0.0f;
  }
}

void add_squares(const PackParams& p, float* sums) {
  std::vector<float> row(static_cast<size_t>(p.head_dim));
  for (int t = 0; t < p.tokens; ++t) {
    load_row(input_row(p, t), p.dtype, p.head_dim, row.data());
    for (int c = 0; c < p.head_dim; ++c) sums[c] += row[c] * row[c];
  }
}

/// A channel block: quantise(c, width, x, codes) sees the tokens of channel c and gives their
/// codes.
template <class Quantise>
void pack_channels(const PackParams& p, bool symmetric, const uint8_t* widths, uint8_t* out,
                   const Quantise& quantise) {
  const int D = p.head_dim;
  std::memset(
      out, 0,
      format::channel_block_bytes(D, p.block_size, symmetric, format::width_sum(widths, D)));
  std::memcpy(out + format::channel_widths_offset(D, symmetric), widths,
              static_cast<size_t>(D) / 2);
  format::Planes<uint8_t> planes = format::channel_planes(out, p.block_size, D, symmetric).begin;
  float x[kMaxBlockSize];
  uint8_t codes[kMaxBlockSize] = {};
  for (int i = 0; i < D; ++i) {
    const int c = format::channel_at(i, D);
    const int width = format::channel_width(widths, c, D);
    load_channel(p, c, x);
    quantise(c, width, x, codes);
    format::pack_codes(codes, p.block_size, width, planes);
  }
}

void pack_channels_affine(const PackParams& p, const float* lo, const float* hi,
                          const uint8_t* widths, uint8_t* out) {
  uint16_t* lo_out = reinterpret_cast<uint16_t*>(out);
  uint16_t* step_out =
      reinterpret_cast<uint16_t*>(out + format::channel_step_offset(p.head_dim, false));
  pack_channels(p, false, widths, out, [&](int c, int width, const float* x, uint8_t* codes) {
    const AffineScale scale = affine_scale(lo[c], hi[c], width);
    lo_out[c] = scale.lo_bits;
    step_out[c] = scale.step_bits;
    affine_codes(x, p.tokens, scale, width, codes);
  });
}

int64_t pack_channels_symmetric(const PackParams& p, const float* absmax, const uint8_t* widths,
                                uint8_t* out) {
  uint16_t* step_out = reinterpret_cast<uint16_t*>(out);
  int64_t clipped = 0;
  pack_channels(p, true, widths, out, [&](int c, int width, const float* x, uint8_t* codes) {
    step_out[c] = symmetric_step_bits(absmax[c], width);
    clipped += symmetric_codes(x, p.tokens, half_to_float(step_out[c]), width, codes);
  });
  return clipped;
}

int64_t pack_tokens_affine(const PackParams& p, int32_t groups, int32_t bits, uint8_t* out) {
  const int D = p.head_dim, T = p.block_size;
  std::memset(out, 0, format::token_block_bytes(T, D, groups, false, bits));
  uint16_t* lo_out = reinterpret_cast<uint16_t*>(out);
  uint16_t* step_out =
      reinterpret_cast<uint16_t*>(out + format::token_step_offset(T, groups, false));
  std::vector<float> row(static_cast<size_t>(D));
  std::vector<uint8_t> codes(static_cast<size_t>(D));
  int64_t clipped = 0;
  for (int t = 0; t < p.tokens; ++t) {
    load_row(input_row(p, t), p.dtype, D, row.data());
    for (int g = 0; g < groups; ++g) {
      const int begin = format::group_begin(g, groups, D);
      const int count = format::group_begin(g + 1, groups, D) - begin;
      const float* x = row.data() + begin;
      const Range range = range_of(x, count);
      AffineScale scale;
      if (bits == 2) {
        scale = clipped_scale(x, count, range, bits, codes.data() + begin);
        clipped += count_clipped(x, count, scale, bits);
      } else {
        scale = affine_scale(range.lo, range.hi, bits);
      }
      affine_codes(x, count, scale, bits, codes.data() + begin);
      lo_out[g * T + t] = scale.lo_bits;
      step_out[g * T + t] = scale.step_bits;
    }
    format::Planes<uint8_t> planes = format::token_planes(out, T, t, D, groups, false, bits);
    format::pack_codes(codes.data(), D, bits, planes);
  }
  return clipped;
}

void pack_sinks(const PackParams& p, int32_t first_row, int32_t bits, uint8_t* out) {
  const int D = p.head_dim;
  uint16_t* step_out = reinterpret_cast<uint16_t*>(out);
  std::vector<float> row(static_cast<size_t>(D));
  std::vector<uint8_t> codes(static_cast<size_t>(D));
  for (int t = 0; t < p.tokens; ++t) {
    load_row(input_row(p, t), p.dtype, D, row.data());
    if (bits == format::kRowBits) {
      store_row(row.data(), 1.0f, Dtype::kFloat16, D,
                out + format::sink_row_offset(first_row + t, D));
      continue;
    }
    float most = 0.0f;
    for (int c = 0; c < D; ++c) most = std::fabs(row[c]) > most ? std::fabs(row[c]) : most;
    step_out[first_row + t] = symmetric_step_bits(most, bits);
    symmetric_codes(row.data(), D, half_to_float(step_out[first_row + t]), bits, codes.data());
    format::Planes<uint8_t> planes =
        format::token_planes(out, p.block_size, first_row + t, D, 1, true, bits);
    format::pack_codes(codes.data(), D, bits, planes);
  }
}

void hadamard(const PackParams& p, MutableActivation out) {
  std::vector<float> row(static_cast<size_t>(p.head_dim));
  const float factor = hadamard_factor(p.head_dim);
  for (int t = 0; t < p.tokens; ++t) {
    load_row(input_row(p, t), p.dtype, p.head_dim, row.data());
    hadamard_butterflies(row.data(), p.head_dim);
    store_row(row.data(), factor, p.dtype, p.head_dim, row_of(out, p.dtype, t, p.kv_head));
  }
}

}  // namespace

constinit const StatisticsKernels kStatistics = {
    .absmax = absmax, .min_max = min_max, .add_squares = add_squares};

constinit const PackKernels kPack = {
    .pack_channels_affine = pack_channels_affine,
    .pack_channels_symmetric = pack_channels_symmetric,
    .pack_tokens_affine = pack_tokens_affine,
    .pack_sinks = pack_sinks,
    .hadamard = hadamard,
};

}  // namespace rillkv::kernels::cpu::scalar
