#include "src/io/pre_tokenizer.h"

#include "rillkv/error.h"
#include "src/io/json_reader.h"
#include "src/io/utf8.h"

namespace rillkv::io {
namespace {

using nlohmann::json;

// GPT-2's pattern (Radford et al. 2019): contractions, then letters, digits or other characters
// with at most one space before them, then spaces, of which the last goes to the next word.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// A pattern that matches exactly `text`.
std::string literal(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    // A backslash before a non-alphanumeric ASCII character always means that character.
    if (byte < 0x80 && !std::isalnum(byte)) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace

PreTokenizer::PreTokenizer(const json& section, const std::string& where) {
  RILLKV_CHECK(section.is_object(), where, ": expected an object, found ", section.type_name());
  add(section, where);
  RILLKV_CHECK(byte_level_, where, ": a ByteLevel step is expected, there is none");
}

void PreTokenizer::add(const json& section, const std::string& where) {
  const JsonReader reader(section, where);
  RILLKV_CHECK(!byte_level_, where, ": nothing may follow ByteLevel");
  const std::string type = reader.string("type").value_or("");
  if (type == "Sequence") {
    const json* list = reader.find("pretokenizers");
    if (list == nullptr || !list->is_array()) reader.fail("pretokenizers", "an array");
    for (const json& item : *list) add(item, where);
  } else if (type == "Digits") {
    const bool individual = reader.boolean("individual_digits").value_or(false);
    steps_.push_back({Regex(individual ? R"(\p{N})" : R"(\p{N}+)", where)});
  } else if (type == "ByteLevel") {
    const bool use_regex = reader.boolean("use_regex").value_or(true);
    Step step{Regex(kGpt2Pattern, where)};
    step.adds_prefix_space = reader.boolean("add_prefix_space").value_or(true);
    step.is_regex = use_regex;
    steps_.push_back(step);
    byte_level_ = true;
  } else if (type == "Split") {
    const json* pattern = reader.find("pattern");
    if (pattern == nullptr || !pattern->is_object() || pattern->size() != 1) {
      reader.fail("pattern", "an object with \"Regex\" or \"String\"");
    }
    const JsonReader pattern_reader(*pattern, reader.name("pattern"));
    auto regex = pattern_reader.string("Regex");
    if (const auto text = pattern_reader.string("String")) regex = literal(*text);
    if (!regex) reader.fail("pattern", "an object with \"Regex\" or \"String\"");
    const std::string behavior = reader.string("behavior").value_or("");
    if (behavior != "Isolated" && behavior != "Removed") {
      reader.fail("behavior", "\"Isolated\" or \"Removed\"");
    }
    Step step{Regex(*regex, where)};
    // "invert": the pattern describes the pieces, what lies between is the delimiter.
    const bool invert = reader.boolean("invert").value_or(false);
    step.drops_matches = behavior == "Removed" && !invert;
    step.drops_gaps = behavior == "Removed" && invert;
    steps_.push_back(step);
  } else {
    reader.fail("type", "Sequence, Split, Digits or ByteLevel");
  }
}

void PreTokenizer::split(std::string_view text,
                         const std::function<void(std::string_view)>& sink) const {
  std::vector<Regex::Matcher> matchers;
  matchers.reserve(steps_.size());
  for (const Step& step : steps_) matchers.emplace_back(step.regex);
  apply(0, text, matchers, sink);
}

// A piece is a subject of its own: look-ahead must not see beyond its end.
void PreTokenizer::apply(size_t index, std::string_view piece,
                         std::vector<Regex::Matcher>& matchers,
                         const std::function<void(std::string_view)>& sink) const {
  if (piece.empty()) return;
  if (index == steps_.size()) {
    sink(piece);
    return;
  }
  const Step& step = steps_[index];
  std::string prefixed;
  if (step.adds_prefix_space && piece.front() != ' ') {
    prefixed = ' ';
    prefixed += piece;
    piece = prefixed;
  }
  if (!step.is_regex) {
    apply(index + 1, piece, matchers, sink);
    return;
  }
  size_t reached = 0;
  size_t start = 0;
  while (start < piece.size()) {
    const auto match = matchers[index].find(piece, start);
    if (!match) break;
    const auto [begin, end] = *match;
    if (end == begin) {  // an empty match splits nothing
      if (begin >= piece.size()) break;
      start = begin + utf8_step(piece.substr(begin)).length;
      continue;
    }
    if (!step.drops_gaps) {
      apply(index + 1, piece.substr(reached, begin - reached), matchers, sink);
    }
    if (!step.drops_matches) apply(index + 1, piece.substr(begin, end - begin), matchers, sink);
    reached = start = end;
  }
  if (!step.drops_gaps) apply(index + 1, piece.substr(reached), matchers, sink);
}

}  // namespace rillkv::io
