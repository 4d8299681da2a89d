// The functions that every template finds.
#include <ctime>

#include "src/io/chat_template/format.h"
#include "src/io/chat_template/functions.h"

namespace rillkv::io::jinja {
namespace {

Value raise_exception(Evaluator& evaluator, const Value&, const Arguments& arguments) {
  const Parameters p("raise_exception", arguments, {"message"}, 1);
  throw Failure{to_text(evaluator.budget, *p[0]).bytes()};
}

Value range_function(Evaluator& evaluator, const Value&, const Arguments& arguments) {
  const Parameters p("range", arguments, {"start", "stop", "step"}, 1);
  const int64_t start = p[1] != nullptr ? need_integer(*p[0]) : 0;
  const int64_t stop = need_integer(p[1] != nullptr ? *p[1] : *p[0]);
  const int64_t step = p[2] != nullptr ? need_integer(*p[2]) : 1;
  if (step == 0) fail("range() arg 3 must not be zero");
  constexpr size_t kMost = 100000;  // Jinja's own
  std::vector<Value> items;
  for (int64_t at = start; step > 0 ? at < stop : at > stop;) {
    if (items.size() == kMost) {
      fail("Range too big. The sandbox blocks ranges larger than ", kMost, ".");
    }
    items.emplace_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  evaluator.budget.steps(items.size());
  return Value::list(std::move(items));
}

/// dict(mapping or pairs, **named)
Dict dict_of(Evaluator& evaluator, const char* name, const Arguments& arguments) {
  Dict dict;
  if (arguments.positional.size() > 1) fail(name, "() takes at most 1 argument");
  for (const Value& first : arguments.positional) {
    need_defined(first);
    if (first.is(Kind::kDict)) {
      evaluator.budget.steps(first.dict().size());
      dict = first.dict();
      continue;
    }
    for (const Value& pair : iterate(evaluator.budget, first)) {
      const std::vector<Value> two = iterate(evaluator.budget, pair);
      if (two.size() != 2) fail(name, "() expected pairs, found ", two.size(), " values");
      dict.set(evaluator.budget, two[0], two[1]);
    }
  }
  for (const auto& [key, value] : arguments.named) dict.set(key, value);
  return dict;
}

Value dict_function(Evaluator& evaluator, const Value&, const Arguments& arguments) {
  return Value::dict(dict_of(evaluator, "dict", arguments));
}

Value namespace_function(Evaluator& evaluator, const Value&, const Arguments& arguments) {
  Dict attributes = dict_of(evaluator, "namespace", arguments);
  for (const auto& [key, value] : attributes.items()) {
    if (key.is_string() && !key.text().empty() && key.text().bytes()[0] == '_') {
      fail("Chat templates cannot store underscore-prefixed attributes on a namespace, but got '",
           key.text().bytes(), "'");
    }
  }
  Namespace& space = evaluator.make_namespace();
  space.attributes = std::move(attributes);
  return Value::name_space(space);
}

/// As Python's datetime.now().strftime().
Value strftime_now(Evaluator& evaluator, const Value&, const Arguments& arguments) {
  const Parameters p("strftime_now", arguments, {"format"}, 1);
  const std::string& given = need_text(*p[0]).bytes();
  if (given.size() > 256) fail("expected a date format of at most 256 bytes");
  std::string format;
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i] != '%' || i + 1 == given.size()) {
      format += given[i] == '%' ? "%%" : std::string(1, given[i]);
      continue;
    }
    const char directive = given[++i];
    if (directive == 'f') {
      format += "000000";
    } else if (directive != 'z' && directive != 'Z') {  // a time without a zone has neither
      format += {'%', directive};
    }
  }
  if (format.find('\0') != format.npos) fail("expected a date format without NUL");
  if (format.empty()) return Value(Text());
  char text[8192];
  const size_t size = std::strftime(text, sizeof text, format.c_str(), &evaluator.now());
  return Value(Text(std::string(text, size), true));
}

Value joined_once(Evaluator&, const Value& self, const Arguments& arguments) {
  const Parameters p("joiner", arguments, {}, 0);
  Dict& state = self.name_space().attributes;
  const bool used = is_true(*state.find("used"));
  state.set("used", Value(true));
  return used ? *state.find("separator") : Value(Text());
}

Value joiner_function(Evaluator& evaluator, const Value&, const Arguments& arguments) {
  const Parameters p("joiner", arguments, {"sep"}, 0);
  Namespace& state = evaluator.make_namespace();
  state.attributes.set("used", Value(false));
  state.attributes.set("separator", p[0] != nullptr ? *p[0] : Value::own(", "));
  Callable callable;
  callable.name = "joiner";
  callable.native = joined_once;
  callable.self = Value::name_space(state);
  return Value::callable(std::move(callable));
}

}  // namespace

void add_globals(Scope& scope) {
  const auto add = [&](const char* name, Callable::Native native) {
    Callable callable;
    callable.name = name;
    callable.native = native;
    scope.set(name, Value::callable(std::move(callable)));
  };
  add("raise_exception", raise_exception);
  add("range", range_function);
  add("dict", dict_function);
  add("namespace", namespace_function);
  add("strftime_now", strftime_now);
  add("joiner", joiner_function);
}

}  // namespace rillkv::io::jinja
