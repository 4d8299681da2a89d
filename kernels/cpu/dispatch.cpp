// The tables, and which of them this machine can run.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernels.h"

namespace rillkv::kernels::cpu {
namespace {

constexpr KernelTable kScalar = {
    .name = "scalar",
    .attention_workspace_bytes = scalar::attention_workspace_bytes,
    .attend = scalar::attend,
    .absmax = scalar::absmax,
    .min_max = scalar::min_max,
    .add_squares = scalar::add_squares,
    .pack_channels_affine = scalar::pack_channels_affine,
    .pack_channels_symmetric = scalar::pack_channels_symmetric,
    .pack_tokens_affine = scalar::pack_tokens_affine,
    .pack_tokens_symmetric = scalar::pack_tokens_symmetric,
    .hadamard = scalar::hadamard,
    .rms_norm = scalar::rms_norm,
    .gate = scalar::gate,
    .rope = scalar::rope,
    .pack_linear = nullptr,
    .linear = nullptr,
};

#if defined(__x86_64__)
// An entry that an instruction set has no version of yet is taken from the next lower one.
constexpr KernelTable kAvx2 = {
    .name = "avx2",
    .attention_workspace_bytes = avx2::attention_workspace_bytes,
    .attend = avx2::attend,
    .absmax = avx2::absmax,
    .min_max = avx2::min_max,
    .add_squares = avx2::add_squares,
    .pack_channels_affine = avx2::pack_channels_affine,
    .pack_channels_symmetric = avx2::pack_channels_symmetric,
    .pack_tokens_affine = avx2::pack_tokens_affine,
    .pack_tokens_symmetric = avx2::pack_tokens_symmetric,
    .hadamard = avx2::hadamard,
    .rms_norm = avx2::rms_norm,
    .gate = avx2::gate,
    .rope = avx2::rope,
    .pack_linear = nullptr,
    .linear = nullptr,
};

constexpr KernelTable kAvx512 = {
    .name = "avx512",
    .attention_workspace_bytes = avx512::attention_workspace_bytes,
    .attend = avx512::attend,
    .absmax = avx512::absmax,
    .min_max = avx512::min_max,
    .add_squares = avx512::add_squares,
    .pack_channels_affine = avx512::pack_channels_affine,
    .pack_channels_symmetric = avx512::pack_channels_symmetric,
    .pack_tokens_affine = avx512::pack_tokens_affine,
    .pack_tokens_symmetric = avx512::pack_tokens_symmetric,
    .hadamard = avx512::hadamard,
    .rms_norm = avx512::rms_norm,
    .gate = avx512::gate,
    .rope = avx512::rope,
    .pack_linear = avx512::pack_linear,
    .linear = avx512::linear,
};
#endif

struct Isa {
  const KernelTable* table;
  bool (*supported)();
};

// Best first. __builtin_cpu_supports asks cpuid and, for AVX and AVX-512, xgetbv: an operating
// system that does not save the registers counts as lacking them.
const Isa kIsas[] = {
#if defined(__x86_64__)
    {&kAvx512,
     [] {
       __builtin_cpu_init();
       return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
              __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
              __builtin_cpu_supports("avx512vbmi") != 0 &&
              __builtin_cpu_supports("avx512vnni") != 0 &&
              __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("fma") != 0 &&
              __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("f16c") != 0;
     }},
    {&kAvx2,
     [] {
       __builtin_cpu_init();
       return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
              __builtin_cpu_supports("f16c") != 0;
     }},
#endif
    {&kScalar, [] { return true; }},
};

const KernelTable& select() {
  const char* wanted = std::getenv("RILLKV_ISA");
  std::string known, available;
  for (const Isa& isa : kIsas) {
    const bool supported = isa.supported();
    if (wanted == nullptr || *wanted == '\0') {
      if (supported) return *isa.table;
      continue;
    }
    if (std::strcmp(wanted, isa.table->name) == 0 && supported) return *isa.table;
    known += std::string(known.empty() ? "" : ", ") + isa.table->name;
    if (supported) available += std::string(available.empty() ? "" : ", ") + isa.table->name;
  }
  bool is_known = false;
  for (const Isa& isa : kIsas) is_known |= std::strcmp(wanted, isa.table->name) == 0;
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
    if (std::strcmp(name, isa.table->name) == 0) return isa.supported() ? isa.table : nullptr;
  }
  return nullptr;
}

}  // namespace rillkv::kernels::cpu
