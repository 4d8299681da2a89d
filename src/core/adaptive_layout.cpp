#include "core/adaptive_layout.h"

#include <algorithm>

#include "core/rotary_distances.h"
#include "kernels/packed_format.h"

namespace rillkv {

AdaptiveLayout::AdaptiveLayout(const QuantizerOptions& options)
    : head_dim(static_cast<int>(options.head_dim)),
      block_size(static_cast<int>(options.config.block_size)),
      trellis(options.config.policy == Policy::kTrellis),
      value_groups(
          format::value_groups(head_dim, static_cast<int>(options.config.value_group_size))),
      value_bits(static_cast<int>(options.config.value_bits)) {
  if (trellis) {
    for (int width = 1; width <= format::kMaxTrellisWidth; ++width) classes.push_back(width);
  } else {
    classes.assign(options.config.bit_classes.begin(), options.config.bit_classes.end());
  }
  const int pairs = head_dim / 2, spacing = classes[1] - classes[0];
  // 1e-6 forgives a mean that is not exact in binary.
  const double wanted = (options.config.key_bits_mean - classes[0]) * pairs / spacing + 1e-6;
  increments = std::min(static_cast<int>(wanted), pairs * (static_cast<int>(classes.size()) - 1));
  if (trellis) {
    value_bits = static_cast<int>(options.config.value_bits_mean);
    wide_pairs = static_cast<int>((options.config.value_bits_mean - value_bits) * pairs + 1e-6);
  }
  if (options.config.feeds_back()) distances = rotary_distances(options.inverse_frequencies);
  key_width_sum = classes[0] * head_dim + 2 * increments * spacing;
}

size_t AdaptiveLayout::key_bytes() const {
  if (trellis) return format::trellis_key_bytes(head_dim, block_size, key_width_sum);
  return format::channel_block_bytes(head_dim, block_size, /*symmetric=*/false, key_width_sum);
}

size_t AdaptiveLayout::value_bytes() const {
  if (trellis) return format::trellis_value_bytes(head_dim, block_size, value_bits, wide_pairs);
  return format::token_block_bytes(block_size, head_dim, value_groups, /*symmetric=*/false,
                                   value_bits);
}

}  // namespace rillkv
