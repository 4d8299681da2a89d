#include "src/io/regex/onig_scanner.h"

#include <cstdio>

#include "rillkv/error.h"
#include "rillkv/quotes.h"
#include "src/io/characters.h"
#include "src/io/utf8.h"

namespace rillkv::io {
namespace {

// At most `most` digits; the number of those read is in `count`.
char32_t number(OnigScanner& scan, int base, size_t most, size_t& count) {
  char32_t value = 0;
  for (count = 0; count < most && !scan.done(); ++count) {
    const int digit = digit_value(scan.rest()[0], base);
    if (digit < 0) break;
    value = value * static_cast<char32_t>(base) + static_cast<char32_t>(digit);
    scan.skip_bytes(1);
  }
  return value;
}

}  // namespace

OnigScanner::OnigScanner(const std::string& pattern, const std::string& where)
    : pattern_(pattern), where_(where) {
  if (!is_utf8(pattern)) fail_syntax("not UTF-8");
}

bool OnigScanner::skip(std::string_view text) {
  if (!starts(text)) return false;
  position_ += text.size();
  return true;
}

char32_t OnigScanner::peek() const {
  const std::string_view text = rest();
  return decode_utf8(text.substr(0, utf8_step(text).length));
}

char32_t OnigScanner::next() {
  const char32_t c = peek();
  position_ += utf8_step(rest()).length;
  return c;
}

char32_t OnigScanner::next_or_fail(const char* what) {
  if (done()) fail_syntax(what);
  return next();
}

std::string OnigScanner::digits() {
  std::string result;
  while (!done() && rest()[0] >= '0' && rest()[0] <= '9') {
    result += rest()[0];
    ++position_;
  }
  return result;
}

void OnigScanner::fail(const std::string& construct) const {
  throw Error(
      str_cat(where_, ": ", construct, " is not supported, in regex ", in_quotes(pattern_)));
}

void OnigScanner::fail_syntax(const std::string& what) const {
  throw Error(str_cat(where_, ": bad regex ", in_quotes(pattern_), ": ", what));
}

std::string onig_literal(char32_t c) {
  std::string text;
  if (c < 0x20 || c == 0x7f) {
    char buffer[16];
    std::snprintf(buffer, sizeof(buffer), "\\x{%x}", static_cast<unsigned>(c));
    return buffer;
  }
  const bool plain =
      c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  if (!plain) text += '\\';
  append_utf8(text, c);
  return text;
}

char32_t onig_escaped_character(OnigScanner& scan, char32_t c) {
  size_t count = 0;
  switch (c) {
    case 't':
      return '\t';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case 'a':
      return '\a';
    case 'e':
      return 0x1b;
    case 'c':
    case 'C':
    case 'M':
      scan.fail({'\\', static_cast<char>(c)});
    case 'x': {
      const bool braces = scan.skip("{");
      const char32_t value = number(scan, 16, braces ? 8 : 2, count);
      if (count == 0 || (braces && !scan.skip("}"))) scan.fail("\\x without one number in {}");
      if (!braces && value > 0x7f) scan.fail("\\x with a byte beyond 7f");
      if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) {
        scan.fail_syntax("\\x{} is no character");
      }
      return value;
    }
    case 'u': {
      const char32_t value = number(scan, 16, 4, count);
      if (count < 4) scan.fail_syntax("\\u needs four digits");
      if (value >= 0xd800 && value < 0xe000) scan.fail_syntax("\\u is no character");
      return value;
    }
    default:
      break;
  }
  if (c < '0' || c > '7') return c;
  // Octal, three digits at most.
  scan.rewind(scan.position() - 1);
  const char32_t value = number(scan, 8, 3, count);
  if (value > 0x7f) scan.fail("an octal byte beyond 177");
  return value;
}

}  // namespace rillkv::io
