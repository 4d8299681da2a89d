// JSON as a template's values.
#pragma once

#include <string>
#include <string_view>

#include "src/io/chat_template/value.h"

namespace rillkv::io::jinja {

/// Parses JSON whose texts are not the template's own. Keeps the order of keys. Throws Error,
/// naming `where`, for bad JSON, doubled keys, integers beyond 64 bits and nesting deeper than 64
/// levels.
Value parse_json_value(std::string_view text, const std::string& where);

}  // namespace rillkv::io::jinja
