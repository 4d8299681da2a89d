// Byte-pair encoding of one pre-token over the byte-level alphabet.
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
  /// Throws Error naming `where` and the key for features that a byte-level BPE does not have.
  BpeModel(const nlohmann::json& model, const ByteAlphabet& alphabet, const std::string& where);

  /// Appends the ids of one pre-token, given as raw bytes. O(n log n) whatever the bytes. A byte
  /// without a token of its own takes the unknown token, or vanishes if there is none (as in
  /// Hugging Face tokenizers).
  void encode(std::string_view bytes, std::vector<int64_t>& ids) const;

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

  std::unordered_map<std::string, int32_t> vocabulary_;   // token in the byte-level alphabet -> id
  std::unordered_map<std::string, int32_t> whole_words_;  // raw bytes -> id, for ignore_merges
  std::unordered_map<uint64_t, Merge, PairHash> merges_;
  int32_t byte_ids_[256];  // -1: none
  int32_t unknown_id_ = -1;
  bool fuse_unknown_ = false;
};

}  // namespace rillkv::io
