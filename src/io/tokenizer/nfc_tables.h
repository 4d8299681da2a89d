// The Unicode data behind nfc.cpp; nfc_tables.cpp is made by scripts/make_nfc_tables.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rillkv::io {

/// Code points first..last have this combining class (not 0). Sorted.
struct CombiningRange {
  uint32_t first;
  uint32_t last;
  uint8_t combining_class;
};
extern const CombiningRange kCombiningRanges[];
extern const size_t kCombiningRangeCount;

/// One canonical step, code -> first [second]; second is 0 for a singleton. Sorted by code.
struct Decomposition {
  uint32_t code;
  uint32_t first;
  uint32_t second;
  bool composes;  // whether NFC puts the pair together again
};
extern const Decomposition kDecompositions[];
extern const size_t kDecompositionCount;

}  // namespace rillkv::io
