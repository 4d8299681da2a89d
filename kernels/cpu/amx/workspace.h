// The scratch memory of a task of attention by tiles. A tile is 1 KB in one piece.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx/arithmetic.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/generic/workspace.h"
#include "kernels/cpu/params.h"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cpu::amx {
namespace {

constexpr int kRows = 32;                      // of a row block: two tiles
constexpr int kKeys = 32;                      // of a block of columns: two tiles
constexpr int kTile = kTileRows * kTileRows;   // dwords
constexpr int kChunk = TileBf16::kTileTokens;  // columns
constexpr int kColumnBlocks = kChunk / kKeys;  // of a chunk
constexpr int kLanes = TileBf16::kLanes;

struct Workspace {
  // Of the rows, a multiple of kRows.
  uint32_t* queries;  // [rows / 16][D / 32] tiles, q~
  float* sums;        // [rows / 16][D / 16] tiles, o
  float* minus_m;     // [rows][16] equal values
  float* weight_sum;  // [rows][16] partial sums of l
  int32_t* tokens;    // [rows], the query token, which says what the row sees
  uint32_t* started;  // [rows / 32], a bit for every row whose m is known
  float* row;         // [D], one on its way out
  // Of the steps in flight.
  float* scores[2];      // [blocks of columns of a step][32][32]
  uint32_t* weights[2];  // [kColumnBlocks][2] tiles
  float* unit_sums;      // [32][16], l of the unit that is being weighed
  float* spare;          // [32][32], scores outside the stream
  // Keys, values and their indices of two chunks, and scratch that filling them shares.
  tiled::Workspace chunks[2];
  size_t bytes;
};

/// `memory` null to learn its `bytes`.
inline Workspace lay_out(const AttentionParams& params, size_t query_tokens, void* memory) {
  uint8_t* base = static_cast<uint8_t*>(memory);
  size_t offset = 0;
  const auto take = [&](size_t count) -> uint32_t* {
    void* at = base == nullptr ? nullptr : base + offset;
    offset += format::align_up(4 * count);
    return static_cast<uint32_t*>(at);
  };
  const auto floats = [&](size_t count) { return reinterpret_cast<float*>(take(count)); };
  const auto ints = [&](size_t count) { return reinterpret_cast<int32_t*>(take(count)); };
  const size_t D = static_cast<size_t>(params.head_dim);
  const size_t B = static_cast<size_t>(params.block_size);
  const size_t rows =
      (query_tokens * static_cast<size_t>(params.heads / params.kv_heads) + kRows - 1) / kRows *
      kRows;
  const size_t scale_count =
      static_cast<size_t>(params.prefix.value_groups > 0 ? params.prefix.value_groups : 1) * B;
  const size_t steps = D / 32, blocks_a_step = (kColumnBlocks + steps - 1) / steps;
  Workspace w{};
  w.queries = take(rows * D / 2);
  w.sums = floats(rows * D);
  w.minus_m = floats(rows * kLanes);
  w.weight_sum = floats(rows * kLanes);
  w.tokens = ints(rows);
  w.started = take(rows / kRows);
  w.row = floats(D);
  for (float*& scores : w.scores) scores = floats(blocks_a_step * kRows * kKeys);
  for (uint32_t*& weights : w.weights) weights = take(kColumnBlocks * 2 * kTile);
  w.unit_sums = floats(kRows * kLanes);
  w.spare = floats(kRows * kKeys);
  tiled::Workspace shared{};
  shared.scales.lo = floats(scale_count > D ? scale_count : D);
  shared.scales.step = floats(scale_count > D ? scale_count : D);
  shared.token_rows = floats(kLanes * D);
  shared.staging = take(kLanes * (D > B ? D : B));
  shared.subsets = reinterpret_cast<uint8_t*>(
      take(params.prefix.trellis ? subset_bytes(params.head_dim, params.block_size) / 4 : 0));
  for (tiled::Workspace& chunk : w.chunks) {
    chunk = shared;
    chunk.keys = take(kChunk * D / 2);
    chunk.values = take(kChunk * D / 2);
    chunk.index = ints(kChunk);
  }
  w.bytes = offset;
  return w;
}

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
