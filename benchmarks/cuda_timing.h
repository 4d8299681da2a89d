// Timing on a CUDA device, and what the programs that do it say of the device.
#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "benchmarks/attention_model.h"
#include "benchmarks/clock.h"
#include "benchmarks/run_context.h"
#include "kernels/cuda/launch.h"
#include "rillkv/device.h"
#include "rillkv/error.h"
#include "src/core/cuda_backend.h"

namespace rillkv::bench {

/// The model's figures of a device that is there. mma.sync with fp32 accumulation, an SM and clock:
/// 2048 on sm_80, 62 % of wgmma's 4096 on sm_90, no more than sm_80's assumed for sm_100; 512 on
/// the GeForce cards of the others (professional cards do twice that).
inline Gpu gpu_of(at::Device device) {
  const DeviceFigures f = device_figures(device);
  const double mma = f.compute_capability == 90                                  ? 0.62 * 4096
                     : f.compute_capability == 80 || f.compute_capability == 100 ? 2048
                                                                                 : 512;
  return {f.name, f.multiprocessors, f.clock_hz, f.memory_bytes_s, mma, 0, f.shared_memory_limit};
}

/// What the figures of a device mean nothing without.
inline nlohmann::ordered_json device_json(const Gpu& gpu) {
  nlohmann::ordered_json context = {{"commit", RILLKV_COMMIT}};
  context.update(cli::machine_json());
  context["gpu"] = gpu.name;
  context["multiprocessors"] = gpu.multiprocessors;
  context["clock_hz"] = gpu.clock;
  context["bandwidth_bytes_per_s"] = gpu.bandwidth;
  return context;
}

/// Medians of what a device takes for launches, by CUDA events. A fill of 256 MB goes before each:
/// it empties the L2 cache, and while it runs (some 80 us) the host enqueues what is timed, so that
/// the host's own time does not count.
class DeviceClock {
 public:
  explicit DeviceClock(at::Device device, int rounds = 20)
      : device_(device),
        rounds_(rounds),
        flush_(at::empty({256 << 20}, at::TensorOptions().dtype(at::kByte).device(device))) {}

  /// Seconds of `work` that finds nothing in the L2 cache.
  double cold(const std::function<void()>& work) { return time(work, false); }
  /// Of work that has just run.
  double warm(const std::function<void()>& work) { return time(work, true); }

 private:
  double time(const std::function<void()>& work, bool twice) {
    std::vector<double> times;
    for (int round = 0; round < rounds_ + kUntimed; ++round) {
      flush_.fill_(round);
      if (twice) work();
      const double t = device_seconds(device_, work);
      if (round >= kUntimed) times.push_back(t);
    }
    return median(times);
  }

  static constexpr int kUntimed = 3;
  at::Device device_;
  int rounds_;
  at::Tensor flush_;
};

/// Passes launches on and keeps copies of them, so that each can be run again alone. What their
/// parameters point to must live as long.
class RecordingQueue final : public kernels::cuda::Queue {
 public:
  explicit RecordingQueue(kernels::cuda::Queue& to) : to_(to) {}
  void launch(const kernels::cuda::Launch& launch) override {
    to_.launch(launch);
    const auto* bytes = static_cast<const uint8_t*>(launch.params);
    recorded_.push_back({launch, {bytes, bytes + launch.params_bytes}});
    recorded_.back().launch.what = {};  // may refer to what lives as long as this call
  }
  int multiprocessors() const override { return to_.multiprocessors(); }
  int shared_memory_limit() const override { return to_.shared_memory_limit(); }

  size_t size() const { return recorded_.size(); }
  std::string entry(size_t i) const { return recorded_[i].launch.entry; }
  /// Launches number i again.
  void replay(size_t i) {
    kernels::cuda::Launch launch = recorded_[i].launch;
    launch.params = recorded_[i].params.data();
    to_.launch(launch);
  }

 private:
  struct Recorded {
    kernels::cuda::Launch launch;
    std::vector<uint8_t> params;
  };
  kernels::cuda::Queue& to_;
  std::vector<Recorded> recorded_;
};

}  // namespace rillkv::bench
