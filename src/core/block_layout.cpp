#include "core/block_layout.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/assert.h"
#include "kernels/packed_format.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

int width_sum(const uint8_t* widths, int head_dim) {
  int sum = 0;
  for (int c = 0; c < head_dim; ++c) sum += format::channel_width(widths, c, head_dim);
  return sum;
}

/// Widths of one head: `outlier_bits` where flagged.
void choose_widths(const bool* outliers, int64_t head_dim, int64_t bits, int64_t outlier_bits,
                   uint8_t* widths) {
  const int64_t half = head_dim / 2;
  for (int64_t p = 0; p < half; ++p) {
    const int64_t low = outliers[p] ? outlier_bits : bits;
    const int64_t high = outliers[p + half] ? outlier_bits : bits;
    widths[p] = static_cast<uint8_t>(low | high << 4);
  }
}

void count_widths(const uint8_t* stored, const QuantizerOptions& options,
                  std::array<int64_t, 9>& counts) {
  const int head_dim = static_cast<int>(options.head_dim);
  for (int64_t head = 0; head < options.kv_heads; ++head, stored += head_dim / 2) {
    for (int c = 0; c < head_dim; ++c) ++counts[format::channel_width(stored, c, head_dim)];
  }
}

}  // namespace

at::Tensor allocate_zeros(int64_t bytes) { return at::zeros({bytes}, at::kByte); }

void check_magnitudes(const std::vector<float>& largest, const char* what) {
  for (size_t head = 0; head < largest.size(); ++head) {
    RILLKV_CHECK(largest[head] <= format::kMaxMagnitude, "expected finite ", what,
                 " of magnitude at most ", format::kMaxMagnitude, ", got ", largest[head],
                 " in head ", head);
  }
}

std::shared_ptr<SealedBlock> allocate_block(int64_t tokens, const std::vector<size_t>& key_bytes,
                                            const std::vector<size_t>& value_bytes,
                                            const BlockAllocator& allocate) {
  auto block = std::make_shared<SealedBlock>();
  block->tokens = tokens;
  for (size_t bytes : key_bytes) block->key_bytes += static_cast<int64_t>(bytes);
  for (size_t bytes : value_bytes) block->value_bytes += static_cast<int64_t>(bytes);
  block->storage = allocate(block->key_bytes + block->value_bytes);
  RILLKV_ASSERT(block->storage.is_contiguous() &&
                block->storage.numel() == block->key_bytes + block->value_bytes);
  const uint8_t* at = block->storage.const_data_ptr<uint8_t>();
  for (size_t bytes : key_bytes) {
    block->keys.push_back(at);
    at += bytes;
  }
  for (size_t bytes : value_bytes) {
    block->values.push_back(at);
    at += bytes;
  }
  return block;
}

ChannelWidths ema_widths(const at::Tensor& outliers, int64_t bits, int64_t outlier_bits,
                         int64_t block_size) {
  const int64_t heads = outliers.size(0), dim = outliers.size(1);
  outlier_bits = std::min<int64_t>(outlier_bits, format::kMaxWidth);
  const at::Tensor flags = outliers.contiguous();
  ChannelWidths widths;
  widths.stored.resize(heads * dim / 2);
  for (int64_t head = 0; head < heads; ++head) {
    uint8_t* stored = widths.stored.data() + head * dim / 2;
    choose_widths(flags.const_data_ptr<bool>() + head * dim, dim, bits, outlier_bits, stored);
    widths.bytes.push_back(format::channel_block_bytes(static_cast<int>(dim),
                                                       static_cast<int>(block_size), true,
                                                       width_sum(stored, static_cast<int>(dim))));
  }
  return widths;
}

BlockTally adaptive_tally(const uint8_t* stored, const QuantizerOptions& options,
                          const AdaptiveLayout& layout, int64_t value_clipped) {
  BlockTally tally;
  count_widths(stored, options, tally.key_widths);
  const int64_t wide = 2 * static_cast<int64_t>(layout.wide_pairs);
  tally.value_widths[layout.value_bits] = options.kv_heads * (options.head_dim - wide);
  if (wide > 0) tally.value_widths[layout.value_bits + 1] = options.kv_heads * wide;
  const int64_t mean_up = static_cast<int64_t>(std::ceil(options.config.key_bits_mean));
  for (int64_t w = mean_up + 1; w <= 8; ++w) tally.key_outliers += tally.key_widths[w];
  tally.value_clipped = value_clipped;
  return tally;
}

BlockTally ema_tally(const ChannelWidths& keys, const ChannelWidths& values,
                     const QuantizerOptions& options, int64_t key_outliers,
                     int64_t value_outliers) {
  BlockTally tally;
  count_widths(keys.stored.data(), options, tally.key_widths);
  count_widths(values.stored.data(), options, tally.value_widths);
  tally.key_outliers = key_outliers;
  tally.value_outliers = value_outliers;
  return tally;
}

}  // namespace rillkv
