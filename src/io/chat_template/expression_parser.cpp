#include <algorithm>
#include <utility>

#include "src/io/chat_template/parser.h"

namespace rillkv::io::jinja {

bool ExpressionParser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  take();
  return true;
}

std::string ExpressionParser::describe() const {
  switch (current().kind) {
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kVariableBegin:
      return "'{{'";
    case TokenKind::kVariableEnd:
      return "'}}'";
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kData:
      return "text";
    case TokenKind::kString:
      return "a string";
    default:
      return "'" + current().text + "'";
  }
}

void ExpressionParser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail(str_cat("expected '", text, "', found ", describe()));
}

std::string ExpressionParser::expect_name() {
  if (current().kind != TokenKind::kName) fail("expected a name, found " + describe());
  return take().text;
}

void ExpressionParser::expect_block_end() {
  if (current().kind != TokenKind::kBlockEnd) fail("expected '%}', found " + describe());
  take();
}

ExpressionPointer ExpressionParser::make(ExpressionKind kind, int line) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = line;
  return expression;
}

ExpressionPointer ExpressionParser::finished(ExpressionPointer expression) const {
  int depth = 0;
  const auto count = [&](const ExpressionPointer& part) {
    if (part != nullptr) depth = std::max(depth, part->depth);
  };
  for (const auto& operand : expression->operands) count(operand);
  for (const auto& named : expression->named) count(named.second);
  count(expression->star);
  count(expression->star_star);
  if (depth >= kMaxSyntaxDepth) {
    fail(str_cat("expressions nested deeper than ", kMaxSyntaxDepth, " levels"), expression->line);
  }
  expression->depth = depth + 1;
  return expression;
}

ExpressionPointer ExpressionParser::binary(std::string name, ExpressionPointer left,
                                           ExpressionPointer right) const {
  auto expression = make(ExpressionKind::kBinary, left->line);
  expression->name = std::move(name);
  expression->operands.push_back(std::move(left));
  expression->operands.push_back(std::move(right));
  return finished(std::move(expression));
}

ExpressionPointer ExpressionParser::parse_expression(bool with_conditional) {
  if (nesting_ >= kMaxSyntaxDepth) {
    fail(str_cat("syntax nested deeper than ", kMaxSyntaxDepth, " levels"));
  }
  const Nesting nesting(nesting_, kMaxSyntaxDepth);
  return with_conditional ? parse_conditional() : parse_or();
}

ExpressionPointer ExpressionParser::parse_conditional() {
  ExpressionPointer value = parse_or();
  while (skip_name("if")) {
    auto expression = make(ExpressionKind::kConditional, value->line);
    expression->operands.push_back(std::move(value));
    expression->operands.push_back(parse_or());
    expression->operands.push_back(skip_name("else") ? parse_expression() : nullptr);
    value = finished(std::move(expression));
  }
  return value;
}

ExpressionPointer ExpressionParser::parse_or() {
  ExpressionPointer left = parse_and();
  if (!is_name("or")) return left;
  auto expression = make(ExpressionKind::kOr, left->line);
  expression->operands.push_back(std::move(left));
  while (skip_name("or")) expression->operands.push_back(parse_and());
  return finished(std::move(expression));
}

ExpressionPointer ExpressionParser::parse_and() {
  ExpressionPointer left = parse_not();
  if (!is_name("and")) return left;
  auto expression = make(ExpressionKind::kAnd, left->line);
  expression->operands.push_back(std::move(left));
  while (skip_name("and")) expression->operands.push_back(parse_not());
  return finished(std::move(expression));
}

ExpressionPointer ExpressionParser::parse_not() {
  size_t count = 0;
  const int line = current().line;
  while (skip_name("not")) ++count;
  ExpressionPointer value = parse_compare();
  for (; count > 0; --count) {
    auto expression = make(ExpressionKind::kNot, line);
    expression->operands.push_back(std::move(value));
    value = finished(std::move(expression));
  }
  return value;
}

ExpressionPointer ExpressionParser::parse_compare() {
  ExpressionPointer left = parse_sum();
  auto expression = make(ExpressionKind::kCompare, left->line);
  while (true) {
    std::string comparison;
    for (const char* op : {"==", "!=", "<", "<=", ">", ">="}) {
      if (is_operator(op)) comparison = op;
    }
    if (is_name("in")) comparison = "in";
    if (is_name("not") && look().kind == TokenKind::kName && look().text == "in") {
      take();
      comparison = "not in";
    }
    if (comparison.empty()) break;
    take();
    expression->comparisons.push_back(comparison);
    expression->operands.push_back(parse_sum());
  }
  if (expression->comparisons.empty()) return left;
  expression->operands.insert(expression->operands.begin(), std::move(left));
  return finished(std::move(expression));
}

ExpressionPointer ExpressionParser::parse_sum() {
  ExpressionPointer left = parse_concat();
  while (is_operator("+") || is_operator("-")) {
    std::string name = take().text;
    left = binary(std::move(name), std::move(left), parse_concat());
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_concat() {
  ExpressionPointer left = parse_product();
  if (!is_operator("~")) return left;
  auto expression = make(ExpressionKind::kConcat, left->line);
  expression->operands.push_back(std::move(left));
  while (skip_operator("~")) expression->operands.push_back(parse_product());
  return finished(std::move(expression));
}

ExpressionPointer ExpressionParser::parse_product() {
  ExpressionPointer left = parse_power();
  while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
    std::string name = take().text;
    left = binary(std::move(name), std::move(left), parse_power());
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_power() {
  ExpressionPointer left = parse_unary(true);
  while (skip_operator("**")) left = binary("**", std::move(left), parse_unary(true));
  return left;
}

ExpressionPointer ExpressionParser::parse_unary(bool with_filter) {
  ExpressionPointer value;
  if (is_operator("-") || is_operator("+")) {
    if (nesting_ >= kMaxSyntaxDepth) {
      fail(str_cat("syntax nested deeper than ", kMaxSyntaxDepth, " levels"));
    }
    const Nesting nesting(nesting_, kMaxSyntaxDepth);
    const Token sign = take();
    auto expression =
        make(sign.text == "-" ? ExpressionKind::kNegative : ExpressionKind::kPositive, sign.line);
    expression->operands.push_back(parse_unary(false));
    value = finished(std::move(expression));
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filter ? parse_filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPointer ExpressionParser::parse_primary() {
  const int line = current().line;
  auto constant = make(ExpressionKind::kConstant, line);
  switch (current().kind) {
    case TokenKind::kName: {
      const std::string name = take().text;
      if (name == "true" || name == "True" || name == "false" || name == "False") {
        constant->constant = Value(name == "true" || name == "True");
        return constant;
      }
      if (name == "none" || name == "None") return constant;
      if (macro_ != nullptr) {
        macro_->uses_varargs |= name == "varargs";
        macro_->uses_kwargs |= name == "kwargs";
        macro_->uses_caller |= name == "caller";
      }
      auto expression = make(ExpressionKind::kName, line);
      expression->name = name;
      return expression;
    }
    case TokenKind::kString: {
      std::string text;
      while (current().kind == TokenKind::kString) text += take().text;
      constant->constant = Value::own(text);
      return constant;
    }
    case TokenKind::kInteger:
      constant->constant = Value(take().integer);
      return constant;
    case TokenKind::kFloat:
      constant->constant = Value(take().number);
      return constant;
    default:
      break;
  }
  if (skip_operator("(")) {
    ExpressionPointer value = parse_tuple(true, {}, true);
    expect_operator(")");
    return value;
  }
  if (is_operator("[")) return parse_list();
  if (is_operator("{")) return parse_dict();
  fail("expected an expression, found " + describe());
}

ExpressionPointer ExpressionParser::parse_tuple(bool with_conditional, std::string_view end,
                                                bool parentheses) {
  auto tuple = make(ExpressionKind::kTuple, current().line);
  bool is_tuple = false;
  while (true) {
    const TokenKind kind = current().kind;
    if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || is_operator(")") ||
        (!end.empty() && is_name(end))) {
      break;
    }
    tuple->operands.push_back(parse_expression(with_conditional));
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && tuple->operands.size() == 1) return std::move(tuple->operands[0]);
  if (tuple->operands.empty() && !parentheses) fail("expected an expression, found " + describe());
  return finished(std::move(tuple));
}

ExpressionPointer ExpressionParser::parse_list() {
  auto list = make(ExpressionKind::kList, current().line);
  expect_operator("[");
  while (!is_operator("]")) {
    if (!list->operands.empty()) expect_operator(",");
    if (is_operator("]")) break;
    list->operands.push_back(parse_expression());
  }
  expect_operator("]");
  return finished(std::move(list));
}

ExpressionPointer ExpressionParser::parse_dict() {
  auto dict = make(ExpressionKind::kDict, current().line);
  expect_operator("{");
  while (!is_operator("}")) {
    if (!dict->operands.empty()) expect_operator(",");
    if (is_operator("}")) break;
    dict->operands.push_back(parse_expression());
    expect_operator(":");
    dict->operands.push_back(parse_expression());
  }
  expect_operator("}");
  return finished(std::move(dict));
}

ExpressionPointer ExpressionParser::parse_postfix(ExpressionPointer operand) {
  while (true) {
    if (is_operator(".")) {
      operand = parse_attribute(std::move(operand));
    } else if (is_operator("[")) {
      operand = parse_subscript(std::move(operand));
    } else if (is_operator("(")) {
      operand = parse_call(std::move(operand));
    } else {
      return operand;
    }
  }
}

ExpressionPointer ExpressionParser::parse_filters_and_tests(ExpressionPointer operand) {
  while (true) {
    if (is_operator("|")) {
      operand = parse_filters(std::move(operand), false);
    } else if (is_name("is")) {
      operand = parse_test(std::move(operand));
    } else if (is_operator("(")) {
      operand = parse_call(std::move(operand));
    } else {
      return operand;
    }
  }
}

ExpressionPointer ExpressionParser::parse_attribute(ExpressionPointer operand) {
  const int line = take().line;
  if (current().kind == TokenKind::kName) {
    auto expression = make(ExpressionKind::kAttribute, line);
    expression->name = take().text;
    expression->operands.push_back(std::move(operand));
    return finished(std::move(expression));
  }
  if (current().kind != TokenKind::kInteger) {
    fail("expected a name or a number after '.', found " + describe());
  }
  auto index = make(ExpressionKind::kConstant, line);
  index->constant = Value(take().integer);
  auto expression = make(ExpressionKind::kItem, line);
  expression->operands.push_back(std::move(operand));
  expression->operands.push_back(std::move(index));
  return finished(std::move(expression));
}

ExpressionPointer ExpressionParser::parse_subscript(ExpressionPointer operand) {
  const int line = current().line;
  expect_operator("[");
  ExpressionPointer first = is_operator(":") ? nullptr : parse_expression();
  if (!is_operator(":")) {
    auto expression = make(ExpressionKind::kItem, line);
    expression->operands.push_back(std::move(operand));
    if (is_operator(",")) {  // a[1, 2]
      auto tuple = make(ExpressionKind::kTuple, line);
      tuple->operands.push_back(std::move(first));
      while (skip_operator(",")) tuple->operands.push_back(parse_expression());
      first = finished(std::move(tuple));
    }
    expect_operator("]");
    expression->operands.push_back(std::move(first));
    return finished(std::move(expression));
  }
  auto expression = make(ExpressionKind::kSlice, line);
  expression->operands.push_back(std::move(operand));
  expression->operands.push_back(std::move(first));
  for (int i = 0; i < 2; ++i) {
    const bool there = skip_operator(":") && !is_operator(":") && !is_operator("]");
    expression->operands.push_back(there ? parse_expression() : nullptr);
  }
  expect_operator("]");
  return finished(std::move(expression));
}

void ExpressionParser::parse_arguments(Expression& expression) {
  const int line = current().line;
  expect_operator("(");
  const auto ensure = [&](bool valid) {
    if (!valid) fail("invalid syntax for function call expression", line);
  };
  bool first = true;
  while (!is_operator(")")) {
    if (!first) {
      expect_operator(",");
      if (is_operator(")")) break;
    }
    first = false;
    if (skip_operator("*")) {
      ensure(expression.star == nullptr && expression.star_star == nullptr);
      expression.star = parse_expression();
    } else if (skip_operator("**")) {
      ensure(expression.star_star == nullptr);
      expression.star_star = parse_expression();
    } else if (current().kind == TokenKind::kName && look().kind == TokenKind::kOperator &&
               look().text == "=") {
      ensure(expression.star_star == nullptr);
      std::string name = take().text;
      take();
      for (const auto& named : expression.named) ensure(named.first != name);
      expression.named.emplace_back(std::move(name), parse_expression());
    } else {
      ensure(expression.star == nullptr && expression.star_star == nullptr &&
             expression.named.empty());
      expression.operands.push_back(parse_expression());
    }
  }
  expect_operator(")");
}

ExpressionPointer ExpressionParser::parse_call(ExpressionPointer operand) {
  auto expression = make(ExpressionKind::kCall, current().line);
  expression->operands.push_back(std::move(operand));
  parse_arguments(*expression);
  return finished(std::move(expression));
}

ExpressionPointer ExpressionParser::parse_filters(ExpressionPointer operand, bool starts_inline) {
  while (is_operator("|") || starts_inline) {
    if (!starts_inline) take();
    starts_inline = false;
    auto expression = make(ExpressionKind::kFilter, current().line);
    expression->name = expect_name();
    while (skip_operator(".")) expression->name += "." + expect_name();
    expression->operands.push_back(std::move(operand));
    if (is_operator("(")) parse_arguments(*expression);
    operand = finished(std::move(expression));
  }
  return operand;
}

ExpressionPointer ExpressionParser::parse_test(ExpressionPointer operand) {
  const int line = take().line;
  const bool negated = skip_name("not");
  auto expression = make(ExpressionKind::kTest, line);
  expression->name = expect_name();
  while (skip_operator(".")) expression->name += "." + expect_name();
  expression->operands.push_back(std::move(operand));
  const TokenKind kind = current().kind;
  const bool argument =
      kind == TokenKind::kString || kind == TokenKind::kInteger || kind == TokenKind::kFloat ||
      is_operator("[") || is_operator("{") ||
      (kind == TokenKind::kName && !is_name("else") && !is_name("or") && !is_name("and"));
  if (is_operator("(")) {
    parse_arguments(*expression);
  } else if (argument) {
    if (is_name("is")) fail("tests with 'is' cannot be chained");
    expression->operands.push_back(parse_postfix(parse_primary()));
  }
  ExpressionPointer test = finished(std::move(expression));
  if (!negated) return test;
  auto inverse = make(ExpressionKind::kNot, line);
  inverse->operands.push_back(std::move(test));
  return finished(std::move(inverse));
}

ExpressionPointer ExpressionParser::parse_simple_target(bool with_namespace) {
  if (skip_operator("(")) {
    if (nesting_ >= kMaxSyntaxDepth) {
      fail(str_cat("syntax nested deeper than ", kMaxSyntaxDepth, " levels"));
    }
    const Nesting nesting(nesting_, kMaxSyntaxDepth);
    ExpressionPointer target = parse_target({}, with_namespace);
    expect_operator(")");
    return target;
  }
  const int line = current().line;
  auto target = make(ExpressionKind::kName, line);
  target->name = expect_name();
  for (const char* reserved : {"true", "True", "false", "False", "none", "None"}) {
    if (target->name == reserved) fail("can't assign to '" + target->name + "'", line);
  }
  if (!with_namespace || !skip_operator(".")) return target;
  auto attribute = make(ExpressionKind::kAttribute, line);
  attribute->name = expect_name();
  attribute->operands.push_back(std::move(target));
  return finished(std::move(attribute));
}

ExpressionPointer ExpressionParser::parse_target(std::string_view end, bool with_namespace) {
  ExpressionPointer first = parse_simple_target(with_namespace);
  if (!is_operator(",")) return first;
  auto tuple = make(ExpressionKind::kTuple, first->line);
  tuple->operands.push_back(std::move(first));
  while (skip_operator(",")) {
    if (is_operator("=") || is_operator(")") || current().kind == TokenKind::kBlockEnd ||
        (!end.empty() && is_name(end))) {
      break;
    }
    tuple->operands.push_back(parse_simple_target(with_namespace));
  }
  return finished(std::move(tuple));
}

}  // namespace rillkv::io::jinja
