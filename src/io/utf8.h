// UTF-8 checking (Unicode 15, table 3-7).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rillkv::io {

struct Utf8Step {
  size_t length = 0;  // bytes of the character, or of the maximal invalid sequence; at least 1
  bool valid = false;
  bool truncated = false;  // invalid only because the text ends: more bytes could complete it
};

/// Looks at the beginning of a non-empty text.
Utf8Step utf8_step(std::string_view text);

bool is_utf8(std::string_view text);

/// Each maximal invalid sequence becomes U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

/// The code point of one valid sequence.
char32_t decode_utf8(std::string_view character);

/// Appends the encoding of a code point.
void append_utf8(std::string& text, char32_t code_point);

}  // namespace rillkv::io
