#include "src/io/tokenizer/bpe_model.h"

#include <queue>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/quotes.h"
#include "src/io/json_reader.h"
#include "src/io/utf8.h"

namespace rillkv::io {

using nlohmann::json;

ByteAlphabet::ByteAlphabet() {
  char32_t next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    append_utf8(characters_[byte], printable ? byte : next++);
    bytes_[characters_[byte]] = static_cast<char>(byte);
  }
}

std::optional<std::string> ByteAlphabet::to_bytes(std::string_view token) const {
  std::string bytes;
  while (!token.empty()) {
    const size_t length = utf8_step(token).length;
    const auto found = bytes_.find(std::string(token.substr(0, length)));
    if (found == bytes_.end()) return std::nullopt;
    bytes += found->second;
    token.remove_prefix(length);
  }
  return bytes;
}

BpeModel::BpeModel(const json& model, bool byte_level, const std::string& where)
    : byte_level_(byte_level) {
  const JsonReader reader(model, where);
  if (reader.string("type").value_or("BPE") != "BPE") reader.fail("type", "\"BPE\"");
  if (reader.number("dropout").value_or(0) != 0) reader.fail("dropout", "null or 0");
  byte_fallback_ = reader.boolean("byte_fallback").value_or(false);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!reader.string(key).value_or("").empty()) reader.fail(key, "null or \"\"");
  }
  fuse_unknown_ = reader.boolean("fuse_unk").value_or(false);
  read_vocabulary(model, where);
  read_merges(model, where);

  if (const auto unknown = reader.string("unk_token")) {
    const auto found = vocabulary_.find(*unknown);
    if (found == vocabulary_.end()) reader.fail("unk_token", "a token of the vocabulary");
    unknown_id_ = found->second;
  }
  read_units();
  if (reader.boolean("ignore_merges").value_or(false)) {
    const ByteAlphabet alphabet;
    for (const auto& [token, id] : vocabulary_) {
      auto word = byte_level_ ? alphabet.to_bytes(token) : token;
      if (word) whole_words_.emplace(std::move(*word), id);
    }
  }
}

BpeModel::Unit BpeModel::make_unit(const std::string& character) const {
  Unit unit;
  if (const auto found = vocabulary_.find(character); found != vocabulary_.end()) {
    unit.id = found->second;
    return unit;
  }
  if (!byte_fallback_) return unit;
  for (const char c : character) {
    const int32_t id = fallback_ids_[static_cast<unsigned char>(c)];
    if (id < 0) return Unit();
    unit.fallback.push_back(id);
  }
  return unit;
}

void BpeModel::read_units() {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char* digits = "0123456789ABCDEF";
    const auto found =
        vocabulary_.find(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + '>');
    fallback_ids_[byte] = found == vocabulary_.end() ? -1 : found->second;
  }
  const ByteAlphabet alphabet;
  for (unsigned byte = 0; byte < (byte_level_ ? 256 : 128); ++byte) {
    byte_units_.push_back(make_unit(byte_level_ ? alphabet.character(static_cast<uint8_t>(byte))
                                                : std::string(1, static_cast<char>(byte))));
  }
  if (byte_level_) return;
  for (const auto& [token, id] : vocabulary_) {
    if (token.size() > 1 && utf8_step(token).length == token.size()) {
      other_units_.emplace(token, make_unit(token));
    }
  }
}

void BpeModel::read_vocabulary(const json& model, const std::string& where) {
  const JsonReader reader(model, where);
  const json* vocab = reader.find("vocab");
  if (vocab == nullptr || !vocab->is_object()) reader.fail("vocab", "an object of token ids");
  vocabulary_.reserve(vocab->size());
  constexpr int64_t kLargestId = 1 << 28;
  for (const auto& [token, id] : vocab->items()) {
    RILLKV_CHECK(id.is_number_unsigned() && id <= kLargestId, where, ": vocab: id of token ",
                 in_quotes(token), " must be in 0..", kLargestId, ", found ", id.dump());
    vocabulary_.emplace(token, id.get<int32_t>());
  }
}

void BpeModel::read_merges(const json& model, const std::string& where) {
  const JsonReader reader(model, where);
  const json* merges = reader.find("merges");
  if (merges == nullptr || !merges->is_array()) reader.fail("merges", "an array");
  merges_.reserve(merges->size());
  int32_t rank = 0;
  for (const json& merge : *merges) {
    // "left right" in older files, ["left", "right"] in newer ones.
    std::string left;
    std::string right;
    if (merge.is_string()) {
      const auto text = merge.get<std::string>();
      const size_t space = text.find(' ');
      if (space != text.npos) {
        left = text.substr(0, space);
        right = text.substr(space + 1);
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    }
    RILLKV_CHECK(!left.empty() && !right.empty(), where, ": merge ", rank,
                 " must be two tokens, found ", in_quotes(merge.dump()));
    const auto id = [&](const std::string& token) {
      const auto found = vocabulary_.find(token);
      RILLKV_CHECK(found != vocabulary_.end(), where, ": merge ", rank, ": token ",
                   in_quotes(token), " is not in the vocab");
      return found->second;
    };
    // A pair that comes twice keeps its later rank, as in Hugging Face tokenizers.
    merges_[pair(id(left), id(right))] = {rank, id(left + right)};
    ++rank;
  }
}

std::vector<int32_t> BpeModel::symbols_of(std::string_view word) const {
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  // An unknown token waits for the next known character: others may fuse with it. It passes
  // fallback tokens by, as in Hugging Face tokenizers.
  bool unknown_waits = false;
  const auto release = [&] {
    if (unknown_waits) symbols.push_back(unknown_id_);
    unknown_waits = false;
  };
  std::string character;
  Unit unit_of_character;
  while (!word.empty()) {
    const auto byte = static_cast<unsigned char>(word[0]);
    const Unit* unit = nullptr;
    size_t length = 1;
    if (byte < byte_units_.size()) {
      unit = &byte_units_[byte];
    } else {
      length = utf8_step(word).length;
      character.assign(word.substr(0, length));
      const auto found = other_units_.find(character);
      if (found == other_units_.end()) unit_of_character = make_unit(character);
      unit = found == other_units_.end() ? &unit_of_character : &found->second;
    }
    word.remove_prefix(length);
    if (unit->id >= 0) {
      release();
      symbols.push_back(unit->id);
    } else if (!unit->fallback.empty()) {
      symbols.insert(symbols.end(), unit->fallback.begin(), unit->fallback.end());
    } else if (unknown_id_ >= 0) {
      if (!fuse_unknown_) release();
      unknown_waits = true;
    }
  }
  release();
  return symbols;
}

void BpeModel::encode(std::string_view word, std::vector<int64_t>& ids) const {
  if (!whole_words_.empty()) {
    const auto found = whole_words_.find(std::string(word));
    if (found != whole_words_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  // Symbols form a doubly linked list; a heap holds the adjacent pairs that may merge, lowest rank
  // first, then leftmost. Entries made stale by an earlier merge are recognised by their ids.
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t left;
    int32_t left_id;
    int32_t right_id;
    int32_t merged_id;
    bool operator>(const Candidate& other) const {
      return std::pair(rank, left) > std::pair(other.rank, other.left);
    }
  };
  constexpr int32_t kNone = -1;
  RILLKV_CHECK(word.size() <= size_t{INT32_MAX}, "a word of ", word.size(),
               " bytes is too long for the tokenizer");
  std::vector<Symbol> symbols;
  for (const int32_t id : symbols_of(word)) {
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = kNone;

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto consider = [&](int32_t left) {
    if (left == kNone || symbols[left].next == kNone) return;
    const int32_t left_id = symbols[left].id;
    const int32_t right_id = symbols[symbols[left].next].id;
    const auto found = merges_.find(pair(left_id, right_id));
    if (found == merges_.end()) return;
    candidates.push({found->second.rank, left, left_id, right_id, found->second.id});
  };
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[best.left];
    if (left.id != best.left_id || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    if (right.id != best.right_id) continue;
    left.id = best.merged_id;
    right.id = kNone;  // dead: no candidate has this id
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (int32_t i = 0; i != kNone; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace rillkv::io
