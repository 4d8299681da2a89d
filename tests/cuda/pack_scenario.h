// A launch of rillkv_pack_* as the product makes it: the blocks of one kv head of a chunk, preset
// balanced, from an empty tail.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/ingest_params.h"
#include "kernels/packed_format.h"
#include "tests/cuda/device_fixture.h"
#include "tests/kernels/isa_fixture.h"

namespace rillkv::test {

class PackScenario {
 public:
  PackScenario(ptx::Device& device, kernels::Dtype dtype, int head_dim, int block_size, int blocks)
      : input_(input(device, dtype, block_size * blocks, head_dim)),
        energies_(device, std::vector<float>(static_cast<size_t>(blocks * head_dim), 1.0f)) {
    kernels::cuda::PackParams& p = params_;
    p.keys = p.values = input_.activation();
    p.dtype = dtype;
    p.kv_heads = 1;
    p.head_dim = head_dim;
    p.block_size = block_size;
    p.tokens = block_size * blocks;
    p.blocks = blocks;
    p.increments = head_dim / 2 * 13 / 4;  // 4.25 bits a channel
    p.key_bytes = static_cast<int32_t>(
        format::channel_block_bytes(head_dim, block_size, false, head_dim + 2 * p.increments));
    p.value_groups = format::value_groups(head_dim, 64);
    p.value_bytes = static_cast<int32_t>(
        format::token_block_bytes(block_size, head_dim, p.value_groups, false, 4));
    for (int i = 0; i < blocks; ++i) {
      storage_.emplace_back(device, static_cast<size_t>(p.key_bytes + p.value_bytes));
      p.storage[i] = storage_.back().data();
    }
    p.energies = energies_.data();
    p.class_count = 8;
    for (int i = 0; i < 8; ++i) p.classes[i] = i + 1;
  }

  const kernels::cuda::PackParams& params() const { return params_; }
  /// Each block's keys, then its values.
  const std::vector<ptx::DeviceArray<uint8_t>>& storage() const { return storage_; }

 private:
  static DeviceActivation input(ptx::Device& device, kernels::Dtype dtype, int tokens,
                                int head_dim) {
    ActivationBuffer x(dtype, tokens, 1, head_dim);
    x.fill_normal(3);
    return DeviceActivation::copy_of(device, x.activation(), dtype, tokens, 1, head_dim);
  }

  DeviceActivation input_;
  ptx::DeviceArray<float> energies_;
  std::vector<ptx::DeviceArray<uint8_t>> storage_;
  kernels::cuda::PackParams params_;
};

}  // namespace rillkv::test
