// What every back end's kernels are given: plain pointers, strides and sizes. The layer above
// (src/core) has checked tensors, shapes and ranges; kernels check nothing. Pointers live on the
// device the kernel runs on. What only one back end wants is in its own cpu/params.h or
// cuda/entry_params.h.
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
};

/// The compressed prefix of one sequence in one layer, in index order: sinks, then sealed blocks.
struct PackedPrefix {
  int32_t sink_count = 0;       // tokens 0 .. sink_count-1
  int32_t sink_key_bits = 8;    // 2..8: token blocks (symmetric, 1 group) of sink_capacity tokens;
  int32_t sink_value_bits = 8;  //   format::kRowBits: so many sink rows
  const uint8_t* sink_keys = nullptr;  // kv head h at + h * sink_*_stride bytes
  const uint8_t* sink_values = nullptr;
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
  bool trellis = false;  // policy "trellis": trellis key and value blocks
  int32_t value_width = 4;
  int32_t value_wide_pairs = 0;
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

}  // namespace rillkv::kernels
