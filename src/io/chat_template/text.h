// Strings that know which of their bytes the template wrote and which came with the conversation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rillkv/tokenizer.h"

namespace rillkv::io::jinja {

/// UTF-8, always valid. Each byte is trusted (the template's own) or not (from a message); every
/// operation keeps that, so that no detour through split(), replace() or upper() forges a special
/// token. Equality is that of the bytes.
class Text {
 public:
  Text() = default;
  Text(std::string bytes, bool trusted);

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool trusted_at(size_t byte) const;

  void append(std::string_view bytes, bool trusted);
  void append(const Text& other);
  void append(const Text& other, size_t begin, size_t length);
  Text slice(size_t begin, size_t length) const;

  /// Stretches of equal trust, none empty.
  std::vector<TextPart> parts() const;

 private:
  struct Run {
    size_t end;
    bool trusted;
  };
  size_t run_of(size_t byte) const;

  std::string bytes_;
  std::vector<Run> runs_;  // neighbours differ in trust, ends rise
};

/// Bytes of the character that begins with `lead`.
inline size_t character_bytes(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/// The character at `byte`, which must begin one.
char32_t character_at(std::string_view text, size_t byte);

/// Characters in `text`.
size_t count_characters(std::string_view text);

/// The byte at which character `index` begins; text.size() past the end.
size_t byte_of_character(std::string_view text, size_t index);

/// Python's str.isspace() of one character.
bool is_space(char32_t c);

/// Python's strip: white space, or the characters of `characters` if that is not null.
Text strip(const Text& text, const std::string* characters, bool left, bool right);

/// Python's splitting at white space (no separator) or at `separator` (not empty), at most
/// `most` times (negative: always), from the left or from the right.
std::vector<Text> split(const Text& text, const std::string* separator, int64_t most,
                        bool from_right);
/// str.splitlines().
std::vector<Text> split_lines(const Text& text, bool keep_ends);

/// How often `part` stands in `text` without overlap. `part` is not empty.
size_t count_occurrences(std::string_view text, std::string_view part);

/// str.replace(); `most` < 0: all. The caller has checked the result's size.
Text replace(const Text& text, const std::string& from, const Text& to, int64_t most);

enum class Case { kUpper, kLower, kTitle, kCapitalize };
/// Python's str.upper() and so on; trust stays with the characters.
Text change_case(const Text& text, Case to);

}  // namespace rillkv::io::jinja
