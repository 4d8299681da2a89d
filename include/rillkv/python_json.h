// JSON as Python's json module writes it.
#pragma once

#include <string>
#include <string_view>

namespace rillkv {

/// `text` with the two things that Python's json module writes beyond the standard made readable
/// for a strict parser: the literals NaN, Infinity and -Infinity become null, and the escape of a
/// surrogate without its other half ("\ud800") becomes that of U+FFFD, since no UTF-8 can hold it.
/// Everything else, mistakes included, stays as it is.
std::string standard_json(std::string_view text);

}  // namespace rillkv
