#include "src/io/regex/regex_matches.h"

#include <cctype>

#include "src/io/utf8.h"

namespace rillkv::io {

std::string quote_pattern(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    // A backslash before a non-alphanumeric ASCII character always means that character.
    if (byte < 0x80 && !std::isalnum(byte)) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

std::optional<std::pair<size_t, size_t>> MatchIterator::next() {
  while (start_ <= text_.size()) {
    const auto match = matcher_.find(text_, start_);
    if (!match) break;
    const auto [begin, end] = *match;
    start_ = end;
    if (begin != end || last_end_ != end) {
      last_end_ = end;
      return match;
    }
    start_ += end < text_.size() ? utf8_step(text_.substr(end)).length : 1;
  }
  start_ = text_.size() + 1;
  return std::nullopt;
}

std::string read_pattern(const JsonReader& reader) {
  constexpr char kExpectation[] = "an object with \"Regex\" or \"String\"";
  const nlohmann::json* pattern = reader.find("pattern");
  if (pattern == nullptr || !pattern->is_object() || pattern->size() != 1) {
    reader.fail("pattern", kExpectation);
  }
  const JsonReader pattern_reader(*pattern, reader.name("pattern"));
  if (const auto text = pattern_reader.string("String")) return quote_pattern(*text);
  const auto regex = pattern_reader.string("Regex");
  if (!regex) reader.fail("pattern", kExpectation);
  return *regex;
}

}  // namespace rillkv::io
