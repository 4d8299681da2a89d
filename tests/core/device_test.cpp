#include "rillkv/device.h"

#include <gtest/gtest.h>

#include <string>

#include "core/cuda_backend.h"
#include "rillkv/error.h"
#include "tests/support/error_of.h"
#include "tests/support/expect_error.h"

namespace rillkv {
namespace {

TEST(Device, NamesAreChecked) {
  EXPECT_TRUE(open_device("cpu").is_cpu());
  for (const char* name : {"", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda:128", "gpu"}) {
    EXPECT_THROW(open_device(name), UsageError) << name;
  }
  EXPECT_EQ(device_peak_bytes(at::kCPU), 0);
}

// One clear line where there is no CUDA, whatever is missing.
TEST(Device, CudaIsThereOrTheErrorSaysWhatIsMissing) {
  if (kernels::cuda::device_count() > 0) {
    EXPECT_TRUE(open_device("cuda").is_cuda());
    testing::expect_error([] { open_device("cuda:100"); }, {"CUDA device of 0..", "got 100"});
    return;
  }
  const std::string error = testing::error_of([] { open_device("cuda"); });
  EXPECT_TRUE(error.find("built without CUDA") != error.npos ||
              error.find("there is no CUDA device") != error.npos)
      << error;
}

// Without NVIDIA's libraries (the light set-up has only cudart) it cannot be loaded, and says which
// is missing; with them it can.
TEST(Device, LibtorchCudaIsLoadedOrTheErrorNamesTheLibrary) {
  const std::string error = testing::error_of([] { load_torch_cuda(); });
  if (error.empty()) return;
  EXPECT_EQ(error.find('\n'), error.npos);
  EXPECT_TRUE(error.find("libtorch_cuda cannot be loaded: ") == 0 ||
              error.find("built without CUDA") != error.npos)
      << error;
}

}  // namespace
}  // namespace rillkv
