// Policies "adaptive" and "trellis": how many bits a head may spend on its keys, and how large its
// blocks are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "rillkv/quantizer.h"

namespace rillkv {

/// Every head spends the same whole number of increments, steps of a channel pair from one width to
/// the next, so every key block has the same size.
struct AdaptiveLayout {
  /// Of options that have been validated.
  explicit AdaptiveLayout(const QuantizerOptions& options);

  /// The mean width of a head's key channels.
  double key_bits_mean() const { return static_cast<double>(key_width_sum) / head_dim; }
  /// Of one kv head's block.
  size_t key_bytes() const;
  size_t value_bytes() const;

  int head_dim = 0, block_size = 0;
  std::vector<int> classes;  // widths that a channel pair may take, ascending
  int increments = 0;
  int key_width_sum = 0;  // of a head's channels
  bool trellis = false;
  int value_groups = 1;  // "adaptive": a head
  int value_bits = 0;    // "trellis": of the narrower channels
  int wide_pairs = 0;    // "trellis": value channel pairs with a bit more
  /// rotary_distances of error feedback; null without it.
  std::shared_ptr<const std::vector<float>> distances;
};

}  // namespace rillkv
