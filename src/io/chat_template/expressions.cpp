// The half of the evaluator that computes values.
#include <algorithm>
#include <cmath>
#include <limits>

#include "src/io/chat_template/evaluator.h"
#include "src/io/chat_template/format.h"
#include "src/io/chat_template/functions.h"

namespace rillkv::io::jinja {

Value Evaluator::evaluate(const Expression& expression) {
  const Nesting nesting(depth_, kMaxCallDepth);
  budget.steps(1);
  line_ = expression.line;
  const auto& operands = expression.operands;
  switch (expression.kind) {
    case ExpressionKind::kConstant:
      return expression.constant;
    case ExpressionKind::kName:
      return look_up(expression.name);
    case ExpressionKind::kList:
      return Value::list(evaluate_all(operands));
    case ExpressionKind::kTuple:
      return Value::tuple(evaluate_all(operands));
    case ExpressionKind::kDict:
      return evaluate_dict(expression);
    case ExpressionKind::kAttribute: {
      const Value object = evaluate(*operands[0]);
      return attribute(object, expression.name);
    }
    case ExpressionKind::kItem: {
      const Value object = evaluate(*operands[0]);
      return item(object, evaluate(*operands[1]));
    }
    case ExpressionKind::kSlice:
      return evaluate_slice(expression);
    case ExpressionKind::kCall:
      return evaluate_call(expression, nullptr);
    case ExpressionKind::kFilter:
      return evaluate_filter(expression, nullptr);
    case ExpressionKind::kTest:
      return evaluate_test(expression);
    case ExpressionKind::kNot:
      return Value(!is_true(evaluate(*operands[0])));
    case ExpressionKind::kNegative:
    case ExpressionKind::kPositive:
      return evaluate_sign(expression);
    case ExpressionKind::kBinary:
      return evaluate_binary(expression);
    case ExpressionKind::kConcat:
      return evaluate_concat(expression);
    case ExpressionKind::kCompare:
      return evaluate_compare(expression);
    case ExpressionKind::kAnd:
    case ExpressionKind::kOr: {
      Value value;
      for (const auto& operand : operands) {
        value = evaluate(*operand);
        if (is_true(value) == (expression.kind == ExpressionKind::kOr)) break;
      }
      return value;
    }
    case ExpressionKind::kConditional:
      if (is_true(evaluate(*operands[1]))) return evaluate(*operands[0]);
      if (operands[2] != nullptr) return evaluate(*operands[2]);
      return Value::undefined(str_cat("the inline if-expression on line ", expression.line,
                                      " evaluated to false and no else section was defined."));
  }
  return {};
}

std::vector<Value> Evaluator::evaluate_all(const std::vector<ExpressionPointer>& expressions) {
  std::vector<Value> values;
  values.reserve(expressions.size());
  for (const auto& expression : expressions) values.push_back(evaluate(*expression));
  return values;
}

Value Evaluator::evaluate_dict(const Expression& expression) {
  Dict dict;
  for (size_t i = 0; i < expression.operands.size(); i += 2) {
    Value key = evaluate(*expression.operands[i]);
    dict.set(budget, std::move(key), evaluate(*expression.operands[i + 1]));
  }
  return Value::dict(std::move(dict));
}

Value Evaluator::evaluate_concat(const Expression& expression) {
  std::vector<Text> parts;
  for (const Value& value : evaluate_all(expression.operands)) {
    parts.push_back(to_text(budget, value));
  }
  return Value(join(budget, parts, {}));
}

Arguments Evaluator::evaluate_arguments(const Expression& expression) {
  Arguments arguments;
  for (size_t i = 1; i < expression.operands.size(); ++i) {
    arguments.positional.push_back(evaluate(*expression.operands[i]));
  }
  if (expression.star != nullptr) {
    const Value more = evaluate(*expression.star);
    for (Value& value : iterate(budget, more)) arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, value] : expression.named) {
    arguments.named.emplace_back(name, evaluate(*value));
  }
  if (expression.star_star != nullptr) {
    const Value more = evaluate(*expression.star_star);
    need_defined(more);
    if (!more.is(Kind::kDict)) fail("argument after ** must be a mapping, not ", more.type_name());
    for (const auto& [name, value] : more.dict().items()) {
      if (!name.is_string()) fail("keywords must be strings");
      budget.steps(1);
      arguments.named.emplace_back(name.text().bytes(), value);
    }
  }
  return arguments;
}

Value Evaluator::evaluate_call(const Expression& expression, const Value* caller) {
  const Value callee = evaluate(*expression.operands[0]);
  Arguments arguments = evaluate_arguments(expression);
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  line_ = expression.line;
  return call(callee, arguments);
}

Value Evaluator::evaluate_filter(const Expression& expression, const Value* input) {
  const Nesting nesting(depth_, kMaxCallDepth);
  const ExpressionPointer& operand = expression.operands[0];
  Value value;
  if (operand == nullptr) {
    value = *input;
  } else if (input != nullptr) {
    value = evaluate_filter(*operand, input);  // In a block, filters stand on filters only.
  } else {
    value = evaluate(*operand);
  }
  const Arguments arguments = evaluate_arguments(expression);
  line_ = expression.line;
  return apply_filter(*this, expression.name, value, arguments);
}

Value Evaluator::evaluate_test(const Expression& expression) {
  const Value value = evaluate(*expression.operands[0]);
  const Arguments arguments = evaluate_arguments(expression);
  line_ = expression.line;
  return Value(apply_test(*this, expression.name, value, arguments));
}

Value Evaluator::evaluate_sign(const Expression& expression) {
  const Value value = evaluate(*expression.operands[0]);
  need_defined(value);
  const bool negative = expression.kind == ExpressionKind::kNegative;
  if (!value.is_number()) {
    fail("bad operand type for unary ", negative ? "-" : "+", ": '", value.type_name(), "'");
  }
  if (value.is(Kind::kFloat)) return Value(negative ? -value.number() : value.number());
  if (negative && value.integer() == std::numeric_limits<int64_t>::min()) {
    fail("integer out of range");
  }
  return Value(negative ? -value.integer() : value.integer());
}

namespace {

[[noreturn]] void unsupported(const std::string& name, const Value& a, const Value& b) {
  fail("unsupported operand type(s) for ", name, ": '", a.type_name(), "' and '", b.type_name(),
       "'");
}

Value checked(bool overflow, int64_t result) {
  if (overflow) fail("integer out of range");
  return Value(result);
}

Value power(const Value& a, const Value& b) {
  if (!a.is_integral() || !b.is_integral() || b.integer() < 0) {
    if (a.number() == 0 && b.number() < 0) fail("0.0 cannot be raised to a negative power");
    const double result = std::pow(a.number(), b.number());
    if (!std::isfinite(result) && std::isfinite(a.number()) && std::isfinite(b.number())) {
      fail("number out of range");
    }
    return Value(result);
  }
  int64_t result = 1;
  int64_t base = a.integer();
  bool overflow = false;
  for (int64_t exponent = b.integer(); exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0) overflow |= __builtin_mul_overflow(result, base, &result);
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) overflow = true;
  }
  return checked(overflow, result);
}

/// Python's floor division and modulo: the remainder has the divisor's sign.
Value divided(const std::string& name, const Value& a, const Value& b) {
  if (b.number() == 0) fail("division by zero");
  if (name == "/") return Value(a.number() / b.number());
  const bool floor = name == "//";
  if (a.is_integral() && b.is_integral()) {
    const int64_t x = a.integer(), y = b.integer();
    if (y == -1) {
      if (x == std::numeric_limits<int64_t>::min() && floor) fail("integer out of range");
      return Value(floor ? -x : int64_t{0});
    }
    const int64_t rest = x % y;
    const bool wrong_sign = rest != 0 && (rest < 0) != (y < 0);
    return Value(floor ? x / y - wrong_sign : wrong_sign ? rest + y : rest);
  }
  double rest = std::fmod(a.number(), b.number());
  const bool wrong_sign = rest != 0 && (rest < 0) != (b.number() < 0);
  if (wrong_sign) rest += b.number();
  return Value(floor ? std::round((a.number() - rest) / b.number()) : rest);
}

Value arithmetic(const std::string& name, const Value& a, const Value& b) {
  if (name == "**") return power(a, b);
  if (name == "/" || name == "//" || name == "%") return divided(name, a, b);
  if (!a.is_integral() || !b.is_integral()) {
    const double x = a.number(), y = b.number();
    return Value(name == "+" ? x + y : name == "-" ? x - y : x * y);
  }
  int64_t result = 0;
  const int64_t x = a.integer(), y = b.integer();
  const bool overflow = name == "+"   ? __builtin_add_overflow(x, y, &result)
                        : name == "-" ? __builtin_sub_overflow(x, y, &result)
                                      : __builtin_mul_overflow(x, y, &result);
  return checked(overflow, result);
}

/// Each `count` times in a row.
Value repeated(Budget& budget, const Value& value, int64_t count) {
  const auto times = static_cast<size_t>(std::max<int64_t>(count, 0));
  if (value.is_string()) {
    const size_t size = value.text().size();
    if (size > 0 && times > kMaxTextBytes / size) budget.text(kMaxTextBytes + 1);
    budget.text(size * times);
    budget.steps(size == 0 ? 0 : times);
    Text text;
    for (size_t i = 0; size > 0 && i < times; ++i) text.append(value.text());
    return Value(std::move(text), value.is_markup());
  }
  const size_t size = value.items().size();
  std::vector<Value> items;
  if (size > 0) budget.items(times > kMaxItems / size ? kMaxItems + 1 : times * size);
  for (size_t i = 0; size > 0 && i < times; ++i) {
    items.insert(items.end(), value.items().begin(), value.items().end());
  }
  return value.is(Kind::kList) ? Value::list(std::move(items)) : Value::tuple(std::move(items));
}

}  // namespace

Value Evaluator::add(const Value& a, const Value& b) {
  need_defined(a);
  need_defined(b);
  if (a.is_number() && b.is_number()) return arithmetic("+", a, b);
  if (a.is_string() && b.is_string()) {
    // What is added to escaped text is escaped.
    const bool markup = a.is_markup() || b.is_markup();
    const auto part = [&](const Value& v) {
      return markup && !v.is_markup() ? escape_html(budget, v.text()) : v.text();
    };
    return Value(join(budget, {part(a), part(b)}, {}), markup);
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    budget.items(a.items().size() + b.items().size());
    std::vector<Value> items = a.items();
    items.insert(items.end(), b.items().begin(), b.items().end());
    return a.is(Kind::kList) ? Value::list(std::move(items)) : Value::tuple(std::move(items));
  }
  if (a.is_string()) fail("can only concatenate str (not \"", b.type_name(), "\") to str");
  unsupported("+", a, b);
}

Value Evaluator::evaluate_binary(const Expression& expression) {
  const Value a = evaluate(*expression.operands[0]);
  const Value b = evaluate(*expression.operands[1]);
  line_ = expression.line;
  const std::string& name = expression.name;
  if (name == "+") return add(a, b);
  need_defined(a);
  if (name == "%" && a.is_string()) {
    return Value(percent_format(budget, a.text(), b), a.is_markup());
  }
  need_defined(b);
  if (a.is_number() && b.is_number()) return arithmetic(name, a, b);
  if (name == "*") {
    if ((a.is_string() || a.is_sequence()) && b.is_integral()) {
      return repeated(budget, a, b.integer());
    }
    if ((b.is_string() || b.is_sequence()) && a.is_integral()) {
      return repeated(budget, b, a.integer());
    }
  }
  unsupported(name, a, b);
}

bool Evaluator::contains(const Value& container, const Value& value) {
  if (container.is_string()) {
    need_defined(value);
    if (!value.is_string()) {
      fail("'in <string>' requires string as left operand, not ", value.type_name());
    }
    budget.text(container.text().size());
    return container.text().bytes().find(value.text().bytes()) != std::string::npos;
  }
  if (container.is(Kind::kDict)) return container.dict().find(budget, value) != nullptr;
  if (!container.is_sequence() && !container.is(Kind::kGenerator) &&
      !container.is(Kind::kUndefined)) {
    fail("argument of type '", container.type_name(), "' is not iterable");
  }
  for (const Value& item : iterate(budget, container)) {
    if (equal(budget, item, value)) return true;
  }
  return false;
}

Value Evaluator::evaluate_compare(const Expression& expression) {
  Value left = evaluate(*expression.operands[0]);
  for (size_t i = 0; i < expression.comparisons.size(); ++i) {
    const std::string& name = expression.comparisons[i];
    Value right = evaluate(*expression.operands[i + 1]);
    line_ = expression.line;
    bool holds = false;
    if (name == "==") {
      holds = equal(budget, left, right);
    } else if (name == "!=") {
      holds = !equal(budget, left, right);
    } else if (name == "<") {
      holds = less(budget, left, right);
    } else if (name == ">") {
      holds = less(budget, right, left);
    } else if (name == "<=") {
      holds = less(budget, left, right) || equal(budget, left, right);
    } else if (name == ">=") {
      holds = less(budget, right, left) || equal(budget, left, right);
    } else {
      holds = contains(right, left) == (name == "in");
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Evaluator::evaluate_slice(const Expression& expression) {
  const Value object = evaluate(*expression.operands[0]);
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    const auto& bound = expression.operands[i + 1];
    if (bound != nullptr) bounds[i] = evaluate(*bound);
    if (!bounds[i].is(Kind::kNone) && !bounds[i].is_integral()) {
      need_defined(bounds[i]);
      fail("slice indices must be integers or None, not ", bounds[i].type_name());
    }
  }
  line_ = expression.line;
  need_defined(object);
  if (!object.is_string() && !object.is_sequence()) {
    return Value::undefined(str_cat("'", object.type_name(), " object' cannot be sliced"));
  }
  const bool whole_characters = object.is_string();
  const auto length = static_cast<int64_t>(
      whole_characters ? count_characters(object.text().bytes()) : object.items().size());
  const int64_t step = bounds[2].is(Kind::kNone) ? 1 : bounds[2].integer();
  if (step == 0) fail("slice step cannot be zero");
  // As CPython's PySlice_AdjustIndices.
  const auto position = [&](const Value& bound, int64_t fallback) {
    if (bound.is(Kind::kNone)) return fallback;
    int64_t at = bound.integer();
    if (at < 0) at = std::max<int64_t>(at + length, step < 0 ? -1 : 0);
    return std::min(at, step < 0 ? length - 1 : length);
  };
  const int64_t begin = position(bounds[0], step < 0 ? length - 1 : 0);
  const int64_t end = position(bounds[1], step < 0 ? -1 : length);
  if (whole_characters && step == 1) {
    const Text& text = object.text();
    budget.text(text.size());
    if (begin >= end) return Value(Text(), object.is_markup());
    const size_t first = byte_of_character(text.bytes(), static_cast<size_t>(begin));
    const size_t last = byte_of_character(text.bytes(), static_cast<size_t>(end));
    return Value(text.slice(first, last - first), object.is_markup());
  }
  const std::vector<Value> all = iterate(budget, object);
  std::vector<Value> items;
  for (int64_t at = begin; step > 0 ? at < end : at > end;) {
    items.push_back(all[static_cast<size_t>(at)]);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  budget.steps(items.size());
  if (object.is(Kind::kList)) return Value::list(std::move(items));
  if (object.is(Kind::kTuple)) return Value::tuple(std::move(items));
  Text text;
  for (const Value& item : items) text.append(item.text());
  return Value(std::move(text), object.is_markup());
}

namespace {

Value missing(const Value& object, const std::string& what) {
  return Value::undefined(
      str_cat("'", object.is(Kind::kNone) ? "None" : str_cat(object.type_name(), " object"),
              "' has no ", what));
}

}  // namespace

Value Evaluator::attribute(const Value& object, const std::string& name) {
  need_defined(object);
  bool blocked = false;
  if (const Callable::Native method = find_method(object.kind(), name, blocked)) {
    Callable callable;
    callable.name = name;
    callable.native = method;
    callable.self = object;
    return Value::callable(std::move(callable));
  }
  if (blocked) {
    return Value::undefined(str_cat("access to attribute '", name, "' of '", object.type_name(),
                                    "' object is unsafe."));
  }
  const Value* found = nullptr;
  if (object.is(Kind::kDict)) found = object.dict().find(name);
  if (object.is(Kind::kNamespace)) found = object.name_space().attributes.find(name);
  if (object.is(Kind::kLoop)) return loop_attribute(object.loop(), name);
  return found != nullptr ? *found : missing(object, str_cat("attribute '", name, "'"));
}

Value Evaluator::item(const Value& object, const Value& key) {
  need_defined(object);
  if (object.is(Kind::kDict) && !key.is(Kind::kList) && !key.is(Kind::kDict)) {
    if (const Value* found = object.dict().find(budget, key)) return *found;
  }
  if (key.is_integral() && (object.is_sequence() || object.is_string())) {
    const int64_t length = length_of(object);
    const int64_t at = key.integer() < 0 ? key.integer() + length : key.integer();
    if (at >= 0 && at < length) {
      if (object.is_sequence()) return object.items()[static_cast<size_t>(at)];
      const Text& text = object.text();
      budget.text(text.size());
      const size_t byte = byte_of_character(text.bytes(), static_cast<size_t>(at));
      return Value(text.slice(byte, character_bytes(text.bytes()[byte])));
    }
  }
  if (key.is_string()) return attribute(object, key.text().bytes());
  return missing(object, str_cat("element ", repr(budget, key).bytes()));
}

Value Evaluator::loop_attribute(const Loop& loop, const std::string& name) const {
  const auto index = static_cast<int64_t>(loop.index);
  const auto length = static_cast<int64_t>(loop.items.size());
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(length - index);
  if (name == "revindex0") return Value(length - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index == length - 1);
  if (name == "length") return Value(length);
  if (name == "depth") return Value(int64_t{loop.level} + 1);
  if (name == "depth0") return Value(int64_t{loop.level});
  if (name == "previtem") {
    return index > 0 ? loop.items[loop.index - 1] : Value::undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < length ? loop.items[loop.index + 1]
                              : Value::undefined("there is no next item");
  }
  if (name == "changed") fail("loop.changed is not supported");
  return Value::undefined(str_cat("'LoopContext object' has no attribute '", name, "'"));
}

}  // namespace rillkv::io::jinja
