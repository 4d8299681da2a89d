// The tables, and which of them this machine can run.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/profile.h"
#include "kernels/cpu/tile_permission.h"

namespace rillkv::kernels::cpu {
namespace {

constexpr ArithmeticNames kFp32 = {"fp32", "fp32", nullptr, nullptr, false};

// Tables are made at first use: their parts are constants of other files.
const KernelTable& scalar_table() {
  static const KernelTable table = {scalar::kAttention,
                                    scalar::kStatistics,
                                    scalar::kPack,
                                    scalar::kFeedback,
                                    scalar::kTrellis,
                                    scalar::kElementwise,
                                    LinearKernels{},
                                    "scalar",
                                    kFp32};
  return table;
}

#if defined(__x86_64__)
const KernelTable& avx2_table() {
  static const KernelTable table = {avx2::kAttention,
                                    avx2::kStatistics,
                                    avx2::kPack,
                                    avx2::kFeedback,
                                    avx2::kTrellis,
                                    avx2::kElementwise,
                                    LinearKernels{},
                                    "avx2",
                                    kFp32};
  return table;
}

// ---- AVX-512, by the arithmetic that suits the chip ----

const AttentionKernels& attention_of(Arithmetic tiles) {
  return tiles == Arithmetic::kFp32 ? avx512::kAttentionFp32 : avx512::kAttention;
}

/// Layers of one row by kOne and of more by kMany, from the same packed weights.
template <const LinearKernels& kMany, const LinearKernels& kOne>
void linear_by_rows(const LinearParams& params, int64_t panel_begin, int64_t panel_end,
                    int64_t row_begin, int64_t row_end, void* workspace) {
  (params.rows == 1 ? kOne : kMany)
      .linear(params, panel_begin, panel_end, row_begin, row_end, workspace);
}

LinearKernels linear_of(const ArithmeticChoice& choice) {
  const bool fp32 = choice.linear == Arithmetic::kFp32;
  LinearKernels kernels = fp32 ? avx512::kLinearFp32 : avx512::kLinear;
  if (choice.one_row != choice.linear) {
    kernels.linear = fp32 ? linear_by_rows<avx512::kLinearFp32, avx512::kLinear>
                          : linear_by_rows<avx512::kLinear, avx512::kLinearFp32>;
  }
  return kernels;
}

ArithmeticNames names_of(const ArithmeticChoice& choice, bool by_profile) {
  return {name_of(choice.tiles), "int16", name_of(choice.linear), name_of(choice.one_row),
          by_profile};
}

KernelTable avx512_with(const ArithmeticChoice& choice, bool by_profile, const char* name) {
  return {attention_of(choice.tiles),
          avx512::kStatistics,
          avx512::kPack,
          avx512::kFeedback,
          avx512::kTrellis,
          avx512::kElementwise,
          linear_of(choice),
          name,
          names_of(choice, by_profile)};
}

const KernelTable& avx512_table() {
  static const KernelTable table = avx512_with(chip_profile().choice, true, "avx512");
  return table;
}

template <Arithmetic kArithmetic>
const KernelTable& avx512_table_of() {
  static const KernelTable table =
      avx512_with({kArithmetic, kArithmetic, kArithmetic}, false,
                  kArithmetic == Arithmetic::kFp32 ? "avx512_fp32" : "avx512_bf16");
  return table;
}

// ---- the tile unit, and AVX-512 for the rest ----

/// AVX-512's table with the parts that the unit runs.
KernelTable amx_with(const AttentionKernels& attention, const LinearKernels& linear,
                     const char* name) {
  KernelTable table = avx512_with(chip_profile().choice, true, name);
  static_cast<AttentionKernels&>(table) = attention;
  static_cast<LinearKernels&>(table) = linear;
  table.arithmetic.tiles = "amx-bf16";
  table.arithmetic.linear = "amx-bf16";
  return table;
}

const KernelTable& amx_table() {
  static const KernelTable table = amx_with(amx::kAttention, amx::kLinear, "amx");
  return table;
}

const KernelTable& amx_plain_table() {
  static const KernelTable table = amx_with(amx::kPlainAttention, amx::kPlainLinear, "amx_plain");
  return table;
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
    // To test, not to use: one arithmetic whatever the chip, and the kernels of "amx" on tiles in
    // plain C++.
    {"avx512_bf16", avx512_table_of<Arithmetic::kBf16>, has_avx512, false},
    {"avx512_fp32", avx512_table_of<Arithmetic::kFp32>, has_avx512, false},
    {"amx_plain", amx_plain_table, has_avx512, false},
#endif
};

/// Null for a name that is unknown.
const Isa* find_isa(const char* name) {
  for (const Isa& isa : kIsas) {
    if (std::strcmp(name, isa.name) == 0) return &isa;
  }
  return nullptr;
}

const KernelTable& select_isa() {
  const char* wanted = std::getenv("RILLKV_ISA");
  std::string known, available;
  for (const Isa& isa : kIsas) {
    const bool supported = isa.supported();
    if (wanted == nullptr || *wanted == '\0') {
      if (supported && isa.by_default) return isa.table();
      continue;
    }
    if (std::strcmp(wanted, isa.name) == 0 && supported) return isa.table();
    if (!isa.by_default) continue;  // names for tests are not offered
    known += std::string(known.empty() ? "" : ", ") + isa.name;
    if (supported) available += std::string(available.empty() ? "" : ", ") + isa.name;
  }
  if (find_isa(wanted) == nullptr) {
    throw std::invalid_argument("RILLKV_ISA: expected one of " + known + ", got \"" + wanted +
                                "\"");
  }
  throw std::invalid_argument("RILLKV_ISA: this machine lacks " + std::string(wanted) +
                              "; it can run " + available);
}

/// Throws if RILLKV_ARITHMETIC demands what a table of one arithmetic does not have.
void check_arithmetic(const KernelTable& table) {
  const ForcedArithmetic forced = forced_arithmetic();
  if (table.arithmetic.by_profile) return;  // the profile has followed it
  const auto check = [&](const char* use, bool is_forced, Arithmetic to, const char* has) {
    if (has == nullptr) has = "fp32";  // linear layers without kernels of ours
    if (!is_forced || std::strcmp(name_of(to), has) == 0) return;
    throw std::invalid_argument("RILLKV_ARITHMETIC: " + std::string(table.name) + " has " + has +
                                " for " + use + ", not " + name_of(to));
  };
  check("tiles", forced.tiles, forced.to.tiles, table.arithmetic.tiles);
  check("linear", forced.linear, forced.to.linear, table.arithmetic.linear);
  check("one_row", forced.one_row, forced.to.one_row, table.arithmetic.one_row);
}

const KernelTable& select() {
  const KernelTable& table = select_isa();
  check_arithmetic(table);
  return table;
}

}  // namespace

#if defined(__x86_64__)
const AttentionKernels& profiled_attention() { return attention_of(chip_profile().choice.tiles); }

const LinearKernels& profiled_linear() {
  static const LinearKernels kernels = linear_of(chip_profile().choice);
  return kernels;
}
#endif

bool has_avx512() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
         __builtin_cpu_supports("avx512vbmi") != 0 && __builtin_cpu_supports("avx512vnni") != 0 &&
         __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("fma") != 0 &&
         __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("f16c") != 0;
#else
  return false;
#endif
}

const KernelTable& kernels() {
  static const KernelTable& table = select();
  return table;
}

const KernelTable* find_kernels(const char* name) {
  const Isa* isa = find_isa(name);
  return isa != nullptr && isa->supported() ? &isa->table() : nullptr;
}

const KernelTable* kernels_unchecked(const char* name) {
  const Isa* isa = find_isa(name);
  return isa != nullptr ? &isa->table() : nullptr;
}

}  // namespace rillkv::kernels::cpu
