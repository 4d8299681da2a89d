// The CUDA back end of a build without CUDA: present, so that callers hold no #ifdef.
#include <stdexcept>

#include "kernels/cuda/launch.h"

namespace rillkv::kernels::cuda {

bool cuda_available() { return false; }

int device_count() { return 0; }

std::unique_ptr<Queue> make_stream_queue(Stream) {
  throw std::runtime_error("this library was built without CUDA (RILLKV_CUDA=OFF or no nvcc)");
}

std::unique_ptr<Queue> make_stream_queue(int, Stream (*)(int)) {
  return make_stream_queue(nullptr);
}

}  // namespace rillkv::kernels::cuda
