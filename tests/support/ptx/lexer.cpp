#include "tests/support/ptx/lexer.h"

#include <cctype>

namespace rillkv::ptx {
namespace {

bool is_word_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '$' ||
         c == '%';
}

}  // namespace

std::vector<Token> tokenize(const std::string& text) {
  std::vector<Token> tokens;
  int line = 1;
  size_t i = 0;
  const auto at = [&](size_t k) { return k < text.size() ? text[k] : '\0'; };
  while (i < text.size()) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      ++i;
    } else if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      ++i;
    } else if (c == '/' && at(i + 1) == '/') {
      while (i < text.size() && text[i] != '\n') ++i;
    } else if (c == '/' && at(i + 1) == '*') {
      for (i += 2; i < text.size() && !(text[i] == '*' && at(i + 1) == '/'); ++i) {
        if (text[i] == '\n') ++line;
      }
      i += 2;
    } else if (c == '"') {
      const size_t begin = i++;
      while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
      tokens.push_back({text.substr(begin, ++i - begin), line});
    } else if (is_word_character(c)) {
      const size_t begin = i;
      // "::" belongs to modifiers such as L2::128B; a single ':' ends a label.
      while (is_word_character(at(i)) || (at(i) == ':' && at(i + 1) == ':') ||
             (at(i) == ':' && i > begin && at(i - 1) == ':')) {
        ++i;
      }
      tokens.push_back({text.substr(begin, i - begin), line});
    } else {
      tokens.push_back({std::string(1, c), line});
      ++i;
    }
  }
  tokens.push_back({"", line});
  return tokens;
}

}  // namespace rillkv::ptx
