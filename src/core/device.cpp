#include "rillkv/device.h"

#include <charconv>

#include "core/cuda_backend.h"
#include "rillkv/error.h"

namespace rillkv {

c10::Device open_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  int index = -1;
  if (name != "cuda") {
    const std::string prefix = "cuda:";
    const char* end = name.data() + name.size();
    const auto [stop, error] = name.rfind(prefix, 0) == 0
                                   ? std::from_chars(name.data() + prefix.size(), end, index)
                                   : std::from_chars_result{nullptr, std::errc::invalid_argument};
    if (error != std::errc() || stop != end || index < 0 || index > 127) {
      throw UsageError(str_cat("expected device cpu, cuda or cuda:N, got '", name, "'"));
    }
  }
  return cuda_backend(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index)))->device();
}

}  // namespace rillkv
