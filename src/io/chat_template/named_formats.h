// Formats that whole families of models share, as templates of our own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rillkv::io::jinja {

struct NamedFormat {
  std::string_view name;
  std::string_view source;
  std::vector<std::string_view> needed_tokens;  // special tokens that the model must know
};

const std::vector<NamedFormat>& named_formats();

}  // namespace rillkv::io::jinja
