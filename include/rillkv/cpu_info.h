// What the CPU kernels compute with, for reports.
#pragma once

#include <string>

namespace rillkv {

/// The instruction set in use and its arithmetic for bfloat16 models. (float32 and float16 models
/// use fp32 throughout.)
struct CpuInfo {
  std::string isa;      ///< "scalar", "avx2", "avx512" or "amx".
  std::string tiles;    ///< Attention of many queries: "fp32", "bf16" or "amx-bf16".
  std::string decode;   ///< Attention of a few queries over sealed blocks: "fp32" or "int16".
  std::string linear;   ///< Linear layers of many rows: "fp32", "bf16", "amx-bf16" or "torch".
  std::string one_row;  ///< Linear layers of one row: the same names.
  std::string reason;   ///< Why this arithmetic, in a few words.
  /// What one core was measured to do by vector instructions; 0 where nothing was measured, since
  /// there was no choice.
  double fp32_gflops = 0, bf16_gflops = 0;
};

/// Decided at the first use of a process, once: the best instruction set of the machine or the one
/// that RILLKV_ISA names, and its fastest arithmetic by measurement (a millisecond) or what
/// RILLKV_ARITHMETIC says: "bf16", "fp32", or one or several of tiles=, linear= and one_row= with
/// one of these, separated by commas. Throws UsageError where either names what is not there.
const CpuInfo& cpu_info();

}  // namespace rillkv
