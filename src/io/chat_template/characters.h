// What Python's str methods know of single characters. The tables are Unicode's, made by
// scripts/make_character_tables.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rillkv::io::jinja {

/// Appends the UTF-8 of str.upper(), lower() or title() of one character (one to three).
void append_upper(std::string& text, char32_t c);
void append_lower(std::string& text, char32_t c);
void append_title(std::string& text, char32_t c);
/// Has an upper or a lower case.
bool is_cased(char32_t c);
/// str.isalpha(), str.isdecimal() and str.isprintable() of one character.
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_printable(char32_t c);

/// Code points first, first + step .. last map to themselves + delta. Sorted by first.
struct CaseRange {
  char32_t first, last;
  uint32_t step;
  int32_t delta;
};
/// Code points that map to several characters, or in title() to others than in upper(). Sorted.
struct CaseSpecial {
  char32_t code;
  const char* text;
};
struct CharacterRange {
  char32_t first, last;
};
extern const CaseRange kUpperRanges[], kLowerRanges[];
extern const CaseSpecial kUpperSpecials[], kLowerSpecials[], kTitleSpecials[];
extern const CharacterRange kCasedRanges[], kAlphaRanges[], kDecimalRanges[], kUnprintableRanges[];
extern const size_t kUpperRangeCount, kLowerRangeCount, kUpperSpecialCount, kLowerSpecialCount,
    kTitleSpecialCount, kCasedRangeCount, kAlphaRangeCount, kDecimalRangeCount,
    kUnprintableRangeCount;

}  // namespace rillkv::io::jinja
