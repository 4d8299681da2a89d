// The scratch memory of a task of tiled attention.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/online_softmax.h"
#include "kernels/cpu/generic/tiles.h"
#include "kernels/cpu/generic/trellis_levels.h"
#include "kernels/cpu/params.h"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

constexpr int kBlockRows = 24;          // rows whose scores and weights stay in the L1 cache
constexpr size_t kRowPadding = 16;      // keeps rows of scores from sharing L1 sets
constexpr int32_t kNever = 0x7fffffff;  // index of a column that holds no token

struct Workspace {
  uint32_t* queries;    // [rows, D / kPack]
  float* raw_queries;   // [rows, padded D], the same in fp32, if rows <= kBlockRows
  float* accumulators;  // [rows, padded D]
  OnlineSoftmax* rows;  // [rows], log2 units
  uint32_t* keys;       // key tile of tile_tokens tokens
  uint32_t* values;     // value tile of tile_tokens tokens
  float* scores;        // [kBlockRows, tile_tokens + kRowPadding]
  uint32_t* weights;    // [kBlockRows, tile_tokens / kPack + kRowPadding]
  int32_t* index;       // [tile_tokens], index - first_query_index, or kNever
  Scales scales;        // [max(D, groups * block_size)] each
  float* token_rows;    // [kLanes, padded D], rows on their way into a tile
  uint32_t* staging;    // [kLanes, max(padded D, block_size)], the same as dwords
  uint8_t* subsets;     // of a trellis block (trellis_levels.h)
  void* streaming;      // scratch_bytes of Streaming; null if nothing streams
  size_t bytes;
};

/// Tokens of a group of tiles.
template <class S>
size_t tile_tokens(const AttentionParams& params) {
  const size_t block = static_cast<size_t>(params.block_size);
  return block > S::kTileTokens ? block : S::kTileTokens;
}

inline size_t padded(int head_dim) { return (static_cast<size_t>(head_dim) + 15) / 16 * 16; }

/// Of a task of so many query tokens; `memory` null to learn its `bytes`.
template <class S, class Streaming>
Workspace lay_out(const AttentionParams& params, size_t query_tokens, void* memory) {
  uint8_t* base = static_cast<uint8_t*>(memory);
  size_t offset = 0;
  const auto take = [&](size_t bytes) -> void* {
    void* at = base == nullptr ? nullptr : base + offset;
    offset += format::align_up(bytes);
    return at;
  };
  const auto floats = [&](size_t count) { return static_cast<float*>(take(4 * count)); };
  const auto words = [&](size_t count) { return static_cast<uint32_t*>(take(4 * count)); };
  const size_t D = static_cast<size_t>(params.head_dim), P = padded(params.head_dim);
  const size_t rows = query_tokens * static_cast<size_t>(params.heads / params.kv_heads);
  const size_t tokens = tile_tokens<S>(params), B = static_cast<size_t>(params.block_size);
  const size_t panels = (P + kPanel<S> - 1) / kPanel<S>;
  const size_t scale_count =
      static_cast<size_t>(params.prefix.value_groups > 0 ? params.prefix.value_groups : 1) * B;
  Workspace w;
  w.queries = words(rows * (D / S::kPack));
  w.raw_queries = floats(rows <= kBlockRows ? rows * P : 0);
  w.accumulators = floats(rows * P);
  w.rows = static_cast<OnlineSoftmax*>(take(rows * sizeof(OnlineSoftmax)));
  w.keys = words((tokens + kPanel<S>)*(D / S::kPack));
  w.values = words(panels * kPanel<S> * (tokens / S::kPack));
  w.scores = floats(kBlockRows * (tokens + kRowPadding));
  w.weights = words(kBlockRows * (tokens / S::kPack + kRowPadding));
  w.index = static_cast<int32_t*>(take(4 * tokens));
  w.scales.lo = floats(scale_count > D ? scale_count : D);
  w.scales.step = floats(scale_count > D ? scale_count : D);
  w.token_rows = floats(S::kLanes * P);
  w.staging = words(S::kLanes * (P > B ? P : B));
  w.subsets = static_cast<uint8_t*>(
      take(params.prefix.trellis ? subset_bytes(params.head_dim, params.block_size) : 0));
  w.streaming = nullptr;
  if (rows <= Streaming::kMaxRows) {
    const size_t bytes = Streaming::scratch_bytes(params);
    if (bytes > 0) w.streaming = take(bytes);
  }
  w.bytes = offset;
  return w;
}

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
