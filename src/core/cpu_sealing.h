// Blocks of keys and values to packed bytes on the CPU. Arguments have been checked: by Quantizer,
// or where a cache took the tokens in.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "core/adaptive_layout.h"
#include "core/block_layout.h"
#include "rillkv/quantizer.h"
#include "rillkv/sealed_block.h"

namespace rillkv {

/// See Quantizer::seal_adaptive. `layout` is that of `options`.
std::shared_ptr<SealedBlock> seal_adaptive_on_cpu(const QuantizerOptions& options,
                                                  const AdaptiveLayout& layout,
                                                  const at::Tensor& keys, const at::Tensor& values,
                                                  const at::Tensor& statistics,
                                                  const BlockAllocator& allocate);
/// See Quantizer::seal_ema.
std::shared_ptr<SealedBlock> seal_ema_on_cpu(const QuantizerOptions& options,
                                             const at::Tensor& keys, const at::Tensor& values,
                                             const ChannelScales& key_scales,
                                             const ChannelScales& value_scales,
                                             const BlockAllocator& allocate);

}  // namespace rillkv
