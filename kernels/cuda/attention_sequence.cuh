// Which sequence a decode CTA attends, in shared memory: the launch's own parameters, with what
// changes from one token to the next taken from device memory where the launch says so
// (AttentionLaunchParams::steps). Everything after it reads one AttentionParams.
//
// The copies are coalesced: a word a thread. A step costs two dependent loads, the step and then
// its layer, by one warp, while the others copy the parameters.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {

/// Tiles of 128 tokens of a sequence in steps mode: sinks, blocks and the tail, which holds at
/// least the new token. Decode and merge agree by this on the splits that exist.
__device__ inline int step_tiles(int sink_capacity, int block_count) {
  return (sink_capacity + kAttentionTile - 1) / kAttentionTile + block_count + 1;
}

/// Called by one thread.
__device__ inline void apply_step(AttentionParams& p, const SequenceStep& step,
                                  const LayerState& layer, int sequence) {
  PackedPrefix& x = p.prefix;
  x.sink_count = x.sink_capacity;
  x.sink_keys = layer.sink_keys;
  x.sink_values = layer.sink_values;
  x.block_count = step.block_count;
  x.keys = layer.key_blocks;
  x.values = layer.value_blocks;
  x.rotations = step.block_rotations;
  p.tail.keys.data = layer.tail_keys;
  p.tail.values.data = layer.tail_values;
  p.tail.count = step.tail_count + 1;
  p.tail.first_index = step.length - step.tail_count;
  p.tail.cos = step.tail_cos;
  p.tail.sin = step.tail_sin;
  p.first_query_index = step.length;
  p.query_cos = step.tail_cos + step.tail_count * (p.head_dim / 2);
  p.query_sin = step.tail_sin + step.tail_count * (p.head_dim / 2);
  p.queries.data = static_cast<const uint16_t*>(p.queries.data) + sequence * p.queries.token_stride;
}

/// This CTA's sequence (blockIdx.z), in DecodeSequence::kBytes of shared memory; ends with a
/// barrier of the CTA.
__device__ inline const AttentionParams& load_sequence(uint8_t* memory,
                                                       const AttentionLaunchParams& launch) {
  const int thread = static_cast<int>(threadIdx.x), sequence = static_cast<int>(blockIdx.z);
  auto* p = reinterpret_cast<AttentionParams*>(memory);
  const auto copy_word = [](void* to, const void* from, int i) {
    static_cast<uint32_t*>(to)[i] = static_cast<const uint32_t*>(from)[i];
  };
  constexpr int kWords = sizeof(AttentionParams) / 4;
  static_assert(sizeof(AttentionParams) % 4 == 0);
  const bool steps = launch.steps != nullptr;
  for (int i = thread; i < kWords; i += kDecodeThreads) {
    copy_word(p, &launch.sequences[steps ? 0 : sequence], i);
  }
  if (!steps) {
    __syncthreads();
    return *p;
  }
  auto* step = reinterpret_cast<SequenceStep*>(memory + DecodeSequence::kStep);
  auto* layer = reinterpret_cast<LayerState*>(memory + DecodeSequence::kLayer);
  if (warp_id() == kDecodeWarps - 1) {
    constexpr int kStepWords = sizeof(SequenceStep) / 4, kLayerWords = sizeof(LayerState) / 4;
    static_assert(kStepWords <= 32 && kLayerWords <= 32 && offsetof(SequenceStep, layers) == 0);
    const int lane = lane_id();
    uint32_t word = 0;
    if (lane < kStepWords) {
      word = reinterpret_cast<const uint32_t*>(launch.steps + sequence)[lane];
      reinterpret_cast<uint32_t*>(step)[lane] = word;
    }
    const uint64_t layers = static_cast<uint64_t>(__shfl_sync(0xffffffffu, word, 1)) << 32 |
                            __shfl_sync(0xffffffffu, word, 0);
    if (lane < kLayerWords) {
      copy_word(layer, reinterpret_cast<const LayerState*>(layers) + launch.layer, lane);
    }
  }
  __syncthreads();
  if (thread == 0) apply_step(*p, *step, *layer, sequence);
  __syncthreads();
  return *p;
}

}  // namespace rillkv::kernels::cuda
