// Loops that do nothing but multiply and add, to be timed: what a chip can do at most.
#pragma once

#include <cstdint>

namespace rillkv::kernels::cpu::avx512 {

/// A round is twelve independent multiply-adds of whole registers: latency times throughput of
/// every chip with these instructions is less. Operands and sums are normal numbers.
void fp32_rounds(int64_t rounds);
void bf16_rounds(int64_t rounds);
inline constexpr double kFp32RoundFlops = 12 * 16 * 2, kBf16RoundFlops = 12 * 32 * 2;

}  // namespace rillkv::kernels::cpu::avx512

namespace rillkv::kernels::cpu::amx {

/// A round is four independent products of bf16 tiles. The process has leave to use tiles.
void tile_rounds(int64_t rounds);
inline constexpr double kTileRoundFlops = 4.0 * 16 * 16 * 32 * 2;

}  // namespace rillkv::kernels::cpu::amx
