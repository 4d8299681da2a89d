// What stands behind `|`.
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>

#include "src/io/chat_template/format.h"
#include "src/io/chat_template/functions.h"

namespace rillkv::io::jinja {
namespace {

using Filter = Value(Evaluator&, const Value&, const Arguments&);

/// Calls a method of the value's text; a filter is often no more.
template <const char* kMethod>
Value by_method(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Value text = value.is_string() ? value : Value(to_text(evaluator.budget, value));
  return evaluator.call(evaluator.attribute(text, kMethod), arguments);
}
constexpr char kUpper[] = "upper", kLower[] = "lower", kCapitalize[] = "capitalize",
               kStrip[] = "strip";

Value title_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("title", arguments, {}, 0);
  const Text text = to_text(evaluator.budget, value);
  evaluator.budget.steps(text.size());
  Text result;
  // Unlike str.title(), words begin only after white space, dashes and opening brackets.
  for (size_t at = 0; at < text.size();) {
    const auto separates = [&](size_t i) {
      const char32_t c = character_at(text.bytes(), i);
      return is_space(c) || (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) !=
                                             std::string_view::npos);
    };
    size_t end = at;
    const bool separator = separates(at);
    while (end < text.size() && separates(end) == separator)
      end += character_bytes(text.bytes()[end]);
    const size_t first = character_bytes(text.bytes()[at]);
    result.append(change_case(text.slice(at, first), Case::kUpper));
    result.append(change_case(text.slice(at + first, end - at - first), Case::kLower));
    at = end;
  }
  return Value(std::move(result));
}

Value default_filter(Evaluator&, const Value& value, const Arguments& arguments) {
  const Parameters p("default", arguments, {"default_value", "boolean"}, 0);
  if (!value.is(Kind::kUndefined) && !(p.flag(1) && !is_true(value))) return value;
  return p[0] != nullptr ? *p[0] : Value(Text());
}

Value length_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("length", arguments, {}, 0);
  if (value.is_string()) evaluator.budget.text(value.text().size());
  return Value(length_of(value));
}

Value string_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("string", arguments, {}, 0);
  return value.is_string() ? value : Value(to_text(evaluator.budget, value));
}

Value list_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("list", arguments, {}, 0);
  return Value::list(iterate(evaluator.budget, value));
}

std::optional<double> parse_float(std::string_view text) {
  std::string digits(strip(Text(std::string(text), true), nullptr, true, true).bytes());
  const bool named = digits.find_first_of("nN") != digits.npos;  // nan, inf: Python knows them
  if (!digits.empty() && digits[0] == '+') digits.erase(0, 1);
  if (digits.empty() || (!named && digits.find_first_of("xXpP(") != digits.npos))
    return std::nullopt;
  double number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (end != digits.data() + digits.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) return std::strtod(digits.c_str(), nullptr);
  return error == std::errc() ? std::optional(number) : std::nullopt;
}

/// int(text, base), nothing if it is none. Fails beyond 64 bits.
std::optional<int64_t> parse_integer(std::string_view text, int64_t base) {
  if (text.size() > 4300) return std::nullopt;  // Python's own limit of digits
  std::string digits(strip(Text(std::string(text), true), nullptr, true, true).bytes());
  const bool negative = !digits.empty() && digits[0] == '-';
  if (!digits.empty() && (digits[0] == '-' || digits[0] == '+')) digits.erase(0, 1);
  const char letter = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : '\0';
  if (letter != '\0' && digits.size() > 2 && digits[0] == '0' && (digits[1] | 0x20) == letter) {
    digits.erase(0, 2);
  }
  if (base < 2 || base > 36) fail("expected a base in 2..36, found ", base);
  for (size_t i = 1; i + 1 < digits.size(); ++i) {  // 1_000
    if (digits[i] == '_' && digits[i + 1] != '_') digits.erase(i, 1);
  }
  if (digits.empty() || digits[0] == '-') return std::nullopt;
  if (negative) digits.insert(0, "-");
  int64_t number = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), number, static_cast<int>(base));
  if (end != digits.data() + digits.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) fail("integer out of range");
  return error == std::errc() ? std::optional(number) : std::nullopt;
}

Value int_filter(Evaluator&, const Value& value, const Arguments& arguments) {
  const Parameters p("int", arguments, {"default", "base"}, 0);
  Value fallback = p[0] != nullptr ? *p[0] : Value(int64_t{0});
  need_defined(value);
  std::optional<double> number;
  if (value.is_integral()) return Value(value.integer());
  if (value.is(Kind::kFloat)) number = value.number();
  if (value.is_string()) {
    const int64_t base = p[1] != nullptr ? need_integer(*p[1]) : 10;
    if (const auto integer = parse_integer(value.text().bytes(), base)) return Value(*integer);
    number = parse_float(value.text().bytes());
  }
  if (!number || !std::isfinite(*number)) return fallback;
  if (std::abs(*number) >= 0x1p63) fail("integer out of range");
  return Value(static_cast<int64_t>(*number));
}

Value float_filter(Evaluator&, const Value& value, const Arguments& arguments) {
  const Parameters p("float", arguments, {"default"}, 0);
  need_defined(value);
  std::optional<double> number;
  if (value.is_number()) number = value.number();
  if (value.is_string()) number = parse_float(value.text().bytes());
  if (number) return Value(*number);
  return p[0] != nullptr ? *p[0] : Value(0.0);
}

Value abs_filter(Evaluator&, const Value& value, const Arguments& arguments) {
  const Parameters p("abs", arguments, {}, 0);
  need_defined(value);
  if (!value.is_number()) fail("bad operand type for abs(): '", value.type_name(), "'");
  if (value.is(Kind::kFloat)) return Value(std::abs(value.number()));
  if (value.integer() == INT64_MIN) fail("integer out of range");
  return Value(std::abs(value.integer()));
}

Value round_filter(Evaluator&, const Value& value, const Arguments& arguments) {
  const Parameters p("round", arguments, {"precision", "method"}, 0);
  const int64_t precision = p[0] != nullptr ? need_integer(*p[0]) : 0;
  const std::string method = p[1] != nullptr ? need_text(*p[1]).bytes() : "common";
  need_defined(value);
  if (!value.is_number()) fail("expected a number to round, found ", value.type_name());
  if (precision < 0 || precision > 100) fail("expected a precision in 0..100, found ", precision);
  if (method == "common") {
    if (value.is_integral()) return Value(value.integer());
    char text[512];  // The digits are exact, so that halves go where Python's round() puts them.
    std::snprintf(text, sizeof text, "%.*f", static_cast<int>(precision), value.number());
    return Value(std::strtod(text, nullptr));
  }
  if (method != "ceil" && method != "floor") fail("method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.number() * scale;
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value replace_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("replace", arguments, {"old", "new", "count"}, 2);
  Budget& budget = evaluator.budget;
  return Value(checked_replace(budget, to_text(budget, value), to_text(budget, *p[0]),
                               to_text(budget, *p[1]),
                               p.given(2) != nullptr ? need_integer(*p[2]) : -1));
}

Value indent_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("indent", arguments, {"width", "first", "blank"}, 0);
  Budget& budget = evaluator.budget;
  const Text text = need_text(value);
  Text indention;
  if (p[0] != nullptr && p[0]->is_string()) {
    indention = p[0]->text();
  } else {
    indention = padded(budget, {}, p[0] != nullptr ? need_integer(*p[0]) : 4, '<');
  }
  Text ended = text;
  ended.append("\n", true);
  std::vector<Text> lines = split_lines(ended, false);
  budget.text(text.size() + lines.size() * indention.size());
  budget.steps(lines.size());
  Text result = p.flag(1) ? indention : Text();
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) {
      result.append("\n", true);
      if (p.flag(2) || !lines[i].empty()) result.append(indention);
    }
    result.append(lines[i]);
  }
  return Value(std::move(result), value.is_markup());
}

Value center_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("center", arguments, {"width"}, 0);
  const Value text(to_text(evaluator.budget, value));
  return evaluator.call(evaluator.attribute(text, "center"),
                        {{p[0] != nullptr ? *p[0] : Value(int64_t{80})}, {}});
}

Value format_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    fail("can't handle positional and keyword arguments at the same time");
  }
  Dict named;
  for (const auto& [name, argument] : arguments.named) named.set(name, argument);
  const Value values =
      arguments.named.empty() ? Value::tuple(arguments.positional) : Value::dict(std::move(named));
  return Value(percent_format(evaluator.budget, to_text(evaluator.budget, value), values));
}

Value tojson_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
  JsonOptions options;
  options.ascii = p.flag(0);
  options.sort_keys = p.flag(3);
  if (const Value* indent = p.given(1)) {
    options.indent = indent->is_string() ? indent->text()
                                         : padded(evaluator.budget, {}, need_integer(*indent), '<');
  }
  if (const Value* separators = p.given(2)) {
    const std::vector<Value> two = iterate(evaluator.budget, *separators);
    if (two.size() != 2) fail("expected two separators, found ", two.size());
    options.item_separator = need_text(two[0]);
    options.key_separator = need_text(two[1]);
  }
  return Value(to_json(evaluator.budget, value, options));
}

Value escape_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("escape", arguments, {}, 0);
  if (value.is_markup()) return value;
  return Value(escape_html(evaluator.budget, to_text(evaluator.budget, value)), true);
}

Value force_escape_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("forceescape", arguments, {}, 0);
  return Value(escape_html(evaluator.budget, to_text(evaluator.budget, value)), true);
}

Value safe_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("safe", arguments, {}, 0);
  return Value(to_text(evaluator.budget, value), true);
}

Value attr_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("attr", arguments, {"name"}, 1);
  const std::string name = to_text(evaluator.budget, *p[0]).bytes();
  if (value.is(Kind::kDict)) {  // its methods, not its items
    bool blocked = false;
    if (find_method(Kind::kDict, name, blocked) == nullptr) {
      return Value::undefined(str_cat("'dict object' has no attribute '", name, "'"));
    }
  }
  return evaluator.attribute(value, name);
}

const std::map<std::string_view, Filter*>& filters() {
  static const std::map<std::string_view, Filter*> all = {
      {"abs", abs_filter},
      {"attr", attr_filter},
      {"capitalize", by_method<kCapitalize>},
      {"center", center_filter},
      {"count", length_filter},
      {"d", default_filter},
      {"default", default_filter},
      {"e", escape_filter},
      {"escape", escape_filter},
      {"float", float_filter},
      {"forceescape", force_escape_filter},
      {"format", format_filter},
      {"indent", indent_filter},
      {"int", int_filter},
      {"length", length_filter},
      {"list", list_filter},
      {"lower", by_method<kLower>},
      {"replace", replace_filter},
      {"round", round_filter},
      {"safe", safe_filter},
      {"string", string_filter},
      {"title", title_filter},
      {"tojson", tojson_filter},
      {"trim", by_method<kStrip>},
      {"upper", by_method<kUpper>},
  };
  return all;
}

}  // namespace

Value apply_filter(Evaluator& evaluator, const std::string& name, const Value& value,
                   const Arguments& arguments) {
  if (const auto filter = filters().find(name); filter != filters().end()) {
    return filter->second(evaluator, value, arguments);
  }
  return apply_sequence_filter(evaluator, name, value, arguments);
}

}  // namespace rillkv::io::jinja
