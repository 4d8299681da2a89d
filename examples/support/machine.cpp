#include "support/machine.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <fstream>

#include "rillkv/cpu_info.h"

namespace rillkv::cli {

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

nlohmann::ordered_json arithmetic_json() {
  const CpuInfo& cpu = cpu_info();
  nlohmann::ordered_json json = {{"tiles", cpu.tiles},   {"decode", cpu.decode},
                                 {"linear", cpu.linear}, {"one_row", cpu.one_row},
                                 {"reason", cpu.reason}, {"measured_gflops", nullptr}};
  if (cpu.bf16_gflops > 0) {
    json["measured_gflops"] = {{"fp32", std::round(cpu.fp32_gflops)},
                               {"bf16", std::round(cpu.bf16_gflops)}};
  }
  return json;
}

nlohmann::ordered_json machine_json() {
  return {{"cpu", processor()},
          {"threads", at::get_num_threads()},
          {"isa", cpu_info().isa},
          {"arithmetic", arithmetic_json()}};
}

}  // namespace rillkv::cli
