#include "core/cpu_sealing.h"

#include <ATen/ATen.h>

#include <functional>
#include <numeric>
#include <type_traits>
#include <vector>

#include "core/assert.h"
#include "core/cpu_kernels.h"
#include "core/kernel_views.h"
#include "core/parallel.h"
#include "core/thread_workspace.h"
#include "kernels/moment_layout.h"
#include "kernels/packed_format.h"

namespace rillkv {
namespace {

/// Keys of one kv head; writes their widths, [head_dim / 2], and the packed block.
using PackKeys = std::function<void(int64_t head, const kernels::cpu::PackParams& keys,
                                    uint8_t* widths, uint8_t* out)>;

void choose_widths(const AdaptiveLayout& layout, const float* spread, const float* energy,
                   uint8_t* widths) {
  kernels::cpu::allocate_widths(spread, energy, layout.head_dim, layout.classes.data(),
                                static_cast<int>(layout.classes.size()), layout.increments, widths);
}

/// energies: [kv_heads, head_dim].
PackKeys pack_to_nearest(const AdaptiveLayout& layout, const float* energies) {
  return [&layout, energies](int64_t head, const kernels::cpu::PackParams& keys, uint8_t* widths,
                             uint8_t* out) {
    const int64_t dim = layout.head_dim;
    std::vector<float> scratch(3 * dim);
    float *lo = scratch.data(), *hi = lo + dim, *spread = hi + dim;
    cpu_kernels().min_max(keys, lo, hi);
    for (int64_t c = 0; c < dim; ++c) spread[c] = (hi[c] - lo[c]) * (hi[c] - lo[c]);
    choose_widths(layout, spread, energies + head * dim, widths);
    cpu_kernels().pack_channels_affine(keys, lo, hi, widths, out);
  };
}

/// What error feedback needs for a kv head, in memory that a thread keeps.
struct FeedbackScratch {
  FeedbackScratch(int head_dim, int block_size) {
    const auto dim = static_cast<size_t>(head_dim);
    const size_t workspace_bytes =
        format::align_up(kernels::cpu::feedback_workspace_bytes(head_dim, block_size));
    static thread_local ThreadWorkspace memory;
    auto* at = static_cast<uint8_t*>(memory.get(
        workspace_bytes + sizeof(float) * dim * (dim + 3) + sizeof(uint16_t) * dim));
    const auto take = [&at](auto*& pointer, size_t bytes) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(at);
      at += bytes;
    };
    take(workspace, workspace_bytes);
    take(plan.weights, sizeof(float) * dim * dim);
    take(plan.sensitivities, sizeof(float) * dim);
    take(spread, sizeof(float) * dim);
    take(energy, sizeof(float) * dim);
    take(plan.order, sizeof(uint16_t) * dim);
  }

  uint8_t* workspace = nullptr;
  kernels::FeedbackPlan plan;
  float *spread = nullptr, *energy = nullptr;  // [head_dim], by channel
};

/// moments: [kv_heads, moment_floats(head_dim)].
PackKeys pack_with_feedback(const AdaptiveLayout& layout, const float* moments) {
  return [&layout, moments](int64_t head, const kernels::cpu::PackParams& keys, uint8_t* widths,
                            uint8_t* out) {
    const FeedbackScratch scratch(layout.head_dim, layout.block_size);
    const kernels::FeedbackPlan& plan = scratch.plan;
    cpu_kernels().plan_feedback(
        moments + static_cast<size_t>(head) * kernels::moment_floats(layout.head_dim),
        layout.distances->data(), layout.head_dim, scratch.workspace, plan);
    cpu_kernels().variance(keys, scratch.spread);
    for (int k = 0; k < layout.head_dim; ++k) scratch.energy[plan.order[k]] = plan.sensitivities[k];
    choose_widths(layout, scratch.spread, scratch.energy, widths);
    cpu_kernels().pack_channels_feedback(keys, plan, widths, scratch.workspace, out);
  };
}

}  // namespace

std::shared_ptr<SealedBlock> seal_adaptive_on_cpu(const QuantizerOptions& options,
                                                  const AdaptiveLayout& layout,
                                                  const at::Tensor& keys, const at::Tensor& values,
                                                  const at::Tensor& statistics,
                                                  const BlockAllocator& allocate) {
  const int64_t heads = options.kv_heads, dim = options.head_dim;
  RILLKV_ASSERT(layout.head_dim == dim && statistics.size(0) == heads);
  RILLKV_ASSERT(keys.size(0) >= 1 && keys.size(0) <= layout.block_size);
  const std::vector<size_t> key_bytes(heads, layout.key_bytes());
  const std::vector<size_t> value_bytes(heads, layout.value_bytes());
  auto block = allocate_block(keys.size(0), key_bytes, value_bytes, allocate);

  const auto& kernel = cpu_kernels();
  const at::Tensor given = statistics.contiguous();
  const float* numbers = given.const_data_ptr<float>();
  const PackKeys pack_keys = options.config.error_feedback ? pack_with_feedback(layout, numbers)
                                                           : pack_to_nearest(layout, numbers);
  std::vector<uint8_t> widths(heads * dim / 2);
  std::vector<int64_t> clipped(heads);
  parallel_tasks(2 * heads, [&](int64_t task) {
    const int64_t head = task / 2;
    if (task % 2 == 0) {
      pack_keys(head, pack_params(keys, head, layout.block_size), widths.data() + head * dim / 2,
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
