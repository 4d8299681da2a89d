// Unicode normalisation form C (Unicode Standard Annex 15), as Qwen2's tokenizer asks for.
#pragma once

#include <string>
#include <string_view>

namespace rillkv::io {

/// `text` must be valid UTF-8.
std::string normalize_nfc(std::string_view text);

}  // namespace rillkv::io
