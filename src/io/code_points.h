// Sets of code points, as sorted ranges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rillkv::io {

struct CodePointRange {
  uint32_t first;
  uint32_t last;  // inclusive
};

/// A value. Surrogates (U+D800..DFFF) are no characters: all() lacks them.
class CodePointSet {
 public:
  CodePointSet() = default;
  /// Any order, overlaps allowed; every first <= last.
  explicit CodePointSet(std::vector<CodePointRange> ranges);
  static CodePointSet all();

  /// Sorted, disjoint, not adjacent.
  const std::vector<CodePointRange>& ranges() const { return ranges_; }
  bool empty() const { return ranges_.empty(); }
  bool contains(uint32_t code) const;
  bool contains(const CodePointSet& other) const;

  CodePointSet operator|(const CodePointSet& other) const;
  CodePointSet operator&(const CodePointSet& other) const;
  CodePointSet operator-(const CodePointSet& other) const;
  /// What all() has and this set has not.
  CodePointSet complement() const { return all() - *this; }

 private:
  std::vector<CodePointRange> ranges_;
};

}  // namespace rillkv::io
