#include "src/io/python_json.h"

#include "rillkv/python_json.h"
#include "src/io/characters.h"

namespace rillkv::io {
namespace {

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

/// The UTF-16 unit of an escape "\uXXXX" at the beginning of `text`, or -1.
int escaped_unit(std::string_view text) {
  if (text.size() < 6 || !starts_with(text, "\\u")) return -1;
  int unit = 0;
  for (const char c : text.substr(2, 4)) {
    const int digit = digit_value(c, 16);
    if (digit < 0) return -1;
    unit = unit * 16 + digit;
  }
  return unit;
}

bool is_high(int unit) { return unit >= 0xd800 && unit <= 0xdbff; }
bool is_low(int unit) { return unit >= 0xdc00 && unit <= 0xdfff; }

}  // namespace

std::string rewrite_python_json(std::string_view text, const NonFiniteLiterals& literals) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  size_t at = 0;
  const auto keep = [&](size_t bytes) {
    out += text.substr(at, bytes);
    at += bytes;
  };
  const auto replace = [&](size_t bytes, std::string_view by) {
    out += by;
    at += bytes;
  };
  while (at < text.size()) {
    const std::string_view rest = text.substr(at);
    if (in_string && rest[0] == '\\') {
      constexpr size_t kEscape = 6;
      const int unit = escaped_unit(rest);
      if (is_high(unit) && is_low(escaped_unit(rest.substr(kEscape)))) {
        keep(2 * kEscape);
      } else if (is_high(unit) || is_low(unit)) {
        replace(kEscape, "\\ufffd");
      } else {
        keep(2);  // of an escaped quotation mark or backslash, too
      }
    } else if (rest[0] == '"') {
      in_string = !in_string;
      keep(1);
    } else if (!in_string && starts_with(rest, "NaN")) {
      replace(3, literals.nan);
    } else if (!in_string && starts_with(rest, "Infinity")) {
      replace(8, literals.infinity);
    } else if (!in_string && starts_with(rest, "-Infinity")) {
      replace(9, literals.minus_infinity);
    } else {
      keep(1);
    }
  }
  return out;
}

}  // namespace rillkv::io

namespace rillkv {

std::string standard_json(std::string_view text) {
  return io::rewrite_python_json(text, {"null", "null", "null"});
}

}  // namespace rillkv
