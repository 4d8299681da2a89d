// Attention of a task on a tile unit: the keys and values that its rows see become tiles, a chunk
// of columns at a time (chunks.h), and every block of 32 rows passes through the pipeline with
// every chunk it sees (pipeline.h). Two chunks take turns: one is filled while the other is
// multiplied.
//
// Numerics: rotated queries, keys, values and weights are rounded to bf16, sums are fp32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx/chunks.h"
#include "kernels/cpu/amx/flush_to_zero.h"
#include "kernels/cpu/amx/pipeline.h"
#include "kernels/cpu/amx/row_blocks.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/amx/workspace.h"

namespace rillkv::kernels::cpu::amx {
namespace {

template <TileUnit Tiles, int D>
class Attention {
 public:
  Attention(const AttentionParams& params, const AttentionTask& task, void* memory)
      : w_(lay_out(params, static_cast<size_t>(task.query_end - task.query_begin), memory)),
        rows_(params, task, w_),
        chunks_(params, task, w_),
        pipeline_(w_) {}

  void run() {
    constexpr int kSteps = Pipeline<Tiles, D>::kSteps;
    // The chunk to come is filled from the moment on when no unit in flight needs its memory,
    // evenly, so that it is done with the last row block.
    const int steps = (rows_.count() - 1) * kSteps;
    const int fill_steps = steps > 0 ? (Chunks<D>::kFillSteps + steps - 1) / steps : 0;
    rows_.load();
    chunks_.begin();
    while (chunks_.finish()) {
      chunks_.begin();
      int steps_done = 0;
      for (int block = 0; block < rows_.count(); ++block) {
        const Unit unit = unit_of(block);
        if (unit.blocks == 0) continue;
        pipeline_.add(unit, [&] {
          if (++steps_done > kSteps) chunks_.fill(fill_steps);
        });
      }
      if (steps_done <= kSteps) pipeline_.drain();
    }
    pipeline_.drain();
    rows_.finish();
  }

 private:
  /// The columns of the chunk that the rows of a block see.
  Unit unit_of(int row_block) const {
    const auto& columns = chunks_.columns();
    const int32_t first = rows_.first_token(row_block), last = rows_.last_token(row_block);
    Unit unit;
    unit.row_block = row_block;
    unit.chunk = &chunks_.memory();
    for (int v = 0; v < columns.vectors(); ++v) {
      if (columns.any_visible(v, last)) unit.blocks = v / 2 + 1;
      if (!columns.all_visible(v, first)) unit.masked |= 1u << (v / 2);
    }
    return unit;
  }

  const Workspace w_;
  const RowBlocks<D> rows_;
  Chunks<D> chunks_;
  Pipeline<Tiles, D> pipeline_;
};

/// One task, in a session of the tile unit.
template <TileUnit Tiles, int D>
void attend(const AttentionParams& params, const AttentionTask& task, void* memory) {
  const typename Tiles::Session session;
  const FlushToZero flush;
  Attention<Tiles, D>(params, task, memory).run();
}

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
