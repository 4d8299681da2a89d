// What a sealed block looks like and how it is counted, whatever device packs it.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/adaptive_layout.h"
#include "rillkv/quantizer.h"

namespace rillkv {

/// Throws Error unless the largest magnitude of every head is one that fp16 metadata can represent;
/// NaN is none.
void check_magnitudes(const std::vector<float>& largest, const char* what);

/// Where the bytes of a block come from: returns u8 [bytes], 64-byte aligned, all zero.
using BlockAllocator = std::function<at::Tensor(int64_t bytes)>;
/// An allocation of the CPU's own for every block.
at::Tensor allocate_zeros(int64_t bytes);

/// A block of zeros from an allocator; bytes of every kv head's keys and values.
std::shared_ptr<SealedBlock> allocate_block(int64_t tokens, const std::vector<size_t>& key_bytes,
                                            const std::vector<size_t>& value_bytes,
                                            const BlockAllocator& allocate);

/// Policy "ema": what scales and widens the channels of a block's keys, or values.
struct ChannelScales {
  at::Tensor absmax;    // [kv_heads, head_dim] f32, on the CPU
  at::Tensor outliers;  // [kv_heads, head_dim] bool, on the CPU
};

/// Widths of one side of a block of policy "ema", as channel blocks store them.
struct ChannelWidths {
  std::vector<uint8_t> stored;  // [kv_heads, head_dim / 2]
  std::vector<size_t> bytes;    // [kv_heads], of the packed channel blocks
};
/// outliers: [kv_heads, head_dim] bool on the CPU; they get `outlier_bits`, but 8 for the 16 that
/// sinks may have: codes end there.
ChannelWidths ema_widths(const at::Tensor& outliers, int64_t bits, int64_t outlier_bits,
                         int64_t block_size);

/// The tally of a block of policies "adaptive" and "trellis", or "ema"; `stored`: [kv_heads,
/// head_dim / 2] widths.
BlockTally adaptive_tally(const uint8_t* stored, const QuantizerOptions& options,
                          const AdaptiveLayout& layout, int64_t value_clipped);
BlockTally ema_tally(const ChannelWidths& keys, const ChannelWidths& values,
                     const QuantizerOptions& options, int64_t key_outliers, int64_t value_outliers);

}  // namespace rillkv
