#include "src/io/tokenizer/decoder.h"

#include "rillkv/error.h"
#include "src/io/characters.h"
#include "src/io/json_reader.h"

namespace rillkv::io {
namespace {

using nlohmann::json;

std::string replaced(const std::string& text, const std::string& from, const std::string& to) {
  std::string result;
  size_t copied = 0;
  for (size_t at = text.find(from); at != text.npos; at = text.find(from, copied)) {
    result.append(text, copied, at - copied);
    result += to;
    copied = at + from.size();
  }
  return result.append(text, copied);
}

}  // namespace

int fallback_byte(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = digit_value(c, 16);
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

Decoder::Decoder(const json& section, const std::string& where) {
  RILLKV_CHECK(section.is_object(), where, ": expected an object, found ", section.type_name());
  add(section, where);
}

void Decoder::add(const json& section, const std::string& where) {
  const JsonReader reader(section, where);
  const std::string type = reader.string("type").value_or("");
  if (type == "Sequence") {
    const json* list = reader.find("decoders");
    if (list == nullptr || !list->is_array()) reader.fail("decoders", "an array");
    for (const json& item : *list) add(item, where);
    return;
  }
  const bool per_token = type == "Replace" || type == "ByteFallback" || type == "Metaspace";
  RILLKV_CHECK(!per_token || !fused_, where, ": ", type, " must come before what joins the tokens");
  if (type == "Replace") {
    RILLKV_CHECK(!byte_fallback_, where, ": Replace must come before ByteFallback");
    const json* pattern = reader.find("pattern");
    const bool plain = pattern != nullptr && pattern->is_object() && pattern->contains("String") &&
                       (*pattern)["String"].is_string() && (*pattern)["String"] != "";
    if (!plain) reader.fail("pattern", "an object with a \"String\"");
    const auto content = reader.string("content");
    if (!content) reader.fail("content", "a string");
    replacements_.emplace_back((*pattern)["String"].get<std::string>(), *content);
  } else if (type == "ByteFallback") {
    byte_fallback_ = true;
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "ByteLevel") {
    RILLKV_CHECK(replacements_.empty() && !byte_fallback_, where,
                 ": nothing may come before ByteLevel");
    byte_level_ = fused_ = true;
  } else if (type == "Metaspace") {
    const auto replacement = reader.string("replacement");
    if (!replacement || replacement->empty()) reader.fail("replacement", "a character");
    const std::string scheme = reader.string("prepend_scheme").value_or("always");
    if (scheme != "always" && scheme != "first" && scheme != "never") {
      reader.fail("prepend_scheme", "\"always\", \"first\" or \"never\"");
    }
    replacements_.emplace_back(*replacement, " ");
    strips_first_space_ = scheme != "never";
  } else if (type == "Strip") {
    // Before Fuse it would strip every token: no model says that.
    RILLKV_CHECK(fused_, where, ": Strip must come after Fuse");
    if (reader.string("content") != " ") reader.fail("content", "\" \"");
    if (reader.required_integer("stop", 0, INT64_MAX) != 0) reader.fail("stop", "0");
    const int64_t start = reader.required_integer("start", 0, INT64_MAX);
    if (start > 1 || (start == 1 && strips_first_space_)) reader.fail("start", "0 or 1, once");
    strips_first_space_ |= start == 1;
  } else {
    reader.fail("type", "Sequence, ByteLevel, Metaspace, Replace, ByteFallback, Fuse or Strip");
  }
}

std::string Decoder::bytes(const std::string& token) const {
  // A spelling with characters outside the alphabet stands for itself.
  if (byte_level_) return alphabet_.to_bytes(token).value_or(token);
  std::string text = token;
  for (const auto& [from, to] : replacements_) text = replaced(text, from, to);
  if (byte_fallback_) {
    if (const int byte = fallback_byte(text); byte >= 0) {
      return std::string(1, static_cast<char>(byte));
    }
  }
  return text;
}

}  // namespace rillkv::io
