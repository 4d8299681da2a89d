// Arguments of the CPU kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/feedback.h"
#include "kernels/params.h"

namespace rillkv::kernels::cpu {

struct AttentionParams : kernels::AttentionParams {
  /// R(j) in fixed point, [D/2, block_size, 2] (fixed_rotations.h), which streamed decode
  /// multiplies by.
  const int16_t* in_block_fixed = nullptr;
};

/// Rows (query tokens x heads of the group) that share each dequantised tile in a prefill task. 512
/// make dequantising about 2 % of the work, and their sums (256 KB at D = 128) still fit in a 1 MB
/// second-level cache beside the tiles.
inline constexpr int32_t kTaskRows = 512;

/// A share of an attention call: query tokens [query_begin, query_end) and all G heads of one kv
/// head over tiles [tile_begin, tile_end). Tiles are numbered 0 = sinks, 1 .. block_count = blocks,
/// block_count + 1 = tail, block_count + 2 = chunk; empty ones are skipped.
struct AttentionTask {
  int32_t kv_head = 0;
  int32_t query_begin = 0;
  int32_t query_end = 0;
  int32_t tile_begin = 0;
  int32_t tile_end = 0;
  /// Null: the task covers all tiles and writes params.out. Otherwise an unnormalised partial
  /// result: row r = (t - query_begin) * G + g holds max (natural-log units), sum, then head_dim
  /// floats (still rotated), at partial + r * (head_dim + 2).
  float* partial = nullptr;
  /// The task that this thread will probably run next, or null: towards the end of this one its
  /// first blocks are prefetched. A hint only.
  const AttentionTask* next = nullptr;
};

/// Quantise and pack one block or row set of one kv head. `tokens` may be less than the block's
/// size (the provisional block of the stress protocol): the rest is packed as zeros.
struct PackParams {
  Activation input;  // [tokens, kv_heads, D]
  Dtype dtype = Dtype::kFloat32;
  int32_t kv_head = 0;
  int32_t tokens = 0;
  int32_t block_size = 128;  // tokens the packed block has room for
  int32_t head_dim = 0;
};

/// Keys of one kv head to be packed into a trellis block with error feedback.
struct TrellisKeys {
  PackParams keys;
  FeedbackPlan plan;
  /// [head_dim / 2] as the format stores them, 1 .. kMaxTrellisWidth, equal in a pair.
  const uint8_t* widths = nullptr;
  /// feedback_workspace_bytes, 64-byte aligned, of this head's own.
  void* workspace = nullptr;
  uint8_t* out = nullptr;
};
/// Heads that one call may pack.
inline constexpr int kHeadsTogether = 2;

/// Scratch of the kernels of error feedback: the block's keys and their errors, [D, block_size]
/// each, or the moment and the Hessian, [D, D] each with D rounded up to 16, and a register beyond.
constexpr size_t feedback_workspace_bytes(int32_t head_dim, int32_t block_size) {
  const auto dim = static_cast<size_t>(head_dim), size = static_cast<size_t>(block_size);
  const size_t padded = (dim + 15) / 16 * 16;
  const size_t keys = 2 * dim * size, matrices = 2 * padded * padded + 16;
  return sizeof(float) * (keys > matrices ? keys : matrices);
}

/// out = x * rsqrt(mean(x^2) + epsilon) * weight over rows, after x += delta where there is one
/// (the residual connection before the norm, in the same pass). All contiguous and of one dtype;
/// arithmetic in fp32.
struct NormParams {
  void* x = nullptr;             // [rows, columns]; overwritten with the sum if there is a delta
  const void* delta = nullptr;   // [rows, columns] or null
  const void* weight = nullptr;  // [columns]
  void* out = nullptr;           // [rows, columns]
  int64_t columns = 0;
  float epsilon = 0;
  Dtype dtype = Dtype::kFloat32;
};

/// out = silu(gate) * up, silu(g) = g / (1 + exp(-g)); a row of the input is gate then up.
struct GateParams {
  const void* gate_up = nullptr;  // [rows, 2 * columns]
  void* out = nullptr;            // [rows, columns]
  int64_t columns = 0;
  Dtype dtype = Dtype::kFloat32;
};

/// Rotary position embedding of uncompressed rows: channels (p, p + D/2) of token t become (x cos -
/// y sin, y cos + x sin). Arithmetic in fp32, rounded once.
struct RopeParams {
  Activation x;                // [tokens, heads, head_dim]
  MutableActivation out;       // the same shape and dtype
  const float* cos = nullptr;  // [tokens, head_dim / 2]
  const float* sin = nullptr;
  int32_t heads = 0;
  int32_t head_dim = 0;  // even
  Dtype dtype = Dtype::kFloat32;
};

/// out = x W^T + bias in bf16 with fp32 accumulation; W [out_features, in_features] has been packed
/// by pack_linear into panels of kLinearPanel outputs: panel p holds, for each pair of inputs,
/// kLinearPanel pairs of bf16 (the dot-product instruction's order, and a tile's). in_features is
/// even; the last panel is padded with zeros.
struct LinearParams {
  const void* x = nullptr;       // bf16 [rows, in_features]
  const void* packed = nullptr;  // bf16 [panels, in_features / 2, kLinearPanel, 2]
  const void* bias = nullptr;    // bf16 [out_features] or null
  void* out = nullptr;           // [rows, out_features] bf16, or fp32
  bool out_float32 = false;
  int64_t rows = 0;
  int64_t in_features = 0;
  int64_t out_features = 0;
  /// The rows of x from first_tiled_row on as tile_rows rearranges them; null if there are none.
  /// bf16 [(rows - first_tiled_row) / 16, in_features / 32, 16, 32], both rounded up, 64-byte
  /// aligned.
  void* tiles = nullptr;
};
inline constexpr int kLinearPanel = 32;
/// Calls of `linear` share a layer's rows at multiples of this.
inline constexpr int kLinearRowUnit = 96;

/// Bytes of LinearParams::tiles for so many rows.
constexpr size_t linear_tiles_bytes(int64_t rows, int64_t in_features) {
  return static_cast<size_t>((rows + 15) / 16 * ((in_features + 31) / 32)) * 1024;
}

}  // namespace rillkv::kernels::cpu
