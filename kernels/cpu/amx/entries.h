// The entries of KernelTable for one tile unit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx/attention.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::amx {
namespace {

// With so many rows or fewer blocks are streamed through registers (avx512/decode/), which reads
// them once: turning them into tiles alone costs about as much (1 ms for 8 kv heads x 4096 tokens
// at D = 128 on two cores), and the tile unit's rows would be empty.
constexpr int kStreamedRows = 8;

// Dequantising is hidden behind the products of a task's rows, and hides better behind more of
// them: what was measured on a Sapphire Rapids had whole groups, 1024 rows, whose sums and queries
// (0.75 MB at D = 128) fit in its 2 MB second-level cache beside the tiles.
constexpr int32_t kUnitTaskRows = 1024;

/// bf16, and a head_dim that there are kernels for.
inline bool has_tiles(const AttentionParams& params) {
  return params.dtype == Dtype::kBFloat16 && (params.head_dim == 64 || params.head_dim == 128);
}
inline int group(const AttentionParams& params) { return params.heads / params.kv_heads; }

/// For tasks of fewer query tokens too.
inline size_t workspace_bytes(const AttentionParams& params, int32_t query_tokens) {
  const auto registers = profiled_attention().attention_workspace_bytes;
  if (!has_tiles(params) || query_tokens * group(params) <= kStreamedRows) {
    return registers(params, query_tokens);
  }
  const size_t tiles = lay_out(params, static_cast<size_t>(query_tokens), nullptr).bytes;
  const int32_t streamed = kStreamedRows / group(params);
  const size_t fewer = streamed > 0 ? registers(params, streamed) : 0;
  return tiles > fewer ? tiles : fewer;
}

template <TileUnit Tiles>
void attend_task(const AttentionParams& params, const AttentionTask& task, void* workspace) {
  const int rows = (task.query_end - task.query_begin) * group(params);
  if (!has_tiles(params) || rows <= kStreamedRows) {
    profiled_attention().attend(params, task, workspace);
  } else if (params.head_dim == 64) {
    attend<Tiles, 64>(params, task, workspace);
  } else {
    attend<Tiles, 128>(params, task, workspace);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
