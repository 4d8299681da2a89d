// The tiles a row tile of queries sees: 128 tokens of the sinks, of a sealed block, of the tail or
// of the chunk, in index order. Every CTA derives them from the sequence's AttentionParams.
#pragma once

#include <cstdint>

#include "kernels/cuda/entry_params.h"

namespace rillkv::kernels::cuda {

enum class TileKind : int { kSinks, kBlock, kTail, kChunk };

struct Tile {
  TileKind kind;
  int number;       // block number, or first token within its segment
  int length;       // tokens; a block has kAttentionTile, unused ones are zeros
  int first_index;  // of its first token in the sequence
};

/// How many tiles of each kind have a token with an index <= `last_index`.
struct VisibleTiles {
  int sinks, blocks, tail, chunk;

  __device__ VisibleTiles(const AttentionParams& p, int last_index, int tile_tokens) {
    sinks = segment(p.prefix.sink_count, 0, last_index, tile_tokens);
    blocks = segment(p.prefix.block_count * p.block_size, p.prefix.sink_capacity, last_index,
                     tile_tokens);
    tail = segment(p.tail.count, static_cast<int>(p.tail.first_index), last_index, tile_tokens);
    chunk = segment(p.chunk.count, static_cast<int>(p.chunk.first_index), last_index, tile_tokens);
  }
  __device__ int count() const { return sinks + blocks + tail + chunk; }

 private:
  __device__ static int segment(int tokens, int first_index, int last_index, int tile_tokens) {
    const int visible = min(tokens, last_index - first_index + 1);
    return visible <= 0 ? 0 : (visible + tile_tokens - 1) / tile_tokens;
  }
};

__device__ inline Tile tile_at(const AttentionParams& p, const VisibleTiles& visible, int i,
                               int tile_tokens) {
  if (i < visible.sinks) {
    const int first = i * tile_tokens;
    return {TileKind::kSinks, first, min(tile_tokens, p.prefix.sink_count - first), first};
  }
  i -= visible.sinks;
  if (i < visible.blocks) {
    const int first = i * tile_tokens;
    return {TileKind::kBlock, i, min(tile_tokens, p.prefix.block_count * p.block_size - first),
            p.prefix.sink_capacity + first};
  }
  i -= visible.blocks;
  if (i < visible.tail) {
    const int first = i * tile_tokens;
    return {TileKind::kTail, first, min(tile_tokens, p.tail.count - first),
            static_cast<int>(p.tail.first_index) + first};
  }
  i -= visible.tail;
  const int first = i * tile_tokens;
  return {TileKind::kChunk, first, min(tile_tokens, p.chunk.count - first),
          static_cast<int>(p.chunk.first_index) + first};
}

}  // namespace rillkv::kernels::cuda
