#include "core/cpu_sealing.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
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

/// Keys of one kv head, and where their widths, [head_dim / 2], and the packed block go.
struct KeyHead {
  int64_t head;
  kernels::cpu::PackParams keys;
  uint8_t *widths, *out;
};
/// Packs 1 .. kHeadsTogether heads.
using PackKeys = std::function<void(const KeyHead* heads, int count)>;

void choose_widths(const AdaptiveLayout& layout, const float* spread, const float* energy,
                   uint8_t* widths) {
  if (layout.trellis) {
    kernels::cpu::allocate_trellis_widths(spread, energy, layout.head_dim, layout.increments,
                                          widths);
  } else {
    kernels::cpu::allocate_widths(spread, energy, layout.head_dim, layout.classes.data(),
                                  static_cast<int>(layout.classes.size()), layout.increments,
                                  widths);
  }
}

/// energies: [kv_heads, head_dim].
PackKeys pack_to_nearest(const AdaptiveLayout& layout, const float* energies) {
  return [&layout, energies](const KeyHead* heads, int count) {
    const int64_t dim = layout.head_dim;
    std::vector<float> scratch(3 * dim);
    float *lo = scratch.data(), *hi = lo + dim, *spread = hi + dim;
    for (int h = 0; h < count; ++h) {
      const KeyHead& head = heads[h];
      cpu_kernels().min_max(head.keys, lo, hi);
      for (int64_t c = 0; c < dim; ++c) spread[c] = (hi[c] - lo[c]) * (hi[c] - lo[c]);
      choose_widths(layout, spread, energies + head.head * dim, head.widths);
      cpu_kernels().pack_channels_affine(head.keys, lo, hi, head.widths, head.out);
    }
  };
}

/// What error feedback needs for each of kHeadsTogether kv heads, in memory that a thread keeps.
struct FeedbackScratch {
  FeedbackScratch(int head_dim, int block_size) {
    const auto dim = static_cast<size_t>(head_dim);
    const size_t workspace_bytes =
        format::align_up(kernels::cpu::feedback_workspace_bytes(head_dim, block_size));
    const size_t bytes = format::align_up(workspace_bytes + sizeof(float) * dim * (dim + 3) +
                                          sizeof(uint16_t) * dim);
    static thread_local ThreadWorkspace memory;
    auto* at = static_cast<uint8_t*>(memory.get(kernels::cpu::kHeadsTogether * bytes));
    for (Head& head : heads) {
      auto* next = at + bytes;
      const auto take = [&at](auto*& pointer, size_t size) {
        pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(at);
        at += size;
      };
      take(head.workspace, workspace_bytes);
      take(head.plan.weights, sizeof(float) * dim * dim);
      take(head.plan.sensitivities, sizeof(float) * dim);
      take(head.spread, sizeof(float) * dim);
      take(head.energy, sizeof(float) * dim);
      take(head.plan.order, sizeof(uint16_t) * dim);
      at = next;
    }
  }

  struct Head {
    uint8_t* workspace = nullptr;
    kernels::FeedbackPlan plan;
    float *spread = nullptr, *energy = nullptr;  // [head_dim], by channel
  };
  Head heads[kernels::cpu::kHeadsTogether];
};

/// moments: [kv_heads, moment_floats(head_dim)].
PackKeys pack_with_feedback(const AdaptiveLayout& layout, const float* moments) {
  return [&layout, moments](const KeyHead* heads, int count) {
    const auto& kernel = cpu_kernels();
    const FeedbackScratch scratch(layout.head_dim, layout.block_size);
    kernels::cpu::TrellisKeys trellis[kernels::cpu::kHeadsTogether];
    for (int h = 0; h < count; ++h) {
      const KeyHead& head = heads[h];
      const auto& [workspace, plan, spread, energy] = scratch.heads[h];
      kernel.plan_feedback(
          moments + static_cast<size_t>(head.head) * kernels::moment_floats(layout.head_dim),
          layout.distances->data(), layout.head_dim, workspace, plan);
      kernel.variance(head.keys, spread);
      for (int k = 0; k < layout.head_dim; ++k) energy[plan.order[k]] = plan.sensitivities[k];
      choose_widths(layout, spread, energy, head.widths);
      if (layout.trellis) {
        trellis[h] = {head.keys, plan, head.widths, workspace, head.out};
      } else {
        kernel.pack_channels_feedback(head.keys, plan, head.widths, workspace, head.out);
      }
    }
    if (layout.trellis) kernel.pack_trellis_keys(trellis, count);
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
  const PackKeys pack_keys = options.config.feeds_back() ? pack_with_feedback(layout, numbers)
                                                         : pack_to_nearest(layout, numbers);
  std::vector<uint8_t> widths(heads * dim / 2);
  std::vector<int64_t> clipped(heads);
  // Trellis searches of two heads are faster together, where that leaves no thread without work.
  const int64_t together =
      layout.trellis && heads > at::get_num_threads() ? kernels::cpu::kHeadsTogether : 1;
  const int64_t key_tasks = (heads + together - 1) / together;
  parallel_tasks(key_tasks + heads, [&](int64_t task) {
    if (task < key_tasks) {
      KeyHead team[kernels::cpu::kHeadsTogether];
      int count = 0;
      for (int64_t head = task * together; head < std::min(heads, (task + 1) * together); ++head) {
        team[count++] = {head, pack_params(keys, head, layout.block_size),
                         widths.data() + head * dim / 2, const_cast<uint8_t*>(block->keys[head])};
      }
      return pack_keys(team, count);
    }
    const int64_t head = task - key_tasks;
    const kernels::cpu::PackParams params = pack_params(values, head, layout.block_size);
    auto* out = const_cast<uint8_t*>(block->values[head]);
    if (layout.trellis) {
      kernel.pack_trellis_values(params, layout.value_bits, layout.wide_pairs, out);
    } else {
      clipped[head] =
          kernel.pack_tokens_affine(params, layout.value_groups, layout.value_bits, out);
    }
  });

  block->tally = adaptive_tally(widths.data(), options, layout,
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
