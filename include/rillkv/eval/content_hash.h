// A hash that names the content of a text or a data file in reports and logs.
#pragma once

#include <string>
#include <string_view>

namespace rillkv::eval {

/// FNV-1a, 64 bits, as 16 hexadecimal digits: the same on every machine and in every version,
/// unlike std::hash. Not cryptographic.
std::string content_hash(std::string_view bytes);

}  // namespace rillkv::eval
