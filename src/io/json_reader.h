// Reading JSON from files that may lie: every error is one line that names the file and the key.
#pragma once

#include <cstdint>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace rillkv::io {

/// Parses `text`. Throws Error for bad syntax, a duplicate key in one object, nesting deeper than
/// `deepest` or trailing bytes. `where` names the source in errors. What Python's json module
/// writes beyond JSON is read, too: NaN, Infinity and -Infinity are numbers, and a surrogate
/// without its other half is U+FFFD (see standard_json).
nlohmann::json parse_json(std::string_view text, const std::string& where, int deepest = 64);

/// Throws the Error for bad syntax in `where` that `error`, of nlohmann's parser, tells of.
[[noreturn]] void fail_json(const std::string& where, const std::exception& error);

/// Reads and parses a file whose top level must be an object.
nlohmann::json read_json_object(const std::string& path);

/// `value` for an error line: JSON, with NaN and infinities as Python writes them, cut after 120
/// bytes.
std::string spell(const nlohmann::json& value);

/// What a typed getter makes of `null`: nothing, as if the key were missing, or an error.
enum class Null { kAbsent, kError };

/// Typed access to one JSON object. The object must outlive the reader. Wrong types and ranges
/// throw Error naming source and key.
class JsonReader {
 public:
  JsonReader(const nlohmann::json& object, std::string where, Null null = Null::kAbsent);

  /// The value, or nullptr where the key is missing or null, whatever getters make of null.
  const nlohmann::json* find(const char* key) const;
  bool has(const char* key) const { return find(key) != nullptr; }
  /// Also true for null.
  bool present(const char* key) const { return object_.contains(key); }
  bool is_null(const char* key) const { return present(key) && !has(key); }

  std::optional<int64_t> integer(const char* key, int64_t least, int64_t greatest) const;
  int64_t required_integer(const char* key, int64_t least, int64_t greatest) const;
  /// Finite.
  std::optional<double> number(const char* key) const;
  std::optional<bool> boolean(const char* key) const;
  std::optional<std::string> string(const char* key) const;

  /// "config.json: key \"x\"": the beginning of an error line about a key.
  std::string name(const char* key) const;
  [[noreturn]] void fail(const char* key, const std::string& expectation) const;

 private:
  /// What a getter reads; nullptr: nothing.
  const nlohmann::json* value(const char* key, const std::string& expectation) const;

  const nlohmann::json& object_;
  std::string where_;
  Null null_;
};

}  // namespace rillkv::io
