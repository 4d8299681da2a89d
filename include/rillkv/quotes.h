// Foreign text inside messages of one line.
#pragma once

#include <string>
#include <string_view>

namespace rillkv {

/// `text` in quotation marks for an error line: control bytes are escaped as `\xNN`, anything
/// beyond 120 bytes is cut.
std::string in_quotes(std::string_view text);

}  // namespace rillkv
