// Prefill attention by slices, for GPUs whose tensor cores only a library's kernels fill (Hopper's
// wgmma): a slice of sealed blocks becomes dense fp16 keys and values once, in scratch that is
// bounded whatever the context and stays in the L2 cache; a library attends all queries of the
// chunk to it and returns log-sum-exps; the result is folded into a running part in fp32; next
// slice. Sinks, tail, the chunk itself and what blocks are left over go to the fused kernel, whose
// first part is the one that slices are folded into, and whose merge ends it:
//
//   slice_queries                      rotated, [kv_heads, parts, G * queries, D] fp16
//   attend_folding(rest, fold):        the fused kernel's launch over the rest
//     fold: for every slice            expand_slice, the library, fold_slice
//                                      rillkv_merge
//
// Every query sees every token of a slice, so the library needs no mask, and the query heads of a
// kv head are only more rows of one head: no key is repeated. A slice may be cut into parts, which
// the library takes as more heads: a chunk alone has too few row tiles for all multiprocessors.
//
// Tiles are fp16 whatever the model's dtype, as the fused kernels' are and bit for bit the same, so
// no key or value is rounded once more; keys are halved, which the library's scale makes good.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.h"

namespace rillkv::kernels::cuda {

/// Scratch for keys and values of one slice, of all kv heads: with what the library reads and
/// writes beside it, well within the 50 MB of L2 cache that an H100 has.
inline constexpr size_t kMostSliceBytes = size_t{16} << 20;  // 4096 tokens at 8 kv heads of 128
/// Blocks of the smallest slice: of fewer the fused kernel takes as long as the launches do.
inline constexpr int kLeastSliceBlocks = 8;
/// Scores are of halved keys: what the library multiplies scores by, over AttentionParams::scale.
inline constexpr float kSliceScale = 2.0f;

/// How a sequence's sealed blocks are cut. Slices have 2^n blocks, so that a library that prepares
/// for a shape (cuDNN) sees few.
struct SlicePlan {
  int blocks = 0;        // in slices, from the first on; 0: no slices
  int most_blocks = 0;   // of a slice: the first ones
  int least_blocks = 0;  // the last one may have as few
  int parts = 1;         // of a slice
  int rows = 0;          // G * query_count
  int kv_heads = 0, head_dim = 0;

  /// Blocks of the slice that begins at block `first` < blocks.
  int slice_at(int first) const;
  /// Bytes of the keys of the largest slice, and of its values.
  size_t tile_bytes() const;
  /// Bytes of the queries.
  size_t query_bytes() const;
};

/// No slices where the fused prefill kernel does not take the sequence, or where fewer than
/// `least_blocks` (a power of two) are seen by every query. The largest slice has at most
/// `most_bytes` of scratch.
SlicePlan plan_slices(const Queue& queue, const AttentionParams& sequence,
                      size_t most_bytes = kMostSliceBytes, int least_blocks = kLeastSliceBlocks);

/// The sequence without its first `blocks` blocks, which every query sees: the fused kernel's rest.
AttentionParams without_blocks(const AttentionParams& sequence, int blocks);

void slice_queries(Queue& queue, const AttentionParams& sequence, const SlicePlan& plan,
                   uint16_t* out);
/// `keys` and `values`: [kv_heads, blocks * 128, D].
void expand_slice(Queue& queue, const AttentionParams& sequence, int first, int blocks,
                  uint16_t* keys, uint16_t* values);
/// Throws std::invalid_argument for strides that it cannot read 16 bytes at.
void fold_slice(Queue& queue, const FoldSliceParams& params, int kv_heads);

}  // namespace rillkv::kernels::cuda
