// The keys and values that a task's rows see, a chunk of columns at a time: sealed blocks first,
// which keeps chunks whole, then sinks, the open tail and the chunk of the queries themselves. A
// chunk is filled in small steps while the one before is multiplied.
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
  static constexpr int kBlock = 128;  // tokens of the blocks that are filled in steps

  Chunks(const AttentionParams& params, const AttentionTask& task, const Workspace& workspace)
      : p_(params),
        task_(task),
        w_(workspace),
        columns_{{params, workspace.chunks[0]}, {params, workspace.chunks[1]}},
        block_(task.tile_begin > 1 ? task.tile_begin - 1 : 0),
        last_block_(task.tile_end - 1 < params.prefix.block_count ? task.tile_end - 1
                                                                  : params.prefix.block_count) {}

  /// Steps of a chunk of blocks of 128 tokens, a channel pair of keys or a token pair of values
  /// each; other chunks take about as many of about the same length.
  static constexpr int kFillSteps = kChunk / kBlock * (D / 2 + kBlock / 2);

  /// Begins to fill the other chunk with the columns to come. Writes nothing to it yet.
  void begin() {
    next().clear();
    work_ = Work::kChoose;
  }
  /// Goes on for about so many steps.
  __attribute__((noinline)) void fill(int steps) {
    while (steps > 0 && work_ != Work::kDone) steps -= go_on(steps);
  }
  /// Fills the rest and turns to that chunk. False if there were no columns.
  bool finish() {
    while (work_ != Work::kDone) fill(kFillSteps);
    current_ = !current_;
    return columns().vectors() > 0;
  }

  const tiled::KeyValueTiles<S>& columns() const { return columns_[current_]; }
  const tiled::Workspace& memory() const { return w_.chunks[current_]; }

 private:
  enum class Work { kChoose, kKeys, kValues, kTrellisValues, kTokens, kDone };
  enum Segment { kSinks, kTail, kOwn, kNone };

  tiled::KeyValueTiles<S>& next() { return columns_[!current_]; }
  bool has(int tile) const { return task_.tile_begin <= tile && tile < task_.tile_end; }

  /// At most so many steps of what is being done; returns how many.
  int go_on(int steps) {
    switch (work_) {
      case Work::kChoose:
        return choose();
      case Work::kKeys: {
        const int here = steps < D / 2 - done_ ? steps : D / 2 - done_;
        if (p_.prefix.trellis) {
          for (int i = 0; i < here; ++i) trellis_keys_.step();
        } else {
          for (int i = 0; i < here; ++i) keys_.step();
        }
        done_ += here;
        if (done_ == D / 2) begin_values();
        return here;
      }
      case Work::kTrellisValues: {
        // A channel takes about half as long as a pair of keys.
        const int here = 2 * steps < D - done_ ? 2 * steps : D - done_;
        for (int i = 0; i < here; ++i) trellis_values_.step();
        done_ += here;
        if (done_ == D) end_block();
        return (here + 1) / 2;
      }
      case Work::kValues: {
        const int here = steps < kBlock / 2 - done_ ? steps : kBlock / 2 - done_;
        groups_ == 1 ? values_step(values_, here) : values_step(values_of_two_groups_, here);
        done_ += here;
        if (done_ == kBlock / 2) end_block();
        return here;
      }
      case Work::kTokens:
        with_tokens([&](auto tokens) { next().add_tokens_step(tokens, token_, done_); });
        if (++done_ == tiled::KeyValueTiles<S>::kTokenSteps) {
          token_ += kLanes;
          work_ = Work::kChoose;
        }
        return 1;
      case Work::kDone:
        break;
    }
    return steps;
  }

  /// What comes next, if there is room for it.
  int choose() {
    done_ = 0;
    if (block_ < last_block_) {
      const int64_t first_index = block_index();
      if (first_index >= p_.first_query_index + task_.query_end) {  // no row sees it
        ++block_;
        return 0;
      }
      if (!next().has_room(p_.block_size / kLanes)) return complete();
      return begin_block(first_index);
    }
    if (segment_ == kNone || !next().has_room(1)) return complete();
    int count = 0;
    with_tokens([&](auto tokens) { count = tokens.count; });
    if (token_ < count) {
      work_ = Work::kTokens;
    } else {
      segment_ = static_cast<Segment>(segment_ + 1);
      token_ = 0;
    }
    return 0;
  }
  int complete() {
    next().complete();
    work_ = Work::kDone;
    return 0;
  }

  // ---- sealed blocks ----

  int64_t block_index() const { return p_.prefix.sink_capacity + int64_t{block_} * p_.block_size; }
  int64_t entry() const { return int64_t{block_} * p_.kv_heads + task_.kv_head; }

  /// In steps, or at once where there are none for this kind of block. Nothing is prefetched: on
  /// Sapphire Rapids that was slower.
  int begin_block(int64_t first_index) {
    const PackedPrefix& prefix = p_.prefix;
    groups_ = prefix.value_groups;
    if (p_.block_size == kBlock && prefix.trellis) {
      begin_keys(trellis_keys_);
      return 1;
    }
    if (p_.block_size == kBlock && !prefix.values_channel_major &&
        (groups_ == 1 || (groups_ == 2 && D == 128))) {
      begin_keys(keys_);
      return 1;
    }
    next().add_block({prefix.keys[entry()], prefix.values[entry()], prefix.rotations[block_],
                      first_index, nullptr, nullptr});
    ++block_;
    return p_.block_size * kFillSteps / kChunk;
  }
  template <class Keys>
  void begin_keys(Keys& keys) {
    keys = {p_,
            p_.prefix.keys[entry()],
            p_.prefix.rotations[block_],
            memory_of_next().scales,
            memory_of_next().subsets,
            memory_of_next().keys,
            next().vectors(),
            nullptr};
    work_ = Work::kKeys;
  }
  void begin_values() {
    if (p_.prefix.trellis) return begin_trellis_values();
    groups_ == 1 ? begin_values(values_) : begin_values(values_of_two_groups_);
    done_ = 0;
    work_ = Work::kValues;
  }
  void begin_trellis_values() {
    trellis_values_ = {p_,
                       p_.prefix.values[entry()],
                       memory_of_next().scales,
                       memory_of_next().subsets,
                       memory_of_next().staging,
                       memory_of_next().values,
                       next().value_steps(),
                       next().vectors() * kLanes,
                       nullptr};
    done_ = 0;
    work_ = Work::kTrellisValues;
  }
  template <class Values>
  void begin_values(Values& values) {
    values = {p_,
              p_.prefix.values[entry()],
              memory_of_next().scales,
              memory_of_next().values,
              next().value_steps(),
              next().vectors() * kLanes,
              Prefetch()};
  }
  template <class Values>
  static void values_step(Values& values, int steps) {
    if (values.has_table()) {
      for (int i = 0; i < steps; ++i) values.step_by_table();
    } else {
      for (int i = 0; i < steps; ++i) values.step();
    }
  }
  void end_block() {
    next().add_written(block_index(), kBlock);
    ++block_;
    work_ = Work::kChoose;
  }
  const tiled::Workspace& memory_of_next() const { return w_.chunks[!current_]; }

  // ---- tokens that are in no block ----

  /// visit() with those of the segment that some row sees.
  template <class Visit>
  void with_tokens(const Visit& visit) {
    const auto seen = [&](int tile, auto tokens) {
      tokens.count = tiled::visible_tokens(p_, task_.query_end, tokens.first_index,
                                           has(tile) ? tokens.count : 0);
      visit(tokens);
    };
    const int blocks = p_.prefix.block_count;
    if (segment_ == kSinks) {
      seen(0, tiled::sink_tokens<S>(p_, task_.kv_head));
    } else if (segment_ == kTail) {
      seen(blocks + 1, tiled::dense_tokens<S>(p_, p_.tail, task_.kv_head));
    } else {
      seen(blocks + 2, tiled::dense_tokens<S>(p_, p_.chunk, task_.kv_head));
    }
  }

  const AttentionParams& p_;
  const AttentionTask& task_;
  const Workspace& w_;
  tiled::KeyValueTiles<S> columns_[2];
  bool current_ = true;  // the chunk that was filled last
  // The next columns.
  int block_;
  const int last_block_;
  Segment segment_ = kSinks;
  int token_ = 0;  // of the segment
  // What is being done.
  Work work_ = Work::kDone;
  int done_ = 0;  // steps of it
  int groups_ = 1;
  tiled::KeyBlockFill<S, kBlock, true, tiled::ChannelBlockKeys<S, kBlock>> keys_;
  tiled::KeyBlockFill<S, kBlock, true, tiled::TrellisBlockKeys<S, kBlock>> trellis_keys_;
  tiled::TrellisValuesFill<S, kBlock> trellis_values_;
  tiled::ValueTokensFill<S, D, 1> values_;
  tiled::ValueTokensFill<S, D, 2> values_of_two_groups_;
};

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
