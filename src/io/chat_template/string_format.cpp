// "..." % values and "...".format(...).
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "src/io/chat_template/format.h"

namespace rillkv::io::jinja {
namespace {

/// The digits of a number for one conversion (d, x, X, o, b, f, F, e, E, g, G).
std::string number_text(const Value& value, char conversion, int precision, bool alternate) {
  if (std::string_view("dxXob").find(conversion) != std::string_view::npos) {
    if (!value.is_number()) fail("a number is required, not ", value.type_name());
    if (value.is(Kind::kFloat) && !(std::abs(value.number()) < 0x1p63)) fail("number out of range");
    const int64_t number =
        value.is(Kind::kFloat) ? static_cast<int64_t>(value.number()) : value.integer();
    const auto size =
        number < 0 ? ~static_cast<uint64_t>(number) + 1 : static_cast<uint64_t>(number);
    std::string digits;
    const unsigned base = conversion == 'd'   ? 10
                          : conversion == 'o' ? 8
                          : conversion == 'b' ? 2
                                              : 16;
    for (uint64_t rest = size; rest > 0 || digits.empty(); rest /= base) {
      digits += (conversion == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[rest % base];
    }
    std::reverse(digits.begin(), digits.end());
    while (static_cast<int>(digits.size()) < precision) digits.insert(0, "0");
    if (alternate && base != 10) digits = std::string("0") + conversion + digits;
    return (number < 0 ? "-" : "") + digits;
  }
  if (!value.is_number()) fail("must be real number, not ", value.type_name());
  const std::string format = std::string("%.*") + conversion;
  char buffer[512];
  const int length = std::snprintf(buffer, sizeof buffer, format.c_str(),
                                   precision < 0 ? 6 : precision, value.number());
  if (length < 0 || static_cast<size_t>(length) >= sizeof buffer) fail("number out of range");
  return {buffer, static_cast<size_t>(length)};
}

/// A width or a precision. At most 9 digits, so that sums do not overflow.
int read_number(const std::string& format, size_t& at) {
  int number = 0;
  for (int digits = 0; at < format.size() && format[at] >= '0' && format[at] <= '9'; ++at) {
    if (++digits > 9) fail("too many digits in a format");
    number = 10 * number + (format[at] - '0');
  }
  return number;
}

int checked_precision(int precision) {
  if (precision > 100) fail("expected a precision of at most 100, found ", precision);
  return precision;
}

/// Sign and zeros of a number that is to fill `width`.
Text zero_filled(Budget& budget, const std::string& number, int width) {
  const size_t sign = number[0] == '-' || number[0] == '+' || number[0] == ' ';
  Text result(number.substr(0, sign), true);
  result.append(
      padded(budget, Text(number.substr(sign), true), width - static_cast<int>(sign), '>', "0"));
  return result;
}

}  // namespace

Text percent_format(Budget& budget, const Text& format, const Value& values) {
  const std::string& f = format.bytes();
  Text result;
  size_t used = 0;
  const auto next = [&]() -> Value {
    if (!values.is(Kind::kTuple)) {
      if (used++ > 0) fail("not enough arguments for format string");
      return values;
    }
    if (used >= values.items().size()) fail("not enough arguments for format string");
    return values.items()[used++];
  };
  bool by_name = false;
  for (size_t at = 0; at < f.size();) {
    const size_t percent = std::min(f.find('%', at), f.size());
    budget.text(result.size() + percent - at);
    result.append(format, at, percent - at);
    at = percent + 1;
    if (percent == f.size()) break;
    Value named;
    bool is_named = false;
    if (at < f.size() && f[at] == '(') {
      const size_t end = f.find(')', at);
      if (end == f.npos) fail("incomplete format key");
      if (!values.is(Kind::kDict)) fail("format requires a mapping");
      const Value* found = values.dict().find(f.substr(at + 1, end - at - 1));
      if (found == nullptr) fail("KeyError: '", f.substr(at + 1, end - at - 1), "'");
      named = *found;
      is_named = by_name = true;
      at = end + 1;
    }
    std::string flags;
    while (at < f.size() && std::string_view("-+ #0").find(f[at]) != std::string_view::npos) {
      flags += f[at++];
    }
    const auto has = [&](char flag) { return flags.find(flag) != flags.npos; };
    const int width = read_number(f, at);
    int precision = -1;
    if (at < f.size() && f[at] == '.') {
      ++at;
      precision = checked_precision(read_number(f, at));
    }
    if (at >= f.size()) fail("incomplete format");
    char conversion = f[at++];
    if (conversion == '%') {
      result.append("%", true);
      continue;
    }
    if (conversion == 'i' || conversion == 'u') conversion = 'd';
    const Value value = is_named ? named : next();
    Text part;
    if (conversion == 's' || conversion == 'r' || conversion == 'a') {
      part = conversion == 's' ? to_text(budget, value) : repr(budget, value);
      if (precision >= 0) {
        part = part.slice(0, byte_of_character(part.bytes(), static_cast<size_t>(precision)));
      }
      part = padded(budget, part, width, has('-') ? '<' : '>');
    } else if (std::string_view("dxXofFeEgG").find(conversion) != std::string_view::npos) {
      std::string number = number_text(value, conversion, precision, has('#'));
      if (number[0] != '-' && (has('+') || has(' '))) number.insert(0, has('+') ? "+" : " ");
      part = has('0') && !has('-')
                 ? zero_filled(budget, number, width)
                 : padded(budget, Text(number, true), width, has('-') ? '<' : '>');
    } else {
      fail("unsupported format character '", std::string(1, conversion), "'");
    }
    result.append(part);
  }
  const bool all_used = values.is(Kind::kTuple) ? used == values.items().size()
                                                : used > 0 || by_name || values.is(Kind::kDict);
  if (!all_used) fail("not all arguments converted during string formatting");
  return result;
}

namespace {

/// [[fill]align][sign][#][0][width][,][.precision][type]
Text formatted(Budget& budget, const Value& value, const std::string& spec) {
  if (spec.empty()) return to_text(budget, value);
  size_t at = 0;
  std::string fill = " ";
  char align = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const size_t first = character_bytes(spec[0]);
  if (spec.size() > first && is_align(spec[first])) {
    fill = spec.substr(0, first);
    align = spec[first];
    at = first + 1;
  } else if (is_align(spec[0])) {
    align = spec[at++];
  }
  char sign = '-';
  if (at < spec.size() && std::string_view("+- ").find(spec[at]) != std::string_view::npos) {
    sign = spec[at++];
  }
  const bool alternate = at < spec.size() && spec[at] == '#';
  at += alternate;
  bool zeros = at < spec.size() && spec[at] == '0';
  const int width = read_number(spec, at);
  const bool commas = at < spec.size() && spec[at] == ',';
  at += commas;
  int precision = -1;
  if (at < spec.size() && spec[at] == '.') {
    ++at;
    precision = checked_precision(read_number(spec, at));
  }
  char type = at < spec.size() ? spec[at++] : '\0';
  if (at != spec.size()) fail("Invalid format specifier '", spec, "'");
  if (!value.is_number() || value.is(Kind::kBool)) {
    if (type != '\0' && type != 's') {
      fail("Unknown format code '", std::string(1, type), "' for object of type '",
           value.type_name(), "'");
    }
    if (!value.is_string()) fail("unsupported format string passed to ", value.type_name());
    Text text = value.text();
    if (precision >= 0) {
      text = text.slice(0, byte_of_character(text.bytes(), static_cast<size_t>(precision)));
    }
    return padded(budget, text, width, align == 0 ? '<' : align, fill);
  }
  std::string number;
  if (type == '%') {
    number = number_text(Value(100 * value.number()), 'f', precision, false) + "%";
  } else if (type == '\0' && value.is(Kind::kFloat)) {
    number = precision < 0 ? float_repr(value.number()) : number_text(value, 'g', precision, false);
  } else if (type == '\0') {
    number = number_text(value, 'd', -1, false);
  } else if (std::string_view("dxXobfFeEgG").find(type) != std::string_view::npos) {
    if (value.is(Kind::kFloat) && std::string_view("dxXob").find(type) != std::string_view::npos) {
      fail("Unknown format code '", std::string(1, type), "' for object of type 'float'");
    }
    number = number_text(value, type, precision, alternate);
  } else {
    fail("Unknown format code '", std::string(1, type), "'");
  }
  if (commas) {
    const size_t begin = number[0] == '-';
    size_t end = begin;
    while (end < number.size() && number[end] >= '0' && number[end] <= '9') ++end;
    while (end > begin + 3) number.insert(end -= 3, ",");
  }
  if (number[0] != '-' && sign != '-') number.insert(0, 1, sign);
  if (align == '=' || (zeros && align == 0)) return zero_filled(budget, number, width);
  return padded(budget, Text(number, true), width, align == 0 ? '>' : align, fill);
}

}  // namespace

Text brace_format(Budget& budget, const Text& format,
                  const std::function<Value(const std::string&)>& field) {
  const std::string& f = format.bytes();
  Text result;
  for (size_t at = 0; at < f.size();) {
    const size_t brace = std::min(f.find_first_of("{}", at), f.size());
    budget.text(result.size() + brace - at);
    result.append(format, at, brace - at);
    at = brace + 1;
    if (brace == f.size()) break;
    if (at < f.size() && f[at] == f[brace]) {  // {{ or }}
      result.append(format, brace, 1);
      ++at;
      continue;
    }
    if (f[brace] == '}') fail("Single '}' encountered in format string");
    const size_t end = f.find('}', at);
    if (end == f.npos) fail("expected '}' before end of string");
    std::string name = f.substr(at, end - at);
    at = end + 1;
    if (name.find('{') != name.npos) fail("nested fields in a format string are not supported");
    std::string spec;
    if (const size_t colon = name.find(':'); colon != name.npos) {
      spec = name.substr(colon + 1);
      name.resize(colon);
    }
    char conversion = '\0';
    if (const size_t mark = name.find('!'); mark != name.npos) {
      if (mark + 2 != name.size() || (name[mark + 1] != 'r' && name[mark + 1] != 's')) {
        fail("expected the conversion !r or !s in a format string, found '", name.substr(mark),
             "'");
      }
      conversion = name[mark + 1];
      name.resize(mark);
    }
    Value value = field(name);
    if (conversion != '\0') {
      value = Value(conversion == 'r' ? repr(budget, value) : to_text(budget, value));
    }
    const Text part = formatted(budget, value, spec);
    budget.text(result.size() + part.size());
    result.append(part);
  }
  return result;
}

}  // namespace rillkv::io::jinja
