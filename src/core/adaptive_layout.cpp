#include "core/adaptive_layout.h"

#include <algorithm>

#include "core/rotary_distances.h"
#include "kernels/packed_format.h"

namespace rillkv {

AdaptiveLayout::AdaptiveLayout(const QuantizerOptions& options)
    : head_dim(static_cast<int>(options.head_dim)),
      block_size(static_cast<int>(options.config.block_size)),
      classes(options.config.bit_classes.begin(), options.config.bit_classes.end()),
      value_groups(
          format::value_groups(head_dim, static_cast<int>(options.config.value_group_size))),
      value_bits(static_cast<int>(options.config.value_bits)) {
  const int pairs = head_dim / 2, spacing = classes[1] - classes[0];
  // 1e-6 forgives a mean that is not exact in binary.
  const double wanted = (options.config.key_bits_mean - classes[0]) * pairs / spacing + 1e-6;
  increments = std::min(static_cast<int>(wanted), pairs * (static_cast<int>(classes.size()) - 1));
  if (options.config.error_feedback) distances = rotary_distances(options.inverse_frequencies);
  key_width_sum = classes[0] * head_dim + 2 * increments * spacing;
}

size_t AdaptiveLayout::key_bytes() const {
  return format::channel_block_bytes(head_dim, block_size, /*symmetric=*/false, key_width_sum);
}

size_t AdaptiveLayout::value_bytes() const {
  return format::token_block_bytes(block_size, head_dim, value_groups, /*symmetric=*/false,
                                   value_bits);
}

}  // namespace rillkv
