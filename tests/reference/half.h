// fp16 and bf16 by their definition, in double: the oracle of every 16-bit conversion.
#pragma once

#include <cstdint>

namespace rillkv::reference {

enum class Direction { kNearest, kDown, kUp };

/// The value of an fp16 bit pattern; infinity and NaN as such.
double half_value(uint16_t bits);

/// The fp16 neighbour of a finite `x` in the direction asked for, ties to even, found by search
/// among all finite fp16 values. Beyond the largest finite value: infinity where the direction
/// allows it.
uint16_t half_round(double x, Direction direction);

/// `x` rounded to bf16 (8 significant bits), ties to even; the exponent is not limited.
double bfloat16_round(double x);

/// The value of a bf16 bit pattern.
double bfloat16_value(uint16_t bits);

}  // namespace rillkv::reference
