// How sealed blocks are cut into slices, and the launches of slices.h.
#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "kernels/cuda/expand_shared.h"
#include "kernels/cuda/slices.h"
#include "kernels/cuda/submit.h"

namespace rillkv::kernels::cuda {
namespace {

constexpr int kLibraryRows = 128;  // query rows of a CTA of flash and cuDNN attention

int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// The number of parts that fills the multiprocessors best; the least of equals, since every part
/// is a result to fold.
int choose_parts(int ctas, int multiprocessors, int most) {
  int best = 1;
  double least = 0;
  for (int parts = 1; parts <= std::min(most, kMaxSliceParts); parts *= 2) {
    const double cost = static_cast<double>(ceil_div(ctas * parts, multiprocessors)) / parts;
    if (parts == 1 || cost < 0.9 * least) {
      best = parts;
      least = cost;
    }
  }
  return best;
}

/// Blocks from the first on that every query sees.
int seen_by_all(const AttentionParams& p) {
  const int64_t tokens = p.first_query_index + 1 - p.prefix.sink_capacity;
  return static_cast<int>(std::clamp<int64_t>(tokens / p.block_size, 0, p.prefix.block_count));
}

size_t largest_block_bytes(const AttentionParams& p) {
  const int D = p.head_dim;
  const PackedPrefix& x = p.prefix;
  const auto widest =
      static_cast<size_t>(x.trellis ? trellis_key_bytes_at_most(D) : key_block_bytes_at_most(D));
  const size_t keys = p.key_block_bytes > 0 ? static_cast<size_t>(p.key_block_bytes) : widest;
  if (x.trellis) {
    return std::max(
        keys, format::trellis_value_bytes(D, kAttentionTile, x.value_width, x.value_wide_pairs));
  }
  const size_t values =
      x.values_channel_major
          ? format::channel_block_bytes(D, kAttentionTile, true, 8 * D)
          : format::token_block_bytes(kAttentionTile, D, x.value_groups, false, x.value_bits);
  return std::max(keys, values);
}

/// Shared memory of a CTA of rillkv_expand_slice_*.
int expand_shared_bytes(const AttentionParams& p) {
  const int block = static_cast<int>(largest_block_bytes(p));
  return p.prefix.trellis ? ExpandTrellisShared(p.head_dim).bytes(block)
                          : ExpandShared(p.head_dim).bytes(block);
}

std::string describe(const char* what, int count, int heads, int head_dim) {
  std::ostringstream out;
  out << what << " " << count << ", " << heads << " kv heads of " << head_dim;
  return out.str();
}

}  // namespace

int SlicePlan::slice_at(int first) const {
  int size = most_blocks;
  while (size > blocks - first) size /= 2;
  return size;
}

size_t SlicePlan::tile_bytes() const {
  return sizeof(uint16_t) * static_cast<size_t>(kv_heads) * static_cast<size_t>(most_blocks) *
         kAttentionTile * static_cast<size_t>(head_dim);
}

size_t SlicePlan::query_bytes() const {
  return sizeof(uint16_t) * static_cast<size_t>(kv_heads) * static_cast<size_t>(parts) *
         static_cast<size_t>(rows) * static_cast<size_t>(head_dim);
}

SlicePlan plan_slices(const Queue& queue, const AttentionParams& sequence, size_t most_bytes,
                      int least_blocks) {
  SlicePlan plan;
  if (!attend_folding_takes(queue, sequence)) return plan;
  if (expand_shared_bytes(sequence) > queue.shared_memory_limit()) return plan;
  const int seen = seen_by_all(sequence);
  plan.rows = sequence.query_count * (sequence.heads / sequence.kv_heads);
  plan.kv_heads = sequence.kv_heads;
  plan.head_dim = sequence.head_dim;
  plan.most_blocks = 1;
  while (2 * plan.most_blocks <= seen) {
    SlicePlan twice = plan;
    twice.most_blocks *= 2;
    if (2 * twice.tile_bytes() > most_bytes) break;
    plan = twice;
  }
  // With very many heads the largest slice is smaller than the smallest that pays otherwise.
  plan.least_blocks = std::min(least_blocks, plan.most_blocks);
  if (seen < least_blocks) return plan;
  plan.blocks = seen / plan.least_blocks * plan.least_blocks;
  plan.parts = choose_parts(plan.kv_heads * ceil_div(plan.rows, kLibraryRows),
                            queue.multiprocessors(), plan.least_blocks);
  return plan;
}

AttentionParams without_blocks(const AttentionParams& sequence, int blocks) {
  AttentionParams rest = sequence;
  PackedPrefix& x = rest.prefix;
  x.block_count -= blocks;
  x.keys += static_cast<int64_t>(blocks) * rest.kv_heads;
  x.values += static_cast<int64_t>(blocks) * rest.kv_heads;
  x.rotations += blocks;
  // Indices decide who sees whom, and nothing else: what comes after the blocks moves to their
  // place. Rotations are by position, and stay.
  const int64_t tokens = static_cast<int64_t>(blocks) * rest.block_size;
  rest.first_query_index -= tokens;
  rest.tail.first_index -= tokens;
  rest.chunk.first_index -= tokens;
  return rest;
}

void slice_queries(Queue& queue, const AttentionParams& sequence, const SlicePlan& plan,
                   uint16_t* out) {
  const SliceQueriesParams params = {sequence, plan.parts, out};
  submit(queue, "rillkv_slice_queries",
         ceil_div(plan.rows * (plan.head_dim / 8), kSliceQueryThreads), plan.kv_heads, 1,
         kSliceQueryThreads, 0, params,
         [&] { return describe("query rows", plan.rows, plan.kv_heads, plan.head_dim); });
}

void expand_slice(Queue& queue, const AttentionParams& sequence, int first, int blocks,
                  uint16_t* keys, uint16_t* values) {
  const int D = sequence.head_dim;
  const ExpandSliceParams params = {sequence, first, blocks, keys, values};
  const char* entry =
      sequence.prefix.trellis
          ? (D == 64 ? "rillkv_expand_slice_trellis_d64" : "rillkv_expand_slice_trellis_d128")
          : (D == 64 ? "rillkv_expand_slice_d64" : "rillkv_expand_slice_d128");
  submit(queue, entry, blocks, sequence.kv_heads, 2, kExpandThreads, expand_shared_bytes(sequence),
         params, [&] { return describe("blocks", blocks, sequence.kv_heads, D); });
}

void fold_slice(Queue& queue, const FoldSliceParams& params, int kv_heads) {
  const bool power = params.parts > 0 && (params.parts & (params.parts - 1)) == 0;
  if ((params.head_dim != 64 && params.head_dim != 128) || !power ||
      params.parts > kMaxSliceParts || reinterpret_cast<uintptr_t>(params.out) % 16 != 0 ||
      params.out_head_stride % 8 != 0 || params.out_row_stride % 8 != 0) {
    throw std::invalid_argument(
        "fold_slice: expected head_dim 64 or 128, 1, 2, 4 or 8 parts and rows aligned to 16 bytes, "
        "got head_dim " +
        std::to_string(params.head_dim) + ", " + std::to_string(params.parts) +
        " parts, strides of " + std::to_string(params.out_head_stride) + " and " +
        std::to_string(params.out_row_stride) + " elements");
  }
  submit(queue, "rillkv_fold_slice", ceil_div(params.rows * (params.head_dim / 8), kFoldThreads),
         kv_heads, 1, kFoldThreads, 0, params,
         [&] { return describe("rows", params.rows, kv_heads, params.head_dim); });
}

}  // namespace rillkv::kernels::cuda
