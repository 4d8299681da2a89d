#include "rillkv/cpu_info.h"

#include <cstdio>

#include "core/cpu_kernels.h"

namespace rillkv {
namespace {

std::string reason_of(const kernels::cpu::KernelTable& table,
                      const kernels::cpu::ChipProfile* profile) {
  if (profile == nullptr) return "all that " + std::string(table.name) + " has";
  const kernels::cpu::ForcedArithmetic& forced = profile->forced;
  std::string uses;
  const auto add = [&](bool is_forced, const char* use) {
    if (is_forced) uses += (uses.empty() ? "" : ", ") + std::string(use);
  };
  add(forced.tiles, "tiles");
  add(forced.linear, "linear");
  add(forced.one_row, "one_row");
  if (uses.empty()) return "the fastest measured";
  if (forced.tiles && forced.linear && forced.one_row) return "RILLKV_ARITHMETIC";
  return "RILLKV_ARITHMETIC for " + uses + ", else the fastest measured";
}

}  // namespace

CpuInfo describe_kernels(const kernels::cpu::KernelTable& table,
                         const kernels::cpu::ChipProfile* profile) {
  const auto linear = [](const char* name) { return name == nullptr ? "torch" : name; };
  CpuInfo info;
  info.isa = table.name;
  info.tiles = table.arithmetic.tiles;
  info.decode = table.arithmetic.decode;
  info.linear = linear(table.arithmetic.linear);
  info.one_row = linear(table.arithmetic.one_row);
  info.reason = reason_of(table, profile);
  if (profile != nullptr) {
    info.fp32_gflops = profile->rates.fp32;
    info.bf16_gflops = profile->rates.bf16;
  }
  return info;
}

CpuInfo describe_kernels(const kernels::cpu::KernelTable& table) {
  return describe_kernels(table,
                          table.arithmetic.by_profile ? &kernels::cpu::chip_profile() : nullptr);
}

std::string summary(const CpuInfo& info) {
  std::string text = "kernels " + info.isa + ": tiles " + info.tiles + ", decode " + info.decode +
                     ", linear " + info.linear + ", one row " + info.one_row + " (" + info.reason;
  if (info.bf16_gflops > 0) {
    char rates[80];
    std::snprintf(rates, sizeof rates, "; a core does fp32 %.0f, bf16 %.0f GFLOP/s",
                  info.fp32_gflops, info.bf16_gflops);
    text += rates;
  }
  return text + ")";
}

const CpuInfo& cpu_info() {
  static const CpuInfo info = describe_kernels(cpu_kernels());
  return info;
}

}  // namespace rillkv
