// What this chip should compute with, where its instruction set leaves a choice.
//
// An instruction set says what may run, not what is fast: vdpbf16ps does at least twice
// the multiply-adds of fp32 on AMD's Zen 4 and half of them on an Intel server, whose tile unit has
// the bf16 multipliers. So both are timed, once a process, in about a millisecond.
#pragma once

#include <cstdint>

namespace rillkv::kernels::cpu {

enum class Arithmetic : uint8_t { kFp32, kBf16 };
const char* name_of(Arithmetic arithmetic);  // "fp32", "bf16"

/// What the vector units compute with, by use. (Decode over sealed blocks is in integers, and
/// float32 and float16 models use fp32 everywhere.)
struct ArithmeticChoice {
  Arithmetic tiles = Arithmetic::kBf16;    // attention of many query rows
  Arithmetic linear = Arithmetic::kBf16;   // linear layers of many rows
  Arithmetic one_row = Arithmetic::kBf16;  // and of one
};

/// Multiply-adds x 2 of one core in GFLOP/s; 0 where it has not been measured.
struct ArithmeticRates {
  double fp32 = 0, bf16 = 0;
};

/// The faster of the two, bf16 on a tie, which takes half the memory, and where a rate is no
/// positive number, so that nothing is known.
Arithmetic faster(const ArithmeticRates& rates);

/// What RILLKV_ARITHMETIC demands.
struct ForcedArithmetic {
  bool tiles = false, linear = false, one_row = false;  // whether it says anything of that use
  ArithmeticChoice to;
};

/// "bf16" or "fp32" for every use, "tiles=fp32" for one (tiles, linear, one_row), or several of
/// these with commas between them, of which the last counts. Null and "" force nothing. Throws
/// std::invalid_argument for anything else.
ForcedArithmetic parse_arithmetic(const char* text);
/// The same of the environment, as it is now.
ForcedArithmetic forced_arithmetic();

struct ChipProfile {
  ArithmeticChoice choice;
  ForcedArithmetic forced;  // what of it the environment decided
  ArithmeticRates rates;    // zeros where nothing was left to measure
};

/// `measure` is asked unless every use is forced.
ChipProfile make_profile(const ForcedArithmetic& forced, ArithmeticRates (*measure)());

/// This machine's, decided at the first call. Throws as forced_arithmetic() does.
const ChipProfile& chip_profile();

/// Times both on this thread: short turns of each, of which the fastest counts, so that a busy
/// machine spoils some turns and not the result. Zeros without AVX-512.
ArithmeticRates measure_arithmetic();

}  // namespace rillkv::kernels::cpu
