// Hands one launch to a queue, for the launch plans.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/queue.h"
#include "kernels/params.h"

namespace rillkv::kernels::cuda {

inline const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return "bfloat16";
    case Dtype::kFloat16:
      return "float16";
    default:
      return "float32";
  }
}

/// Nothing if a dimension of the grid is 0. `what` makes the shapes' text, if it is asked for.
template <typename Params, typename What>
void submit(Queue& queue, const char* entry, int x, int y, int z, int threads, size_t shared_bytes,
            const Params& params, const What& what) {
  if (x <= 0 || y <= 0 || z <= 0) return;
  Launch launch;
  launch.entry = entry;
  launch.grid[0] = static_cast<uint32_t>(x);
  launch.grid[1] = static_cast<uint32_t>(y);
  launch.grid[2] = static_cast<uint32_t>(z);
  launch.threads = static_cast<uint32_t>(threads);
  launch.shared_bytes = shared_bytes;
  launch.params = &params;
  launch.params_bytes = sizeof(Params);
  launch.what = what;
  queue.launch(launch);
}

}  // namespace rillkv::kernels::cuda
