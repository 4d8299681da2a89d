#include "src/io/tokenizer/normalizer.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "src/io/characters.h"
#include "src/io/json_reader.h"
#include "src/io/regex/regex_matches.h"
#include "src/io/tokenizer/nfc.h"

namespace rillkv::io {
namespace {

using nlohmann::json;

std::string required_string(const JsonReader& reader, const char* key) {
  const auto value = reader.string(key);
  if (!value) reader.fail(key, "a string");
  return *value;
}

bool required_boolean(const JsonReader& reader, const char* key) {
  const auto value = reader.boolean(key);
  if (!value) reader.fail(key, "true or false");
  return *value;
}

void apply_nfc(std::string& text, std::vector<size_t>& marks) {
  std::string result = normalize_nfc(text);
  if (result == text) return;
  // Composition across a mark is not followed exactly: marks say what is trusted, no more.
  size_t before = 0;
  size_t after = 0;
  for (size_t& mark : marks) {
    after += normalize_nfc(std::string_view(text).substr(before, mark - before)).size();
    before = mark;
    mark = std::min(after, result.size());
  }
  text = std::move(result);
}

}  // namespace

Normalizer::Normalizer(const json& section, const std::string& where) {
  if (!section.is_null()) add(section, where);
}

void Normalizer::add(const json& section, const std::string& where) {
  const JsonReader reader(section, where);
  const std::string type = reader.string("type").value_or("");
  Step step;
  if (type == "Sequence") {
    const json* list = reader.find("normalizers");
    if (list == nullptr || !list->is_array()) reader.fail("normalizers", "an array");
    for (const json& item : *list) add(item, where);
    return;
  }
  if (type == "NFC") {
    step.kind = Kind::kNfc;
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    step.content = required_string(reader, "prepend");
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    step.content = required_string(reader, "content");
    step.regex.emplace(read_pattern(reader), where);
    const JsonReader pattern(*reader.find("pattern"), reader.name("pattern"));
    step.literal = pattern.string("String").value_or("");
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    step.left = required_boolean(reader, "strip_left");
    step.right = required_boolean(reader, "strip_right");
  } else {
    reader.fail("type", "Sequence, NFC, Prepend, Replace or Strip");
  }
  steps_.push_back(std::move(step));
}

bool Normalizer::replace(const Step& step, std::string& text, std::vector<size_t>& marks) {
  if (!step.regex) return false;
  Regex::Matcher matcher(*step.regex);
  MatchIterator matches(matcher, text);
  size_t searched = 0;
  const auto next = [&]() -> std::optional<std::pair<size_t, size_t>> {
    if (step.literal.empty()) return matches.next();
    const size_t begin = text.find(step.literal, searched);
    if (begin == std::string::npos) return std::nullopt;
    searched = begin + step.literal.size();
    return std::pair(begin, searched);
  };
  std::string result;
  size_t copied = 0;
  size_t moved = 0;  // marks that have their new place
  bool removed_first = false;
  const auto move_marks = [&](size_t end) {
    // Those up to the end of what was just copied.
    for (; moved < marks.size() && marks[moved] <= end; ++moved) {
      marks[moved] = result.size() - (end - marks[moved]);
    }
  };
  while (const auto match = next()) {
    const auto [begin, end] = *match;
    result.append(text, copied, begin - copied);
    move_marks(begin);
    if (begin == 0 && end > 0 && step.content.empty()) removed_first = true;
    result += step.content;
    for (; moved < marks.size() && marks[moved] < end; ++moved) marks[moved] = result.size();
    copied = end;
  }
  if (copied == 0 && result.empty()) return false;  // nothing matched
  result.append(text, copied, text.size() - copied);
  move_marks(text.size());
  text = std::move(result);
  return removed_first;
}

bool Normalizer::apply(std::string& text, std::vector<size_t>& marks) const {
  bool removed_first = false;
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kNfc:
        apply_nfc(text, marks);
        break;
      case Kind::kPrepend:
        if (text.empty()) break;
        text.insert(0, step.content);
        // What is prepended is as trusted as the first character.
        for (size_t& mark : marks) mark += mark > 0 ? step.content.size() : 0;
        break;
      case Kind::kReplace:
        removed_first |= replace(step, text, marks);
        break;
      case Kind::kStrip: {
        if (step.right) text.resize(text.size() - trailing_white_space(text));
        const size_t left = step.left ? leading_white_space(text) : 0;
        text.erase(0, left);
        removed_first |= left > 0;
        for (size_t& mark : marks) mark = std::min(mark - std::min(mark, left), text.size());
        break;
      }
    }
  }
  return removed_first;
}

}  // namespace rillkv::io
