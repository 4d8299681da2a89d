// Reading a regular expression character by character.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rillkv::io {

class OnigScanner {
 public:
  /// Both must outlive it. Throws Error if `pattern` is not UTF-8.
  OnigScanner(const std::string& pattern, const std::string& where);

  bool done() const { return position_ >= pattern_.size(); }
  std::string_view rest() const { return std::string_view(pattern_).substr(position_); }
  bool starts(std::string_view text) const { return rest().substr(0, text.size()) == text; }
  /// Reads `text` if it comes next.
  bool skip(std::string_view text);
  void skip_bytes(size_t count) { position_ += count; }
  /// The next character; not at the end.
  char32_t peek() const;
  char32_t next();
  /// next(), or the syntax error `what` at the end.
  char32_t next_or_fail(const char* what);
  /// The decimal digits that come next; may be empty.
  std::string digits();

  size_t position() const { return position_; }
  void rewind(size_t position) { position_ = position; }

  /// One line of error: `construct` cannot be translated.
  [[noreturn]] void fail(const std::string& construct) const;
  /// The same for what is no regular expression.
  [[noreturn]] void fail_syntax(const std::string& what) const;

 private:
  const std::string& pattern_;
  const std::string& where_;
  size_t position_ = 0;
};

/// `c` as PCRE2 writes it.
std::string onig_literal(char32_t c);

/// What a backslash and `c`, which was read, stand for where it is no class: a control character,
/// a number of digits that follow, or `c` itself.
char32_t onig_escaped_character(OnigScanner& scan, char32_t c);

}  // namespace rillkv::io
