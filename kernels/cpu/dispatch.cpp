// The tables, and which of them this machine can run.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/tile_permission.h"

namespace rillkv::kernels::cpu {
namespace {

// Tables are made at first use: their parts are constants of other files.
const KernelTable& scalar_table() {
  static const KernelTable table = {scalar::kAttention,   scalar::kStatistics, scalar::kPack,
                                    scalar::kElementwise, LinearKernels{},     "scalar"};
  return table;
}

#if defined(__x86_64__)
const KernelTable& avx2_table() {
  static const KernelTable table = {avx2::kAttention,   avx2::kStatistics, avx2::kPack,
                                    avx2::kElementwise, LinearKernels{},   "avx2"};
  return table;
}

const KernelTable& avx512_table() {
  static const KernelTable table = {avx512::kAttention,   avx512::kStatistics, avx512::kPack,
                                    avx512::kElementwise, avx512::kLinear,     "avx512"};
  return table;
}

const KernelTable& amx_table() {
  static const KernelTable table = {amx::kAttention,      avx512::kStatistics, avx512::kPack,
                                    avx512::kElementwise, avx512::kLinear,     "amx"};
  return table;
}

const KernelTable& amx_plain_table() {
  static const KernelTable table = {amx::kPlainAttention, avx512::kStatistics, avx512::kPack,
                                    avx512::kElementwise, avx512::kLinear,     "amx_plain"};
  return table;
}

bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
         __builtin_cpu_supports("avx512vbmi") != 0 && __builtin_cpu_supports("avx512vnni") != 0 &&
         __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("fma") != 0 &&
         __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("f16c") != 0;
}
#endif

struct Isa {
  const char* name;
  const KernelTable& (*table)();
  bool (*supported)();
  bool by_default = true;  // chosen where nobody asks for another
};

// Best first. __builtin_cpu_supports asks cpuid and, for AVX and AVX-512, xgetbv: an operating
// system that does not save the registers counts as lacking them.
const Isa kIsas[] = {
#if defined(__x86_64__)
    {"amx", amx_table, [] { return has_avx512() && may_use_tiles(); }},
    {"avx512", avx512_table, has_avx512},
    {"avx2", avx2_table,
     [] {
       __builtin_cpu_init();
       return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
              __builtin_cpu_supports("f16c") != 0;
     }},
#endif
    {"scalar", scalar_table, [] { return true; }},
#if defined(__x86_64__)
    // The kernels of "amx" on tiles in plain C++: to test them, not to use.
    {"amx_plain", amx_plain_table, has_avx512, false},
#endif
};

const KernelTable& select() {
  const char* wanted = std::getenv("RILLKV_ISA");
  std::string known, available;
  for (const Isa& isa : kIsas) {
    const bool supported = isa.supported();
    if (wanted == nullptr || *wanted == '\0') {
      if (supported && isa.by_default) return isa.table();
      continue;
    }
    if (std::strcmp(wanted, isa.name) == 0 && supported) return isa.table();
    known += std::string(known.empty() ? "" : ", ") + isa.name;
    if (supported) available += std::string(available.empty() ? "" : ", ") + isa.name;
  }
  bool is_known = false;
  for (const Isa& isa : kIsas) is_known |= std::strcmp(wanted, isa.name) == 0;
  if (!is_known) {
    throw std::invalid_argument("RILLKV_ISA: expected one of " + known + ", got \"" + wanted +
                                "\"");
  }
  throw std::invalid_argument("RILLKV_ISA: this machine lacks " + std::string(wanted) +
                              "; it can run " + available);
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable& table = select();
  return table;
}

const KernelTable* find_kernels(const char* name) {
  for (const Isa& isa : kIsas) {
    if (std::strcmp(name, isa.name) == 0) return isa.supported() ? &isa.table() : nullptr;
  }
  return nullptr;
}

const KernelTable* kernels_unchecked(const char* name) {
  for (const Isa& isa : kIsas) {
    if (std::strcmp(name, isa.name) == 0) return &isa.table();
  }
  return nullptr;
}

}  // namespace rillkv::kernels::cpu
