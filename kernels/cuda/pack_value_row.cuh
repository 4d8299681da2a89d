// A row of a token block of rillkv_pack_* in the registers of 16 lanes, for head_dim 64 and 128 and
// groups of whole multiples of 16; pack_values.cuh has what takes any shape.
//
// Lane i has elements i, i + 16, ...: at head_dim 128 those are a word of a nibble plane, at 64
// half of one (packed_format.h). Loads of a row are one sector a load.
#pragma once

#include "kernels/cuda/code_planes.cuh"
#include "kernels/cuda/extremes.cuh"
#include "kernels/cuda/ingest_params.h"
#include "kernels/cuda/token_rows.cuh"

namespace rillkv::kernels::cuda {
namespace {

/// Two rows a warp: no shuffle leaves its 16 lanes, and a mask that is known costs less.
inline constexpr uint32_t kBothRows = 0xffffffffu;

template <int D>
__device__ void write_value_row(const format::Planes<uint8_t>& to, const uint32_t (&code)[D / 16],
                                int bits, int lane) {
  constexpr int kWords = D / 8;  // of a nibble plane; lanes past them repeat
  EightCodes codes;
  if constexpr (D == 128) {
    codes = {four_bytes(code[0], code[2], code[4], code[6]),
             four_bytes(code[1], code[3], code[5], code[7])};
  } else {
    const uint32_t own = four_bytes(code[0], code[1], code[2], code[3]);
    const uint32_t other = __shfl_xor_sync(kBothRows, own, kWords);
    codes = lane < kWords ? EightCodes{own, other} : EightCodes{other, own};
  }
  if (bits >= 4) {
    auto* words = reinterpret_cast<uint32_t*>(to.nibbles) + lane;
    if (lane < kWords) *words = codes.nibbles(bits);
    if (bits == 8 && lane < kWords) words[kWords] = codes.low_nibbles();
  }
  if (format::crumb_planes(bits) != 0) {
    const uint32_t own = codes.crumbs(bits);
    const uint32_t other = __shfl_xor_sync(kBothRows, own, kWords / 2);
    if (lane < kWords / 2) reinterpret_cast<uint32_t*>(to.crumbs)[lane] = own | other << 2;
  }
  if (format::bit_planes(bits) != 0) {
    uint32_t own = codes.bits() << (lane / (kWords / 4) % 4);
    own |= __shfl_xor_sync(kBothRows, own, kWords / 4);
    own |= __shfl_xor_sync(kBothRows, own, kWords / 2);
    if (lane < kWords / 4) reinterpret_cast<uint32_t*>(to.bits)[lane] = own;
  }
}

/// Row `row` of a block of p at `out`, from `from`, or zeros if that is null; returns this lane's
/// clipped codes. Called by whole warps: blocks are multiples of 32 rows.
template <int D, int kGroups, typename T>
__device__ uint32_t pack_value_row(const PackParams& p, const T* from, int row, int lane,
                                   uint8_t* out) {
  constexpr int kOwn = D / 16, kOfGroup = kOwn / kGroups;
  const int bits = p.value_bits;
  OwnElements<kOfGroup> x[kGroups];
#pragma unroll
  for (int k = 0; k < kOwn; ++k) x[k / kOfGroup].x[k % kOfGroup] = 0.0f;
  if (from != nullptr) {
    from += static_cast<uint32_t>(lane);
#pragma unroll
    for (int k = 0; k < kOwn; ++k) x[k / kOfGroup].x[k % kOfGroup] = to_float(from[16 * k]);
  }
  const auto range_of = [&](int g) {
    float lo = x[g][0], hi = x[g][0];
#pragma unroll
    for (int k = 1; k < kOfGroup; ++k) {
      lo = fminf(lo, x[g][k]);
      hi = fmaxf(hi, x[g][k]);
    }
    return LaneRange<T>::of(lo, hi);
  };
  LaneRange<T> ranges[2] = {range_of(0), range_of(kGroups - 1)};
#pragma unroll
  for (int span = 1; span < kLanes; span *= 2) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) ranges[g].join(kBothRows, span);
  }
  uint32_t code[kOwn], clipped = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const float lo = ranges[g].lo(), hi = ranges[g].hi();
    AffineScale scale = affine_scale(lo, hi, bits);
    if (bits == 2) {
      scale = best_scale(x[g], scale, lo, hi, bits, kBothRows);
#pragma unroll
      for (int k = 0; k < kOfGroup; ++k) {
        code[g * kOfGroup + k] = affine_code(x[g][k], scale, bits);
        clipped += affine_clips(x[g][k], scale, bits);
      }
    } else {
      // No quotient rounds to more than the largest code: the step is rounded up.
#pragma unroll
      for (int k = 0; k < kOfGroup; ++k) {
        code[g * kOfGroup + k] = code_byte(quotient(__fsub_rn(x[g][k], scale.lo), scale));
      }
    }
    if (lane == 0) {
      const size_t at = 2 * static_cast<size_t>(g * p.block_size + row);
      *reinterpret_cast<uint16_t*>(out + at) = scale.lo_bits;
      *reinterpret_cast<uint16_t*>(out + format::token_step_offset(p.block_size, kGroups, false) +
                                   at) = scale.step_bits;
    }
  }
  write_value_row<D>(format::token_planes(out, p.block_size, row, D, kGroups, false, bits), code,
                     bits, lane);
  return clipped;
}

}  // namespace
}  // namespace rillkv::kernels::cuda
