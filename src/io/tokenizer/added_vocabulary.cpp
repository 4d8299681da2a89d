#include "src/io/tokenizer/added_vocabulary.h"

#include <algorithm>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/log.h"
#include "rillkv/quotes.h"
#include "src/io/characters.h"
#include "src/io/utf8.h"

namespace rillkv::io {

MarkedText MarkedText::join(const std::vector<TextPart>& parts) {
  MarkedText joined;
  for (const TextPart& part : parts) {
    const size_t begin = joined.text.size();
    joined.text += part.text;
    if (!part.trusted || part.text.empty()) continue;
    if (!joined.marks.empty() && joined.marks.back() == begin) {
      joined.marks.back() = joined.text.size();
    } else {
      joined.marks.insert(joined.marks.end(), {begin, joined.text.size()});
    }
  }
  if (is_utf8(joined.text)) return joined;
  MarkedText valid;
  valid.marks = joined.marks;
  size_t moved = 0;
  for (size_t i = 0; i < joined.text.size();) {
    for (; moved < valid.marks.size() && joined.marks[moved] <= i; ++moved) {
      valid.marks[moved] = valid.text.size();
    }
    const size_t length = utf8_step(std::string_view(joined.text).substr(i)).length;
    valid.text += replace_invalid_utf8(std::string_view(joined.text).substr(i, length));
    i += length;
  }
  for (; moved < valid.marks.size(); ++moved) valid.marks[moved] = valid.text.size();
  return valid;
}

MarkedText MarkedText::piece(size_t begin, size_t end) const {
  MarkedText result;
  result.text = text.substr(begin, end - begin);
  // The first stretch that ends behind `begin`.
  auto i = static_cast<size_t>(std::upper_bound(marks.begin(), marks.end(), begin) - marks.begin());
  for (i -= i % 2; i < marks.size() && marks[i] < end; i += 2) {
    result.marks.push_back(std::max(marks[i], begin) - begin);
    result.marks.push_back(std::min(marks[i + 1], end) - begin);
  }
  return result;
}

bool MarkedText::is_trusted(size_t begin, size_t end) const {
  const auto after = std::upper_bound(marks.begin(), marks.end(), begin);
  return (after - marks.begin()) % 2 == 1 && end <= *after;
}

void AddedVocabulary::Trie::add(const std::string& spelling, size_t token) {
  if (spelling.empty()) return;
  starts_[static_cast<unsigned char>(spelling[0])] = true;
  uint64_t node = 0;
  for (const char c : spelling) {
    const auto next = static_cast<uint32_t>(tokens_.size());
    const auto [child, added] = children_.emplace(node << 8 | static_cast<unsigned char>(c), next);
    if (added) tokens_.push_back(kNone);
    node = child->second;
  }
  if (tokens_[node] == kNone) tokens_[node] = token;
}

void AddedVocabulary::Trie::matches(std::string_view text,
                                    std::vector<std::pair<size_t, size_t>>& found) const {
  found.clear();
  if (!starts_[static_cast<unsigned char>(text[0])]) return;
  uint64_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto child = children_.find(node << 8 | static_cast<unsigned char>(text[i]));
    if (child == children_.end()) return;
    node = child->second;
    if (tokens_[node] != kNone) found.emplace_back(tokens_[node], i + 1);
  }
}

AddedVocabulary::AddedVocabulary(const Vocabulary& vocabulary, std::string path)
    : vocabulary_(vocabulary),
      path_(std::move(path)),
      // Rust's \w (Unicode Technical Standard 18, annex C).
      word_character_(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}])", path_) {}

std::optional<int64_t> AddedVocabulary::find(const std::string& spelling) const {
  if (const auto found = by_spelling_.find(spelling); found != by_spelling_.end()) {
    return tokens_[found->second].id;
  }
  const auto found = vocabulary_.find(spelling);
  if (found == vocabulary_.end()) return std::nullopt;
  return found->second;
}

void AddedVocabulary::add(const AddedToken& token) {
  if (token.spelling.empty()) return;
  AddedToken added = token;
  const auto size = static_cast<int64_t>(vocabulary_.size());
  added.id = find(token.spelling).value_or(std::max(size, greatest_id_ + 1));
  if (token.id >= 0 && token.id != added.id) {
    misnumbered_.push_back(
        str_cat(in_quotes(token.spelling), " has id ", added.id, ", not ", token.id));
  }
  if (token.id < 0 && !find(token.spelling)) {
    numberless_.push_back(str_cat(in_quotes(token.spelling), " gets ", added.id));
  }
  greatest_id_ = std::max(greatest_id_, added.id);
  const auto [found, is_new] = by_spelling_.emplace(token.spelling, tokens_.size());
  if (is_new) {
    tokens_.push_back(std::move(added));
  } else {
    added.special |= tokens_[found->second].special;
    tokens_[found->second] = std::move(added);
  }
}

void AddedVocabulary::warn_of(const char* rule, const std::vector<std::string>& cases) const {
  if (cases.empty()) return;
  const std::string more =
      cases.size() > 1 ? str_cat(" (and ", cases.size() - 1, " more)") : std::string();
  log(LogLevel::kWarning, str_cat(path_, ": ", rule, ": ", cases[0], more));
}

void AddedVocabulary::finish(const Normalizer& normalizer) {
  warn_of("ids of added tokens are the vocabulary's, or the next free ones", misnumbered_);
  warn_of("tokens without an id anywhere get the next free ones", numberless_);
  for (const AddedToken& token : tokens_) {
    std::vector<size_t> marks;
    texts_.push_back(token.spelling);
    if (token.normalized) normalizer.apply(texts_.back(), marks);
  }
  // Of two tokens that become equal the special one counts.
  for (const bool special : {true, false}) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].special != special) continue;
      (tokens_[i].normalized ? normalized_ : plain_).add(texts_[i], i);
    }
  }
}

bool AddedVocabulary::begins_with_word(std::string_view text) const {
  const std::string_view character = text.substr(0, utf8_step(text).length);
  return Regex::Matcher(word_character_).find(character, 0).has_value();
}

std::vector<AddedVocabulary::Piece> AddedVocabulary::cut(const Trie& trie,
                                                         const MarkedText& marked) const {
  const std::string_view text = marked.text;
  std::vector<Piece> pieces;
  std::vector<std::pair<size_t, size_t>> found;
  size_t reached = 0;
  size_t position = trie.empty() ? text.size() : 0;
  while (position < text.size()) {
    trie.matches(text.substr(position), found);
    // A special token half inside a trusted stretch is none.
    const auto straddles = [&](const std::pair<size_t, size_t>& match) {
      const size_t end = position + match.second;
      return tokens_[match.first].special && !marked.is_trusted(position, end) &&
             !marked.piece(position, end).marks.empty();
    };
    while (!found.empty() && straddles(found.back())) found.pop_back();
    if (found.empty()) {
      ++position;
      continue;
    }
    const AddedToken& token = tokens_[found.back().first];
    size_t begin = position;
    size_t end = position = begin + found.back().second;
    if (token.special && !marked.is_trusted(begin, end)) continue;
    if (token.single_word) {
      if (begin > 0 && begins_with_word(text.substr(last_character_begin(text.substr(0, begin))))) {
        continue;
      }
      if (end < text.size() && begins_with_word(text.substr(end))) continue;
    }
    if (token.lstrip && begin > reached) {
      begin -= trailing_white_space(text.substr(reached, begin - reached));
    }
    if (token.rstrip) end += leading_white_space(text.substr(end));
    if (reached < begin) pieces.push_back({nullptr, reached, begin});
    pieces.push_back({&token, begin, end});
    reached = end;
  }
  if (reached < text.size()) pieces.push_back({nullptr, reached, text.size()});
  return pieces;
}

void AddedVocabulary::split(const MarkedText& marked, const Normalizer& normalizer,
                            const std::function<void(int64_t)>& on_token,
                            const std::function<void(std::string_view, bool)>& on_text) const {
  for (const Piece& outer : cut(plain_, marked)) {
    if (outer.token != nullptr) {
      on_token(outer.token->id);
      continue;
    }
    MarkedText part = marked.piece(outer.begin, outer.end);
    const bool begins = !normalizer.apply(part.text, part.marks) && outer.begin == 0;
    for (const Piece& inner : cut(normalized_, part)) {
      if (inner.token != nullptr) {
        on_token(inner.token->id);
      } else {
        on_text(std::string_view(part.text).substr(inner.begin, inner.end - inner.begin),
                begins && inner.begin == 0);
      }
    }
  }
}

}  // namespace rillkv::io
