// What launching kernels costs, apart from what they compute. Assumptions with a source, not
// measurements of ours; bench_cuda measures the device's part on a GPU.
#pragma once

namespace rillkv::bench {

/// Host time of one launch on a stream. 4 to 6 us are reported for CUDA 13 (susun-blog.com,
/// "pegainfer (3)"), 3.8 us a kernel of 2.9 us by NVIDIA's introduction to CUDA graphs
/// (developer.nvidia.com/blog/cuda-graphs, 2019), where launches overlap with kernels.
inline constexpr double kLaunchHostSeconds = 4e-6;

/// From the end of one kernel of a stream or graph to the start of the next that depends on it, the
/// first's drain and the second's fill included: 0.5 us more than the kernel in a replayed graph by
/// NVIDIA's introduction; with the fill 1.5 to 2.5 us are usual for grids of a few hundred CTAs.
inline constexpr double kKernelGapSeconds = 2e-6;

/// A blocking copy or synchronisation: the host waits for the device to run dry and then launches
/// anew. 9.6 us a kernel of 2.9 us, the same source.
inline constexpr double kSynchronisationSeconds = 7e-6;

/// A kernel that does little: its bytes, or the gap if that is more.
inline double small_kernel_seconds(double bytes, double bandwidth) {
  return kKernelGapSeconds + bytes / bandwidth;
}

/// One token of a model of which each launch depends on the one before. `device_s`: of the kernels
/// themselves. Host and device work side by side where nothing synchronises.
inline double eager_token_seconds(int launches, int synchronisations, double device_s) {
  const double host = launches * kLaunchHostSeconds,
               device = device_s + launches * kKernelGapSeconds;
  return (host > device ? host : device) + synchronisations * kSynchronisationSeconds;
}
inline double graph_token_seconds(int launches, int synchronisations, double device_s) {
  return device_s + launches * kKernelGapSeconds + synchronisations * kSynchronisationSeconds;
}

}  // namespace rillkv::bench
