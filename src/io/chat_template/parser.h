// The two halves of the parser: expressions, and the statements that contain them.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/io/chat_template/lexer.h"
#include "src/io/chat_template/syntax.h"

namespace rillkv::io::jinja {

/// Jinja's grammar of expressions, one function a level of precedence.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : tokens_[at_]; }
  bool is_operator(std::string_view text) const {
    return current().kind == TokenKind::kOperator && current().text == text;
  }
  bool is_name(std::string_view text) const {
    return current().kind == TokenKind::kName && current().text == text;
  }
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  std::string expect_name();
  void expect_block_end();
  [[noreturn]] void fail(const std::string& message) const { fail(message, current().line); }
  [[noreturn]] static void fail(const std::string& message, int line) {
    throw SyntaxFailure{line, message};
  }
  std::string describe() const;

  ExpressionPointer parse_expression(bool with_conditional = true);
  /// A tuple without parentheses, or one expression. `end` is a name that ends it ("in").
  ExpressionPointer parse_tuple(bool with_conditional, std::string_view end = {},
                                bool parentheses = false);
  /// What `for` and `set` assign to; `with_namespace` allows a.b.
  ExpressionPointer parse_target(std::string_view end, bool with_namespace);
  /// | name(arguments) | name ... over `operand`, which may be null.
  ExpressionPointer parse_filters(ExpressionPointer operand, bool starts_inline);

  /// What the macro around here mentions, nullptr outside.
  MacroStatement* macro_ = nullptr;
  int nesting_ = 0;

 private:
  ExpressionPointer make(ExpressionKind kind, int line) const;
  /// Checks the depth of a finished tree.
  ExpressionPointer finished(ExpressionPointer expression) const;
  ExpressionPointer binary(std::string name, ExpressionPointer left, ExpressionPointer right) const;

  ExpressionPointer parse_conditional();
  ExpressionPointer parse_or();
  ExpressionPointer parse_and();
  ExpressionPointer parse_not();
  ExpressionPointer parse_compare();
  ExpressionPointer parse_sum();
  ExpressionPointer parse_concat();
  ExpressionPointer parse_product();
  ExpressionPointer parse_power();
  ExpressionPointer parse_unary(bool with_filter);
  ExpressionPointer parse_primary();
  ExpressionPointer parse_list();
  ExpressionPointer parse_dict();
  ExpressionPointer parse_postfix(ExpressionPointer operand);
  ExpressionPointer parse_filters_and_tests(ExpressionPointer operand);
  ExpressionPointer parse_attribute(ExpressionPointer operand);
  ExpressionPointer parse_subscript(ExpressionPointer operand);
  ExpressionPointer parse_call(ExpressionPointer operand);
  ExpressionPointer parse_test(ExpressionPointer operand);
  void parse_arguments(Expression& expression);
  ExpressionPointer parse_simple_target(bool with_namespace);

  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace rillkv::io::jinja
