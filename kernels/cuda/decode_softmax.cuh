// Decode attention: a warp's running softmax over scores [16 tokens x 8 rows], as mma leaves them:
// lane 4 g + q has tokens g and g + 8 of the rows (queries) 2 q and 2 q + 1.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_values.cuh"
#include "kernels/cuda/device.cuh"

namespace rillkv::kernels::cuda {

/// Of the two rows of a lane; the maximum is the warp's, the sum of this lane's tokens.
struct DecodeSoftmax {
  float max[2] = {-INFINITY, -INFINITY};  // or less by up to kMaxGrowth; in units of log2
  float sum[2] = {0.0f, 0.0f};
};

/// Over the eight lanes that have the same rows.
template <typename F>
__device__ inline float over_tokens(float x, F f) {
#pragma unroll
  for (int span = 4; span <= 16; span *= 2) x = f(x, __shfl_xor_sync(0xffffffffu, x, span));
  return x;
}

/// How far, in powers of two, scores may pass the maximum before sums are rescaled to them:
/// probabilities of up to 2^8, far inside fp16. (The conditional rescaling of FlashAttention-4.)
inline constexpr float kMaxGrowth = 8.0f;

/// The probability itself.
struct Unweighted {
  __device__ float operator()(int, int, float probability) const { return probability; }
};

/// Scores become probabilities; `scale_log2` of both rows. Earlier sums `o` [channels x rows] fade.
/// What values are to be multiplied by is weight(t, i, probability), of the tokens g + 8 i of
/// operand t.
template <int kOperands, int kChannels, typename Weight = Unweighted>
__device__ inline void softmax(const float (&s)[kOperands][4], const float (&scale_log2)[2],
                               DecodeSoftmax& state, Probabilities (&p)[kOperands],
                               float (&o)[kChannels][4], Weight weight = {}) {
  float fade[2], exponent[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = fmaxf(s[0][r], s[0][r + 2]);
#pragma unroll
    for (int t = 1; t < kOperands; ++t) most = fmaxf(most, fmaxf(s[t][r], s[t][r + 2]));
    most = over_tokens(most, [](float a, float b) { return fmaxf(a, b); });
    most *= scale_log2[r];
    const float max = most > state.max[r] + kMaxGrowth ? most : state.max[r];
    exponent[r] = max == -INFINITY ? 0.0f : max;  // no visible token yet
    fade[r] = exp2_fast(state.max[r] - exponent[r]);
    state.max[r] = max;
    state.sum[r] *= fade[r];
  }
#pragma unroll
  for (int t = 0; t < kOperands; ++t) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {  // tokens g, g + 8
      const float a = exp2_fast(fmaf(s[t][2 * i], scale_log2[0], -exponent[0]));
      const float b = exp2_fast(fmaf(s[t][2 * i + 1], scale_log2[1], -exponent[1]));
      state.sum[0] += a;
      state.sum[1] += b;
      p[t].b[i] = transposed(Pair<__half>::pack(weight(t, i, a), weight(t, i, b)));
    }
  }
  // The first tile, and hardly ever another.
  if (__any_sync(0xffffffffu, fade[0] != 1.0f || fade[1] != 1.0f)) {
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) o[m][e] *= fade[e & 1];
    }
  }
}

/// The first token that each row of this lane does not see becomes its limit: scores of tokens from
/// there on are -inf. token(t, i): the token of operand t's row g + 8 i.
template <int kOperands, typename F>
__device__ inline void mask_tokens(float (&s)[kOperands][4], const int (&limit)[2], F token) {
#pragma unroll
  for (int t = 0; t < kOperands; ++t) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (token(t, e >> 1) >= limit[e & 1]) s[t][e] = -INFINITY;
    }
  }
}

}  // namespace rillkv::kernels::cuda
