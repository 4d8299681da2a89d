// The tokens beside a BPE's own vocabulary: their ids, and finding them in texts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "rillkv/tokenizer.h"
#include "src/io/regex/regex.h"
#include "src/io/tokenizer/normalizer.h"
#include "src/io/tokenizer/tokenizers.h"

namespace rillkv::io {

/// A text and the stretches of it in which special tokens may be recognised.
struct MarkedText {
  std::string text;           // valid UTF-8
  std::vector<size_t> marks;  // begin, end, begin, end ... of trusted stretches, ascending

  /// The parts joined; each maximal invalid sequence of bytes becomes U+FFFD.
  static MarkedText join(const std::vector<TextPart>& parts);
  MarkedText piece(size_t begin, size_t end) const;
  bool is_trusted(size_t begin, size_t end) const;
};

/// As in Hugging Face tokenizers: tokens with `normalized` false are found in the text as it is,
/// the others, normalised themselves, in what lies between once that is normalised. Leftmost first,
/// then longest. Immutable after finish().
class AddedVocabulary {
 public:
  using Vocabulary = std::unordered_map<std::string, int32_t>;

  /// `vocabulary` is the model's, which must outlive this; `path` names the file in warnings.
  AddedVocabulary(const Vocabulary& vocabulary, std::string path);

  /// Adds a token, or changes the flags of one that was added before. Its id is the vocabulary's if
  /// it is there and otherwise the next free one, whatever `token.id` says (a warning if it says
  /// something else). An empty spelling is ignored.
  void add(const AddedToken& token);
  void finish(const Normalizer& normalizer);

  std::optional<int64_t> find(const std::string& spelling) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }
  /// Token by token what is looked for and decoded: the spelling, normalised where the token is.
  const std::vector<std::string>& texts() const { return texts_; }

  /// Calls `on_token` or `on_text` for each piece of `text`, in order. `on_text` gets a non-empty
  /// normalised text and whether it begins where `text` begins.
  void split(const MarkedText& text, const Normalizer& normalizer,
             const std::function<void(int64_t)>& on_token,
             const std::function<void(std::string_view, bool)>& on_text) const;

 private:
  struct Piece {
    const AddedToken* token;  // null: text
    size_t begin;
    size_t end;
  };
  /// Spellings by prefix.
  class Trie {
   public:
    void add(const std::string& spelling, size_t token);
    /// Tokens that `text` begins with, the longest last.
    void matches(std::string_view text, std::vector<std::pair<size_t, size_t>>& found) const;
    bool empty() const { return tokens_.size() == 1; }

   private:
    static constexpr size_t kNone = ~size_t{0};
    std::unordered_map<uint64_t, uint32_t> children_;  // node << 8 | byte -> node
    std::vector<size_t> tokens_ = {kNone};             // by node
    bool starts_[256] = {};
  };
  void warn_of(const char* rule, const std::vector<std::string>& cases) const;
  bool begins_with_word(std::string_view text) const;
  std::vector<Piece> cut(const Trie& trie, const MarkedText& text) const;

  const Vocabulary& vocabulary_;
  std::string path_;
  std::vector<AddedToken> tokens_;
  std::vector<std::string> texts_;
  std::unordered_map<std::string, size_t> by_spelling_;
  int64_t greatest_id_ = -1;
  std::vector<std::string> misnumbered_;  // for warnings
  std::vector<std::string> numberless_;
  Regex word_character_;
  Trie plain_;
  Trie normalized_;
};

}  // namespace rillkv::io
