#include "kernels/cpu/profile.h"

#include <chrono>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/rates.h"

namespace rillkv::kernels::cpu {
namespace {

#if defined(__x86_64__)
double seconds_of(void (*rounds_of)(int64_t), int64_t rounds) {
  const auto begin = std::chrono::steady_clock::now();
  rounds_of(rounds);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
#endif

}  // namespace

const char* name_of(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::kFp32 ? "fp32" : "bf16";
}

// The chips known are at 2.0 and more, and at 0.5: too far from 1 for noise to turn the choice.
Arithmetic faster(const ArithmeticRates& rates) {
  const bool known = rates.bf16 > 0 && rates.fp32 < std::numeric_limits<double>::infinity();
  return known && rates.fp32 > rates.bf16 ? Arithmetic::kFp32 : Arithmetic::kBf16;
}

ForcedArithmetic parse_arithmetic(const char* text) {
  ForcedArithmetic forced;
  if (text == nullptr || *text == '\0') return forced;
  const auto refuse = [&] {
    throw std::invalid_argument(
        "RILLKV_ARITHMETIC: expected bf16, fp32 or a list of tiles=, linear= and one_row= with one "
        "of these, got \"" +
        std::string(text) + "\"");
  };
  for (std::string_view rest = text;;) {
    const size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    const size_t equals = item.find('=');
    const bool all = equals == std::string_view::npos;
    const std::string_view use = all ? "" : item.substr(0, equals);
    const std::string_view name = all ? item : item.substr(equals + 1);
    if (name != "bf16" && name != "fp32") refuse();
    if (!all && use != "tiles" && use != "linear" && use != "one_row") refuse();
    const Arithmetic to = name == "fp32" ? Arithmetic::kFp32 : Arithmetic::kBf16;
    const auto set = [&](std::string_view this_use, bool& is_forced, Arithmetic& value) {
      if (!all && use != this_use) return;
      is_forced = true;
      value = to;
    };
    set("tiles", forced.tiles, forced.to.tiles);
    set("linear", forced.linear, forced.to.linear);
    set("one_row", forced.one_row, forced.to.one_row);
    if (comma == std::string_view::npos) return forced;
    rest.remove_prefix(comma + 1);
  }
}

ForcedArithmetic forced_arithmetic() { return parse_arithmetic(std::getenv("RILLKV_ARITHMETIC")); }

ChipProfile make_profile(const ForcedArithmetic& forced, ArithmeticRates (*measure)()) {
  ChipProfile profile;
  profile.forced = forced;
  if (!(forced.tiles && forced.linear && forced.one_row)) profile.rates = measure();
  const Arithmetic best = faster(profile.rates);
  profile.choice.tiles = forced.tiles ? forced.to.tiles : best;
  profile.choice.linear = forced.linear ? forced.to.linear : best;
  profile.choice.one_row = forced.one_row ? forced.to.one_row : best;
  return profile;
}

const ChipProfile& chip_profile() {
  static const ChipProfile profile = make_profile(forced_arithmetic(), measure_arithmetic);
  return profile;
}

ArithmeticRates measure_arithmetic() {
  ArithmeticRates rates;
#if defined(__x86_64__)
  if (!has_avx512()) return rates;
  // A turn takes 7 to 35 us on the chips known, all of them 1 to 1.5 ms: long enough for a core to
  // leave its idle clock, and a turn short enough to fit between two interruptions.
  constexpr int kTurns = 32;
  constexpr int64_t kRounds = 4000;
  for (int turn = 0; turn < kTurns; ++turn) {
    const auto measure = [&](void (*rounds_of)(int64_t), double flops_a_round, double& best) {
      const double rate =
          flops_a_round * static_cast<double>(kRounds) / seconds_of(rounds_of, kRounds) / 1e9;
      if (rate > best && rate < std::numeric_limits<double>::infinity()) best = rate;
    };
    measure(avx512::fp32_rounds, avx512::kFp32RoundFlops, rates.fp32);
    measure(avx512::bf16_rounds, avx512::kBf16RoundFlops, rates.bf16);
  }
#endif
  return rates;
}

}  // namespace rillkv::kernels::cpu
