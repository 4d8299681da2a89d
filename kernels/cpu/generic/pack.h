// Quantisation and packing, a register of S::kLanes fp32 numbers at a time; S: see simd_concept.h.
// scalar/pack.cpp defines what the bytes are; its lines stand above the groups of vector operations
// that repeat them.
//
// CHANNEL BLOCKS. A register holds L channels of one token, so that scales, widths and the shifts
// that follow from them are per-lane constants of a strip of L channels. Element k of word i of a
// plane is token k W + i: with R = block_size / 32, the tokens r, r + R, ..., r + 31 R fill
//   bit word    r                     element k     of token r + k R
//   crumb words r + (k % 2) R         element k / 2
//   nibble words r + (k % 4) R        element k / 4
// so eleven accumulators (the second nibble of 8 bits included) take 32 tokens from the last to the
// first, each by "acc = acc << element bits | part of code". The words of L channels, one register
// a word, are then transposed four by four into the channels' planes.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/generic/hadamard.h"
#include "kernels/cpu/generic/plane_packing.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/simd_rows.h"
#include "kernels/cpu/generic/simd_scales.h"
#include "kernels/cpu/isa.h"
#include "kernels/planes.h"

namespace rillkv::kernels::cpu {
namespace {

// ---- channel blocks ----

/// What a strip of L channels needs at every token, and where its planes go.
template <class S>
struct ChannelStrip {
  static constexpr int L = S::kLanes;
  Scale<S> scale;
  typename S::F top;   // affine: 2^w - 1
  typename S::F half;  // symmetric: 2^(w-1)
  typename S::I nibble_shift, crumb_shift;
  bool any_nibble = false, any_second = false, any_crumb = false, any_bit = false;
  uint8_t* nibble_at[L];
  uint8_t* second_at[L];
  uint8_t* crumb_at[L];
  uint8_t* bit_at[L];
};

/// Widths of the channels c ... c + count - 1: shifts, largest codes and planes. Planes that a
/// channel lacks go to `nowhere`, which no one reads. `pair` is at the planes of c's pair and moves
/// to the next strip's; the upper half of the channels begins at `begin` again.
template <class S>
void set_widths(ChannelStrip<S>& strip, const uint8_t* widths, int c, int count, int head_dim,
                int block_size, const format::Planes<uint8_t>& begin, format::Planes<uint8_t>& pair,
                uint8_t* nowhere) {
  constexpr int L = S::kLanes;
  const int pairs = head_dim / 2;
  alignas(64) float top[L], half[L];
  alignas(64) int32_t nibble_shift[L], crumb_shift[L];
  for (int l = 0; l < L; ++l) {
    const int width = l < count ? format::channel_width(widths, c + l, head_dim) : 0;
    top[l] = width > 0 ? max_code(width) : 1.0f;
    half[l] = width > 0 ? static_cast<float>(1 << (width - 1)) : 1.0f;
    nibble_shift[l] = width > 4 ? format::nibble_shift(width) : 0;
    crumb_shift[l] = format::crumb_shift(width);
    strip.nibble_at[l] = strip.second_at[l] = strip.crumb_at[l] = strip.bit_at[l] = nowhere;
    if (l >= count) continue;
    if (c + l == pairs) pair = begin;
    const uint8_t both = widths[c + l < pairs ? c + l : c + l - pairs];
    format::Planes<uint8_t> at = pair;
    if (c + l >= pairs) format::advance(at, block_size, format::first_width(both));
    format::advance(pair, block_size, format::planes_of_pair(both));
    if (format::nibble_planes(width) > 0) {
      strip.nibble_at[l] = at.nibbles;
      strip.any_nibble = true;
    }
    if (format::nibble_planes(width) > 1) {
      strip.second_at[l] = at.nibbles + format::plane_bytes(block_size, 4);
      strip.any_second = true;
    }
    if (format::crumb_planes(width) > 0) {
      strip.crumb_at[l] = at.crumbs;
      strip.any_crumb = true;
    }
    if (format::bit_planes(width) > 0) {
      strip.bit_at[l] = at.bits;
      strip.any_bit = true;
    }
  }
  strip.top = S::load(top);
  strip.half = S::load(half);
  strip.nibble_shift = S::load_int(nibble_shift);
  strip.crumb_shift = S::load_int(crumb_shift);
}

/// Codes of one token for the strip's channels; counts the clipped ones if symmetric.
template <class S, bool kSymmetric>
typename S::I channel_code(typename S::F x, const ChannelStrip<S>& strip, int64_t& clipped) {
  if constexpr (kSymmetric) {
    // code = rint(clamp(x / step, -half - 1, half)); clipped if outside [-half, half - 1]
    const typename S::F one = S::set1(1.0f);
    const typename S::F below = S::sub(S::set1(0.0f), strip.half);
    const typename S::F above = S::sub(strip.half, one);
    typename S::F code = S::div(x, strip.scale.divisor);
    code = S::round(S::min(S::max(code, S::sub(below, one)), strip.half));
    clipped += S::count_outside(code, below, above);
    // code + half
    return S::round_to_int(S::add(S::min(S::max(code, below), above), strip.half));
  } else {
    (void)clipped;
    return affine_code<S>(x, strip.scale, strip.top);
  }
}

/// `words` registers of words, one lane a channel, to the channels' planes.
template <class S>
void store_planes(const uint32_t* buffer, int words, uint8_t* const* at) {
  constexpr int L = S::kLanes;
  int i = 0;
  for (; i + 4 <= words; i += 4) S::store_columns(buffer + i * L, at, 4 * i);
  for (; i < words; ++i) {
    for (int l = 0; l < L; ++l) std::memcpy(at[l] + 4 * i, buffer + i * L + l, 4);
  }
}

/// Quantises and packs one strip; returns how many codes were clipped.
template <class S, Dtype kType, bool kSymmetric>
int64_t pack_strip(const PackParams& p, int c, typename S::Part part,
                   const ChannelStrip<S>& strip) {
  constexpr int L = S::kLanes;
  using Int = typename S::I;
  alignas(64) uint32_t nibbles[kMaxBlockSize / 8 * L], seconds[kMaxBlockSize / 8 * L];
  alignas(64) uint32_t crumbs[kMaxBlockSize / 16 * L], bits[kMaxBlockSize / 32 * L];
  const uint8_t* first = first_row(p);
  const int64_t stride = row_bytes(p);
  const Int low4 = S::set1_int(15), low2 = S::set1_int(3), low1 = S::set1_int(1);
  const int R = p.block_size / 32;
  int64_t clipped = 0;
  for (int r = 0; r < R; ++r) {
    Int nibble[4], second[4], crumb[2], bit = S::zero_int();
    for (int s = 0; s < 4; ++s) nibble[s] = second[s] = S::zero_int();
    crumb[0] = crumb[1] = S::zero_int();
    for (int j = 7; j >= 0; --j) {
      for (int s = 3; s >= 0; --s) {
        const int t = r + (4 * j + s) * R;
        Int code = S::zero_int();
        if (t < p.tokens) {
          code = channel_code<S, kSymmetric>(load_part_as<S, kType>(first + t * stride, c, part),
                                             strip, clipped);
        }
        // words |= ((code >> shift) & mask) << (element_bits * k)
        if (strip.any_nibble) {
          nibble[s] =
              S::template append<4>(nibble[s], S::shift_right_each(code, strip.nibble_shift), low4);
        }
        if (strip.any_second) second[s] = S::template append<4>(second[s], code, low4);
        if (strip.any_crumb) {
          crumb[s & 1] = S::template append<2>(crumb[s & 1],
                                               S::shift_right_each(code, strip.crumb_shift), low2);
        }
        if (strip.any_bit) bit = S::template append<1>(bit, code, low1);
      }
    }
    for (int s = 0; s < 4; ++s) {
      S::store_int(nibbles + (r + s * R) * L, nibble[s]);
      S::store_int(seconds + (r + s * R) * L, second[s]);
    }
    for (int s = 0; s < 2; ++s) S::store_int(crumbs + (r + s * R) * L, crumb[s]);
    S::store_int(bits + r * L, bit);
  }
  if (strip.any_nibble) store_planes<S>(nibbles, 4 * R, strip.nibble_at);
  if (strip.any_second) store_planes<S>(seconds, 4 * R, strip.second_at);
  if (strip.any_crumb) store_planes<S>(crumbs, 2 * R, strip.crumb_at);
  if (strip.any_bit) store_planes<S>(bits, R, strip.bit_at);
  return clipped;
}

/// Affine (lo, hi given) or symmetric (hi is absmax) channel block.
template <class S, Dtype kType, bool kSymmetric>
int64_t pack_channels(const PackParams& p, const float* lo, const float* hi, const uint8_t* widths,
                      uint8_t* out) {
  constexpr int L = S::kLanes;
  const int D = p.head_dim;
  std::memset(out, 0, format::channel_codes_offset(D, kSymmetric));
  uint16_t* lo_out = reinterpret_cast<uint16_t*>(out);
  uint16_t* step_out =
      reinterpret_cast<uint16_t*>(out + format::channel_step_offset(D, kSymmetric));
  std::memcpy(out + format::channel_widths_offset(D, kSymmetric), widths,
              static_cast<size_t>(D) / 2);
  const format::Planes<uint8_t> begin =
      format::channel_planes(out, p.block_size, D, kSymmetric).begin;
  format::Planes<uint8_t> pair = begin;
  alignas(64) uint8_t nowhere[kMaxBlockSize / 2];
  int64_t clipped = 0;
  for (int c = 0; c < D; c += L) {
    const int count = D - c < L ? D - c : L;
    const typename S::Part part = S::part(count);
    ChannelStrip<S> strip;
    set_widths<S>(strip, widths, c, count, D, p.block_size, begin, pair, nowhere);
    const typename S::F upper = S::load_part(hi + c, part);
    if constexpr (kSymmetric) {
      // step = fp16(absmax / (2^(w-1) - 1)); lanes that do not exist divide by 1
      const typename S::F top = S::max(S::sub(strip.half, S::set1(1.0f)), S::set1(1.0f));
      const typename S::H step_bits = S::to_half(S::div(upper, top));
      strip.scale.divisor = S::infinity_if_zero(S::from_half(step_bits));
      S::store_16_part(step_out + c, step_bits, part);
    } else {
      const typename S::F lower = S::load_part(lo + c, part);
      typename S::H lo_bits, step_bits;
      strip.scale = make_affine_scale<S>(lower, upper, strip.top, lo_bits, step_bits);
      S::store_16_part(lo_out + c, lo_bits, part);
      S::store_16_part(step_out + c, step_bits, part);
    }
    clipped += pack_strip<S, kType, kSymmetric>(p, c, part, strip);
  }
  // `pair.bits` has come to the end of the last plane; what follows is padding.
  const size_t end = static_cast<size_t>(pair.bits - out);
  std::memset(pair.bits, 0, format::align_up(end) - end);
  return clipped;
}

// ---- token blocks ----

template <class S>
void pack_row(const uint8_t* codes, int head_dim, int width, format::Planes<uint8_t> at) {
  const auto registers = [codes](int v) { return S::load_bytes(codes + v * S::kLanes); };
  if (head_dim == 64) {
    pack_registers<S, 64>(registers, width, at);
  } else if (head_dim == 128) {
    pack_registers<S, 128>(registers, width, at);
  } else {
    format::pack_codes(codes, head_dim, width, at);
  }
}

/// Minimum and maximum of x[0, count).
template <class S>
void range_of(const float* x, int count, float& lo, float& hi) {
  constexpr int L = S::kLanes;
  typename S::F least = S::set1(x[0]), most = least;
  int i = 0;
  for (; i + L <= count; i += L) {
    const typename S::F v = S::load(x + i);
    least = S::min(v, least);
    most = S::max(v, most);
  }
  if (i < count) {
    // Lanes past the end repeat x[0].
    const typename S::F v = S::load_part_or(x + i, S::part(count - i), S::set1(x[0]));
    least = S::min(v, least);
    most = S::max(v, most);
  }
  lo = S::reduce_min(least);
  hi = S::reduce_max(most);
}

/// Stores the codes of x[0, count), and up to L - 1 more.
template <class S>
void row_codes(const float* x, int count, const Scale<S>& scale, float top, uint8_t* codes) {
  constexpr int L = S::kLanes;
  const typename S::F tops = S::set1(top);
  int i = 0;
  for (; i + L <= count; i += L) {
    S::store_bytes(codes + i, affine_code<S>(S::load(x + i), scale, tops));
  }
  if (i < count) {
    const typename S::F v = S::load_part_or(x + i, S::part(count - i), scale.lo);
    S::store_bytes(codes + i, affine_code<S>(v, scale, tops));
  }
}

/// The squared error of x[0, count)'s codes, added in the order of scalar/pack.cpp.
template <class S>
float squared_error(const float* x, int count, const Scale<S>& scale, float top) {
  constexpr int L = S::kLanes;
  typename S::F sums[16 / L];
  for (int a = 0; a < 16 / L; ++a) sums[a] = S::set1(0.0f);
  const typename S::F tops = S::set1(top);
  for (int i = 0; i < count; i += 16) {
    for (int a = 0; a < 16 / L; ++a) {
      const int begin = i + a * L;
      if (begin >= count) break;
      const typename S::Part part = S::part(count - begin < L ? count - begin : L);
      const typename S::F v = S::load_part_or(x + begin, part, scale.lo);
      // value = lo + step * code; error = x - value; sums[i % 16] += error * error
      const typename S::F code = S::to_float(affine_code<S>(v, scale, tops));
      const typename S::F value = S::add(scale.lo, S::mul(scale.step, code));
      const typename S::F error = S::keep(S::sub(v, value), part);
      sums[a] = S::add(sums[a], S::mul(error, error));
    }
  }
  return S::fold16(sums);
}

/// The 2-bit search of scalar/pack.cpp: lo and hi become those of the best range.
template <class S>
void search_range(const float* x, int count, float top, float& lo, float& hi) {
  constexpr float kFactors[] = {.95f, .9f, .85f, .8f, .75f, .7f};
  const float middle = (lo + hi) * 0.5f;
  const float radius = (hi - lo) * 0.5f;
  const auto error_of = [&](float from, float to) {
    typename S::H lo_bits, step_bits;
    const Scale<S> scale =
        make_affine_scale<S>(S::set1(from), S::set1(to), S::set1(top), lo_bits, step_bits);
    return squared_error<S>(x, count, scale, top);
  };
  float least = error_of(lo, hi);
  for (float factor : kFactors) {
    const float shrunk = radius * factor;
    const float error = error_of(middle - shrunk, middle + shrunk);
    if (error < least) {
      least = error;
      lo = middle - shrunk;
      hi = middle + shrunk;
    }
  }
}

/// Codes outside [0, top] before they are clamped.
template <class S>
int64_t count_clipped(const float* x, int count, const Scale<S>& scale, float top) {
  constexpr int L = S::kLanes;
  int64_t clipped = 0;
  for (int i = 0; i < count; i += L) {
    const typename S::Part part = S::part(count - i < L ? count - i : L);
    typename S::F code =
        S::div(S::sub(S::load_part_or(x + i, part, scale.lo), scale.lo), scale.divisor);
    code = S::round(S::min(S::max(code, S::set1(-1.0f)), S::set1(top + 1.0f)));
    clipped += S::count_outside(code, S::set1(0.0f), S::set1(top));
  }
  return clipped;
}

/// L tokens at a time: their ranges one by one, their scales in one register, their codes one by
/// one, so that the long chain from range to scale (two roundings, a division) is paid once for L
/// rows.
template <class S, Dtype kType>
int64_t pack_tokens_affine_in(const PackParams& p, int groups, int width, uint8_t* out) {
  constexpr int L = S::kLanes;
  const int D = p.head_dim, T = p.block_size, stride = D + L;
  alignas(64) float x[L * (kMaxSimdHeadDim + L)];
  alignas(64) uint8_t codes[L * (kMaxSimdHeadDim + L)];
  alignas(64) float lo[L] = {}, hi[L] = {}, step[L], divisor[L];
  std::memset(out, 0, format::token_block_bytes(T, D, groups, false, width));
  uint16_t* lo_out = reinterpret_cast<uint16_t*>(out);
  uint16_t* step_out =
      reinterpret_cast<uint16_t*>(out + format::token_step_offset(T, groups, false));
  const uint8_t* row = first_row(p);
  const float top = max_code(width);
  int64_t clipped = 0;
  for (int first = 0; first < p.tokens; first += L) {
    const int rows = p.tokens - first < L ? p.tokens - first : L;
    for (int i = 0; i < rows; ++i, row += row_bytes(p)) {
      load_whole_row<S, kType>(row, D, x + i * stride);
    }
    for (int g = 0; g < groups; ++g) {
      const int begin = format::group_begin(g, groups, D);
      const int count = format::group_begin(g + 1, groups, D) - begin;
      for (int i = 0; i < rows; ++i) {
        const float* group = x + i * stride + begin;
        range_of<S>(group, count, lo[i], hi[i]);
        if (width == 2) search_range<S>(group, count, top, lo[i], hi[i]);
      }
      typename S::H lo_bits, step_bits;
      const Scale<S> scales =
          make_affine_scale<S>(S::load(lo), S::load(hi), S::set1(top), lo_bits, step_bits);
      S::store_16_part(lo_out + g * T + first, lo_bits, S::part(rows));
      S::store_16_part(step_out + g * T + first, step_bits, S::part(rows));
      S::store(lo, scales.lo);
      S::store(step, scales.step);
      S::store(divisor, scales.divisor);
      for (int i = 0; i < rows; ++i) {
        const float* group = x + i * stride + begin;
        const Scale<S> scale = {S::set1(lo[i]), S::set1(step[i]), S::set1(divisor[i])};
        if (width == 2) clipped += count_clipped<S>(group, count, scale, top);
        row_codes<S>(group, count, scale, top, codes + i * stride + begin);
      }
    }
    for (int i = 0; i < rows; ++i) {
      pack_row<S>(codes + i * stride, D, width,
                  format::token_planes(out, T, first + i, D, groups, false, width));
    }
  }
  return clipped;
}

/// Sinks of kRowBits bits.
template <class S, Dtype kType>
void pack_sink_rows(const PackParams& p, int first, uint8_t* out) {
  constexpr int L = S::kLanes;
  const int D = p.head_dim;
  const uint8_t* row = first_row(p);
  for (int t = 0; t < p.tokens; ++t, row += row_bytes(p)) {
    uint8_t* to = out + format::sink_row_offset(first + t, D);
    int c = 0;
    for (; c + L <= D; c += L) store_as<S, Dtype::kFloat16>(to, c, load_as<S, kType>(row, c));
    const typename S::Part part = S::part(D - c);
    if (c < D) {
      store_part_as<S, Dtype::kFloat16>(to, c, load_part_as<S, kType>(row, c, part), part);
    }
  }
}

template <class S, Dtype kType>
void pack_tokens_symmetric_in(const PackParams& p, int first, int width, uint8_t* out) {
  constexpr int L = S::kLanes;
  const int D = p.head_dim;
  alignas(64) float x[kMaxSimdHeadDim + L];
  alignas(64) uint8_t codes[kMaxSimdHeadDim + L];
  uint16_t* step_out = reinterpret_cast<uint16_t*>(out);
  const float half = static_cast<float>(1 << (width - 1));
  const uint8_t* row = first_row(p);
  for (int t = 0; t < p.tokens; ++t, row += row_bytes(p)) {
    load_whole_row<S, kType>(row, D, x);
    typename S::F most = S::set1(0.0f);
    for (int c = 0; c < D; c += L) {  // zeros after the row change nothing
      most =
          S::max(S::as_float(S::bit_and(S::as_int(S::load(x + c)), S::set1_int(0x7fffffff))), most);
    }
    step_out[first + t] = symmetric_step_bits(S::reduce_max(most), width);
    const typename S::F step = S::infinity_if_zero(S::set1(half_to_float(step_out[first + t])));
    for (int c = 0; c < D; c += L) {
      // clamp(rint(x / step), -half, half - 1) + half
      typename S::F code = S::div(S::load(x + c), step);
      code = S::round(S::min(S::max(code, S::set1(-half)), S::set1(half - 1.0f)));
      S::store_bytes(codes + c, S::round_to_int(S::add(code, S::set1(half))));
    }
    pack_row<S>(codes, D, width,
                format::token_planes(out, p.block_size, first + t, D, 1, true, width));
  }
}

// ---- the entries of KernelTable; kMaxSimdHeadDim: rows live on the stack ----

template <class S, bool kSymmetric>
int64_t pack_channels_any(const PackParams& p, const float* lo, const float* hi,
                          const uint8_t* widths, uint8_t* out) {
  return with_dtype(p.dtype, [&](auto type) {
    return pack_channels<S, type, kSymmetric>(p, lo, hi, widths, out);
  });
}

template <class S>
int64_t pack_tokens_affine_any(const PackParams& p, int32_t groups, int32_t bits, uint8_t* out) {
  if (p.head_dim > kMaxSimdHeadDim) {
    return scalar::kPack.pack_tokens_affine(p, groups, bits, out);
  }
  return with_dtype(
      p.dtype, [&](auto type) { return pack_tokens_affine_in<S, type>(p, groups, bits, out); });
}

template <class S>
void pack_sinks_any(const PackParams& p, int32_t first_row, int32_t bits, uint8_t* out) {
  if (p.head_dim > kMaxSimdHeadDim) return scalar::kPack.pack_sinks(p, first_row, bits, out);
  with_dtype(p.dtype, [&](auto type) {
    if (bits == format::kRowBits) {
      pack_sink_rows<S, type>(p, first_row, out);
    } else {
      pack_tokens_symmetric_in<S, type>(p, first_row, bits, out);
    }
  });
}

template <class S>
void hadamard_any(const PackParams& p, MutableActivation out) {
  if (p.head_dim > kMaxSimdHeadDim) return scalar::kPack.hadamard(p, out);
  hadamard_tokens<S>(p, out);
}

template <class S>
constexpr PackKernels pack_kernels() {
  return {
      .pack_channels_affine =
          [](const PackParams& p, const float* lo, const float* hi, const uint8_t* widths,
             uint8_t* out) { pack_channels_any<S, false>(p, lo, hi, widths, out); },
      .pack_channels_symmetric =
          [](const PackParams& p, const float* absmax, const uint8_t* widths, uint8_t* out) {
            return pack_channels_any<S, true>(p, nullptr, absmax, widths, out);
          },
      .pack_tokens_affine = pack_tokens_affine_any<S>,
      .pack_sinks = pack_sinks_any<S>,
      .hadamard = hadamard_any<S>,
  };
}

}  // namespace
}  // namespace rillkv::kernels::cpu
