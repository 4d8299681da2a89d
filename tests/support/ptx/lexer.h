// Splits PTX text into tokens with line numbers.
#pragma once

#include <string>
#include <vector>

namespace rillkv::ptx {

/// A word ("ld.global.u32", "%r1", "$L__BB0_1", "0x10"), a string with its quotes, or one
/// punctuation character.
struct Token {
  std::string text;
  int line = 0;
};

/// Comments and white space are dropped. Ends with an empty token.
std::vector<Token> tokenize(const std::string& text);

}  // namespace rillkv::ptx
