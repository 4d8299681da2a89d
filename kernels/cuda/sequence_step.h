// What changes from one decoded token to the next, in device memory, so that the launches of a
// token are the same for every token: they can be captured in a CUDA graph and replayed, and a
// batch is one launch. rillkv_begin_pass writes it, ingest and decode attention read it.
#pragma once

#include <cstdint>

namespace rillkv::kernels::cuda {

/// One layer of one sequence's cache: where its bytes lie. Written by the host when the cache is
/// made and when its tables grow; the tables' entries are written by rillkv_pack.
struct LayerState {
  const uint8_t* const* key_blocks = nullptr;    // [blocks, kv_heads]
  const uint8_t* const* value_blocks = nullptr;  // [blocks, kv_heads]
  const uint8_t* sink_keys = nullptr;            // kv head h at + h * stride, as in PackedPrefix
  const uint8_t* sink_values = nullptr;
  void* tail_keys = nullptr;     // [block_size, kv_heads, D], the model's dtype, before RoPE
  void* tail_values = nullptr;   // [block_size, kv_heads, D], rotated where values are
  float* energy_sums = nullptr;  // [heads, D]: squared queries of the open block
  float* energy_ema = nullptr;   // [kv_heads, D]: of the sealed blocks
  float* energies = nullptr;     // [kv_heads, D]: of the block that this pass completes
  float* moments = nullptr;      // [kv_heads, moment_floats]: error feedback; null without it
};

/// One sequence of a pass of one token each. Its row in the batch's activations is its index.
struct SequenceStep {
  const LayerState* layers = nullptr;             // [layers]
  const float* const* block_rotations = nullptr;  // as PackedPrefix::rotations
  float* tail_cos = nullptr;                      // [block_size, D/2]: R(position) of the tail's
  float* tail_sin = nullptr;                      //   rows; rows 0 .. tail_count are valid
  unsigned long long* error = nullptr;            // [1], see IngestParams::error
  int32_t length = 0;       // tokens before this one, which is at this index; all sinks are filled
  int32_t block_count = 0;  // sealed blocks
  int32_t tail_count = 0;   // tokens in the tail before this one, < block_size
  int32_t reserved = 0;
};
static_assert(sizeof(SequenceStep) == 56);

}  // namespace rillkv::kernels::cuda
