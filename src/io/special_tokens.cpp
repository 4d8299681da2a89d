#include "src/io/special_tokens.h"

#include <algorithm>

namespace rillkv::io {

void append_text(std::string_view text, std::vector<TextOrToken>& items) {
  if (text.empty()) return;
  if (!items.empty()) {
    if (auto* last = std::get_if<std::string>(&items.back())) {
      *last += text;
      return;
    }
  }
  items.emplace_back(std::string(text));
}

void SpecialTokens::add(const std::string& spelling, int64_t id) {
  if (spelling.empty()) return;
  by_first_byte_[static_cast<unsigned char>(spelling[0])].push_back({spelling, id});
  ++count_;
}

void SpecialTokens::finish() {
  for (auto& entries : by_first_byte_) {
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return a.spelling.size() > b.spelling.size(); });
  }
}

void SpecialTokens::split(std::string_view text, std::vector<TextOrToken>& items) const {
  size_t begin = 0;
  size_t position = 0;
  while (count_ > 0 && position < text.size()) {
    const Entry* match = nullptr;
    for (const Entry& entry : by_first_byte_[static_cast<unsigned char>(text[position])]) {
      if (text.substr(position, entry.spelling.size()) == entry.spelling) {
        match = &entry;
        break;
      }
    }
    if (match == nullptr) {
      ++position;
      continue;
    }
    append_text(text.substr(begin, position - begin), items);
    items.emplace_back(match->id);
    position += match->spelling.size();
    begin = position;
  }
  append_text(text.substr(begin), items);
}

}  // namespace rillkv::io
