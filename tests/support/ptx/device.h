// Where a kernel test runs: on the PTX executor, or on a real GPU. A test body takes a Device& and
// is instantiated for both, so that the same expectations judge the same kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/support/ptx/executor.h"

namespace rillkv::ptx {

/// A launch as the kernels' host code plans it: an `extern "C" __global__` entry that takes one
/// trivially copyable struct by value.
struct KernelLaunch {
  std::string entry;
  Dim3 grid;
  Dim3 block;
  size_t shared_bytes = 0;  // dynamic
  const void* params = nullptr;
  size_t params_bytes = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  /// Device memory filled with 0xFF bytes; never null, even for 0 bytes.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* begin) = 0;
  virtual void upload(void* device, const void* host, size_t bytes) = 0;
  virtual void download(void* host, const void* device, size_t bytes) = 0;
  /// Runs to completion; throws on any error or finding.
  virtual void launch(const KernelLaunch& launch) = 0;
  /// Bytes of shared memory that a block may have.
  virtual int shared_memory_limit() const = 0;
};

/// Runs entries of several PTX modules; every launch runs under the given seed, and `profiles`
/// keeps the reports of the launches if profiling was asked for.
class ExecutorDevice final : public Device {
 public:
  explicit ExecutorDevice(std::vector<Module> modules, uint64_t seed = 0, bool profile = false)
      : modules_(std::move(modules)), seed_(seed), profile_(profile) {}

  void* allocate(size_t bytes) override { return allocate_device_memory(bytes); }
  void release(void* begin) override { free_device_memory(begin); }
  void upload(void* device, const void* host, size_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
  }
  void download(void* host, const void* device, size_t bytes) override {
    if (bytes > 0) std::memcpy(host, device, bytes);
  }
  void launch(const KernelLaunch& launch) override;
  int shared_memory_limit() const override { return 163 * 1024; }  // an A100's

  const std::vector<Report>& reports() const { return reports_; }

 private:
  std::vector<Module> modules_;
  uint64_t seed_;
  bool profile_;
  std::vector<Report> reports_;
};

/// An array of T on a Device.
template <typename T>
class DeviceArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  DeviceArray(Device& device, size_t count)
      : device_(&device),
        count_(count),
        data_(static_cast<T*>(device.allocate(count * sizeof(T)))) {}
  DeviceArray(Device& device, const std::vector<T>& values) : DeviceArray(device, values.size()) {
    device_->upload(static_cast<void*>(data_), static_cast<const void*>(values.data()),
                    count_ * sizeof(T));
  }
  DeviceArray(DeviceArray&& other) noexcept
      : device_(other.device_),
        count_(std::exchange(other.count_, 0)),
        data_(std::exchange(other.data_, nullptr)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(count_, other.count_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceArray() {
    if (data_ != nullptr) device_->release(static_cast<void*>(data_));
  }

  T* data() const { return data_; }
  size_t size() const { return count_; }
  std::vector<T> to_vector() const {
    std::vector<T> host(count_);
    device_->download(static_cast<void*>(host.data()), static_cast<const void*>(data_),
                      count_ * sizeof(T));
    return host;
  }

 private:
  Device* device_;
  size_t count_;
  T* data_;
};

}  // namespace rillkv::ptx
