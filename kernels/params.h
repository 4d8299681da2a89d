// Arguments of the kernels, the same for every back end: plain pointers, strides and sizes. The
// layer above (src/core) has checked tensors, shapes and ranges; kernels check nothing. Pointers
// live on the device the kernel runs on.
#pragma once

#include <cstdint>

namespace rillkv::kernels {

enum class Dtype : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

/// A read-only activation [tokens, heads, head_dim]: element (t, h, c) is data[t * token_stride +
/// h * head_stride + c]; strides in elements, channels contiguous. The dtype is given beside it.
struct Activation {
  const void* data = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
};

struct MutableActivation {
  void* data = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
};

/// Rotations: angle(position, p) = position * inv_freq[p] for the channel pair (p, p + D/2),
/// computed in double by the caller. A block's rotation is split: R(t0 + j) = R(t0) R(j).
struct Rotations {
  const float* in_block_cos = nullptr;  // [D/2, block_size], R(j) for j < block_size, pair-major
  const float* in_block_sin = nullptr;  // [D/2, block_size]
  /// CUDA, blocks of 128: both tables in fp16 (kernels/cuda/tile_order.h).
  const uint16_t* in_block_half = nullptr;
  /// CPU: both tables in fixed point, [D/2, block_size, 2] (kernels/cpu/fixed_rotations.h).
  const int16_t* in_block_fixed = nullptr;
};

/// The compressed prefix of one sequence in one layer, in index order: sinks, then sealed blocks.
struct PackedPrefix {
  int32_t sink_count = 0;  // tokens 0 .. sink_count-1
  int32_t sink_key_bits = 8;
  int32_t sink_value_bits = 8;
  const uint8_t* sink_keys = nullptr;  // token blocks (symmetric, 1 group) of sink_capacity tokens,
  const uint8_t* sink_values = nullptr;  //   kv head h at + h * sink_*_stride bytes
  int32_t sink_capacity = 0;
  int64_t sink_key_stride = 0;
  int64_t sink_value_stride = 0;
  const float* sink_cos = nullptr;  // [sink_capacity, D/2], R(position) of the sinks
  const float* sink_sin = nullptr;

  int32_t block_count = 0;               // block n covers indices sink_capacity + n*block_size ...
  const uint8_t* const* keys = nullptr;  // [block_count, kv_heads] channel blocks
  const uint8_t* const* values =
      nullptr;  // [block_count, kv_heads] token blocks, or channel blocks
  const float* const* rotations = nullptr;  // [block_count] -> cos[D/2] then sin[D/2] of R(t0)
  bool keys_symmetric = false;              // policy "ema": no lo
  bool values_channel_major = false;        // policy "ema": symmetric channel blocks
  int32_t value_bits = 4;                   // token blocks
  int32_t value_groups = 1;
  /// Bytes of the largest key block, 0 if nobody knows: a hint for the CUDA kernels. Where keys are
  /// not symmetric (policy "adaptive") every block has exactly this size.
  int32_t key_block_bytes = 0;
};

/// Uncompressed tokens in the model's dtype, keys before RoPE.
struct DenseSegment {
  Activation keys;    // [count, kv_heads, D]
  Activation values;  // [count, kv_heads, D], already rotated where values are
  int32_t count = 0;
  int64_t first_index = 0;     // index of the first token in the sequence
  const float* cos = nullptr;  // [count, D/2], R(position)
  const float* sin = nullptr;
};

/// Attention of the queries of one chunk over sinks, sealed blocks, the open tail and the chunk
/// itself:
///   out[t, h] = softmax_j(scale * <R q[t, h], R k[j, h/G]>) v[j, h/G]   over all j with index(j)
///   <= index(t)
/// One rule masks everything: a key is visible iff its index is not after the query's.
struct AttentionParams {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;  // even
  int32_t block_size = 128;
  Dtype dtype = Dtype::kFloat32;     // of queries, dense segments and out
  float scale = 0;                   // 1 / sqrt(D), usually
  Activation queries;                // [query_count, heads, D], before RoPE
  const float* query_cos = nullptr;  // [query_count, D/2]
  const float* query_sin = nullptr;
  int32_t query_count = 0;
  int64_t first_query_index = 0;
  MutableActivation out;       // [query_count, heads, D]
  bool rotate_output = false;  // values are Walsh-Hadamard rotated: rotate the result back
  Rotations rotations;
  PackedPrefix prefix;
  DenseSegment tail;   // unsealed tokens, before the chunk
  DenseSegment chunk;  // the queries' own keys and values (empty under the stress protocol)
};

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
/// kLinearPanel pairs of bf16 (the dot-product instruction's order). in_features is even; the last
/// panel is padded with zeros.
struct LinearParams {
  const void* x = nullptr;       // bf16 [rows, in_features]
  const void* packed = nullptr;  // bf16 [panels, in_features / 2, kLinearPanel, 2]
  const void* bias = nullptr;    // bf16 [out_features] or null
  void* out = nullptr;           // [rows, out_features] bf16, or fp32
  bool out_float32 = false;
  int64_t rows = 0;
  int64_t in_features = 0;
  int64_t out_features = 0;
};
inline constexpr int kLinearPanel = 32;

}  // namespace rillkv::kernels
