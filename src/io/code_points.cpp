#include "src/io/code_points.h"

#include <algorithm>

namespace rillkv::io {

CodePointSet::CodePointSet(std::vector<CodePointRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const CodePointRange& range : ranges) {
    if (!ranges_.empty() && range.first <= ranges_.back().last + 1) {
      ranges_.back().last = std::max(ranges_.back().last, range.last);
    } else {
      ranges_.push_back(range);
    }
  }
}

CodePointSet CodePointSet::all() { return CodePointSet({{0, 0xd7ff}, {0xe000, 0x10ffff}}); }

bool CodePointSet::contains(uint32_t code) const {
  const auto found =
      std::lower_bound(ranges_.begin(), ranges_.end(), code,
                       [](const CodePointRange& range, uint32_t c) { return range.last < c; });
  return found != ranges_.end() && found->first <= code;
}

CodePointSet CodePointSet::operator|(const CodePointSet& other) const {
  std::vector<CodePointRange> ranges = ranges_;
  ranges.insert(ranges.end(), other.ranges_.begin(), other.ranges_.end());
  return CodePointSet(std::move(ranges));
}

CodePointSet CodePointSet::operator&(const CodePointSet& other) const {
  return *this - (*this - other);
}

CodePointSet CodePointSet::operator-(const CodePointSet& other) const {
  CodePointSet result;
  auto taken = other.ranges_.begin();
  for (CodePointRange range : ranges_) {
    while (taken != other.ranges_.end() && taken->last < range.first) ++taken;
    bool left = true;
    for (auto cut = taken; cut != other.ranges_.end() && cut->first <= range.last; ++cut) {
      if (cut->first > range.first) result.ranges_.push_back({range.first, cut->first - 1});
      if (cut->last >= range.last) {
        left = false;
        break;
      }
      range.first = cut->last + 1;
    }
    if (left) result.ranges_.push_back(range);
  }
  return result;
}

}  // namespace rillkv::io
