// Shared memory of trellis packing: one definition for the launch plan and the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed_format.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cuda {

/// Of the warp that codes a channel (trellis_coder.cuh).
template <int kTokens>
struct alignas(16) TrellisScratch {
  static constexpr int kPastEnd = 12;  // tokens that walk takes past the last and reads ahead

  float x[kTokens];
  float distances[kTokens + kPastEnd][4];
  float metrics[kTokens + kPastEnd][kTrellisStates];  // row t: before token t
  uint32_t maps[kTokens / 4];
  uint8_t choices[kTokens];
};

/// Of a CTA of values (trellis_values.cuh), offsets in bytes. Codes: a word of four tokens' for
/// each channel, words of the same tokens side by side; the one more a row keeps those of a channel
/// in banks of their own.
struct TrellisValuesShared {
  int inverses = 0;  // float[block_size]
  int weights;       // float[block_size]
  int codes;         // uint32[block_size / 4][code_stride]
  int code_stride;
  size_t bytes;

  RILLKV_HOST_DEVICE constexpr TrellisValuesShared(int head_dim, int block_size)
      : weights(4 * block_size),
        codes(8 * block_size),
        code_stride(head_dim + 1),
        bytes(static_cast<size_t>(codes + block_size * code_stride)) {}
};

}  // namespace rillkv::kernels::cuda
