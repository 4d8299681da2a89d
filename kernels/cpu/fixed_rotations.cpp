#include "kernels/cpu/fixed_rotations.h"

#include <cmath>

namespace rillkv::kernels::cpu {

FixedRotations::FixedRotations(const float* cosines, const float* sines, int64_t count)
    : lines_(static_cast<size_t>((count + 15) / 16)) {
  for (int64_t i = 0; i < count; ++i) {
    int16_t* to = lines_[static_cast<size_t>(i / 16)].values + i % 16 * 2;
    to[0] = static_cast<int16_t>(std::lrint(cosines[i] * kFixedOne));
    to[1] = static_cast<int16_t>(std::lrint(sines[i] * kFixedOne));
  }
}

}  // namespace rillkv::kernels::cpu
