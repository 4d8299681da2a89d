#include "src/io/regex/pcre_unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>

#include "rillkv/error.h"
#include "rillkv/log.h"
#include "src/io/regex/regex_classes.h"
#include "src/io/regex/regex_tables.h"
#include "src/io/utf8.h"

namespace rillkv::io {
namespace {

// Planes 4 to 13 are empty and 15 and 16 private in every Unicode.
constexpr CodePointRange kAsked[] = {{0, 0xd7ff}, {0xe000, 0x3ffff}, {0xe0000, 0xeffff}};

// Sets of a few ranges are written out, and so are categories of a few: PCRE2 finds a character
// below 256 in such a class by one bit, a property by a look-up.
constexpr size_t kFewRanges = 24;
constexpr size_t kFewOfCategory = 4;

std::string hex(uint32_t code) {
  char text[16];
  std::snprintf(text, sizeof(text), "\\x{%x}", static_cast<unsigned>(code));
  return text;
}

std::string pcre_version() {
  char text[64] = "";
  if (pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, nullptr) < static_cast<int>(sizeof(text))) {
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, text);
  }
  return text;
}

// Each category's members, by one pass of an expression with a group a category.
std::vector<CodePointSet> ask_pcre() {
  std::string text;
  for (const CodePointRange& range : kAsked) {
    for (uint32_t code = range.first; code <= range.last; ++code) append_utf8(text, code);
  }
  std::string pattern = "(\\p{Cn}+)";  // first: its runs are long
  for (size_t i = 0; i < kCategoryCount; ++i) {
    pattern += str_cat("|(\\p{", kCategoryNames[i], "}+)");
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  const std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF, &error,
                    &offset, nullptr),
      pcre2_code_free);
  RILLKV_CHECK(code != nullptr, "PCRE2 lacks Unicode properties");
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(code.get(), nullptr), pcre2_match_data_free);
  RILLKV_CHECK(data != nullptr, "out of memory");

  const auto at = [&](size_t position) {
    const std::string_view rest = std::string_view(text).substr(position);
    return static_cast<uint32_t>(decode_utf8(rest.substr(0, utf8_step(rest).length)));
  };
  std::vector<std::vector<CodePointRange>> ranges(kCategoryCount);
  for (size_t start = 0; start < text.size();) {
    const int count = pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                  text.size(), start, PCRE2_NO_UTF_CHECK, data.get(), nullptr);
    if (count == PCRE2_ERROR_NOMATCH) break;
    RILLKV_CHECK(count > 1, "PCRE2 fails on its own properties");
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    size_t last = bounds[1] - 1;
    while ((text[last] & 0xc0) == 0x80) --last;
    const uint32_t first_code = at(bounds[0]);
    const uint32_t last_code = at(last);
    start = bounds[1];
    if (count == 2) continue;  // unassigned
    auto& found = ranges[static_cast<size_t>(count) - 3];
    // A run may step over what was not asked.
    for (const CodePointRange& range : kAsked) {
      const uint32_t a = std::max(first_code, range.first);
      const uint32_t b = std::min(last_code, range.last);
      if (a <= b) found.push_back({a, b});
    }
  }
  const CodePointSet asked(std::vector<CodePointRange>(std::begin(kAsked), std::end(kAsked)));
  std::vector<CodePointSet> sets;
  for (size_t i = 0; i < kCategoryCount; ++i) {
    sets.push_back(CodePointSet(std::move(ranges[i])) | (regex_categories()[i] - asked));
  }
  return sets;
}

}  // namespace

const PcreUnicode& PcreUnicode::get() {
  static const PcreUnicode result;
  return result;
}

PcreUnicode::PcreUnicode() : known_(ask_pcre()), blocks_(0x10000 >> 6) {
  size_t count = 0;
  for (size_t i = 0; i < kCategoryCount; ++i) {
    const CodePointSet& ours = regex_categories()[i];
    differing_ = differing_ | (ours - known_[i]) | (known_[i] - ours);
  }
  for (const CodePointRange& range : differing_.ranges()) {
    count += range.last - range.first + 1;
    for (uint32_t code = range.first; code <= range.last && code < 0x10000; ++code) {
      blocks_[code >> 6] = 1;
    }
    if (range.first < 0x800) first_lead_ = 0xc2;
  }
  log(LogLevel::kDebug, str_cat("pre-tokenisers: characters of Unicode 16.0; ", count,
                                " of them are spelt out for PCRE2, which has ", pcre_version()));
}

PcreUnicode::Items PcreUnicode::items(const CodePointSet& set, Mode mode) const {
  Items result;
  CodePointSet left = set;
  if (set.ranges().size() > kFewRanges) {
    const std::vector<CodePointSet>& all = mode == Mode::kFast ? regex_categories() : known_;
    const CodePointSet allowed = mode == Mode::kFast ? set | differing_ : set;
    std::vector<bool> whole(kCategoryCount);
    for (size_t i = 0; i < kCategoryCount; ++i) whole[i] = allowed.contains(all[i]);
    CodePointSet named;
    std::string properties;
    for (size_t i = 0; i < kCategoryCount;) {
      // Categories with the same first letter stand together; "Cn" is in no table.
      size_t end = i;
      bool group = kCategoryNames[i][0] != 'C';
      for (; end < kCategoryCount && kCategoryNames[end][0] == kCategoryNames[i][0]; ++end) {
        group = group && whole[end];
      }
      for (size_t j = i; j < end; ++j) {
        if (!whole[j]) continue;
        if (!group && all[j].ranges().size() <= kFewOfCategory) continue;
        named = named | all[j];
        if (group && j > i) continue;
        properties += str_cat(
            "\\p{", group ? std::string(1, kCategoryNames[i][0]) : std::string(kCategoryNames[j]),
            "}");
        ++result.count;
      }
      i = end;
    }
    left = left - named;
    if (mode == Mode::kFast) left = left - differing_;
    result.single = result.count == 1 && left.empty();
    result.text = properties;
  }
  std::string spelt;
  for (const CodePointRange& range : left.ranges()) {
    spelt += hex(range.first);
    if (range.last > range.first) spelt += "-" + hex(range.last);
  }
  result.count += left.ranges().size();
  result.text = spelt + result.text;
  return result;
}

std::string PcreUnicode::write(const CodePointSet& set, bool negated, Mode mode) const {
  const Items plain = items(set, mode);
  const Items inverse = items(set.complement(), mode);
  const bool inverted = negated ? inverse.count <= plain.count : inverse.count < plain.count;
  const Items& shorter = inverted ? inverse : plain;
  if (shorter.count == 0) return inverted ? "(?s:.)" : "[^\\x{0}-\\x{10ffff}]";
  if (!shorter.single) return str_cat(inverted ? "[^" : "[", shorter.text, "]");
  return inverted ? "\\P" + shorter.text.substr(2) : shorter.text;
}

bool PcreUnicode::differs(std::string_view text) const {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  const auto check = [&](size_t i, size_t length) {
    return differing_.contains(decode_utf8(text.substr(i, length)));
  };
  for (size_t i = 0; i < text.size();) {
    if (bytes[i] < first_lead_) {
      // Eight bytes at once, as most texts have none that matters.
      uint64_t eight = 0;
      const bool whole = i + sizeof(eight) <= text.size();
      if (whole) std::memcpy(&eight, bytes + i, sizeof(eight));
      const uint64_t leads = eight & eight << 1 & eight << 2 & 0x8080808080808080;
      i += whole && leads == 0 && first_lead_ == 0xe0 ? sizeof(eight) : 1;
    } else if (bytes[i] < 0xe0) {
      if (check(i, 2)) return true;
      i += 2;
    } else if (bytes[i] < 0xf0) {
      const size_t block = (bytes[i] & 0xfu) << 6 | (bytes[i + 1] & 0x3fu);
      if (blocks_[block] != 0 && check(i, 3)) return true;
      i += 3;
    } else {
      if (check(i, 4)) return true;
      i += 4;
    }
  }
  return false;
}

}  // namespace rillkv::io
