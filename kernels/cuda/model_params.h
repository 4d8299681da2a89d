// Arguments of the entries that a model needs besides attention and the cache.
#pragma once

#include <cstdint>

#include "kernels/cuda/sequence_step.h"
#include "kernels/params.h"

namespace rillkv::kernels::cuda {

/// rillkv_rms_norm_{bf16,fp16,fp32}, grid (rows): out = round((x + delta) * rsqrt(mean((x + delta)^2) + epsilon) * weight), in
/// fp32; x + delta is rounded to the dtype and replaces x, as kernels/cpu's rms_norm does.
struct NormParams {
  void* x = nullptr;             // [rows, columns]
  const void* delta = nullptr;   // [rows, columns], or null: x stays
  const void* weight = nullptr;  // [columns]
  void* out = nullptr;           // [rows, columns]
  int32_t rows = 0, columns = 0;
  float epsilon = 0;
  Dtype dtype = Dtype::kFloat32;
};

/// rillkv_gate_{bf16,fp16,fp32}: out = round(silu(gate) * up) in fp32.
struct GateParams {
  const void* gate_up = nullptr;  // [rows, 2 * columns]
  void* out = nullptr;            // [rows, columns]
  int32_t rows = 0, columns = 0;
  Dtype dtype = Dtype::kFloat32;
};

/// rillkv_embed: rows of a table.
struct EmbedParams {
  const void* table = nullptr;   // [vocabulary, columns]
  const int32_t* ids = nullptr;  // [rows], device memory
  void* out = nullptr;           // [rows, columns]
  int32_t rows = 0, columns = 0;
  int32_t element_bytes = 2;
};

inline constexpr int kMaxIdsPerLaunch = 960;

/// rillkv_set_ids: token ids, which travel as arguments instead of a copy, to device memory.
struct SetIdsParams {
  int32_t* out = nullptr;
  int32_t count = 0;
  int32_t ids[kMaxIdsPerLaunch] = {};
};
static_assert(sizeof(SetIdsParams) <= 4096, "the limit of a kernel's parameters");

inline constexpr int kMaxStepsPerLaunch = 56;

/// rillkv_begin_pass: steps[first + i] = values[i], ids[first + i] = ids[i], and for every sequence
/// row tail_count of its tail's rotations: R(t0 + j) = R(t0) R(j), t0 of block block_count, j =
/// tail_count, computed in fp32 from tables that were computed in double.
struct BeginPassParams {
  SequenceStep values[kMaxStepsPerLaunch] = {};
  int32_t ids[kMaxStepsPerLaunch] = {};
  SequenceStep* steps = nullptr;  // [sequences]
  int32_t* ids_out = nullptr;     // [sequences]
  int32_t first = 0, count = 0;
  int32_t head_dim = 0;
  int32_t block_size = 128;
  const float* in_block_cos = nullptr;  // [D/2, block_size]
  const float* in_block_sin = nullptr;
};
static_assert(sizeof(BeginPassParams) <= 4096, "the limit of a kernel's parameters");

/// rillkv_rope_rows: R(position) of the tokens with indices first .. first + count - 1: of sinks
/// from their table, of others R(t0) R(j) as above.
struct RopeRowsParams {
  float* cos = nullptr;  // [count, D/2]
  float* sin = nullptr;
  int64_t first = 0;
  int32_t count = 0;
  int32_t head_dim = 0;
  int32_t block_size = 128;
  int32_t sinks = 0;
  const float* sink_cos = nullptr;  // [sinks, D/2]
  const float* sink_sin = nullptr;
  const float* const* block_rotations = nullptr;  // [blocks] -> cos[D/2], sin[D/2]
  const float* in_block_cos = nullptr;            // [D/2, block_size]
  const float* in_block_sin = nullptr;
};

// Threads of a CTA.
inline constexpr int kNormThreads = 256;
inline constexpr int kGateThreads = 128;
inline constexpr int kEmbedThreads = 128;
inline constexpr int kIdThreads = 128;
inline constexpr int kBeginThreads = 128;
inline constexpr int kRopeRowThreads = 128;

/// Columns up to which rillkv_rms_norm_* keep a row in registers.
inline constexpr int kNormRegisterColumns = 8192;

}  // namespace rillkv::kernels::cuda
