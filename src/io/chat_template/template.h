// A chat template: parsed once, rendered often.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

#include "src/io/chat_template/syntax.h"
#include "src/io/chat_template/value.h"

namespace rillkv::io::jinja {

/// The subset of Jinja 2 that chat templates use, in the environment that transformers gives them,
/// without access to anything but the variables. Immutable: may be used from several threads.
class Template {
 public:
  /// `name` is put in front of errors, with a line. Throws Error for what does not parse, or is no
  /// UTF-8.
  Template(std::string_view source, std::string name);

  /// `now` is what strftime_now() formats. Throws Error: one line with name and line, also for
  /// raise_exception() and for what takes too many steps, levels or bytes (budget.h).
  Text render(const Dict& variables, const std::tm& now) const;

 private:
  std::string name_;
  Block block_;
};

}  // namespace rillkv::io::jinja
