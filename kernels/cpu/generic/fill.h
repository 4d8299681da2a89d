// Filling the tiles of a task: blocks, and tokens that are in none, become columns of a group of
// key and value tiles, and every column knows the index of its token in the sequence.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/tiles.h"
#include "kernels/cpu/generic/token_rows.h"
#include "kernels/cpu/generic/trellis_tiles.h"
#include "kernels/cpu/generic/with_dtype.h"
#include "kernels/cpu/generic/workspace.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

constexpr int kMaxTileVectors = 64;  // bits of a mask

/// Tokens that are in no block. read_key(i, out) and read_value(i, out) write token i in fp32: the
/// key before RoPE, D floats, zeros up to a multiple of kLanes.
template <class ReadKey, class ReadValue>
struct LooseTokens {
  int count;
  int64_t first_index;   // in the sequence
  const float* cosines;  // [count, D/2], R(position)
  const float* sines;
  ReadKey read_key;
  ReadValue read_value;
};

/// Sinks of one kv head.
template <class S>
struct SinkReader {
  RowReader<S> codes;

  void operator()(int token, float* out) const {
    if (codes.width != format::kRowBits) return codes(token, out);
    read_row<S>(codes.block + format::sink_row_offset(token, codes.head_dim), Dtype::kFloat16,
                codes.head_dim, out);
  }
};
template <class S>
auto sink_tokens(const AttentionParams& params, int kv_head) {
  const PackedPrefix& prefix = params.prefix;
  const auto reader = [&](const uint8_t* blocks, int64_t stride, int bits) {
    return SinkReader<S>{
        {blocks + kv_head * stride, prefix.sink_capacity, params.head_dim, 1, bits, true}};
  };
  return LooseTokens{prefix.sink_count,
                     0,
                     prefix.sink_cos,
                     prefix.sink_sin,
                     reader(prefix.sink_keys, prefix.sink_key_stride, prefix.sink_key_bits),
                     reader(prefix.sink_values, prefix.sink_value_stride, prefix.sink_value_bits)};
}

/// Those of a kv head in a segment. Refers to its arguments.
template <class S>
auto dense_tokens(const AttentionParams& params, const DenseSegment& segment, int kv_head) {
  const auto reader = [&params, kv_head](const Activation& x) {
    return [&params, kv_head, &x](int t, float* out) {
      read_row<S>(row_of(x, params.dtype, t, kv_head), params.dtype, params.head_dim, out);
    };
  };
  return LooseTokens{segment.count, segment.first_index,  segment.cos,
                     segment.sin,   reader(segment.keys), reader(segment.values)};
}

/// How many of `count` tokens, the first of which has the index `first_index`, some query before
/// query_end sees.
inline int visible_tokens(const AttentionParams& params, int32_t query_end, int64_t first_index,
                          int count) {
  const int64_t visible = params.first_query_index + query_end - first_index;
  return visible >= count ? count : static_cast<int>(visible > 0 ? visible : 0);
}

/// A block of the prefix and what goes with it.
struct BlockSource {
  const uint8_t* keys;
  const uint8_t* values;
  const float* rotation;      // R(t0), or null where it has gone to the queries
  int64_t first_index;        // in the sequence
  const uint8_t* keys_ahead;  // the block to prefetch, or null
  const uint8_t* values_ahead;
};

template <class S>
class KeyValueTiles {
 public:
  KeyValueTiles(const AttentionParams& params, const Workspace& workspace)
      : p_(params),
        w_(workspace),
        D_(params.head_dim),
        steps_(D_ / S::kPack),
        tokens_(static_cast<int>(tile_tokens<S>(params))),
        stride_(padded(D_)) {}

  /// Registers of columns in use.
  int vectors() const { return vectors_; }
  /// Steps of a panel of values.
  int value_steps() const { return tokens_ / S::kPack; }
  /// Tokens that a tile has room for.
  int capacity() const { return tokens_; }
  bool has_room(int vectors) const { return (vectors_ + vectors) * L <= tokens_; }
  void clear() { vectors_ = 0; }

  /// Whether the first of a register's columns is visible to query token t, and whether all are.
  bool any_visible(int v, int32_t t) const { return earliest_[v] <= t; }
  bool all_visible(int v, int32_t t) const { return latest_[v] <= t; }

  /// Adds a block; there is room for it.
  void add_block(const BlockSource& block) {
    with_block_size(p_.block_size, [&](auto size) { add_block_of<size>(block); });
  }

  /// Adds the next kLanes tokens from `begin` on, or as many as there are; there is room for a
  /// register.
  template <class Tokens>
  void add_tokens(const Tokens& tokens, int begin) {
    for (int step = 0; step < kTokenSteps; ++step) add_tokens_step(tokens, begin, step);
  }
  /// The same in kTokenSteps calls, for callers with other work between.
  static constexpr int kTokenSteps = S::kLanes + 1;
  template <class Tokens>
  RILLKV_INLINE void add_tokens_step(const Tokens& tokens, int begin, int step) {
    const int here = tokens.count - begin < L ? tokens.count - begin : L;
    if (step == L) return add_staged(tokens.first_index + begin, here);
    uint32_t* key = w_.staging + static_cast<size_t>(step) * stride_;
    float* value = w_.token_rows + static_cast<size_t>(step) * stride_;
    if (step >= here) {
      clear_row<S>(reinterpret_cast<float*>(key), stride_);
      clear_row<S>(value, stride_);
      return;
    }
    const int64_t table = static_cast<int64_t>(begin + step) * (D_ / 2);
    float* scratch = w_.token_rows + (L - 1) * stride_;  // until the last value comes
    tokens.read_key(begin + step, scratch);
    rotate_row<S>(scratch, tokens.cosines + table, tokens.sines + table, 1.0f, D_, key);
    tokens.read_value(begin + step, value);
  }

  /// The columns of a block from `first_index` on, whose keys and values the caller has written to
  /// the tiles.
  void add_written(int64_t first_index, int tokens) {
    for (int i = 0; i < tokens; i += L) set_index(vectors_++, first_index + i, L);
  }

  /// Weights come in groups of kPack registers: empty columns up to a whole one.
  void complete() {
    if (vectors_ % S::kPack == 0) return;
    for (int i = 0; i < L; ++i) {
      clear_row<S>(w_.token_rows + static_cast<size_t>(i) * stride_, stride_);
      clear_row<S>(reinterpret_cast<float*>(w_.staging) + static_cast<size_t>(i) * stride_,
                   stride_);
    }
    add_staged(0, 0);
  }

  /// The index of a token as columns and queries compare it, from first_query_index on; beyond 2^31
  /// tokens no one can be told apart.
  int32_t relative(int64_t index) const {
    const int64_t x = index - p_.first_query_index;
    return static_cast<int32_t>(x > kNever ? kNever : x < -kNever ? -kNever : x);
  }

 private:
  static constexpr int L = S::kLanes;

  /// The columns of register `v` get the indices first, first + 1, ... (`count` of them).
  void set_index(int v, int64_t first, int count) {
    for (int i = 0; i < L; ++i) w_.index[v * L + i] = i < count ? relative(first + i) : kNever;
    earliest_[v] = count > 0 ? w_.index[v * L] : kNever;
    latest_[v] = w_.index[v * L + L - 1];
  }

  /// w_.staging (kLanes rotated keys) and w_.token_rows (values) become the next register of
  /// columns.
  void add_staged(int64_t first_index, int count) {
    transpose_to_tile<S>(w_.staging, stride_, steps_, tile_vector<S>(w_.keys, steps_, vectors_));
    value_rows_to_tile<S>(w_.token_rows, stride_, D_, w_.values, value_steps(), vectors_ * L);
    set_index(vectors_++, first_index, count);
  }

  template <int kBlock>
  void add_block_of(const BlockSource& block) {
    if (p_.prefix.trellis) {
      add_keys<kBlock, TrellisBlockKeys<S, kBlock>>(block);
      trellis_values_to_tile<S, kBlock>(p_, block.values, w_.scales, w_.subsets, w_.staging,
                                        w_.values, value_steps(), vectors_ * L, block.values_ahead);
    } else {
      add_keys<kBlock, ChannelBlockKeys<S, kBlock>>(block);
      if (p_.prefix.values_channel_major) {
        value_channels_to_tile<S, kBlock>(p_, block.values, w_.scales, w_.staging, w_.values,
                                          value_steps(), vectors_ * L);
      } else {
        add_token_values<kBlock>(block);
      }
    }
    add_written(block.first_index, kBlock);
  }

  template <int kBlock, class Keys>
  void add_keys(const BlockSource& block) {
    const auto fill = block.rotation == nullptr ? key_block_to_tile<S, kBlock, false, Keys>
                                                : key_block_to_tile<S, kBlock, true, Keys>;
    fill(p_, block.keys, block.rotation, w_.scales, w_.subsets, w_.keys, vectors_,
         block.keys_ahead);
  }

  template <int kBlock>
  void add_token_values(const BlockSource& block) {
    const int groups = p_.prefix.value_groups, bits = p_.prefix.value_bits;
    const Prefetch ahead(block.values_ahead,
                         format::token_block_bytes(kBlock, D_, groups, false, bits),
                         kBlock / S::kPack);
    const int first_token = vectors_ * L;
    const auto fast = [&](auto dim, auto group_count) {
      value_tokens_to_tile<S, dim, group_count>(p_, block.values, w_.scales, w_.values,
                                                value_steps(), first_token, ahead);
    };
    if (D_ == 128 && groups == 2) {
      fast(std::integral_constant<int, 128>(), std::integral_constant<int, 2>());
    } else if (D_ == 128 && groups == 1) {
      fast(std::integral_constant<int, 128>(), std::integral_constant<int, 1>());
    } else if (D_ == 64 && groups == 1) {
      fast(std::integral_constant<int, 64>(), std::integral_constant<int, 1>());
    } else {
      const RowReader<S> reader = {block.values, kBlock, D_, groups, bits, false};
      for (int begin = 0; begin < kBlock; begin += L) {
        for (int i = 0; i < L; ++i) {
          reader(begin + i, w_.token_rows + static_cast<size_t>(i) * stride_);
        }
        value_rows_to_tile<S>(w_.token_rows, stride_, D_, w_.values, value_steps(),
                              first_token + begin);
      }
    }
  }

  const AttentionParams& p_;
  const Workspace& w_;
  const int D_, steps_, tokens_;
  const size_t stride_;
  int vectors_ = 0;
  int32_t earliest_[kMaxTileVectors], latest_[kMaxTileVectors];
};

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
