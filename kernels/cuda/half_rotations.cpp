#include "kernels/cpu/generic/half.h"
#include "kernels/cuda/tile_order.h"

namespace rillkv::kernels::cuda {

void fill_half_rotations(const float* cosines, const float* sines, int head_dim, uint16_t* out) {
  for (int pair = 0; pair < head_dim / 2; ++pair) {
    for (int position = 0; position < 128; ++position) {
      const auto from = static_cast<size_t>(128 * pair + token_at_position(position));
      const size_t to = half_rotation_index(pair, position);
      out[to] = cpu::float_to_half(cosines[from]);
      out[half_rotation_elements(head_dim) / 2 + to] = cpu::float_to_half(sines[from]);
    }
  }
}

}  // namespace rillkv::kernels::cuda
