// Decode attention of a few query rows over sealed blocks, without tiles: the Streaming of bf16
// (generic/streaming.h says what its members are). See decode.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/streaming.h"
#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu::avx512 {

struct StreamedDecode {
  static constexpr int kMaxRows = 8;
  static size_t scratch_bytes(const AttentionParams& params);
  static void start(const AttentionParams& params, int rows, void* scratch);
  /// False for a block whose pairs mix widths.
  static bool add_block(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
                        const StreamedRows& rows);
};

}  // namespace rillkv::kernels::cpu::avx512
