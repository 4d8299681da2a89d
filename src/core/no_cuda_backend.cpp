// CUDA in a build without it: present, so that callers hold no #ifdef.
#include "core/cuda_backend.h"
#include "rillkv/device.h"
#include "rillkv/error.h"

namespace rillkv {

std::shared_ptr<CudaBackend> cuda_backend(at::Device) {
  throw Error("CUDA was asked for, but RillKV was built without CUDA");
}

void load_torch_cuda() { throw Error("RillKV was built without CUDA"); }

double device_seconds(at::Device, const std::function<void()>&) {
  throw Error("RillKV was built without CUDA");
}

DeviceFigures device_figures(at::Device) { throw Error("RillKV was built without CUDA"); }

int64_t device_peak_bytes(c10::Device) { return 0; }

}  // namespace rillkv
