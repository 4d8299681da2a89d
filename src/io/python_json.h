// What standard_json does, with other texts in place of the literals.
#pragma once

#include <string>
#include <string_view>

namespace rillkv::io {

/// The JSON that stands for each literal of Python's that JSON does not have.
struct NonFiniteLiterals {
  std::string_view nan, infinity, minus_infinity;
};

/// See standard_json.
std::string rewrite_python_json(std::string_view text, const NonFiniteLiterals& literals);

}  // namespace rillkv::io
