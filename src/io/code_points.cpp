#include "src/io/code_points.h"

#include <algorithm>

namespace rillkv::io {

CodePointSet::CodePointSet(std::vector<CodePointRange> ranges) {
  const auto before = [](const auto& a, const auto& b) { return a.first < b.first; };
  if (!std::is_sorted(ranges.begin(), ranges.end(), before)) {
    std::sort(ranges.begin(), ranges.end(), before);
  }
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

bool CodePointSet::contains(const CodePointSet& other) const {
  auto range = ranges_.begin();
  for (const CodePointRange& part : other.ranges_) {
    while (range != ranges_.end() && range->last < part.first) ++range;
    if (range == ranges_.end() || range->first > part.first || range->last < part.last) {
      return false;
    }
  }
  return true;
}

CodePointSet CodePointSet::operator|(const CodePointSet& other) const {
  std::vector<CodePointRange> ranges(ranges_.size() + other.ranges_.size());
  std::merge(ranges_.begin(), ranges_.end(), other.ranges_.begin(), other.ranges_.end(),
             ranges.begin(), [](const auto& a, const auto& b) { return a.first < b.first; });
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
