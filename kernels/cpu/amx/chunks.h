// The keys and values that a task's rows see, a chunk of columns at a time: sealed blocks first,
// which keeps chunks whole, then sinks, the open tail and the chunk of the queries themselves.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx/arithmetic.h"
#include "kernels/cpu/amx/workspace.h"
#include "kernels/cpu/generic/fill.h"

namespace rillkv::kernels::cpu::amx {
namespace {

template <int D>
class Chunks {
 public:
  using S = TileBf16;

  Chunks(const AttentionParams& params, const AttentionTask& task, const Workspace& workspace)
      : p_(params),
        task_(task),
        w_(workspace),
        columns_{{params, workspace.chunks[0]}, {params, workspace.chunks[1]}},
        block_(task.tile_begin > 1 ? task.tile_begin - 1 : 0),
        last_block_(task.tile_end - 1 < params.prefix.block_count ? task.tile_end - 1
                                                                  : params.prefix.block_count) {}

  /// Fills the other chunk with the columns to come, and turns to it. False if there are none.
  bool fill() {
    current_ = !current_;
    tiled::KeyValueTiles<S>& columns = columns_[current_];
    columns.clear();
    for (; block_ < last_block_ && columns.has_room(p_.block_size / kLanes); ++block_) {
      add_block(columns);
    }
    while (block_ >= last_block_ && segment_ < 3 && columns.has_room(1)) add_tokens(columns);
    columns.complete();
    return columns.vectors() > 0;
  }

  const tiled::KeyValueTiles<S>& columns() const { return columns_[current_]; }
  const tiled::Workspace& memory() const { return w_.chunks[current_]; }

 private:
  bool has(int tile) const { return task_.tile_begin <= tile && tile < task_.tile_end; }

  void add_block(tiled::KeyValueTiles<S>& columns) {
    const PackedPrefix& prefix = p_.prefix;
    const int64_t first_index = prefix.sink_capacity + int64_t{block_} * p_.block_size;
    if (first_index >= p_.first_query_index + task_.query_end) return;  // no row sees it
    const int64_t entry = int64_t{block_} * p_.kv_heads + task_.kv_head;
    // Nothing to prefetch: on Sapphire Rapids that was slower.
    columns.add_block({prefix.keys[entry], prefix.values[entry], prefix.rotations[block_],
                       first_index, nullptr, nullptr});
  }

  /// The next register of tokens that are in no block, if there are more in the segment.
  void add_tokens(tiled::KeyValueTiles<S>& columns) {
    const int blocks = p_.prefix.block_count;
    if (segment_ == 0) {
      if (p_.prefix.sink_count == 0) return next_segment();
      add_tokens_of(columns, 0, tiled::sink_tokens<S>(p_, task_.kv_head));
    } else if (segment_ == 1) {
      add_tokens_of(columns, blocks + 1, tiled::dense_tokens<S>(p_, p_.tail, task_.kv_head));
    } else {
      add_tokens_of(columns, blocks + 2, tiled::dense_tokens<S>(p_, p_.chunk, task_.kv_head));
    }
  }
  template <class Tokens>
  void add_tokens_of(tiled::KeyValueTiles<S>& columns, int tile, Tokens tokens) {
    tokens.count = tiled::visible_tokens(p_, task_.query_end, tokens.first_index,
                                         has(tile) ? tokens.count : 0);
    if (token_ >= tokens.count) return next_segment();
    columns.add_tokens(tokens, token_);
    token_ += kLanes;
  }
  void next_segment() {
    ++segment_;
    token_ = 0;
  }

  const AttentionParams& p_;
  const AttentionTask& task_;
  const Workspace& w_;
  tiled::KeyValueTiles<S> columns_[2];
  bool current_ = true;  // the chunk that was filled last
  // The next columns.
  int block_;
  const int last_block_;
  int segment_ = 0;  // sinks, tail, chunk
  int token_ = 0;
};

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
