// The CUDA queue over a run-time library that this test plays: no GPU is needed to see which
// stream a launch goes to, what is asked of the device and how often, and whose errors are thrown.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/entries.h"
#include "kernels/cuda/queue.h"

// Entries that are only launched here.
#define RILLKV_DEFINE_ENTRY(name) \
  extern "C" void name() {}
RILLKV_CUDA_ENTRIES(RILLKV_DEFINE_ENTRY)
#undef RILLKV_DEFINE_ENTRY

namespace {

struct Runtime {
  int device = 0;
  cudaError_t last = cudaSuccess;                      // the thread's last error
  cudaError_t launch = cudaSuccess;                    // what the next launches answer
  std::vector<std::pair<int, cudaStream_t>> launches;  // device and stream
  std::map<int, int> attributes;                       // asked for, by device
  int opt_ins = 0;
};
Runtime runtime;

cudaError_t fail(cudaError_t error) {
  if (error != cudaSuccess) runtime.last = error;
  return error;
}

}  // namespace

extern "C" {
cudaError_t cudaGetDevice(int* device) {
  *device = runtime.device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  runtime.device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 2;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  ++runtime.attributes[device];
  *value = which == cudaDevAttrMultiProcessorCount ? 100 + device : 200 * 1024;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) {
  ++runtime.opt_ins;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t stream) {
  if (runtime.launch == cudaSuccess) runtime.launches.emplace_back(runtime.device, stream);
  return fail(runtime.launch);
}
cudaError_t cudaGetLastError() { return std::exchange(runtime.last, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t) { return "the runtime's words"; }
}

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;

cuda::Stream stream_of(int number) {
  static int places[8];
  return reinterpret_cast<cuda::Stream>(&places[number]);
}

int current_number = 1;
cuda::Stream current_stream(int) { return stream_of(current_number); }

class StreamQueueTest : public testing::Test {
 protected:
  void SetUp() override { runtime = Runtime(); }
  static cuda::Launch launch(size_t shared_bytes = 0) {
    cuda::Launch launch;
    launch.entry = "rillkv_rope";
    launch.shared_bytes = shared_bytes;
    return launch;
  }
};

TEST_F(StreamQueueTest, LaunchesGoToTheStreamThatIsCurrent) {
  const auto queue = cuda::make_stream_queue(1, current_stream);
  const std::map<int, int> asked = runtime.attributes;
  current_number = 1;
  queue->launch(launch());
  current_number = 2;
  queue->launch(launch());
  const std::vector<std::pair<int, cudaStream_t>> expected = {{1, stream_of(1)}, {1, stream_of(2)}};
  EXPECT_EQ(runtime.launches, expected);
  EXPECT_EQ(runtime.device, 0) << "the current device is another";
  EXPECT_EQ(runtime.attributes, asked) << "asked again";
}

TEST_F(StreamQueueTest, AnotherQueueOfADeviceAsksNothing) {
  const auto first = cuda::make_stream_queue(0, current_stream);
  first->launch(launch(100 * 1024));
  runtime = Runtime();
  const auto second = cuda::make_stream_queue(stream_of(3));
  second->launch(launch(100 * 1024));
  EXPECT_TRUE(runtime.attributes.empty());
  EXPECT_EQ(runtime.opt_ins, 0);
  EXPECT_EQ(second->multiprocessors(), 100);
  EXPECT_EQ(second->shared_memory_limit(), 200 * 1024);
  // An attribute is a function's on a device: another device has its own.
  const auto elsewhere = cuda::make_stream_queue(1, current_stream);
  elsewhere->launch(launch(100 * 1024));
  elsewhere->launch(launch(100 * 1024));
  EXPECT_EQ(runtime.opt_ins, 1);
  EXPECT_EQ(elsewhere->multiprocessors(), 101);
}

TEST_F(StreamQueueTest, AnEarlierErrorIsNotTheLaunchs) {
  const auto queue = cuda::make_stream_queue(0, current_stream);
  runtime.last = cudaErrorInvalidValue;
  queue->launch(launch());
  EXPECT_EQ(runtime.launches.size(), 1u);
  EXPECT_EQ(runtime.last, cudaErrorInvalidValue) << "it is its owner's to see";
}

TEST_F(StreamQueueTest, AFailedLaunchIsThrownOnceWithItsShapes) {
  const auto queue = cuda::make_stream_queue(0, current_stream);
  int described = 0;
  const auto what = [&] {
    ++described;
    return std::string("input [3, 4]");
  };
  cuda::Launch broken = launch();
  broken.what = what;
  queue->launch(broken);
  EXPECT_EQ(described, 0) << "text that nobody reads";
  runtime.launch = cudaErrorInvalidConfiguration;
  try {
    queue->launch(broken);
    FAIL() << "no error";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(),
                 "CUDA: launch failed (rillkv_rope: input [3, 4]): the runtime's words");
  }
  EXPECT_EQ(described, 1);
  EXPECT_EQ(runtime.last, cudaSuccess) << "it would surface a second time";
}

TEST_F(StreamQueueTest, UnknownEntries) {
  const auto queue = cuda::make_stream_queue(0, current_stream);
  cuda::Launch unknown = launch();
  for (const char* name : {"rillkv_rop", "rillkv_ropes", ""}) {
    unknown.entry = name;
    EXPECT_THROW(queue->launch(unknown), std::logic_error) << name;
  }
  EXPECT_TRUE(runtime.launches.empty());
}

}  // namespace
}  // namespace rillkv::test
