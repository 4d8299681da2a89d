// Values as Python prints them: str(), repr(), json.dumps(), and the two ways to format a string.
// Punctuation is trusted; a string's own characters keep their trust.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "src/io/chat_template/value.h"

namespace rillkv::io::jinja {

/// repr() of a float: the shortest digits that read back, 1.0, 1e+16, nan.
std::string float_repr(double value);

/// str(): what {{ }} prints; "" for an undefined value.
Text to_text(Budget& budget, const Value& value);
Text repr(Budget& budget, const Value& value);

struct JsonOptions {
  bool ascii = false;          // ensure_ascii
  std::optional<Text> indent;  // of one level; none: all on one line
  std::optional<Text> item_separator, key_separator;
  bool sort_keys = false;
};
/// json.dumps() as transformers' tojson calls it. Fails for what JSON cannot hold.
Text to_json(Budget& budget, const Value& value, const JsonOptions& options);

/// format % values: a tuple's items one by one, %(name)s from a dict.
Text percent_format(Budget& budget, const Text& format, const Value& values);

/// str.format(). `field` finds a replacement's value by the name in braces, "" for the next one.
Text brace_format(Budget& budget, const Text& format,
                  const std::function<Value(const std::string&)>& field);

/// Spaces (or `fill`) around a text until it has `width` characters. `align`: '<', '>' or '^'.
Text padded(Budget& budget, const Text& text, int64_t width, char align,
            const std::string& fill = " ");

}  // namespace rillkv::io::jinja
