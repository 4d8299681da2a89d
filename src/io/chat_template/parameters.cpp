#include <algorithm>

#include "src/io/chat_template/functions.h"

namespace rillkv::io::jinja {

Parameters::Parameters(std::string_view function, const Arguments& arguments,
                       std::initializer_list<const char*> names, size_t required)
    : values_(names.size(), nullptr) {
  if (arguments.positional.size() > names.size()) {
    fail(function, "() takes at most ", names.size(), " argument(s), got ",
         arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto* found = std::find(names.begin(), names.end(), std::string_view(name));
    if (found == names.end()) {
      fail(function, "() got an unexpected keyword argument '", name, "'");
    }
    const Value*& slot = values_[static_cast<size_t>(found - names.begin())];
    if (slot != nullptr) fail(function, "() got multiple values for argument '", name, "'");
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) {
      fail(function, "() is missing its argument '", *(names.begin() + i), "'");
    }
  }
}

const Value* Parameters::given(size_t index) const {
  const Value* value = values_[index];
  return value == nullptr || value->is(Kind::kNone) ? nullptr : value;
}

int64_t need_integer(const Value& value) {
  need_defined(value);
  if (!value.is_integral()) {
    fail("'", value.type_name(), "' object cannot be interpreted as an integer");
  }
  return value.integer();
}

const Text& need_text(const Value& value) {
  need_defined(value);
  if (!value.is_string()) fail("expected a string, found ", value.type_name());
  return value.text();
}

int64_t length_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return static_cast<int64_t>(count_characters(value.text().bytes()));
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(value.items().size());
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().size());
    case Kind::kLoop:
      return static_cast<int64_t>(value.loop().items.size());
    default:
      fail("object of type '", value.type_name(), "' has no len()");
  }
}

Text join(Budget& budget, const std::vector<Text>& parts, const Text& separator) {
  size_t size = 0;
  for (const Text& part : parts) size += part.size() + separator.size();
  budget.text(size);
  budget.steps(parts.size());
  Text text;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text.append(separator);
    text.append(parts[i]);
  }
  return text;
}

Text checked_replace(Budget& budget, const Text& text, const Text& from, const Text& to,
                     int64_t most) {
  budget.text(text.size());
  size_t count = from.empty() ? count_characters(text.bytes()) + 1
                              : count_occurrences(text.bytes(), from.bytes());
  if (most >= 0) count = std::min(count, static_cast<size_t>(most));
  budget.steps(count);
  if (count == 0) return text;
  if (to.size() > kMaxTextBytes / count) budget.text(kMaxTextBytes + 1);
  budget.text(text.size() + count * to.size());
  return replace(text, from.bytes(), to, most);
}

Text escape_html(Budget& budget, const Text& text) {
  Text result;
  for (size_t at = 0; at < text.size(); ++at) {
    switch (text.bytes()[at]) {
      case '&':
        result.append("&amp;", true);
        break;
      case '<':
        result.append("&lt;", true);
        break;
      case '>':
        result.append("&gt;", true);
        break;
      case '\'':
        result.append("&#39;", true);
        break;
      case '"':
        result.append("&#34;", true);
        break;
      default:
        result.append(text, at, 1);
    }
  }
  budget.text(result.size());
  budget.steps(text.size());
  return result;
}

}  // namespace rillkv::io::jinja
