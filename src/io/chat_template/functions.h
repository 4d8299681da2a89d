// The library that templates call: filters, tests, methods and global functions.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "src/io/chat_template/evaluator.h"
#include "src/io/chat_template/value.h"

namespace rillkv::io::jinja {

/// value | name(arguments). Fails for a filter that there is not.
Value apply_filter(Evaluator& evaluator, const std::string& name, const Value& value,
                   const Arguments& arguments);
/// The same for the filters that work on lists.
Value apply_sequence_filter(Evaluator& evaluator, const std::string& name, const Value& value,
                            const Arguments& arguments);
/// value is name(arguments).
bool apply_test(Evaluator& evaluator, const std::string& name, const Value& value,
                const Arguments& arguments);
/// The method `name` of a string, list, tuple or dict; nullptr if Python has none either.
/// `blocked` is set for one that would change its object, which the sandbox forbids.
Callable::Native find_method(Kind kind, const std::string& name, bool& blocked);
/// namespace, range, dict, raise_exception, strftime_now, joiner.
void add_globals(Scope& scope);

/// Arguments by the names of parameters. Fails for too many, too few, unknown and doubled ones.
class Parameters {
 public:
  Parameters(std::string_view function, const Arguments& arguments,
             std::initializer_list<const char*> names, size_t required);
  /// nullptr if it was not given.
  const Value* operator[](size_t index) const { return values_[index]; }
  /// The same, nullptr for None too.
  const Value* given(size_t index) const;
  bool flag(size_t index) const { return values_[index] != nullptr && is_true(*values_[index]); }

 private:
  std::vector<const Value*> values_;
};

int64_t need_integer(const Value& value);
const Text& need_text(const Value& value);
/// len()
int64_t length_of(const Value& value);
/// separator.join(parts); checks the size first.
Text join(Budget& budget, const std::vector<Text>& parts, const Text& separator);
/// str.replace() with its cost checked first.
Text checked_replace(Budget& budget, const Text& text, const Text& from, const Text& to,
                     int64_t most);
/// & < > ' " as HTML; `escaped` by |e.
Text escape_html(Budget& budget, const Text& text);

}  // namespace rillkv::io::jinja
