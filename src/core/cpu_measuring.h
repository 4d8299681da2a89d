// What a chunk of policy "adaptive" is measured for before it is taken in, on the CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/block_device.h"
#include "rillkv/quantizer.h"

namespace rillkv {

/// BlockDevice::measure of several tokens: value rotation, the magnitudes of keys, values and
/// queries, and Measured::query_sums (`query_sums`: those of the open block), all in one parallel
/// region, which for a prompt's chunk of a small model costs as much as the work in it. Throws
/// Error as Quantizer::check_representable does.
Measured measure_adaptive_on_cpu(const Quantizer& quantizer, const Chunk& chunk,
                                 const at::Tensor& query_sums);

}  // namespace rillkv
