// What a figure means nothing without: the commit, the machine, and what it can do at most.
#pragma once

#include <ATen/Parallel.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "benchmarks/machine_peak.h"
#include "rillkv/cpu_info.h"
#include "rillkv_commit.h"
#include "support/machine.h"

namespace rillkv::bench {

inline nlohmann::ordered_json context_json(const MachinePeak& peak) {
  nlohmann::ordered_json context = {{"commit", RILLKV_COMMIT}};
  context.update(cli::machine_json());
  context["peak_fp32_flops"] = peak.fp32_flops;
  context["peak_bf16_flops"] = peak.bf16_flops;
  context["peak_tile_flops"] = peak.tile_flops;
  context["peak_read_bytes_per_s"] = peak.read_bytes;
  return context;
}

inline void print_context(std::FILE* to, const MachinePeak& peak) {
  const CpuInfo& cpu = cpu_info();
  std::fprintf(to,
               "commit %s, %s, %d threads, %s (tiles %s, decode %s, linear %s, one row %s: %s); "
               "measured peaks: fp32 %.0f GFLOP/s, bf16 %.0f GFLOP/s, ",
               RILLKV_COMMIT, cli::processor().c_str(), at::get_num_threads(), cpu.isa.c_str(),
               cpu.tiles.c_str(), cpu.decode.c_str(), cpu.linear.c_str(), cpu.one_row.c_str(),
               cpu.reason.c_str(), peak.fp32_flops / 1e9, peak.bf16_flops / 1e9);
  if (peak.tile_flops > 0) std::fprintf(to, "tile unit %.0f GFLOP/s, ", peak.tile_flops / 1e9);
  std::fprintf(to, "read %.1f GB/s\n", peak.read_bytes / 1e9);
}

}  // namespace rillkv::bench
