#include "src/eval/unicode.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace rillkv::eval {
namespace {

struct CodePointRange {
  char32_t first, last;
};
struct LowerRange {
  char32_t first, last;
  int32_t stride, delta;
};

#include "src/eval/unicode_tables.inc"

template <typename Range, size_t N>
const Range* find_range(const Range (&ranges)[N], char32_t c) {
  const Range* range = std::lower_bound(std::begin(ranges), std::end(ranges), c,
                                        [](const Range& r, char32_t x) { return r.last < x; });
  return range != std::end(ranges) && range->first <= c ? range : nullptr;
}

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kCapitalSigma = 0x3A3, kSigma = 0x3C3, kFinalSigma = 0x3C2;
constexpr char32_t kDottedCapitalI = 0x130, kDotAbove = 0x307;

}  // namespace

std::u32string decode_utf8(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      out.push_back(lead);
      ++i;
      continue;
    }
    const int extra = lead >= 0xF0 && lead < 0xF5   ? 3
                      : lead >= 0xE0 && lead < 0xF0 ? 2
                      : lead >= 0xC2 && lead < 0xE0 ? 1
                                                    : 0;
    char32_t point = extra == 3 ? lead & 0x07 : extra == 2 ? lead & 0x0F : lead & 0x1F;
    bool valid = extra > 0 && i + extra < text.size();
    for (int k = 1; valid && k <= extra; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      valid = (byte & 0xC0) == 0x80;
      point = point << 6 | (byte & 0x3F);
    }
    // Overlong forms, surrogates and values beyond U+10FFFF are not characters.
    valid = valid && !(extra == 2 && point < 0x800) && !(extra == 3 && point < 0x10000) &&
            !(point >= 0xD800 && point < 0xE000) && point < 0x110000;
    out.push_back(valid ? point : kReplacement);
    i += valid ? extra + 1 : 1;
  }
  return out;
}

std::string encode_utf8(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char32_t c : text) {
    if (c < 0x80) {
      out.push_back(static_cast<char>(c));
    } else if (c < 0x800) {
      out.push_back(static_cast<char>(0xC0 | c >> 6));
      out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
    } else if (c < 0x10000) {
      out.push_back(static_cast<char>(0xE0 | c >> 12));
      out.push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
      out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
    } else {
      out.push_back(static_cast<char>(0xF0 | c >> 18));
      out.push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
      out.push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
      out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
    }
  }
  return out;
}

bool is_space(char32_t c) { return find_range(kSpaceRanges, c) != nullptr; }
bool is_decimal(char32_t c) { return find_range(kDigitRanges, c) != nullptr; }
bool is_word(char32_t c) { return c == '_' || find_range(kAlnumRanges, c) != nullptr; }

bool is_ascii_punctuation(char32_t c) {
  return (c > 0x20 && c < 0x30) || (c > 0x39 && c < 0x41) || (c > 0x5A && c < 0x61) ||
         (c > 0x7A && c < 0x7F);
}

std::u32string to_lower(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  const auto is_letter = [&](size_t i) {
    return i < text.size() && is_word(text[i]) && !is_decimal(text[i]) && text[i] != '_';
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char32_t c = text[i];
    if (c == kDottedCapitalI) {  // The one character whose lower case is two.
      out.push_back('i');
      out.push_back(kDotAbove);
    } else if (c == kCapitalSigma) {
      out.push_back(i > 0 && is_letter(i - 1) && !is_letter(i + 1) ? kFinalSigma : kSigma);
    } else if (const LowerRange* r = find_range(kLowerRanges, c);
               r != nullptr && (c - r->first) % r->stride == 0) {
      out.push_back(static_cast<char32_t>(static_cast<int32_t>(c) + r->delta));
    } else {
      out.push_back(c);
    }
  }
  return out;
}

std::vector<std::u32string> split_whitespace(std::u32string_view text) {
  std::vector<std::u32string> pieces;
  size_t i = 0;
  while (i < text.size()) {
    while (i < text.size() && is_space(text[i])) ++i;
    const size_t begin = i;
    while (i < text.size() && !is_space(text[i])) ++i;
    if (i > begin) pieces.emplace_back(text.substr(begin, i - begin));
  }
  return pieces;
}

std::vector<std::u32string> split(std::u32string_view text, char32_t separator) {
  std::vector<std::u32string> pieces(1);
  for (char32_t c : text) {
    if (c == separator) {
      pieces.emplace_back();
    } else {
      pieces.back().push_back(c);
    }
  }
  return pieces;
}

}  // namespace rillkv::eval
