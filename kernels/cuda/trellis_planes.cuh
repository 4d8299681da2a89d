// Planes of a trellis channel from its codes: a byte a token, b and in bit 7 u.
#pragma once

#include "kernels/cuda/channel_planes.cuh"

namespace rillkv::kernels::cuda {

/// By a warp, of kTransposedTokens codes; `codes`: of tokens 4 lane .. 4 lane + 3. width: of b.
__device__ inline void write_trellis_planes(uint32_t codes, int width, uint8_t* path, uint8_t* out,
                                            const format::PlaneOffsets& at) {
  write_plane<1>(codes, 7, reinterpret_cast<uint32_t*>(path));
  write_channel_planes(codes, width, at, out);
}
/// By a warp, of any number of codes, a multiple of 32: code_at(0) and so on.
template <typename CodeAt>
__device__ inline void write_trellis_planes(const CodeAt& code_at, int width, int count,
                                            uint8_t* path, uint8_t* out,
                                            const format::PlaneOffsets& at) {
  const auto path_at = [&](int i) { return code_at(i) >> 7; };
  for (int i = lane_id(); i < count / 32; i += 32) {
    reinterpret_cast<uint32_t*>(path)[i] = make_plane_word(path_at, i, 1, count).bits;
  }
  for (int i = lane_id(); i < words_of_row(width, count); i += 32) {
    const PlaneWord word = make_plane_word(code_at, i, width, count);
    const uint32_t start = word.plane == 0 ? at.nibbles : word.plane == 1 ? at.crumbs : at.bits;
    reinterpret_cast<uint32_t*>(out + start)[word.word] = word.bits;
  }
}

}  // namespace rillkv::kernels::cuda
