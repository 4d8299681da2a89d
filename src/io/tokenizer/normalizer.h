// The "normalizer" section of a tokenizer.json: changes a text before it is cut into words.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "src/io/regex/regex.h"

namespace rillkv::io {

/// NFC, Prepend, Replace and Strip, alone or in a Sequence. Immutable after construction.
class Normalizer {
 public:
  /// `section` may be null: no change. Throws Error naming `where` and the key for other types.
  Normalizer(const nlohmann::json& section, const std::string& where);

  /// Changes `text` (valid UTF-8) in place. `marks`, byte positions in ascending order, are moved
  /// along with what they point at. True if the text's first character was removed, so that the
  /// text no longer begins where it began (Metaspace's scheme "first" asks for that).
  bool apply(std::string& text, std::vector<size_t>& marks) const;

  bool empty() const { return steps_.empty(); }

 private:
  enum class Kind { kNfc, kPrepend, kReplace, kStrip };
  struct Step {
    Kind kind = Kind::kNfc;
    std::string content;         // kPrepend, kReplace
    std::optional<Regex> regex;  // kReplace
    std::string literal;         // kReplace: the pattern where it is plain text and not empty
    bool left = false;           // kStrip
    bool right = false;
  };
  void add(const nlohmann::json& section, const std::string& where);
  static bool replace(const Step& step, std::string& text, std::vector<size_t>& marks);

  std::vector<Step> steps_;
};

}  // namespace rillkv::io
