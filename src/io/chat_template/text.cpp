#include "src/io/chat_template/text.h"

#include <algorithm>
#include <utility>

#include "src/io/characters.h"
#include "src/io/chat_template/characters.h"

namespace rillkv::io::jinja {

Text::Text(std::string bytes, bool trusted) : bytes_(std::move(bytes)) {
  if (!bytes_.empty()) runs_.push_back({bytes_.size(), trusted});
}

size_t Text::run_of(size_t byte) const {
  const auto run = std::upper_bound(runs_.begin(), runs_.end(), byte,
                                    [](size_t at, const Run& r) { return at < r.end; });
  return static_cast<size_t>(run - runs_.begin());
}

bool Text::trusted_at(size_t byte) const { return runs_.at(run_of(byte)).trusted; }

void Text::append(std::string_view bytes, bool trusted) {
  if (bytes.empty()) return;
  bytes_ += bytes;
  if (!runs_.empty() && runs_.back().trusted == trusted) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), trusted});
  }
}

void Text::append(const Text& other) { append(other, 0, other.size()); }

void Text::append(const Text& other, size_t begin, size_t length) {
  const size_t end = begin + length;
  for (size_t run = other.run_of(begin); begin < end; ++run) {
    const size_t stop = std::min(end, other.runs_[run].end);
    append(std::string_view(other.bytes_).substr(begin, stop - begin), other.runs_[run].trusted);
    begin = stop;
  }
}

Text Text::slice(size_t begin, size_t length) const {
  Text result;
  result.append(*this, begin, length);
  return result;
}

std::vector<TextPart> Text::parts() const {
  std::vector<TextPart> parts;
  size_t begin = 0;
  for (const Run& run : runs_) {
    parts.push_back({bytes_.substr(begin, run.end - begin), run.trusted});
    begin = run.end;
  }
  return parts;
}

char32_t character_at(std::string_view text, size_t byte) {
  const auto bits = [&](size_t i) { return static_cast<unsigned char>(text[byte + i]) & 0x3fu; };
  const auto lead = static_cast<unsigned char>(text[byte]);
  if (lead < 0x80) return lead;
  if (lead < 0xe0) return (lead & 0x1fu) << 6 | bits(1);
  if (lead < 0xf0) return (lead & 0x0fu) << 12 | bits(1) << 6 | bits(2);
  return (lead & 0x07u) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3);
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

size_t byte_of_character(std::string_view text, size_t index) {
  size_t byte = 0;
  while (index > 0 && byte < text.size()) {
    byte += character_bytes(text[byte]);
    --index;
  }
  return byte;
}

bool is_space(char32_t c) {
  return is_white_space(c) || (c >= 0x1c && c <= 0x1f);  // Python counts the separators, too
}

namespace {

/// The byte at which the character before `end` begins.
size_t step_back(std::string_view text, size_t end) {
  do {
    --end;
  } while ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80);
  return end;
}

bool contains_character(std::string_view set, std::string_view character) {
  for (size_t i = 0; i < set.size(); i += character_bytes(set[i])) {
    if (set.substr(i, character.size()) == character) return true;
  }
  return false;
}

}  // namespace

Text strip(const Text& text, const std::string* characters, bool left, bool right) {
  const std::string_view bytes = text.bytes();
  const auto goes = [&](size_t begin, size_t end) {
    return characters == nullptr
               ? is_space(character_at(bytes, begin))
               : contains_character(*characters, bytes.substr(begin, end - begin));
  };
  size_t begin = 0;
  size_t end = bytes.size();
  while (left && begin < end) {
    const size_t next = begin + character_bytes(bytes[begin]);
    if (!goes(begin, next)) break;
    begin = next;
  }
  while (right && begin < end) {
    const size_t last = step_back(bytes, end);
    if (!goes(last, end)) break;
    end = last;
  }
  return text.slice(begin, end - begin);
}

namespace {

std::vector<Text> split_at_spaces(const Text& text, int64_t most) {
  std::vector<Text> words;
  const std::string_view bytes = text.bytes();
  size_t at = 0;
  while (true) {
    while (at < bytes.size() && is_space(character_at(bytes, at))) at += character_bytes(bytes[at]);
    if (at == bytes.size()) return words;
    if (most >= 0 && static_cast<int64_t>(words.size()) == most) {
      // Python strips the rest on its left only.
      words.push_back(text.slice(at, bytes.size() - at));
      return words;
    }
    const size_t begin = at;
    while (at < bytes.size() && !is_space(character_at(bytes, at))) {
      at += character_bytes(bytes[at]);
    }
    words.push_back(text.slice(begin, at - begin));
  }
}

std::vector<Text> split_at_spaces_from_right(const Text& text, int64_t most) {
  std::vector<Text> words;
  const std::string_view bytes = text.bytes();
  size_t end = bytes.size();
  while (true) {
    while (end > 0 && is_space(character_at(bytes, step_back(bytes, end)))) {
      end = step_back(bytes, end);
    }
    if (end == 0) break;
    size_t begin = most >= 0 && static_cast<int64_t>(words.size()) == most ? 0 : end;
    while (begin > 0 && !is_space(character_at(bytes, step_back(bytes, begin)))) {
      begin = step_back(bytes, begin);
    }
    words.push_back(text.slice(begin, end - begin));
    end = begin;
  }
  std::reverse(words.begin(), words.end());
  return words;
}

}  // namespace

std::vector<Text> split(const Text& text, const std::string* separator, int64_t most,
                        bool from_right) {
  if (separator == nullptr) {
    return from_right ? split_at_spaces_from_right(text, most) : split_at_spaces(text, most);
  }
  std::vector<Text> parts;
  const std::string& bytes = text.bytes();
  const auto may_go_on = [&] { return most < 0 || static_cast<int64_t>(parts.size()) < most; };
  if (!from_right) {
    size_t begin = 0;
    for (size_t at = 0; may_go_on() && (at = bytes.find(*separator, begin)) != bytes.npos;) {
      parts.push_back(text.slice(begin, at - begin));
      begin = at + separator->size();
    }
    parts.push_back(text.slice(begin, bytes.size() - begin));
    return parts;
  }
  size_t end = bytes.size();
  while (may_go_on() && end >= separator->size()) {
    const size_t at = bytes.rfind(*separator, end - separator->size());
    if (at == bytes.npos) break;
    parts.push_back(text.slice(at + separator->size(), end - at - separator->size()));
    end = at;
  }
  parts.push_back(text.slice(0, end));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Text> split_lines(const Text& text, bool keep_ends) {
  const auto ends_line = [](char32_t c) {
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  std::vector<Text> lines;
  const std::string& bytes = text.bytes();
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const char32_t c = character_at(bytes, at);
    const size_t end = at;
    at += character_bytes(bytes[at]);
    if (!ends_line(c)) continue;
    if (c == '\r' && at < bytes.size() && bytes[at] == '\n') ++at;
    lines.push_back(text.slice(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < bytes.size()) lines.push_back(text.slice(begin, bytes.size() - begin));
  return lines;
}

size_t count_occurrences(std::string_view text, std::string_view part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) {
    ++count;
  }
  return count;
}

Text replace(const Text& text, const std::string& from, const Text& to, int64_t most) {
  Text result;
  const std::string& bytes = text.bytes();
  size_t begin = 0;
  if (from.empty()) {  // Before every character and at the end.
    while (most != 0) {
      result.append(to);
      --most;
      if (begin == bytes.size()) return result;
      const size_t length = character_bytes(bytes[begin]);
      result.append(text, begin, length);
      begin += length;
    }
  } else {
    for (size_t at = bytes.find(from); most != 0 && at != bytes.npos;
         at = bytes.find(from, begin)) {
      result.append(text, begin, at - begin);
      result.append(to);
      begin = at + from.size();
      --most;
    }
  }
  result.append(text, begin, bytes.size() - begin);
  return result;
}

Text change_case(const Text& text, Case to) {
  Text result;
  const std::string& bytes = text.bytes();
  bool inside_word = false;
  std::string changed;
  for (size_t at = 0; at < bytes.size(); at += character_bytes(bytes[at])) {
    const char32_t c = character_at(bytes, at);
    const bool first = to == Case::kTitle ? !inside_word : at == 0;
    const bool lower = to == Case::kLower || (to != Case::kUpper && !first);
    changed.clear();
    if (lower) {
      append_lower(changed, c);
    } else if (to == Case::kUpper) {
      append_upper(changed, c);
    } else {
      append_title(changed, c);
    }
    result.append(changed, text.trusted_at(at));
    inside_word = is_cased(c);
  }
  return result;
}

}  // namespace rillkv::io::jinja
