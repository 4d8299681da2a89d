#include "src/io/chat_template/template.h"

#include <utility>

#include "rillkv/error.h"
#include "src/io/chat_template/evaluator.h"
#include "src/io/chat_template/lexer.h"
#include "src/io/utf8.h"

namespace rillkv::io::jinja {
namespace {

/// Messages may hold anything; an error is one line that a terminal can show.
[[noreturn]] void throw_error(const std::string& name, int line, const std::string& message) {
  std::string clean;
  for (const char c : message.substr(0, 1000)) {
    const auto byte = static_cast<unsigned char>(c);
    clean += byte < 0x20 || byte == 0x7f ? ' ' : c;
  }
  throw Error(str_cat(name, ":", line, ": ", replace_invalid_utf8(clean)));
}

}  // namespace

Template::Template(std::string_view source, std::string name) : name_(std::move(name)) {
  RILLKV_CHECK(is_utf8(source), name_, ": expected a template in UTF-8");
  try {
    block_ = parse(source);
  } catch (const SyntaxFailure& failure) {
    throw_error(name_, failure.line, failure.message);
  }
}

Text Template::render(const Dict& variables, const std::tm& now) const {
  Evaluator evaluator(now);
  try {
    return evaluator.run(block_, variables);
  } catch (const Failure& failure) {
    throw_error(name_, evaluator.line(), failure.message);
  }
}

}  // namespace rillkv::io::jinja
