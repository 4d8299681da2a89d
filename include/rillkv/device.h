// Where models and caches compute.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

namespace rillkv {

/// The device that --device names: "cpu", "cuda" (the current CUDA device) or "cuda:N", made ready
/// to use. CUDA needs LibTorch's libtorch_cuda, which is loaded here, where a device is; do this
/// before anything else asks LibTorch for CUDA (at::manual_seed does), as LibTorch remembers that
/// it had none. Throws UsageError for another name, and Error where there is no CUDA: the library
/// was built without it, no device answers, the device is too old (before compute capability 8.0),
/// or libtorch_cuda cannot be loaded.
c10::Device open_device(const std::string& name);

/// Most bytes that LibTorch's allocator has given out on a CUDA device, which open_device returned,
/// at one time; 0 on the CPU. Throws Error for a CUDA device without an index.
int64_t device_peak_bytes(c10::Device device);

}  // namespace rillkv
