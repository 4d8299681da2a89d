// A template's text as tokens: Jinja's own, with the settings that transformers gives it
// (trim_blocks, lstrip_blocks, no trailing line break).
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/io/chat_template/budget.h"

namespace rillkv::io::jinja {

enum class TokenKind : uint8_t {
  kData,           // text between tags
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;  // of a string: its value
  int64_t integer = 0;
  double number = 0;
  int line = 1;
};

/// A Failure of syntax, with its line.
struct SyntaxFailure : std::exception {
  SyntaxFailure(int where, std::string text) : line(where), message(std::move(text)) {}
  const char* what() const noexcept override { return message.c_str(); }
  int line;
  std::string message;
};

/// All tokens, kEnd last. `source` must be UTF-8. Throws SyntaxFailure.
std::vector<Token> tokenize(std::string_view source);

}  // namespace rillkv::io::jinja
