#include "src/io/characters.h"

#include "src/io/utf8.h"

namespace rillkv::io {

char32_t first_character(std::string_view text) {
  return decode_utf8(text.substr(0, utf8_step(text).length));
}

size_t last_character_begin(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && (text[begin] & 0xc0) == 0x80) --begin;
  return begin;
}

int digit_value(char c, int base) {
  int value = base;
  if (c >= '0' && c <= '9') value = c - '0';
  if (c >= 'a' && c <= 'f') value = c - 'a' + 10;
  if (c >= 'A' && c <= 'F') value = c - 'A' + 10;
  return value < base ? value : -1;
}

bool is_white_space(char32_t code) {
  return (code >= 0x9 && code <= 0xd) || code == 0x20 || code == 0x85 || code == 0xa0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
         code == 0x202f || code == 0x205f || code == 0x3000;
}

size_t leading_white_space(std::string_view text) {
  size_t size = 0;
  while (size < text.size() && is_white_space(first_character(text.substr(size)))) {
    size += utf8_step(text.substr(size)).length;
  }
  return size;
}

size_t trailing_white_space(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    const size_t last = last_character_begin(text.substr(0, begin));
    if (!is_white_space(first_character(text.substr(last)))) break;
    begin = last;
  }
  return text.size() - begin;
}

}  // namespace rillkv::io
