// Arguments of rillkv_ingest_* and rillkv_pack_*: what a chunk leaves behind.
#pragma once

#include <cstdint>

#include "kernels/cuda/sequence_step.h"
#include "kernels/params.h"

namespace rillkv::kernels::cuda {

/// rillkv_ingest_{bf16,fp16,fp32}: one pass over a chunk's queries, keys and values, or over the
/// one token of each sequence of a batch. Rotates values, looks for what cannot be quantised, sums
/// squared queries, appends to the tail.
///
/// Tokens from sink_tokens on fill blocks in order: the first takes block_size - tail_count of
/// them, the next block_size each. Per channel the squares are added in fp32 without contraction,
/// tokens ascending; where a block is full, its energy is made exactly as QueryEnergy::seal does
/// (include/rillkv/query_energy.h) and the sums begin again at zero.
struct IngestParams {
  Activation queries;         // [tokens, heads, D], before RoPE
  Activation keys;            // [tokens, kv_heads, D], before RoPE
  Activation values;          // [tokens, kv_heads, D], as the model made them
  MutableActivation rotated;  // [tokens, kv_heads, D]: values as stored; null: nobody wants them
  Dtype dtype = Dtype::kFloat32;
  int32_t heads = 0, kv_heads = 0, head_dim = 0;
  int32_t block_size = 128;
  int32_t tokens = 0;       // rows of the activations (steps: of sequences)
  int32_t sink_tokens = 0;  // the first so many become sinks
  int32_t tail_count = 0;   // the tail's tokens before the chunk
  int32_t rotate_values = 0;
  float hadamard_factor = 0;  // fp32(1 / sqrt(D)); filled in by the plan
  /// Largest magnitude that can be quantised (format::kMaxMagnitude). The first violation found is
  /// put into error, if that is 0: bits 0..1 what (1 keys, 2 values as stored, 3 queries), bits
  /// 2..15 the head, 16..31 the layer, 32..63 the magnitude's fp32 bits (NaN is a violation).
  unsigned long long* error = nullptr;
  int32_t layer = 0;
  /// Policy "adaptive"; energy_sums null: no squares.
  int32_t seen = 0;              // a block has been sealed before: energy_ema counts
  float keep = 0, take = 0;      // fp32(decay), fp32(1 - decay)
  float* energy_sums = nullptr;  // [heads, D], in and out: of the open block
  float* energy_ema = nullptr;   // [kv_heads, D], in and out
  float* energies = nullptr;     // [completed blocks, kv_heads, D], out
  float* preview = nullptr;  // [kv_heads, D] or null, out: the open block's energy as it would be
                             //   if it were sealed now (not written where it has no token)
  /// With error feedback instead (kernels/feedback.h, step 1): rillkv_ingest_feedback_*, in which
  /// the moment of each kv head takes the squares' place. Where a block is full, a copy is what it
  /// is packed with, and the moment is multiplied by `keep`.
  int32_t error_feedback = 0;
  float* moments = nullptr;        // [kv_heads, moment_floats], in and out; 16-byte aligned
  float* block_moments = nullptr;  // [completed blocks, kv_heads, moment_floats], out
  /// Policy "ema"; null otherwise: largest magnitudes of the tokens after the sinks, NaN if one is;
  /// zeroed before.
  float* key_absmax = nullptr;    // [kv_heads, D]
  float* value_absmax = nullptr;  // [kv_heads, D], of values as stored
  /// Tokens after the sinks are also copied to the tail's rows tail_count, tail_count + 1, ...;
  /// null: not (rillkv_pack moves what it leaves over). All of them must fit.
  void* tail_keys = nullptr;    // [block_size, kv_heads, D]
  void* tail_values = nullptr;  // [block_size, kv_heads, D], values as stored
  /// Device memory, [sequences], or null. If given, activations hold one row a sequence, and tail,
  /// counts, energies and error are those of steps[i] and steps[i].layers[layer]: sink_tokens = 0,
  /// seen = block_count > 0, preview and absmax null. With error feedback, the launch that packs a
  /// block takes layers[layer].moments, of which there is no copy. grid.z is the sequence.
  const SequenceStep* steps = nullptr;
};

inline constexpr int kMaxBlocksPerPack = 64;

/// rillkv_pack_{bf16,fp16,fp32} (policies "adaptive" and "trellis"): every block that a chunk
/// completes, keys and values of all kv heads, and the pointers to them. Block b holds the virtual
/// tokens b * block_size ...: the first tail_count of them are the tail's rows, the others the
/// chunk's.
/// Virtual tokens after the last block go to the tail's rows 0 ... .
struct PackParams {
  Activation keys;              // [chunk tokens after the sinks, kv_heads, D]
  Activation values;            // the same, as stored
  void* tail_keys = nullptr;    // [block_size, kv_heads, D], contiguous
  void* tail_values = nullptr;  // [block_size, kv_heads, D], contiguous
  Dtype dtype = Dtype::kFloat32;
  int32_t kv_heads = 0, head_dim = 0;
  int32_t block_size = 128;
  int32_t tail_count = 0;  // 0 .. block_size
  int32_t tokens = 0;      // virtual ones: tail_count + the chunk's
  int32_t blocks = 0;     // to pack; tokens / block_size, or 1 for a provisional short block, whose
                          //   missing rows are zeros
  int32_t keep_rest = 1;  // 0: a provisional block; the tail is left alone
  /// Block b of kv head h: keys at storage[b] + h * key_bytes, values at storage[b] + kv_heads *
  /// key_bytes + h * value_bytes; 64-byte aligned; every byte is written.
  uint8_t* storage[kMaxBlocksPerPack] = {};
  int32_t key_bytes = 0, value_bytes = 0;
  /// Rows first_block + b of the tables are written.
  const uint8_t** key_table = nullptr;    // [.., kv_heads]
  const uint8_t** value_table = nullptr;  // [.., kv_heads]
  int32_t first_block = 0;
  const float* energies = nullptr;  // [blocks, kv_heads, D]
  int32_t class_count = 0;          // ascending widths a pair may take
  int32_t classes[8] = {};
  float drops[8] = {};     // filled in by the plan: fall of 1 / (2^w - 1)^2 from class s to s + 1
  int32_t increments = 0;  // steps to the next class that a head spends
  int32_t value_groups = 1;
  int32_t value_bits = 4;
  unsigned long long* clipped = nullptr;  // [blocks] or null: += value codes clipped
  /// Error feedback (kernels/feedback.h): rillkv_pack_feedback_*, in which moments take the
  /// energies' place.
  int32_t error_feedback = 0;
  float* moments = nullptr;          // [blocks, kv_heads, moment_floats]
  float decay = 1;                   // what the moments are multiplied by when they were used
  const float* distances = nullptr;  // [D/2, D/2, 4]; 16-byte aligned
  float* scratch = nullptr;          // pack_scratch_floats(params); 16-byte aligned
  /// Policy "trellis" (kernels/trellis.h): rillkv_pack_trellis_*, with error feedback. Of it are
  /// wide_pairs, the pairs of value channels that have a bit more than value_bits, and the plan's,
  /// of widths value_bits and one more.
  int32_t trellis = 0;
  int32_t wide_pairs = 0;
  float inverse_units[2] = {}, squared_units[2] = {};
};
static_assert(sizeof(PackParams) <= 4096, "the limit of a kernel's parameters");

}  // namespace rillkv::kernels::cuda
