// The tile unit's bf16 as the fill of generic/fill.h writes it.
#pragma once

#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/generic/simd_concept.h"

namespace rillkv::kernels::cpu::amx {

/// A panel of one register is a row of 64 bytes of a tile, so that 16 steps of it are a tile in one
/// piece of 1 KB: the second operand of a product, whose row is a pair of the summed dimension for
/// 16 columns.
///
///   keys    [tokens / 16][D / 32] tiles     rows: pairs of channels (p, p + D/2); 16 tokens
///   values  [D / 16][tokens / 32] tiles     rows: pairs of tokens; 16 channels
struct TileBf16 : avx512::Bf16 {
  static constexpr int kPanelVectors = 1;
  /// Of a chunk. 256 and 512 were equally fast on Sapphire Rapids, 128 slower.
  static constexpr int kTileTokens = 256;
};
static_assert(TileArithmetic<TileBf16> && PairedArithmetic<TileBf16>);

}  // namespace rillkv::kernels::cpu::amx
