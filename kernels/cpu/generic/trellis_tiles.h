// Tiles (tiles.h) of trellis blocks: keys by KeyBlockFill, as those of other blocks, and values,
// which lie along the tokens and are transposed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/tiles.h"
#include "kernels/cpu/generic/trellis_levels.h"
#include "kernels/planes.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

/// Of a trellis key block, whose levels are codes of one bit more: value = step (zero + L).
/// `subsets` is scratch too: subset_bytes().
template <class S, int kBlock>
class TrellisBlockKeys {
 public:
  TrellisBlockKeys() = default;
  RILLKV_INLINE TrellisBlockKeys(const AttentionParams& params, const uint8_t* block,
                                 const Scales& scales, uint8_t* subsets)
      : half_(params.head_dim / 2), scales_(scales), subsets_(subsets) {
    const int D = params.head_dim;
    const int16_t* zero = reinterpret_cast<const int16_t*>(block);
    const uint8_t* step = block + format::trellis_step_offset(D);
    for (int c = 0; c < D; ++c) scales.step[c] = kSteps8.of[step[c]];
    for (int c = 0; c < D; ++c) scales.lo[c] = scales.step[c] * static_cast<float>(zero[c]);
    widths_ = block + format::trellis_widths_offset(D);
    const format::TrellisPlanes<const uint8_t> planes =
        format::trellis_key_planes(block, kBlock, D);
    b_ = planes.b;
    write_subsets<S, kBlock>(planes.path, D, subsets);
    bytes_ = static_cast<size_t>(b_.nibbles - block) +
             format::codes_bytes(kBlock, format::planes_of_block(widths_, D, 1));
  }
  size_t bytes() const { return bytes_; }

  struct Codes {
    Planes b;
    const uint8_t* subsets;
    int width;  // of the code
    RILLKV_INLINE void load(int h, typename S::I& high, typename S::I& low) const {
      load_levels<S, kBlock>(b, subsets, width, h, high, low);
    }
  };
  template <bool kSecond>
  RILLKV_INLINE KeyChannel<Codes> next(int p) {
    const int c = kSecond ? p + half_ : p;
    const int width = format::first_width(widths_[p]);  // equal in a pair
    const Codes codes = {b_, subsets_, width};
    format::advance(b_, kBlock, width - 1);
    subsets_ += format::plane_bytes(kBlock, 2);
    return {width + 1, scales_.lo[c], scales_.step[c], codes};
  }

 private:
  int half_ = 0;
  Scales scales_ = {};
  const uint8_t *subsets_ = nullptr, *widths_ = nullptr;
  Planes b_ = {};
  size_t bytes_ = 0;
};

/// A trellis block of values as steps first_token / kPack ... of a value tile. Channels are
/// dequantised along the tokens, one a step; after kLanes of them they are transposed. Steps: D, up
/// to a multiple of kLanes.
template <class S, int kBlock>
class TrellisValuesFill {
 public:
  TrellisValuesFill() = default;
  RILLKV_INLINE TrellisValuesFill(const AttentionParams& params, const uint8_t* block,
                                  const Scales& scales, uint8_t* subsets, uint32_t* staging,
                                  uint32_t* tile, int tile_steps, int first_token,
                                  const uint8_t* next_block)
      : head_dim_(params.head_dim),
        width_(params.prefix.value_width),
        wide_pairs_(params.prefix.value_wide_pairs),
        scales_(scales.step),
        subsets_(subsets),
        staging_(staging),
        tile_(tile),
        tile_steps_(tile_steps),
        first_token_(first_token) {
    const int D = head_dim_;
    for (int t = 0; t < kBlock; ++t) scales.step[t] = kSteps8.of[block[t]];
    const format::TrellisPlanes<const uint8_t> planes =
        format::trellis_value_planes(block, kBlock, D, width_, wide_pairs_);
    b_ = planes.b;
    write_subsets<S, kBlock>(planes.path, D, subsets);
    ahead_ = Prefetch(next_block, format::trellis_value_bytes(D, kBlock, width_, wide_pairs_), D);
  }
  static int steps(int head_dim) { return (head_dim + S::kLanes - 1) / S::kLanes * S::kLanes; }

  RILLKV_INLINE void step() {
    const int c = channel_++, row = c % S::kLanes;
    uint32_t* const out = staging_ + static_cast<size_t>(row) * kSteps;
    if (c < head_dim_) {
      ahead_.step<S>();
      read_channel(c, out);
    } else {
      for (int i = 0; i < kSteps; i += S::kLanes) S::store_int(out + i, S::zero_int());
    }
    if (row == S::kLanes - 1) {
      transpose_to_tile<S>(staging_, kSteps, kSteps,
                           tile_vector<S>(tile_, tile_steps_, c / S::kLanes) +
                               static_cast<size_t>(first_token_ / S::kPack) * kPanel<S>);
    }
  }

 private:
  using F = typename S::F;
  using I = typename S::I;
  using R = PlaneRegisters<S, kBlock>;
  static constexpr int kSteps = kBlock / S::kPack, kVectors = kBlock / S::kLanes;

  RILLKV_INLINE void read_channel(int c, uint32_t* out) const {
    const int half = head_dim_ / 2, p = c < half ? c : c - half;
    const int width = format::trellis_value_width(p, width_, wide_pairs_);
    format::PlaneCounts before = format::trellis_value_planes(p, width_, wide_pairs_);
    if (c >= half) before = before + format::planes_of(width - 1);
    Planes b = b_;
    format::advance(b, kBlock, before);
    const uint8_t* subsets =
        subsets_ + static_cast<size_t>(format::channel_position(c, head_dim_)) *
                       format::plane_bytes(kBlock, 2);
    I high[R::kRegisters], low[R::kRegisters];
#pragma GCC unroll 4
    for (int h = 0; h < R::kRegisters; ++h) {
      load_levels<S, kBlock>(b, subsets, width, h, high[h], low[h]);
    }
    // value = scale (g (1 - M) + 2 g L)
    const float g = width > width_ ? format::kWideGain : 1.0f;
    const typename S::Affine affine(g * static_cast<float>(1 - (2 << width)),
                                    2 * g * high_step(width + 1));
    const auto store = [&](auto value) __attribute__((always_inline)) {
      const auto scaled = [&](int v) __attribute__((always_inline)) {
        return S::mul(value(v % R::kRegisters, v / R::kRegisters * R::kSpacing),
                      S::load(scales_ + v * S::kLanes));
      };
#pragma GCC unroll 32
      for (int v = 0; v < kVectors; v += S::kPack) {
        if constexpr (S::kPack == 2) {
          S::store_int(out + v / 2 * S::kLanes, S::pack_row(scaled(v), scaled(v + 1)));
        } else {
          S::store_int(out + v * S::kLanes, S::as_int(scaled(v)));
        }
      }
    };
    if (width < 4) {
      store([&](int h, int bit)
                __attribute__((always_inline)) { return affine(S::shift_right(high[h], bit)); });
    } else {
      const typename S::Scaled rest(2 * g);
      store([&](int h, int bit) __attribute__((always_inline)) {
        return rest(S::shift_right(low[h], bit), affine(S::shift_right(high[h], bit)));
      });
    }
  }

  int head_dim_ = 0, width_ = 0, wide_pairs_ = 0, channel_ = 0;
  const float* scales_ = nullptr;
  const uint8_t* subsets_ = nullptr;
  uint32_t *staging_ = nullptr, *tile_ = nullptr;
  int tile_steps_ = 0, first_token_ = 0;
  Planes b_ = {};
  Prefetch ahead_;
};

template <class S, int kBlock>
void trellis_values_to_tile(const AttentionParams& params, const uint8_t* block,
                            const Scales& scales, uint8_t* subsets, uint32_t* staging,
                            uint32_t* tile, int tile_steps, int first_token,
                            const uint8_t* next_block) {
  using Fill = TrellisValuesFill<S, kBlock>;
  Fill fill(params, block, scales, subsets, staging, tile, tile_steps, first_token, next_block);
  const int steps = Fill::steps(params.head_dim);
  for (int c = 0; c < steps; ++c) fill.step();
}

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
