// Attention of a task by tiles: the SIMD versions of KernelTable::attend.
//
//   s = q~ k~^T       q~ = scale log2(e) R q, so that p = 2^(s - m)
//   m' = max(m, max_j s_j),  p = 2^(s - m'),  sum = sum 2^(m - m') + sum_j p_j
//   o = o 2^(m - m') + p v,  out = o / sum (rotated back)
//
// All rows of the task (query_rows.h) go over one group of key and value tiles at a time, which
// stays in the L2 cache: the tiles are filled (fill.h) and consumed (consume.h) in turn. A few rows
// take other ways where there are cheaper ones: whole blocks by Streaming (streaming.h), the rest
// without a tile (direct.h).
//
// Numerics: Fp32 is fp32 throughout. Bf16 rounds rotated queries, keys, values and weights to bf16
// and accumulates in fp32, as bf16 attention does elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/consume.h"
#include "kernels/cpu/generic/direct.h"
#include "kernels/cpu/generic/fill.h"
#include "kernels/cpu/generic/query_rows.h"
#include "kernels/cpu/generic/simd_concept.h"
#include "kernels/cpu/generic/streaming.h"
#include "kernels/cpu/generic/workspace.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

constexpr int kBlocksAhead = 4;  // distance of the prefetch: 70 KB at 4.5 bits and D = 128
constexpr int kStreamedBlocksAhead = 1;

template <TileArithmetic S, class Streaming>
class Attention {
 public:
  Attention(const AttentionParams& params, const AttentionTask& task, void* memory)
      : p_(params),
        task_(task),
        w_(lay_out<S, Streaming>(params, static_cast<size_t>(task.query_end - task.query_begin),
                                 memory)),
        rows_(params, task, w_),
        tiles_(params, w_) {}

  void run() {
    rows_.load();
    // Few rows: blocks change the queries, so the rest comes first. Many rows: blocks come first,
    // which keeps them at whole panels. The fewest read the rest directly, and memory fetches it
    // while they work on the blocks.
    const bool rest_first = few_rows() && !direct();
    if (rest_first) {
      add_uncompressed();
      consume();
    }
    if (direct()) prefetch_tail();
    add_blocks();
    if (!rest_first) add_uncompressed();
    consume();
    rows_.finish();
  }

 private:
  static constexpr int L = S::kLanes;

  /// With few rows (decode) every block is a group of its own, whose R(t0) goes to the queries.
  bool few_rows() const { return rows_.count() <= kBlockRows; }
  /// So few that what is no block is read without a tile.
  bool direct() const { return rows_.count() <= kDirectRows; }
  bool streams() const { return w_.streaming != nullptr; }
  bool has(int tile) const { return task_.tile_begin <= tile && tile < task_.tile_end; }

  void consume() { consume_tiles<S>(p_.head_dim, w_, rows_, tiles_); }

  // ---- sealed blocks ----

  void add_blocks() {
    const PackedPrefix& prefix = p_.prefix;
    if (streams()) Streaming::start(p_, rows_.count(), w_.streaming);
    const int first = task_.tile_begin > 1 ? task_.tile_begin - 1 : 0;
    const int last =
        task_.tile_end - 1 < prefix.block_count ? task_.tile_end - 1 : prefix.block_count;
    for (int n = first; n < last; ++n) {
      const int64_t entry = static_cast<int64_t>(n) * p_.kv_heads + task_.kv_head;
      const int64_t ahead = entry_ahead(n, last);
      const int64_t first_index = prefix.sink_capacity + static_cast<int64_t>(n) * p_.block_size;
      if (streams() &&
          first_index + p_.block_size - 1 <= p_.first_query_index + task_.query_begin &&
          Streaming::add_block(p_, n, entry, ahead,
                               {rows_.count(), rows_.raw_query(0), padded(p_.head_dim),
                                &rows_.softmax(0), w_.streaming})) {
        continue;
      }
      if (first_index >= p_.first_query_index + task_.query_end) continue;  // no row sees it
      if (!tiles_.has_room(p_.block_size / L)) consume();
      if (few_rows()) rows_.turn_back(prefix.rotations[n]);
      tiles_.add_block({prefix.keys[entry], prefix.values[entry],
                        few_rows() ? nullptr : prefix.rotations[n], first_index,
                        ahead < 0 ? nullptr : prefix.keys[ahead],
                        ahead < 0 ? nullptr : prefix.values[ahead]});
      if (few_rows()) consume();
    }
  }

  /// Entry of the prefix's tables that is worth fetching while block n is worked on, or -1.
  int64_t entry_ahead(int n, int last) const {
    int block = n + (streams() ? kStreamedBlocksAhead : kBlocksAhead), head = task_.kv_head;
    if (block >= last) {
      if (task_.next == nullptr) return -1;
      const int first = task_.next->tile_begin > 1 ? task_.next->tile_begin - 1 : 0;
      block = first + block - last;
      head = task_.next->kv_head;
      if (block >= task_.next->tile_end - 1 || block >= p_.prefix.block_count) return -1;
    }
    return static_cast<int64_t>(block) * p_.kv_heads + head;
  }

  // ---- the rest: sinks, open tail, chunk ----

  void add_uncompressed() {
    if (has(0) && p_.prefix.sink_count > 0) add(sink_tokens<S>(p_, task_.kv_head));
    if (has(p_.prefix.block_count + 1)) add(dense_tokens<S>(p_, p_.tail, task_.kv_head));
    if (has(p_.prefix.block_count + 2)) add(dense_tokens<S>(p_, p_.chunk, task_.kv_head));
  }

  /// Those that some row sees.
  template <class Tokens>
  void add(Tokens tokens) {
    tokens.count = visible_tokens(p_, task_.query_end, tokens.first_index, tokens.count);
    if (direct()) return add_directly(tokens);
    for (int begin = 0; begin < tokens.count; begin += L) {
      if (!tiles_.has_room(1)) consume();
      tiles_.add_tokens(tokens, begin);
    }
  }

  template <class Tokens>
  void add_directly(const Tokens& tokens) {
    const int D = p_.head_dim;
    const size_t stride = padded(D);
    float* keys = reinterpret_cast<float*>(w_.staging);
    for (int begin = 0; begin < tokens.count; begin += L) {
      const int here = tokens.count - begin < L ? tokens.count - begin : L;
      for (int i = 0; i < here; ++i) {
        float* key = keys + static_cast<size_t>(i) * stride;
        const int64_t table = static_cast<int64_t>(begin + i) * (D / 2);
        tokens.read_key(begin + i, w_.token_rows);
        clear_row<S>(key, stride);
        rotate_row<S, false, true>(w_.token_rows, tokens.cosines + table, tokens.sines + table,
                                   1.0f, D, reinterpret_cast<uint32_t*>(key));
      }
      for (int i = 0; i < here; ++i) {
        tokens.read_value(begin + i, w_.token_rows + static_cast<size_t>(i) * stride);
      }
      const int32_t first = tiles_.relative(tokens.first_index + begin);
      for (int r = 0; r < rows_.count(); ++r) {
        const int seen = rows_.token(r) - first + 1;
        if (seen <= 0) continue;
        attend_tokens<S>(rows_.raw_query(r), keys, w_.token_rows, stride, D,
                         seen < here ? seen : here, rows_.softmax(r));
      }
    }
  }

  /// Rows of a head lie apart, too far for the hardware to guess the next.
  void prefetch_tail() const {
    const auto fetch = [&](const Activation& x, int64_t token) {
      const auto* row = static_cast<const uint8_t*>(row_of(x, p_.dtype, token, task_.kv_head));
      const size_t bytes = static_cast<size_t>(p_.head_dim) * element_bytes(p_.dtype);
      for (size_t at = 0; at < bytes; at += 64) S::prefetch(row + at);
    };
    if (!has(p_.prefix.block_count + 1)) return;
    for (int64_t t = 0; t < p_.tail.count; ++t) {
      fetch(p_.tail.keys, t);
      fetch(p_.tail.values, t);
    }
  }

  const AttentionParams& p_;
  const AttentionTask& task_;
  const Workspace w_;
  const QueryRows<S> rows_;
  KeyValueTiles<S> tiles_;
};

/// The entries of KernelTable for one arithmetic.
template <TileArithmetic S, class Streaming>
size_t workspace_bytes(const AttentionParams& params, int32_t query_tokens) {
  return lay_out<S, Streaming>(params, static_cast<size_t>(query_tokens), nullptr).bytes;
}
template <TileArithmetic S, class Streaming>
void attend(const AttentionParams& params, const AttentionTask& task, void* workspace) {
  Attention<S, Streaming>(params, task, workspace).run();
}

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
