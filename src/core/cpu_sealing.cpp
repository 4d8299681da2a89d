#include "core/cpu_sealing.h"

#include <ATen/ATen.h>

#include <numeric>
#include <vector>

#include "core/assert.h"
#include "core/cpu_kernels.h"
#include "core/kernel_views.h"
#include "core/parallel.h"

namespace rillkv {

std::shared_ptr<SealedBlock> seal_adaptive_on_cpu(const QuantizerOptions& options,
                                                  const AdaptiveLayout& layout,
                                                  const at::Tensor& keys, const at::Tensor& values,
                                                  const at::Tensor& energy,
                                                  const BlockAllocator& allocate) {
  const int64_t heads = options.kv_heads, dim = options.head_dim;
  RILLKV_ASSERT(layout.head_dim == dim && energy.numel() == heads * dim);
  RILLKV_ASSERT(keys.size(0) >= 1 && keys.size(0) <= layout.block_size);
  const std::vector<size_t> key_bytes(heads, layout.key_bytes());
  const std::vector<size_t> value_bytes(heads, layout.value_bytes());
  auto block = allocate_block(keys.size(0), key_bytes, value_bytes, allocate);

  const auto& kernel = cpu_kernels();
  const at::Tensor energies = energy.contiguous();
  const float* energy_data = energies.const_data_ptr<float>();
  std::vector<uint8_t> widths(heads * dim / 2);
  std::vector<int64_t> clipped(heads);
  parallel_tasks(2 * heads, [&](int64_t task) {
    const int64_t head = task / 2;
    if (task % 2 == 0) {
      const kernels::cpu::PackParams params = pack_params(keys, head, layout.block_size);
      std::vector<float> scratch(3 * dim);
      float *lo = scratch.data(), *hi = lo + dim, *spread = hi + dim;
      kernel.min_max(params, lo, hi);
      for (int64_t c = 0; c < dim; ++c) spread[c] = (hi[c] - lo[c]) * (hi[c] - lo[c]);
      uint8_t* head_widths = widths.data() + head * dim / 2;
      kernels::cpu::allocate_widths(spread, energy_data + head * dim, layout.head_dim,
                                    layout.classes.data(), static_cast<int>(layout.classes.size()),
                                    layout.increments, head_widths);
      kernel.pack_channels_affine(params, lo, hi, head_widths,
                                  const_cast<uint8_t*>(block->keys[head]));
    } else {
      clipped[head] = kernel.pack_tokens_affine(pack_params(values, head, layout.block_size),
                                                layout.value_groups, layout.value_bits,
                                                const_cast<uint8_t*>(block->values[head]));
    }
  });

  block->tally = adaptive_tally(widths.data(), options,
                                std::accumulate(clipped.begin(), clipped.end(), int64_t{0}));
  return block;
}

std::shared_ptr<SealedBlock> seal_ema_on_cpu(const QuantizerOptions& options,
                                             const at::Tensor& keys, const at::Tensor& values,
                                             const ChannelScales& key_scales,
                                             const ChannelScales& value_scales,
                                             const BlockAllocator& allocate) {
  const CompressionConfig& config = options.config;
  const int64_t heads = options.kv_heads, dim = options.head_dim;
  const int64_t block_size = config.block_size;
  RILLKV_ASSERT(keys.size(0) >= 1 && keys.size(0) <= block_size);
  struct Side {
    const at::Tensor& x;
    at::Tensor absmax;
    ChannelWidths widths;
    std::vector<int64_t> clipped;
  };
  Side sides[2] = {{keys, key_scales.absmax.contiguous(),
                    ema_widths(key_scales.outliers, config.key_bits_normal,
                               config.key_bits_sink_outlier, block_size),
                    std::vector<int64_t>(heads)},
                   {values, value_scales.absmax.contiguous(),
                    ema_widths(value_scales.outliers, config.value_bits_normal,
                               config.value_bits_sink_outlier, block_size),
                    std::vector<int64_t>(heads)}};
  auto block = allocate_block(keys.size(0), sides[0].widths.bytes, sides[1].widths.bytes, allocate);
  const auto& kernel = cpu_kernels();
  parallel_tasks(2 * heads, [&](int64_t task) {
    const int64_t head = task / 2;
    Side& side = sides[task % 2];
    const auto& pointers = task % 2 == 0 ? block->keys : block->values;
    side.clipped[head] = kernel.pack_channels_symmetric(
        pack_params(side.x, head, block_size), side.absmax.const_data_ptr<float>() + head * dim,
        side.widths.stored.data() + head * dim / 2, const_cast<uint8_t*>(pointers[head]));
  });

  block->tally = ema_tally(sides[0].widths, sides[1].widths, options,
                           key_scales.outliers.sum().item<int64_t>(),
                           value_scales.outliers.sum().item<int64_t>());
  for (int64_t head = 0; head < heads; ++head) {
    block->tally.key_clipped += sides[0].clipped[head];
    block->tally.value_clipped += sides[1].clipped[head];
  }
  return block;
}

}  // namespace rillkv
