// What a figure means nothing without: the commit, the machine, and what it can do at most.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "benchmarks/machine_peak.h"
#include "kernels/cpu/kernels.h"
#include "rillkv_commit.h"

namespace rillkv::bench {

inline std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

inline nlohmann::ordered_json context_json(const MachinePeak& peak) {
  return {{"commit", RILLKV_COMMIT},
          {"cpu", cpu_name()},
          {"threads", at::get_num_threads()},
          {"isa", kernels::cpu::kernels().name},
          {"peak_fp32_flops", peak.fp32_flops},
          {"peak_bf16_flops", peak.bf16_flops},
          {"peak_read_bytes_per_s", peak.read_bytes}};
}

inline void print_context(std::FILE* to, const MachinePeak& peak) {
  std::fprintf(to,
               "commit %s, %s, %d threads, %s; measured peaks: fp32 %.0f GFLOP/s, bf16 %.0f "
               "GFLOP/s, read %.1f GB/s\n",
               RILLKV_COMMIT, cpu_name().c_str(), at::get_num_threads(),
               kernels::cpu::kernels().name, peak.fp32_flops / 1e9, peak.bf16_flops / 1e9,
               peak.read_bytes / 1e9);
}

inline double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  const size_t half = x.size() / 2;
  return x.size() % 2 == 1 ? x[half] : (x[half - 1] + x[half]) / 2;
}

}  // namespace rillkv::bench
