// R(j) of a block in 16-bit fixed point, which decode multiplies by.
#pragma once

#include <cstdint>
#include <vector>

namespace rillkv::kernels::cpu {

/// 1 in that fixed point.
constexpr float kFixedOne = 32767.0f;

/// The tables of Rotations as 16-bit integers, cosine and sine side by side.
class FixedRotations {
 public:
  FixedRotations() = default;
  /// cosines, sines: `count` each, in [-1, 1].
  FixedRotations(const float* cosines, const float* sines, int64_t count);

  /// AttentionParams::in_block_fixed, aligned to 64 bytes: (cos, sin) * kFixedOne, [count, 2].
  const int16_t* data() const { return lines_.data()->values; }

 private:
  struct alignas(64) Line {
    int16_t values[32];
  };
  std::vector<Line> lines_;
};

}  // namespace rillkv::kernels::cpu
