#include "src/io/chat_template/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "src/io/chat_template/characters.h"

namespace rillkv::io::jinja {
namespace {

std::string hex(char32_t code, int digits) {
  char text[16];
  std::snprintf(text, sizeof text, "%0*x", digits, static_cast<unsigned>(code));
  return text;
}

/// Appends and pays for it.
class Writer {
 public:
  explicit Writer(Budget& budget) : budget_(budget) {}
  void own(std::string_view text) {
    pay(text.size());
    out.append(text, true);
  }
  void copy(const Text& text) { copy(text, 0, text.size()); }
  void copy(const Text& text, size_t begin, size_t length) {
    pay(length);
    out.append(text, begin, length);
  }
  Text out;

 private:
  void pay(size_t bytes) {
    if (out.size() + bytes > kMaxTextBytes) budget_.text(out.size() + bytes);
    budget_.steps(1 + bytes / 16);
  }
  Budget& budget_;
};

void write_string_repr(Writer& writer, const Text& text) {
  const std::string& bytes = text.bytes();
  const bool doubled = bytes.find('\'') != bytes.npos && bytes.find('"') == bytes.npos;
  const char quote = doubled ? '"' : '\'';
  writer.own({&quote, 1});
  for (size_t at = 0; at < bytes.size();) {
    const char32_t c = character_at(bytes, at);
    const size_t length = character_bytes(bytes[at]);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      writer.own("\\");
      writer.copy(text, at, length);
    } else if (c == '\n') {
      writer.own("\\n");
    } else if (c == '\r') {
      writer.own("\\r");
    } else if (c == '\t') {
      writer.own("\\t");
    } else if (is_printable(c)) {
      writer.copy(text, at, length);
    } else if (c < 0x100) {
      writer.own("\\x" + hex(c, 2));
    } else if (c < 0x10000) {
      writer.own("\\u" + hex(c, 4));
    } else {
      writer.own("\\U" + hex(c, 8));
    }
    at += length;
  }
  writer.own({&quote, 1});
}

void write_repr(Writer& writer, const Value& value);

void write_items(Writer& writer, const std::vector<Value>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) writer.own(", ");
    write_repr(writer, items[i]);
  }
}

void write_repr(Writer& writer, const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return writer.own("Undefined");
    case Kind::kNone:
      return writer.own("None");
    case Kind::kBool:
      return writer.own(value.integer() != 0 ? "True" : "False");
    case Kind::kInt:
      return writer.own(std::to_string(value.integer()));
    case Kind::kFloat:
      return writer.own(float_repr(value.number()));
    case Kind::kString:
      if (value.is_markup()) writer.own("Markup(");
      write_string_repr(writer, value.text());
      if (value.is_markup()) writer.own(")");
      return;
    case Kind::kList:
      writer.own("[");
      write_items(writer, value.items());
      return writer.own("]");
    case Kind::kTuple:
      writer.own("(");
      write_items(writer, value.items());
      return writer.own(value.items().size() == 1 ? ",)" : ")");
    case Kind::kDict: {
      writer.own("{");
      bool first = true;
      for (const auto& [key, item] : value.dict().items()) {
        if (!first) writer.own(", ");
        first = false;
        write_repr(writer, key);
        writer.own(": ");
        write_repr(writer, item);
      }
      return writer.own("}");
    }
    default:
      fail("a ", value.type_name(), " cannot be printed");  // Python prints its address.
  }
}

void write_json_string(Writer& writer, const Text& text, bool ascii) {
  writer.own("\"");
  const std::string& bytes = text.bytes();
  size_t plain = 0;  // where what is copied as it is begins
  for (size_t at = 0; at < bytes.size();) {
    const char32_t c = character_at(bytes, at);
    const size_t length = character_bytes(bytes[at]);
    const bool escape = c == '"' || c == '\\' || c < 0x20 || (ascii && c > 0x7e);
    if (escape) {
      writer.copy(text, plain, at - plain);
      plain = at + length;
      constexpr std::string_view kNamed = "\"\\\n\r\t\b\f";
      const size_t named = c < 0x80 ? kNamed.find(static_cast<char>(c)) : kNamed.npos;
      if (named != kNamed.npos) {
        writer.own({"\\\"\\\\\\n\\r\\t\\b\\f" + 2 * named, 2});
      } else if (c < 0x10000) {
        writer.own("\\u" + hex(c, 4));
      } else {
        writer.own("\\u" + hex(0xd800 + ((c - 0x10000) >> 10), 4) + "\\u" +
                   hex(0xdc00 + ((c - 0x10000) & 0x3ff), 4));
      }
    }
    at += length;
  }
  writer.copy(text, plain, bytes.size() - plain);
  writer.own("\"");
}

class JsonWriter {
 public:
  JsonWriter(Budget& budget, const JsonOptions& options)
      : writer(budget), budget_(budget), options_(options) {}

  void write(const Value& value) {
    switch (value.kind()) {
      case Kind::kNone:
        return writer.own("null");
      case Kind::kBool:
        return writer.own(value.integer() != 0 ? "true" : "false");
      case Kind::kInt:
        return writer.own(std::to_string(value.integer()));
      case Kind::kFloat:
        return writer.own(number(value.number()));
      case Kind::kString:
        return write_json_string(writer, value.text(), options_.ascii);
      case Kind::kList:
      case Kind::kTuple:
        return write_list(value.items());
      case Kind::kDict:
        return write_dict(value.dict());
      default:
        fail("Object of type ", value.type_name(), " is not JSON serializable");
    }
  }

  Writer writer;

 private:
  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return float_repr(value);
  }

  void separate() {
    if (options_.item_separator) {
      writer.copy(*options_.item_separator);
    } else {
      writer.own(options_.indent ? "," : ", ");
    }
  }

  void break_line() {
    if (!options_.indent) return;
    writer.own("\n");
    for (int i = 0; i < level_; ++i) writer.copy(*options_.indent);
  }

  void write_list(const std::vector<Value>& items) {
    if (items.empty()) return writer.own("[]");
    writer.own("[");
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) separate();
      break_line();
      write(items[i]);
    }
    --level_;
    break_line();
    writer.own("]");
  }

  void write_key(const Value& key) {
    if (key.is_string()) return write_json_string(writer, key.text(), options_.ascii);
    if (!key.is_number() && !key.is(Kind::kNone)) {
      fail("keys must be str, int, float, bool or None, not ", key.type_name());
    }
    writer.own("\"");
    write(key);
    writer.own("\"");
  }

  void write_dict(const Dict& dict) {
    if (dict.size() == 0) return writer.own("{}");
    std::vector<Dict::Item> items = dict.items();
    budget_.steps(items.size());
    if (options_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [&](const Dict::Item& a, const Dict::Item& b) {
        return less(budget_, a.first, b.first);
      });
    }
    writer.own("{");
    ++level_;
    bool first = true;
    for (const auto& [key, value] : items) {
      if (!first) separate();
      first = false;
      break_line();
      write_key(key);
      if (options_.key_separator) {
        writer.copy(*options_.key_separator);
      } else {
        writer.own(": ");
      }
      write(value);
    }
    --level_;
    break_line();
    writer.own("}");
  }

  Budget& budget_;
  const JsonOptions& options_;
  int level_ = 0;
};

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  std::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  std::string result;
  if (text.front() == '-') {
    result = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), text.data() + text.size(),
                  exponent);
  std::string digits(text.substr(0, e));
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  if (exponent < -4 || exponent >= 16) {
    result += digits.substr(0, 1);
    if (digits.size() > 1) result += "." + digits.substr(1);
    const int size = std::abs(exponent);
    return str_cat(result, exponent < 0 ? "e-" : "e+", size < 10 ? "0" : "", size);
  }
  if (exponent < 0)
    return result + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole)
    return result + digits + std::string(whole - digits.size(), '0') + ".0";
  return result + digits.substr(0, whole) + "." + digits.substr(whole);
}

Text to_text(Budget& budget, const Value& value) {
  if (value.is_string()) return value.text();
  if (value.is(Kind::kUndefined)) return {};
  return repr(budget, value);
}

Text repr(Budget& budget, const Value& value) {
  Writer writer(budget);
  write_repr(writer, value);
  return std::move(writer.out);
}

Text to_json(Budget& budget, const Value& value, const JsonOptions& options) {
  JsonWriter json(budget, options);
  json.write(value);
  return std::move(json.writer.out);
}

Text padded(Budget& budget, const Text& text, int64_t width, char align, const std::string& fill) {
  const auto length = static_cast<int64_t>(count_characters(text.bytes()));
  if (width <= length) return text;
  const auto missing = static_cast<size_t>(width - length);
  if (missing > kMaxTextBytes) budget.text(missing);
  budget.text(text.size() + missing * fill.size());
  // Python's str.center() and format's '^' differ for odd gaps; this is the latter.
  const size_t left = align == '<' ? 0 : align == '>' ? missing : missing / 2;
  Text result;
  for (size_t i = 0; i < left; ++i) result.append(fill, true);
  result.append(text);
  for (size_t i = left; i < missing; ++i) result.append(fill, true);
  return result;
}

}  // namespace rillkv::io::jinja
