#include "src/io/chat_template/lexer.h"

#include <cctype>
#include <charconv>
#include <cstdlib>

#include "src/io/chat_template/text.h"
#include "src/io/utf8.h"

namespace rillkv::io::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
/// Also the bytes of characters beyond ASCII.
bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

/// Line breaks become "\n"; one at the very end goes.
std::string with_plain_line_breaks(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(with_plain_line_breaks(source)) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) read_data();
    push(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { throw SyntaxFailure{line_, message}; }

  std::string_view rest() const { return std::string_view(text_).substr(at_); }
  bool next_is(std::string_view what) const { return rest().substr(0, what.size()) == what; }

  void push(TokenKind kind, std::string text = {}) {
    Token token;
    token.kind = kind;
    token.text = std::move(text);
    token.line = line_;
    tokens_.push_back(std::move(token));
  }

  /// Moves on and counts lines.
  void skip(size_t bytes) {
    for (; bytes > 0; --bytes) line_ += text_[at_++] == '\n';
  }

  void skip_spaces() {
    while (at_ < text_.size() && is_space(character_at(text_, at_))) {
      skip(character_bytes(text_[at_]));
    }
  }

  /// Text up to the next tag, and the tag.
  void read_data() {
    size_t tag = at_;
    while ((tag = text_.find('{', tag)) != text_.npos) {
      const char next = tag + 1 < text_.size() ? text_[tag + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    if (tag == text_.npos) {
      push(TokenKind::kData, text_.substr(at_));
      return skip(text_.size() - at_);
    }
    const char opening = text_[tag + 1];
    const char mark = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
    push_data(tag, mark, opening == '{');
    skip(tag - at_);
    size_t after = 2 + (mark == '-' || mark == '+');
    if (opening == '%' && begin_raw(after)) return read_raw();
    if (opening == '#') return read_comment(after);
    push(opening == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin);
    skip(after);
    read_tag(opening == '{');
  }

  /// The text before a tag at `end`, with what the tag's mark strips from it.
  void push_data(size_t end, char mark, bool variable) {
    std::string_view data = std::string_view(text_).substr(at_, end - at_);
    if (mark == '-') {
      const Text stripped = strip(Text(std::string(data), true), nullptr, false, true);
      data = data.substr(0, stripped.size());
    } else if (mark != '+' && !variable) {
      // White space alone on its line before a block or a comment.
      const size_t line = data.rfind('\n') + 1;  // 0 if there is none
      if (line > 0 || line_starting_) {
        const Text last(std::string(data.substr(line)), true);
        if (strip(last, nullptr, true, false).empty()) data = data.substr(0, line);
      }
    }
    if (!data.empty()) push(TokenKind::kData, std::string(data));
  }

  /// Past {% raw %}, if that is the tag here. `after` bytes begin the tag.
  bool begin_raw(size_t after) {
    const size_t saved = at_;
    const int saved_line = line_;
    skip(after);
    skip_spaces();
    if (next_is("raw")) {
      skip(3);
      skip_spaces();
      if (next_is("-%}")) {
        skip(3);
        skip_spaces();
        return true;
      }
      if (next_is("%}")) {
        skip(2);
        return true;
      }
    }
    at_ = saved;
    line_ = saved_line;
    return false;
  }

  void read_raw() {
    line_starting_ = at_ > 0 && text_[at_ - 1] == '\n';
    for (size_t tag = text_.find("{%", at_); tag != text_.npos; tag = text_.find("{%", tag + 1)) {
      size_t end = tag + 2;
      char mark = end < text_.size() ? text_[end] : '\0';
      if (mark == '-' || mark == '+') ++end;
      const auto skip_here = [&] {
        while (end < text_.size() && is_space(character_at(text_, end))) {
          end += character_bytes(text_[end]);
        }
      };
      skip_here();
      if (text_.compare(end, 6, "endraw") != 0) continue;
      end += 6;
      skip_here();
      const size_t closing = end;
      if (end < text_.size() && (text_[end] == '-' || text_[end] == '+')) ++end;
      if (text_.compare(end, 2, "%}") != 0) continue;
      push_data(tag, mark, false);
      skip(closing - at_);
      return end_block();
    }
    fail("Missing end of raw directive");
  }

  void read_comment(size_t after) {
    skip(after);
    const size_t end = text_.find("#}", at_);
    if (end == text_.npos) fail("Missing end of comment tag");
    const char mark = end > at_ ? text_[end - 1] : '\0';
    skip(end + 2 - at_);
    if (mark == '-') {
      skip_spaces();
    } else if (mark != '+' && next_is("\n")) {
      skip(1);
    }
    line_starting_ = text_[at_ - 1] == '\n';
  }

  /// At %}, -%} or +%}.
  void end_block() {
    const char mark = text_[at_];
    skip(mark == '%' ? 2 : 3);
    if (mark == '-') {
      skip_spaces();
    } else if (mark != '+' && next_is("\n")) {
      skip(1);
    }
    line_starting_ = text_[at_ - 1] == '\n';
  }

  void read_tag(bool variable) {
    std::string open;  // brackets that are still to be closed
    while (true) {
      if (open.empty()) {
        if (variable && (next_is("}}") || next_is("-}}"))) {
          push(TokenKind::kVariableEnd);
          const bool strips = next_is("-");
          skip(strips ? 3 : 2);
          if (strips) skip_spaces();
          line_starting_ = text_[at_ - 1] == '\n';
          return;
        }
        if (!variable && (next_is("%}") || next_is("-%}") || next_is("+%}"))) {
          push(TokenKind::kBlockEnd);
          return end_block();
        }
      }
      if (at_ == text_.size()) {
        fail(variable ? "unexpected end of template, expected '}}'"
                      : "unexpected end of template, expected '%}'");
      }
      if (is_space(character_at(text_, at_))) {
        skip_spaces();
        continue;
      }
      const char c = text_[at_];
      if (begins_name(c)) {
        read_name();
      } else if (is_digit(c)) {
        read_number();
      } else if (c == '\'' || c == '"') {
        read_string(c);
      } else {
        read_operator(open);
      }
    }
  }

  void read_name() {
    size_t end = at_;
    while (end < text_.size() && (begins_name(text_[end]) || is_digit(text_[end])) &&
           !is_space(character_at(text_, end))) {
      end += character_bytes(text_[end]);
    }
    push(TokenKind::kName, text_.substr(at_, end - at_));
    skip(end - at_);
  }

  /// The end of digits with single underscores between them.
  size_t digits_end(size_t at) const {
    while (at < text_.size() &&
           (is_digit(text_[at]) ||
            (text_[at] == '_' && at + 1 < text_.size() && is_digit(text_[at + 1])))) {
      ++at;
    }
    return at;
  }

  void read_number() {
    size_t end = digits_end(at_);
    bool is_float = false;
    const auto digit_at = [&](size_t i) { return i < text_.size() && is_digit(text_[i]); };
    // After a dot, digits are an index: a.0.1
    const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';
    if (!after_dot && end < text_.size() && text_[end] == '.' && digit_at(end + 1)) {
      is_float = true;
      end = digits_end(end + 1);
    }
    if (!after_dot && end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      const size_t sign =
          end + 1 < text_.size() && (text_[end + 1] == '+' || text_[end + 1] == '-');
      if (digit_at(end + 1 + sign)) {
        is_float = true;
        end = digits_end(end + 1 + sign);
      }
    }
    int base = 10;
    if (!is_float && text_[at_] == '0' && at_ + 1 < text_.size()) {
      const char letter = static_cast<char>(text_[at_ + 1] | 0x20);
      base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
      if (base != 10) {
        end = at_ + 2;
        while (end < text_.size() &&
               (std::isxdigit(static_cast<unsigned char>(text_[end])) != 0 || text_[end] == '_')) {
          ++end;
        }
      }
    }
    std::string digits;
    for (size_t i = at_ + (base == 10 ? 0 : 2); i < end; ++i) {
      if (text_[i] != '_') digits += text_[i];
    }
    push(is_float ? TokenKind::kFloat : TokenKind::kInteger, digits);
    Token& token = tokens_.back();
    if (is_float) {
      token.number = std::strtod(digits.c_str(), nullptr);
    } else {
      const auto [stop, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base);
      if (error != std::errc() || stop != digits.data() + digits.size()) {
        fail("expected a 64-bit integer, found " + text_.substr(at_, end - at_));
      }
      if (base == 10 && digits.size() > 1 && digits[0] == '0' && token.integer != 0) {
        fail("expected a number without leading zeros, found " + digits);
      }
    }
    skip(end - at_);
  }

  void read_string(char quote) {
    std::string value;
    size_t at = at_ + 1;
    while (true) {
      if (at >= text_.size()) fail("unexpected end of template inside a string");
      const char c = text_[at++];
      if (c == quote) break;
      if (c != '\\') {
        value += c;
        continue;
      }
      if (at >= text_.size()) fail("unexpected end of template inside a string");
      at = read_escape(at, value);
    }
    push(TokenKind::kString, value);
    skip(at - at_);
  }

  /// What follows a backslash, as in Python's string literals.
  size_t read_escape(size_t at, std::string& value) const {
    const char c = text_[at];
    constexpr std::string_view kNames = "\\'\"abfnrtv";
    constexpr std::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t known = kNames.find(c); known != kNames.npos) {
      value += kValues[known];
      return at + 1;
    }
    if (c == '\n') return at + 1;
    if (c >= '0' && c <= '7') {
      char32_t code = 0;
      for (int i = 0; i < 3 && at < text_.size() && text_[at] >= '0' && text_[at] <= '7'; ++i) {
        code = 8 * code + static_cast<char32_t>(text_[at++] - '0');
      }
      append_utf8(value, code);
      return at;
    }
    if (c == 'x' || c == 'u' || c == 'U') {
      const size_t length = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      uint32_t code = 0;
      const char* begin = text_.data() + at + 1;
      const bool enough = at + 1 + length <= text_.size();
      if (!enough || std::from_chars(begin, begin + length, code, 16).ptr != begin + length) {
        fail(std::string("truncated \\") + c + " escape in a string");
      }
      if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
        fail("no such character: an escape in a string names " + std::string(begin, length));
      }
      append_utf8(value, code);
      return at + 1 + length;
    }
    if (c == 'N') fail("\\N escapes in a string are not supported");
    value += '\\';
    return at;  // Python keeps an escape that it does not know.
  }

  void read_operator(std::string& open) {
    constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                               "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                               ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view op : kOperators) {
      if (!next_is(op)) continue;
      if (op == "(" || op == "[" || op == "{") open += op == "(" ? ')' : op == "[" ? ']' : '}';
      if (op == ")" || op == "]" || op == "}") {
        if (open.empty()) fail("unexpected '" + std::string(op) + "'");
        if (open.back() != op[0]) {
          fail("unexpected '" + std::string(op) + "', expected '" + open.substr(open.size() - 1) +
               "'");
        }
        open.pop_back();
      }
      push(TokenKind::kOperator, std::string(op));
      return skip(op.size());
    }
    fail("unexpected char '" + text_.substr(at_, character_bytes(text_[at_])) + "'");
  }

  std::string text_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // whether the last tag ended with a line break
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    throw SyntaxFailure{1, str_cat("expected a template of at most ", kMaxTemplateBytes,
                                   " bytes, found ", source.size())};
  }
  return Lexer(source).run();
}

}  // namespace rillkv::io::jinja
