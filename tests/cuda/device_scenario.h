// An attention Scenario moved to a device: every pointer of its parameters becomes a device
// pointer, activations lie without gaps (which the fast paths take) or with one element of it.
#pragma once

#include <memory>
#include <vector>

#include "tests/cuda/device_fixture.h"
#include "tests/kernels/attention_scenario.h"

namespace rillkv::test {

class DeviceScenario {
 public:
  DeviceScenario(ptx::Device& device, Scenario& scenario);

  const kernels::cuda::AttentionParams& params() const { return params_; }
  kernels::cuda::AttentionParams& params() { return params_; }
  /// Copies the output back into scenario.out().
  void download();

 private:
  template <typename T>
  const T* array(const T* host, size_t count) {
    if (host == nullptr) return nullptr;
    const auto* bytes = reinterpret_cast<const uint8_t*>(host);
    arrays_.emplace_back(device_, std::vector<uint8_t>(bytes, bytes + count * sizeof(T)));
    return reinterpret_cast<const T*>(arrays_.back().data());
  }
  kernels::Activation activation(const kernels::Activation& host, int tokens, int heads);
  void segment(kernels::DenseSegment& s);

  ptx::Device& device_;
  Scenario& scenario_;
  kernels::cuda::AttentionParams params_;
  std::vector<ptx::DeviceArray<uint8_t>> arrays_;
  std::vector<DeviceActivation> activations_;
  std::unique_ptr<DeviceActivation> out_;
};

/// What a kernel with tiles of the scenario's dtype may be off by; see the comment in the source.
double device_tolerance(Scenario& scenario, bool generic);

/// Runs kernels::cuda::attend on a batch with a workspace of exactly the size asked for, and
/// brings the outputs back.
void attend_on_device(ptx::Device& device, DeviceQueue& queue,
                      const std::vector<Scenario*>& scenarios);

}  // namespace rillkv::test
