// Cutting special tokens out of a text before anything else sees it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rillkv/tokenizer.h"

namespace rillkv::io {

/// Either a token that was spelt out, or ordinary text.
using TextOrToken = std::variant<std::string, int64_t>;

/// Finds tokens by their spelling: leftmost first, then longest.
class SpecialTokens {
 public:
  void add(const std::string& spelling, int64_t id);
  /// Sorts; call once after the last add().
  void finish();
  bool empty() const { return count_ == 0; }

  /// Appends what `text` consists of; adjacent texts are joined, also with the last of `items`.
  void split(std::string_view text, std::vector<TextOrToken>& items) const;

 private:
  struct Entry {
    std::string spelling;
    int64_t id;
  };
  std::vector<Entry> by_first_byte_[256];
  size_t count_ = 0;
};

/// Appends ordinary text, joining it with an ordinary text at the end of `items`.
void append_text(std::string_view text, std::vector<TextOrToken>& items);

}  // namespace rillkv::io
