// Code points of a text and the properties of characters that tokenizers ask for.
#pragma once

#include <cstddef>
#include <string_view>

namespace rillkv::io {

/// The code point at the beginning of a non-empty text (valid UTF-8).
char32_t first_character(std::string_view text);

/// The beginning of the last character of a non-empty text (valid UTF-8).
size_t last_character_begin(std::string_view text);

/// What `c` stands for as a digit of `base` (at most 16, letters of either case), or -1.
int digit_value(char c, int base);

/// Unicode's White_Space property (PropList.txt).
bool is_white_space(char32_t code);

/// Bytes of white space at the beginning, or at the end, of a text (valid UTF-8).
size_t leading_white_space(std::string_view text);
size_t trailing_white_space(std::string_view text);

}  // namespace rillkv::io
