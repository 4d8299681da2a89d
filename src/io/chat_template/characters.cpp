#include "src/io/chat_template/characters.h"

#include <algorithm>

#include "src/io/utf8.h"

namespace rillkv::io::jinja {
namespace {

const CaseSpecial* find_special(const CaseSpecial* table, size_t count, char32_t c) {
  const auto* found = std::lower_bound(
      table, table + count, c, [](const CaseSpecial& s, char32_t code) { return s.code < code; });
  return found != table + count && found->code == c ? found : nullptr;
}

/// The last range that begins at or before c, nullptr if there is none.
template <class Range>
const Range* range_before(const Range* table, size_t count, char32_t c) {
  const auto* found = std::upper_bound(
      table, table + count, c, [](char32_t code, const Range& r) { return code < r.first; });
  return found == table ? nullptr : found - 1;
}

bool is_in(const CharacterRange* table, size_t count, char32_t c) {
  const CharacterRange* range = range_before(table, count, c);
  return range != nullptr && c <= range->last;
}

void append_mapped(std::string& text, char32_t c, const CaseRange* table, size_t count) {
  const CaseRange* range = range_before(table, count, c);
  if (range != nullptr && c <= range->last && (c - range->first) % range->step == 0) {
    c = static_cast<char32_t>(static_cast<int64_t>(c) + range->delta);
  }
  append_utf8(text, c);
}

}  // namespace

void append_upper(std::string& text, char32_t c) {
  if (const auto* special = find_special(kUpperSpecials, kUpperSpecialCount, c)) {
    text += special->text;
  } else {
    append_mapped(text, c, kUpperRanges, kUpperRangeCount);
  }
}

void append_lower(std::string& text, char32_t c) {
  if (const auto* special = find_special(kLowerSpecials, kLowerSpecialCount, c)) {
    text += special->text;
  } else {
    append_mapped(text, c, kLowerRanges, kLowerRangeCount);
  }
}

void append_title(std::string& text, char32_t c) {
  if (const auto* special = find_special(kTitleSpecials, kTitleSpecialCount, c)) {
    text += special->text;
  } else {
    append_upper(text, c);
  }
}

bool is_cased(char32_t c) { return is_in(kCasedRanges, kCasedRangeCount, c); }
bool is_alpha(char32_t c) { return is_in(kAlphaRanges, kAlphaRangeCount, c); }
bool is_decimal(char32_t c) { return is_in(kDecimalRanges, kDecimalRangeCount, c); }
bool is_printable(char32_t c) { return !is_in(kUnprintableRanges, kUnprintableRangeCount, c); }

}  // namespace rillkv::io::jinja
