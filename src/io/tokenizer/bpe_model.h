// Byte-pair encoding of one pre-token, over bytes (the byte-level alphabet) or over characters.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rillkv::io {

/// GPT-2's printable stand-ins for the 256 bytes (Radford et al. 2019, `bytes_to_unicode`):
/// printable Latin-1 characters stand for themselves, the other bytes take U+0100, U+0101, ...
class ByteAlphabet {
 public:
  ByteAlphabet();
  const std::string& character(unsigned char byte) const { return characters_[byte]; }
  /// The bytes that a token's characters stand for; nothing if one is not in the alphabet.
  std::optional<std::string> to_bytes(std::string_view token) const;

 private:
  std::string characters_[256];
  std::unordered_map<std::string, char> bytes_;
};

/// The "model" section of a tokenizer.json with type BPE. Immutable after construction.
class BpeModel {
 public:
  /// `byte_level`: the vocabulary is spelt in the byte-level alphabet and words are bytes;
  /// otherwise words are characters. Throws Error naming `where` and the key for features that are
  /// not supported.
  BpeModel(const nlohmann::json& model, bool byte_level, const std::string& where);

  /// Appends the ids of one pre-token, given as raw bytes or as valid UTF-8. O(n log n) whatever it
  /// is. A byte or character without a token of its own becomes the fallback tokens of its UTF-8
  /// ("<0xE2>" ...) if the model has `byte_fallback` and all of them; otherwise the unknown token,
  /// or nothing if there is none (as in Hugging Face tokenizers).
  void encode(std::string_view word, std::vector<int64_t>& ids) const;

  const std::unordered_map<std::string, int32_t>& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    int32_t rank;
    int32_t id;
  };
  struct PairHash {
    size_t operator()(uint64_t pair) const {
      // Fibonacci hashing: the ids sit in the halves, std::hash would keep them there.
      pair *= 0x9e3779b97f4a7c15u;
      return static_cast<size_t>(pair ^ pair >> 32);
    }
  };
  static uint64_t pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  void read_vocabulary(const nlohmann::json& model, const std::string& where);
  void read_merges(const nlohmann::json& model, const std::string& where);

  /// What a byte or character begins as: its own token, fallback tokens, or (empty) the unknown.
  struct Unit {
    int32_t id = -1;  // -1: none of its own
    std::vector<int32_t> fallback;
  };
  Unit make_unit(const std::string& character) const;
  /// The symbols that `word` begins as, before any merge.
  std::vector<int32_t> symbols_of(std::string_view word) const;
  void read_units();

  std::unordered_map<std::string, int32_t> vocabulary_;
  std::unordered_map<std::string, int32_t> whole_words_;  // raw bytes -> id, for ignore_merges
  std::unordered_map<uint64_t, Merge, PairHash> merges_;
  bool byte_level_;
  bool byte_fallback_ = false;
  std::vector<Unit> byte_units_;                       // by byte, or by ASCII character
  std::unordered_map<std::string, Unit> other_units_;  // characters beyond ASCII with a token
  int32_t fallback_ids_[256];                          // of "<0x00>" to "<0xFF>"; -1: none
  int32_t unknown_id_ = -1;
  bool fuse_unknown_ = false;
};

}  // namespace rillkv::io
