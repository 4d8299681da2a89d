// Tiles: what the matrix multiplications of the tiled attention read. Compressed blocks, sinks and
// dense rows of one kv head become tiles here, dequantised and rotated, once for all queries of a
// task.
//
//   keys    k~ = R(t0 + j) (lo + step * code)         a step is a channel pair (bf16) or a channel
//   values  v  = lo + step * code                     a step is a token pair (bf16) or a token
//
// (trellis blocks: trellis_tiles.h.)
//
// A tile is panels of kPanelVectors = 4 (AVX2: 2) registers side by side, each panel step after
// step: dword (panel, step, lane) = tile[(panel * steps + step) * kPanel + lane]. Lanes are tokens
// for keys and channels for values. With bf16 a dword holds the two values of its step, so that one
// vdpbf16ps multiplies and adds both: channels (p, p + D/2) or tokens (2x, 2x + 1).
//
// Written once for every instruction set: `S` satisfies TileArithmetic (simd_concept.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/plane_registers.h"
#include "kernels/cpu/generic/prefetch.h"
#include "kernels/cpu/generic/simd_rows.h"
#include "kernels/cpu/generic/with_dtype.h"
#include "kernels/cpu/params.h"
#include "kernels/planes.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

/// fp16 to fp32, `count` values.
template <class S>
void halves_to_floats(const uint16_t* in, int count, float* out) {
  for (int i = 0; i < count; i += S::kLanes) {
    const auto part = S::part(count - i);
    S::store_part(out + i, load_part_as<S, Dtype::kFloat16>(in, i, part), part);
  }
}

/// Dwords of a step of a panel.
template <class S>
inline constexpr int kPanel = S::kPanelVectors* S::kLanes;

/// First dword of register `vector` of a tile whose panels have `steps` steps.
template <class S>
RILLKV_INLINE uint32_t* tile_vector(uint32_t* tile, int steps, int vector) {
  constexpr int kVectors = S::kPanelVectors;
  return tile + (static_cast<size_t>(vector / kVectors) * static_cast<size_t>(steps) * kVectors +
                 static_cast<size_t>(vector % kVectors)) *
                    S::kLanes;
}

/// Scales of a block in fp32, from the workspace.
struct Scales {
  float* lo;
  float* step;
};

/// A channel of a pair of keys: value = lo + step * code, the code of `width` bits.
template <class Codes>
struct KeyChannel {
  int width;
  float lo, step;
  Codes codes;  // load(h, high, low): see load_codes
};

/// Pair after pair of a channel block. `scales` is scratch.
template <class S, int kBlock>
class ChannelBlockKeys {
 public:
  ChannelBlockKeys() = default;
  RILLKV_INLINE ChannelBlockKeys(const AttentionParams& params, const uint8_t* block,
                                 const Scales& scales, uint8_t* /*subsets*/)
      : half_(params.head_dim / 2), symmetric_(params.prefix.keys_symmetric), scales_(scales) {
    const int D = params.head_dim;
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(block);
    if (!symmetric_) halves_to_floats<S>(halves, D, scales.lo);
    halves_to_floats<S>(halves + (symmetric_ ? 0 : D), D, scales.step);
    widths_ = block + format::channel_widths_offset(D, symmetric_);
    const auto planes = format::channel_planes(block, kBlock, D, symmetric_);
    at_ = planes.begin;
    bytes_ = static_cast<size_t>(planes.end - block);
  }
  size_t bytes() const { return bytes_; }

  struct Codes {
    Planes at;
    int width;
    RILLKV_INLINE void load(int h, typename S::I& high, typename S::I& low) const {
      load_codes<S, kBlock>(at, width, h, high, low);
    }
  };
  /// Channel p, then channel p + D/2: pairs in ascending order.
  template <bool kSecond>
  RILLKV_INLINE KeyChannel<Codes> next(int p) {
    const int c = kSecond ? p + half_ : p;
    const int width = kSecond ? format::second_width(widths_[p]) : format::first_width(widths_[p]);
    const Planes at = at_;
    format::advance(at_, kBlock, width);
    const float step = scales_.step[c];
    const float lo = symmetric_ ? -step * static_cast<float>(1 << (width - 1)) : scales_.lo[c];
    return {width, lo, step, {at, width}};
  }

 private:
  int half_ = 0;
  bool symmetric_ = false;
  Scales scales_ = {};
  const uint8_t* widths_ = nullptr;
  Planes at_ = {};
  size_t bytes_ = 0;
};

/// A block of keys into registers first_vector ... of a key tile, rotated by R(t0 + j) with
/// block_rotation = R(t0), or by R(j) alone (kCompose = false: R(-t0) goes to the queries instead,
/// which is cheaper if they are few): a channel pair a step, D/2 steps. `next_block`, unless null,
/// is fetched meanwhile. Keys: ChannelBlockKeys or TrellisBlockKeys.
template <class S, int kBlock, bool kCompose, class Keys>
class KeyBlockFill {
 public:
  KeyBlockFill() = default;
  RILLKV_INLINE KeyBlockFill(const AttentionParams& params, const uint8_t* block,
                             const float* block_rotation, const Scales& scales, uint8_t* subsets,
                             uint32_t* tile, int first_vector, const uint8_t* next_block)
      : half_(params.head_dim / 2),
        cosines_(params.rotations.in_block_cos),
        sines_(params.rotations.in_block_sin),
        block_rotation_(block_rotation),
        keys_(params, block, scales, subsets) {
    const int steps = params.head_dim / S::kPack;
    // The block to come is about as large as this one.
    ahead_ = Prefetch(next_block, keys_.bytes(), half_);
    // Blocks fill whole panels, or begin where a panel's register v can be followed by v + 1.
    out_ = tile_vector<S>(tile, steps, first_vector);
    panel_stride_ = static_cast<size_t>(steps) * kPanel<S>;
  }

  RILLKV_INLINE void step() {
    using F = typename S::F;
    using I = typename S::I;
    using R = PlaneRegisters<S, kBlock>;
    const int p = pair_++, half = half_;
    const auto first = keys_.template next<false>(p);
    const auto second = keys_.template next<true>(p);
    const typename S::Affine high1(first.lo, first.step * high_step(first.width)),
        high2(second.lo, second.step * high_step(second.width));
    const float* cosines = cosines_ + static_cast<size_t>(p) * kBlock;
    const float* sines = sines_ + static_cast<size_t>(p) * kBlock;
    const float c0 = kCompose ? block_rotation_[p] : 1.0f;
    const float s0 = kCompose ? block_rotation_[half + p] : 0.0f;
    ahead_.step<S>();
    const size_t offset = static_cast<size_t>(p) * kPanel<S>;
    const size_t offset2 = static_cast<size_t>(p + half) * kPanel<S>;  // fp32 tiles only
    uint32_t* const out = out_;
    const size_t panel_stride = panel_stride_;

    const auto rotate_and_store = [&](int v, F x, F y) {
      F c = S::load_once(cosines + v * S::kLanes), s = S::load_once(sines + v * S::kLanes);
      if constexpr (kCompose) {  // R(t0 + j) = R(t0) R(j)
        const F c_in = c, s_in = s;
        c = S::fnma(S::set1(s0), s_in, S::mul(S::set1(c0), c_in));
        s = S::fma(S::set1(s0), c_in, S::mul(S::set1(c0), s_in));
      }
      // (x, y) becomes (x cos - y sin, y cos + x sin)
      uint32_t* at_vector = out + static_cast<size_t>(v / S::kPanelVectors) * panel_stride +
                            static_cast<size_t>(v % S::kPanelVectors) * S::kLanes;
      S::store_pair(at_vector + offset, at_vector + offset2, S::fnma(y, s, S::mul(x, c)),
                    S::fma(x, s, S::mul(y, c)));
    };
#pragma GCC unroll 4
    for (int h = 0; h < R::kRegisters; ++h) {
      I x_high, x_low, y_high, y_low;
      first.codes.load(h, x_high, x_low);
      second.codes.load(h, y_high, y_low);
      if (first.width <= 4 && second.width <= 4) {
#pragma GCC unroll 8
        for (int k = 0; k < R::kFields; ++k) {  // value = lo + step * code
          rotate_and_store(k * R::kRegisters + h, high1(S::shift_right(x_high, k * R::kSpacing)),
                           high2(S::shift_right(y_high, k * R::kSpacing)));
        }
      } else {
        const typename S::Scaled low1(first.step), low2(second.step);
#pragma GCC unroll 8
        for (int k = 0; k < R::kFields; ++k) {  // value = (lo + step' * high) + step * low
          const F x = low1(S::shift_right(x_low, k * R::kSpacing),
                           high1(S::shift_right(x_high, k * R::kSpacing)));
          const F y = low2(S::shift_right(y_low, k * R::kSpacing),
                           high2(S::shift_right(y_high, k * R::kSpacing)));
          rotate_and_store(k * R::kRegisters + h, x, y);
        }
      }
    }
  }

 private:
  int half_ = 0, pair_ = 0;
  const float *cosines_ = nullptr, *sines_ = nullptr, *block_rotation_ = nullptr;
  Keys keys_;
  Prefetch ahead_;
  uint32_t* out_ = nullptr;
  size_t panel_stride_ = 0;
};

template <class S, int kBlock, bool kCompose, class Keys>
void key_block_to_tile(const AttentionParams& params, const uint8_t* block,
                       const float* block_rotation, const Scales& scales, uint8_t* subsets,
                       uint32_t* tile, int first_vector, const uint8_t* next_block) {
  KeyBlockFill<S, kBlock, kCompose, Keys> fill(params, block, block_rotation, scales, subsets, tile,
                                               first_vector, next_block);
  const int steps = params.head_dim / 2;
  for (int p = 0; p < steps; ++p) fill.step();
}

/// Row r of `rows` (r < kLanes) becomes lane r: `steps` dwords of each row into one register column
/// of a tile. Rows have a multiple of kLanes readable dwords.
template <class S>
void transpose_to_tile(const uint32_t* rows, size_t row_stride, int steps, uint32_t* out) {
  for (int begin = 0; begin < steps; begin += S::kLanes) {
    typename S::I x[S::kLanes];
#pragma GCC unroll 16
    for (int r = 0; r < S::kLanes; ++r) {
      x[r] = S::load_int(rows + static_cast<size_t>(r) * row_stride + begin);
    }
    S::transpose(x);
    const int count = steps - begin < S::kLanes ? steps - begin : S::kLanes;
    for (int i = 0; i < count; ++i) {
      S::store_int(out + static_cast<size_t>(begin + i) * kPanel<S>, x[i]);
    }
  }
}

/// A channel block of values (policy "ema") as steps first_token / kPack ... of a value tile:
/// kLanes channels at a time are dequantised along the tokens, then transposed.
template <class S, int kBlock>
void value_channels_to_tile(const AttentionParams& params, const uint8_t* block,
                            const Scales& scales, uint32_t* staging, uint32_t* tile, int tile_steps,
                            int first_token) {
  using I = typename S::I;
  using R = PlaneRegisters<S, kBlock>;
  const int D = params.head_dim, half = D / 2;
  halves_to_floats<S>(reinterpret_cast<const uint16_t*>(block), D, scales.step);
  const uint8_t* widths = block + format::channel_widths_offset(D, true);
  const Planes first_pair = format::channel_planes(block, kBlock, D, true).begin;
  Planes pair = first_pair;
  constexpr int kSteps = kBlock / S::kPack;
  for (int begin = 0; begin < D; begin += S::kLanes) {
    for (int i = 0; i < S::kLanes; ++i) {
      const int c = begin + i;
      float values[kBlock];
      if (c < D) {
        if (c == half) pair = first_pair;
        const bool upper = c >= half;
        const uint8_t both = widths[upper ? c - half : c];
        const int width = upper ? format::second_width(both) : format::first_width(both);
        Planes at = pair;
        if (upper) format::advance(at, kBlock, format::first_width(both));
        format::advance(pair, kBlock, format::planes_of_pair(both));
        const float step = scales.step[c];
        const typename S::Affine high(-step * static_cast<float>(1 << (width - 1)),
                                      step * high_step(width));
        const typename S::Scaled low(width > 4 ? step : 0.0f);
        for (int h = 0; h < R::kRegisters; ++h) {
          I x_high, x_low;
          load_codes<S, kBlock>(at, width, h, x_high, x_low);
#pragma GCC unroll 8
          for (int k = 0; k < R::kFields; ++k) {
            S::store(values + (k * R::kRegisters + h) * S::kLanes,
                     low(S::shift_right(x_low, k * R::kSpacing),
                         high(S::shift_right(x_high, k * R::kSpacing))));
          }
        }
      } else {
        for (float& value : values) value = 0.0f;
      }
      uint32_t* row = staging + static_cast<size_t>(i) * kSteps;
      if constexpr (S::kPack == 2) {
        for (int t = 0; t < kBlock; t += 2 * S::kLanes) {
          S::store_int(row + t / 2,
                       S::pack_row(S::load(values + t), S::load(values + t + S::kLanes)));
        }
      } else {
        for (int t = 0; t < kBlock; t += S::kLanes)
          S::store(reinterpret_cast<float*>(row) + t, S::load(values + t));
      }
    }
    transpose_to_tile<S>(staging, kSteps, kSteps,
                         tile_vector<S>(tile, tile_steps, begin / S::kLanes) +
                             static_cast<size_t>(first_token / S::kPack) * kPanel<S>);
  }
}

/// A token block of values (policy "adaptive") with a row of kCount channels in kGroups groups of
/// whole registers, as steps first_token / kPack ... of a value tile: a step of the tile a step.
template <class S, int kCount, int kGroups>
class ValueTokensFill {
 public:
  ValueTokensFill() = default;
  RILLKV_INLINE ValueTokensFill(const AttentionParams& params, const uint8_t* block,
                                const Scales& scales, uint32_t* tile, int tile_steps,
                                int first_token, const Prefetch& ahead)
      : tokens_(params.block_size),
        width_(params.prefix.value_bits),
        scales_(scales),
        ahead_(ahead) {
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(block);
    halves_to_floats<S>(halves, kGroups * tokens_, scales.lo);
    halves_to_floats<S>(halves + kGroups * tokens_, kGroups * tokens_, scales.step);
    at_ = format::token_planes(block, tokens_, 0, kCount, kGroups, false, width_);
    for (int v = 0; v < kVectors; ++v) {
      out_[v] = tile_vector<S>(tile, tile_steps, v) +
                static_cast<size_t>(first_token / S::kPack) * kPanel<S>;
    }
  }

  /// Whether step_by_table can be used: both rows of a step in one table.
  RILLKV_INLINE bool has_table() const { return S::kPack == 2 && kVectors <= 8 && width_ <= 4; }

  RILLKV_INLINE void step_by_table() {
    if constexpr (S::kPack == 2 && kVectors <= 8) {
      const int t = token_, width = width_;
      token_ += 2;
      ahead_.step<S>();
      I a, b, none;
      load_codes<S, kCount>(at_, width, 0, a, none);
      format::advance(at_, kCount, width);
      load_codes<S, kCount>(at_, width, 0, b, none);
      format::advance(at_, kCount, width);
      const I low = S::low_words(a, b), high = S::high_words(a, b);
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) {
        const float *lo = scales_.lo + g * tokens_ + t, *step = scales_.step + g * tokens_ + t;
        const typename S::PairTable table(lo[0], step[0], lo[1], step[1]);
#pragma GCC unroll 8
        for (int v = g * kGroupVectors; v < (g + 1) * kGroupVectors; ++v) {
          const int bit = v * R::kSpacing;
          S::store_int(out_[v] + static_cast<size_t>(t / 2) * kPanel<S>,
                       table(S::shift_right(bit < 16 ? low : high, bit % 16)));
        }
      }
    }
  }

  RILLKV_INLINE void step() {
    const int t = token_, width = width_;
    const float unit = high_step(width);
    token_ += S::kPack;
    F x[S::kPack][kVectors];
    ahead_.step<S>();
#pragma GCC unroll 2
    for (int i = 0; i < S::kPack; ++i) {
#pragma GCC unroll 4
      for (int h = 0; h < R::kRegisters; ++h) {
        I high, low;
        load_codes<S, kCount>(at_, width, h, high, low);
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
          const float step = scales_.step[g * tokens_ + t + i];
          const typename S::Affine affine(scales_.lo[g * tokens_ + t + i], step * unit);
#pragma GCC unroll 16
          for (int k = 0; k < R::kFields; ++k) {
            const int v = k * R::kRegisters + h;
            if (v / kGroupVectors != g) continue;
            x[i][v] = affine(S::shift_right(high, k * R::kSpacing));
          }
          if (width > 4) {
            const typename S::Scaled scaled(step);
#pragma GCC unroll 16
            for (int k = 0; k < R::kFields; ++k) {
              const int v = k * R::kRegisters + h;
              if (v / kGroupVectors != g) continue;
              x[i][v] = scaled(S::shift_right(low, k * R::kSpacing), x[i][v]);
            }
          }
        }
      }
      format::advance(at_, kCount, width);
    }
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      uint32_t* at_step = out_[v] + static_cast<size_t>(t / S::kPack) * kPanel<S>;
      if constexpr (S::kPack == 2) {
        S::store_int(at_step, S::pack_pair(x[0][v], x[1][v]));
      } else {
        S::store_int(at_step, S::as_int(x[0][v]));
      }
    }
  }

 private:
  using F = typename S::F;
  using I = typename S::I;
  using R = PlaneRegisters<S, kCount>;
  static constexpr int kVectors = kCount / S::kLanes, kGroupVectors = kVectors / kGroups;
  int tokens_ = 0, width_ = 0, token_ = 0;
  Scales scales_ = {};
  Planes at_ = {};
  Prefetch ahead_;
  uint32_t* out_[kVectors] = {};
};

template <class S, int kCount, int kGroups>
void value_tokens_to_tile(const AttentionParams& params, const uint8_t* block, const Scales& scales,
                          uint32_t* tile, int tile_steps, int first_token, const Prefetch& ahead) {
  ValueTokensFill<S, kCount, kGroups> fill(params, block, scales, tile, tile_steps, first_token,
                                           ahead);
  const int tokens = params.block_size;
  if (fill.has_table()) {
    for (int t = 0; t < tokens; t += S::kPack) fill.step_by_table();
  } else {
    for (int t = 0; t < tokens; t += S::kPack) fill.step();
  }
}

/// Zeros to a row of `count` floats, a multiple of kLanes.
template <class S>
void clear_row(float* row, size_t count) {
  for (size_t c = 0; c < count; c += S::kLanes) S::store(row + c, S::zero());
}

/// A row in `dtype` as fp32, out[0 .. align_up(D, kLanes)), zero past D.
template <class S>
void read_row(const void* row, Dtype dtype, int head_dim, float* out) {
  with_dtype(dtype, [&](auto type) {
    for (int c = 0; c < head_dim; c += S::kLanes) {
      S::store(out + c, load_part_as<S, type>(row, c, S::part(head_dim - c)));
    }
  });
}

/// A channel pair of a row, rotated: (x, y) becomes (x cos - y sin, y cos + x sin). With kInverse
/// by the opposite angle.
template <class S, bool kInverse>
RILLKV_INLINE void rotate_pair(typename S::F& x, typename S::F& y, typename S::F c,
                               typename S::F s) {
  const typename S::F x_in = x;
  if constexpr (kInverse) {
    x = S::fma(y, s, S::mul(x, c));
    y = S::fnma(x_in, s, S::mul(y, c));
  } else {
    x = S::fnma(y, s, S::mul(x, c));
    y = S::fma(x_in, s, S::mul(y, c));
  }
}

/// Rotates a key (or query) row by `cosines`, `sines` [D/2], times `factor`, into steps of dwords,
/// or into D floats with kFloats.
template <class S, bool kInverse = false, bool kFloats = S::kPack == 1>
void rotate_row(const float* row, const float* cosines, const float* sines, float factor,
                int head_dim, uint32_t* out) {
  using F = typename S::F;
  const int half = head_dim / 2;
  for (int p = 0; p < half; p += S::kLanes) {
    const auto part = S::part(half - p);
    F first = S::load_part(row + p, part), second = S::load_part(row + half + p, part);
    const F c = S::mul(S::load_part(cosines + p, part), S::set1(factor));
    const F s = S::mul(S::load_part(sines + p, part), S::set1(factor));
    rotate_pair<S, kInverse>(first, second, c, s);
    if constexpr (!kFloats) {
      S::store_part(reinterpret_cast<float*>(out) + p, S::as_float(S::pack_pair(first, second)),
                    part);
    } else {
      S::store_part(reinterpret_cast<float*>(out) + p, first, part);
      S::store_part(reinterpret_cast<float*>(out) + half + p, second, part);
    }
  }
}

/// Value rows (fp32, kLanes rows, zero where there is no token) as steps of a value tile.
template <class S>
void value_rows_to_tile(const float* rows, size_t row_stride, int head_dim, uint32_t* tile,
                        int tile_steps, int first_token) {
  for (int c = 0; c < head_dim; c += S::kLanes) {
    uint32_t* out = tile_vector<S>(tile, tile_steps, c / S::kLanes) +
                    static_cast<size_t>(first_token / S::kPack) * kPanel<S>;
    for (int t = 0; t < S::kLanes; t += S::kPack, out += kPanel<S>) {
      const float* row = rows + static_cast<size_t>(t) * row_stride + c;
      if constexpr (S::kPack == 2) {
        S::store_int(out, S::pack_pair(S::load(row), S::load(row + row_stride)));
      } else {
        S::store_int(out, S::as_int(S::load(row)));
      }
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
