// What stands behind `is`.
#include <map>

#include "src/io/chat_template/format.h"
#include "src/io/chat_template/functions.h"

namespace rillkv::io::jinja {
namespace {

using Test = bool(Evaluator&, const Value&, const Arguments&);

template <bool (*kTest)(const Value&)>
bool plain(Evaluator&, const Value& value, const Arguments& arguments) {
  const Parameters p("a test", arguments, {}, 0);
  return kTest(value);
}

bool is_sequence(const Value& v) {
  return v.is_sequence() || v.is_string() || v.is(Kind::kDict) || v.is(Kind::kUndefined);
}
bool is_iterable(const Value& v) {
  return is_sequence(v) || v.is(Kind::kGenerator) || v.is(Kind::kLoop);
}
bool is_callable(const Value& v) {
  return v.is(Kind::kCallable) || v.is(Kind::kLoop) || v.is(Kind::kUndefined);
}

bool is_defined(const Value& v) { return !v.is(Kind::kUndefined); }
bool is_undefined(const Value& v) { return v.is(Kind::kUndefined); }
bool is_none(const Value& v) { return v.is(Kind::kNone); }
bool is_boolean(const Value& v) { return v.is(Kind::kBool); }
bool is_false(const Value& v) { return v.is(Kind::kBool) && v.integer() == 0; }
bool is_true_itself(const Value& v) { return v.is(Kind::kBool) && v.integer() != 0; }
bool is_integer(const Value& v) { return v.is(Kind::kInt); }
bool is_float(const Value& v) { return v.is(Kind::kFloat); }
bool is_number(const Value& v) { return v.is_number(); }
bool is_string(const Value& v) { return v.is_string(); }
bool is_mapping(const Value& v) { return v.is(Kind::kDict); }
bool is_escaped(const Value& v) { return v.is_markup(); }

bool is_odd(const Value& v) {
  if (v.is(Kind::kFloat)) fail("expected an integer, found float");
  return need_integer(v) % 2 != 0;
}
bool is_even(const Value& v) { return !is_odd(v); }

template <bool (*kCompare)(Budget&, const Value&, const Value&)>
bool compare(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("a comparison", arguments, {"other"}, 1);
  return kCompare(evaluator.budget, value, *p[0]);
}
bool not_equal(Budget& budget, const Value& a, const Value& b) { return !equal(budget, a, b); }
bool greater(Budget& budget, const Value& a, const Value& b) { return less(budget, b, a); }
bool at_most(Budget& budget, const Value& a, const Value& b) {
  return less(budget, a, b) || equal(budget, a, b);
}
bool at_least(Budget& budget, const Value& a, const Value& b) {
  return less(budget, b, a) || equal(budget, a, b);
}
bool same(Budget& budget, const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  const bool scalar = a.is(Kind::kNone) || a.is_number() || a.is_string();
  return scalar ? equal(budget, a, b) : a.identity() == b.identity();
}

bool is_in(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("in", arguments, {"seq"}, 1);
  return evaluator.contains(*p[0], value);
}

bool divisible_by(Evaluator&, const Value& value, const Arguments& arguments) {
  const Parameters p("divisibleby", arguments, {"num"}, 1);
  const int64_t by = need_integer(*p[0]);
  if (by == 0) fail("integer modulo by zero");
  return by == -1 || need_integer(value) % by == 0;
}

template <bool kUpper>
bool in_case(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("a test", arguments, {}, 0);
  const Value text(to_text(evaluator.budget, value));
  return is_true(evaluator.call(evaluator.attribute(text, kUpper ? "isupper" : "islower"), {}));
}

const std::map<std::string_view, Test*>& tests() {
  static const std::map<std::string_view, Test*> all = {
      {"boolean", plain<is_boolean>},
      {"callable", plain<is_callable>},
      {"defined", plain<is_defined>},
      {"divisibleby", divisible_by},
      {"escaped", plain<is_escaped>},
      {"even", plain<is_even>},
      {"false", plain<is_false>},
      {"float", plain<is_float>},
      {"in", is_in},
      {"integer", plain<is_integer>},
      {"iterable", plain<is_iterable>},
      {"lower", in_case<false>},
      {"mapping", plain<is_mapping>},
      {"none", plain<is_none>},
      {"number", plain<is_number>},
      {"odd", plain<is_odd>},
      {"sameas", compare<same>},
      {"sequence", plain<is_sequence>},
      {"string", plain<is_string>},
      {"true", plain<is_true_itself>},
      {"undefined", plain<is_undefined>},
      {"upper", in_case<true>},
      {"==", compare<equal>},
      {"eq", compare<equal>},
      {"equalto", compare<equal>},
      {"!=", compare<not_equal>},
      {"ne", compare<not_equal>},
      {">", compare<greater>},
      {"gt", compare<greater>},
      {"greaterthan", compare<greater>},
      {">=", compare<at_least>},
      {"ge", compare<at_least>},
      {"<", compare<less>},
      {"lt", compare<less>},
      {"lessthan", compare<less>},
      {"<=", compare<at_most>},
      {"le", compare<at_most>},
  };
  return all;
}

}  // namespace

bool apply_test(Evaluator& evaluator, const std::string& name, const Value& value,
                const Arguments& arguments) {
  const auto found = tests().find(name);
  if (found == tests().end()) fail("there is no test named '", name, "' here");
  return found->second(evaluator, value, arguments);
}

}  // namespace rillkv::io::jinja
