#include "src/io/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "rillkv/error.h"
#include "src/io/json_reader.h"
#include "src/io/regex/regex_matches.h"
#include "src/io/utf8.h"

namespace rillkv::io {
namespace {

using nlohmann::json;

// GPT-2's pattern (Radford et al. 2019): contractions, then letters, digits or other characters
// with at most one space before them, then spaces, of which the last goes to the next word.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Words and runs of other characters, white space left out. The class is what Rust's regular
// expressions, which "Whitespace" is written in, call \w (Unicode Technical Standard 18, annex C).
constexpr char kWordsPattern[] = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}]+)"
                                 R"(|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}\s]+)";

// Unicode's punctuation, and the ASCII symbols that are none there.
constexpr char kPunctuationPattern[] = R"([\p{P}$+<=>^`|~])";

std::string one_character(const JsonReader& reader, const char* key) {
  const auto value = reader.string(key);
  if (!value || value->empty() || utf8_step(*value).length != value->size()) {
    reader.fail(key, "one character");
  }
  return *value;
}

}  // namespace

PreTokenizer::PreTokenizer(const json& section, const std::string& where) {
  if (section.is_null()) return;
  RILLKV_CHECK(section.is_object(), where, ": expected an object, found ", section.type_name());
  add(section, where);
}

PreTokenizer::Behavior PreTokenizer::read_behavior(const json& section, const std::string& where) {
  const JsonReader reader(section, where);
  constexpr std::pair<const char*, Behavior> kNames[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  const std::string name = reader.string("behavior").value_or("");
  for (const auto& [known, behavior] : kNames) {
    if (name == known) return behavior;
  }
  reader.fail("behavior", "Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
}

void PreTokenizer::add_split(const std::string& pattern, Behavior behavior, bool invert,
                             const std::string& where) {
  Step step;
  step.regex.emplace(pattern, where);
  step.behavior = behavior;
  step.invert = invert;
  steps_.push_back(std::move(step));
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
    add_split(individual ? R"(\p{N})" : R"(\p{N}+)", Behavior::kIsolated, false, where);
  } else if (type == "Punctuation") {
    const bool said = reader.has("behavior");
    add_split(kPunctuationPattern, said ? read_behavior(section, where) : Behavior::kIsolated,
              false, where);
  } else if (type == "Whitespace") {
    add_split(kWordsPattern, Behavior::kRemoved, true, where);
  } else if (type == "WhitespaceSplit") {
    add_split(R"(\s)", Behavior::kRemoved, false, where);
  } else if (type == "CharDelimiterSplit") {
    add_split(quote_pattern(one_character(reader, "delimiter")), Behavior::kRemoved, false, where);
  } else if (type == "FixedLength") {
    // As many characters as there are, line ends among them.
    const int64_t length = reader.required_integer("length", 1, 65535);
    add_split("(?m:.){1," + std::to_string(length) + "}", Behavior::kIsolated, false, where);
  } else if (type == "ByteLevel") {
    Step step;
    if (reader.boolean("use_regex").value_or(true)) step.regex.emplace(kGpt2Pattern, where);
    step.adds_prefix_space = reader.boolean("add_prefix_space").value_or(true);
    steps_.push_back(std::move(step));
    byte_level_ = true;
  } else if (type == "Metaspace") {
    Step step;
    step.space = one_character(reader, "replacement");
    const std::string scheme = reader.string("prepend_scheme").value_or("always");
    if (scheme != "always" && scheme != "first" && scheme != "never") {
      reader.fail("prepend_scheme", "\"always\", \"first\" or \"never\"");
    }
    if (scheme != "never") step.prepend = scheme == "first" ? Prepend::kFirst : Prepend::kAlways;
    if (!reader.boolean("add_prefix_space").value_or(true) && scheme != "never") {
      reader.fail("add_prefix_space", "true, or prepend_scheme \"never\"");
    }
    if (reader.boolean("split").value_or(true)) {
      step.regex.emplace(quote_pattern(step.space), where);
      step.behavior = Behavior::kMergedWithNext;
    }
    steps_.push_back(std::move(step));
  } else if (type == "Split") {
    add_split(read_pattern(reader), read_behavior(section, where),
              reader.boolean("invert").value_or(false), where);
  } else {
    reader.fail("type",
                "Sequence, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, "
                "CharDelimiterSplit, FixedLength, Metaspace or ByteLevel");
  }
}

void PreTokenizer::split(std::string_view text, bool begins_input, const Sink& sink) const {
  std::vector<Regex::Matcher> matchers;
  matchers.reserve(steps_.size());
  static const Regex kNothing("(?!)", "pre-tokenizer");
  for (const Step& step : steps_) matchers.emplace_back(step.regex ? *step.regex : kNothing);
  apply(0, {text, begins_input}, matchers, sink);
}

// A piece is a subject of its own: look-ahead must not see beyond its end.
void PreTokenizer::apply(size_t index, Piece piece, std::vector<Regex::Matcher>& matchers,
                         const Sink& sink) const {
  if (piece.text.empty()) return;
  if (index == steps_.size()) {
    sink(piece.text);
    return;
  }
  const Step& step = steps_[index];
  std::string changed;
  if (step.adds_prefix_space && piece.text.front() != ' ') {
    changed = ' ';
    changed += piece.text;
    piece.text = changed;
  }
  if (!step.space.empty()) {
    const bool prepends =
        step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && piece.begins_input);
    const bool has_prefix =
        piece.text.front() == ' ' || piece.text.substr(0, step.space.size()) == step.space;
    changed.reserve(piece.text.size() + step.space.size());
    if (prepends && !has_prefix) changed = step.space;
    for (const char c : piece.text) c == ' ' ? changed += step.space : changed += c;
    piece.text = changed;
  }
  if (!step.regex) {
    apply(index + 1, piece, matchers, sink);
  } else if (step.behavior == Behavior::kIsolated || step.behavior == Behavior::kRemoved) {
    cut(index, piece, matchers, sink);
  } else {
    cut_and_merge(index, piece, matchers, sink);
  }
}

// The common case, without a list of all pieces.
void PreTokenizer::cut(size_t index, Piece piece, std::vector<Regex::Matcher>& matchers,
                       const Sink& sink) const {
  const Step& step = steps_[index];
  const bool removes = step.behavior == Behavior::kRemoved;
  const auto pass_on = [&](size_t begin, size_t end, bool matched) {
    if (removes && matched != step.invert) return;
    apply(index + 1, {piece.text.substr(begin, end - begin), piece.begins_input && begin == 0},
          matchers, sink);
  };
  MatchIterator matches(matchers[index], piece.text);
  size_t reached = 0;
  while (const auto match = matches.next()) {
    pass_on(reached, match->first, false);
    pass_on(match->first, match->second, true);
    reached = match->second;
  }
  pass_on(reached, piece.text.size(), false);
}

void PreTokenizer::cut_and_merge(size_t index, Piece piece, std::vector<Regex::Matcher>& matchers,
                                 const Sink& sink) const {
  struct Span {
    size_t begin;
    size_t end;
    bool matched;
  };
  const Step& step = steps_[index];
  std::vector<Span> spans;  // stretches between matches only where there is something
  MatchIterator matches(matchers[index], piece.text);
  size_t reached = 0;
  while (const auto match = matches.next()) {
    if (match->first > reached) spans.push_back({reached, match->first, step.invert});
    spans.push_back({match->first, match->second, !step.invert});
    reached = match->second;
  }
  if (reached < piece.text.size()) spans.push_back({reached, piece.text.size(), step.invert});

  // A match joins its neighbour unless the span on the other side of it is a match as well.
  const bool backwards = step.behavior == Behavior::kMergedWithNext;
  if (backwards) std::reverse(spans.begin(), spans.end());
  std::vector<Span> merged;
  bool previous_matched = false;
  for (const Span& span : spans) {
    const bool joins = step.behavior == Behavior::kContiguous ? span.matched == previous_matched
                                                              : span.matched && !previous_matched;
    previous_matched = span.matched;
    if (!joins || merged.empty()) {
      merged.push_back(span);
    } else if (backwards) {
      merged.back().begin = span.begin;
    } else {
      merged.back().end = span.end;
    }
  }
  if (backwards) std::reverse(merged.begin(), merged.end());
  for (const Span& span : merged) {
    apply(index + 1,
          {piece.text.substr(span.begin, span.end - span.begin),
           piece.begins_input && span.begin == 0},
          matchers, sink);
  }
}

}  // namespace rillkv::io
