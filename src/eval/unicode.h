// Code points and the character classes of Python's str and re, for metrics that must agree with
// Python packages. Internal to the evaluation layer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rillkv::eval {

/// Decodes UTF-8; an invalid byte becomes U+FFFD.
std::u32string decode_utf8(std::string_view text);
std::string encode_utf8(std::u32string_view text);

bool is_space(char32_t c);    ///< str.isspace
bool is_decimal(char32_t c);  ///< str.isdecimal, the `\d` of re
bool is_word(char32_t c);     ///< str.isalnum or '_', the `\w` of re
/// string.punctuation: the 32 printable ASCII characters that are neither letter, digit nor space.
bool is_ascii_punctuation(char32_t c);

/// str.lower. The Greek final sigma is decided by the neighbouring characters alone: the rule's
/// case-ignorable characters (apostrophes, accents) are not skipped.
std::u32string to_lower(std::u32string_view text);

/// str.split(): pieces between runs of white space, none empty.
std::vector<std::u32string> split_whitespace(std::u32string_view text);
/// str.split(separator): always at least one piece, pieces may be empty.
std::vector<std::u32string> split(std::u32string_view text, char32_t separator);

}  // namespace rillkv::eval
