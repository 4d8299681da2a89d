// A block of packed keys and values.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

namespace rillkv {

/// What quantising one block did, summed over kv heads.
struct BlockTally {
  std::array<int64_t, 9> key_widths{};    ///< [w] channels of w bits
  std::array<int64_t, 9> value_widths{};  ///< "ema": the same; "adaptive": all channels, one w
  int64_t key_outliers = 0;  ///< channels: "ema" flagged; "adaptive" wider than the mean rounded up
  int64_t value_outliers = 0;  ///< "ema" only
  int64_t key_clipped = 0;     ///< codes at the end of the range because the value lay beyond it
  int64_t value_clipped = 0;
};

/// One block of keys and values of all kv heads, packed, where its cache lives (CPU or CUDA); the
/// pointers are that device's. Immutable: appending to a cache never changes the bytes of sealed
/// blocks, so blocks may be shared between threads and caches. docs/architecture.md draws the
/// bytes; Quantizer::dequantize reads them.
struct SealedBlock {
  at::Tensor storage;                  ///< u8, 64-byte aligned; every byte of the block
  std::vector<const uint8_t*> keys;    ///< [kv_heads] into storage
  std::vector<const uint8_t*> values;  ///< [kv_heads] into storage, after all keys
  int64_t tokens = 0;                  ///< block_size, fewer in a provisional block
  int64_t key_bytes = 0;               ///< with metadata and padding
  int64_t value_bytes = 0;
  BlockTally tally;
};

}  // namespace rillkv
