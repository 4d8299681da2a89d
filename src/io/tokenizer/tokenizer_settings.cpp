// What transformers' from_pretrained() reads beside the tokenizer's own file, in its order.
#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "rillkv/quotes.h"
#include "src/io/json_reader.h"
#include "src/io/tokenizer/tokenizers.h"

namespace rillkv::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kStandardTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                           "pad_token", "cls_token", "mask_token"};

bool is_standard(const std::string& key) {
  return std::find(std::begin(kStandardTokens), std::end(kStandardTokens), key) !=
         std::end(kStandardTokens);
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// A later value of a key replaces an earlier one: special_tokens_map.json goes last.
void set_named(TokenizerSettings& settings, const std::string& key,
               std::optional<AddedToken> token) {
  for (auto& [known, value] : settings.named_tokens) {
    if (known == key) {
      value = std::move(token);
      return;
    }
  }
  settings.named_tokens.emplace_back(key, std::move(token));
}

void add_extra(TokenizerSettings& settings, const std::vector<AddedToken>& added) {
  auto& tokens = settings.extra_tokens;
  for (const AddedToken& token : added) {
    const auto known = [&](const AddedToken& other) { return other.spelling == token.spelling; };
    if (std::none_of(tokens.begin(), tokens.end(), known)) tokens.push_back(token);
  }
}

// Special tokens by their role; returns those that have none, by the list that they stand in.
std::vector<std::pair<std::string, std::vector<AddedToken>>> read_special_tokens(
    const JsonReader& reader, const json& root, const std::string& where,
    TokenizerSettings& settings) {
  std::vector<std::pair<std::string, std::vector<AddedToken>>> found;
  const auto read = [&](const std::string& key, const json& value) {
    std::optional<AddedToken> token;
    if (!value.is_null()) token = read_added_token(value, where + ": key \"" + key + "\"", true);
    set_named(settings, key, std::move(token));
  };
  for (const char* key : kStandardTokens) {
    if (reader.present(key)) read(key, root[key]);
  }
  // "image_token" and the like; "add_bos_token" and its like are no tokens.
  for (const auto& [key, value] : root.items()) {
    if (!is_standard(key) && ends_with(key, "_token") && (value.is_string() || value.is_object())) {
      read(key, value);
    }
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const json* extra = reader.find(key);
    if (extra == nullptr) continue;
    if (extra->is_object()) {
      for (const auto& [name, value] : extra->items()) read(name, value);
      continue;
    }
    if (!extra->is_array()) reader.fail(key, "an array or an object");
    std::vector<AddedToken> tokens;
    for (const json& value : *extra) {
      tokens.push_back(read_added_token(value, reader.name(key), true));
    }
    found.emplace_back(key, std::move(tokens));
  }
  return found;
}

void read_added_tokens_decoder(const JsonReader& reader, TokenizerSettings& settings) {
  const json* tokens = reader.find("added_tokens_decoder");
  if (tokens == nullptr) return;
  if (!tokens->is_object()) reader.fail("added_tokens_decoder", "an object");
  settings.has_added_tokens_decoder = true;
  for (const auto& [id, token] : tokens->items()) {
    const bool number =
        !id.empty() && id.size() < 10 &&
        std::all_of(id.begin(), id.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!number) reader.fail("added_tokens_decoder", "token ids as keys");
    if (!token.is_object()) reader.fail("added_tokens_decoder", "an object for id " + id);
    AddedToken added = read_added_token(token, reader.name("added_tokens_decoder"), false);
    added.id = std::strtoll(id.c_str(), nullptr, 10);
    settings.added_tokens.push_back(std::move(added));
  }
}

// Files that tokenizer_config.json's added_tokens_decoder replaces.
void read_older_files(const fs::path& folder, TokenizerSettings& settings) {
  if (settings.has_added_tokens_decoder) return;
  std::vector<AddedToken> older_extra;
  const std::string map_path = (folder / "special_tokens_map.json").string();
  if (is_file(map_path)) {
    const json root = read_json_object(map_path);
    for (auto& [key, tokens] :
         read_special_tokens(JsonReader(root, map_path), root, map_path, settings)) {
      if (key == "extra_special_tokens") {
        add_extra(settings, tokens);
      } else {
        older_extra = std::move(tokens);
      }
    }
  }
  const std::string added_path = (folder / "added_tokens.json").string();
  if (is_file(added_path)) {
    const json root = read_json_object(added_path);
    const JsonReader reader(root, added_path);
    for (const auto& item : root.items()) {
      AddedToken token;
      token.spelling = item.key();
      token.id = reader.required_integer(item.key().c_str(), 0, 1 << 28);
      const auto same = [&](const AddedToken& other) { return other.spelling == token.spelling; };
      const auto named = [&](const auto& entry) {
        return is_standard(entry.first) && entry.second && same(*entry.second);
      };
      token.special =
          std::any_of(settings.named_tokens.begin(), settings.named_tokens.end(), named) ||
          std::any_of(settings.extra_tokens.begin(), settings.extra_tokens.end(), same);
      token.normalized = !token.special;
      settings.added_tokens.push_back(std::move(token));
    }
  }
  // Read, but after what added_tokens.json makes of them, and only if there is nothing newer.
  if (settings.extra_tokens.empty()) add_extra(settings, older_extra);
}

std::string spelling(const TokenizerSettings& settings, const char* key) {
  for (const auto& [known, token] : settings.named_tokens) {
    if (known == key && token) return token->spelling;
  }
  return "";
}

}  // namespace

AddedToken read_added_token(const json& value, const std::string& where, bool special) {
  AddedToken token;
  token.special = special;
  if (value.is_string()) {
    token.spelling = value.get<std::string>();
    token.normalized = !special;
    return token;
  }
  RILLKV_CHECK(value.is_object(), where, ": expected a token's spelling or an object, found ",
               in_quotes(value.dump(-1, ' ', true, json::error_handler_t::replace)));
  const JsonReader reader(value, where);
  const auto content = reader.string("content");
  if (!content) reader.fail("content", "a string");
  token.spelling = *content;
  token.special = reader.boolean("special").value_or(special) || special;
  token.normalized = reader.boolean("normalized").value_or(!token.special);
  token.single_word = reader.boolean("single_word").value_or(false);
  token.lstrip = reader.boolean("lstrip").value_or(false);
  token.rstrip = reader.boolean("rstrip").value_or(false);
  return token;
}

TokenizerSettings read_tokenizer_settings(const std::string& folder_name) {
  const fs::path folder = folder_name;
  TokenizerSettings settings;
  const std::string config_path = (folder / "tokenizer_config.json").string();
  if (is_file(config_path)) {
    const json root = read_json_object(config_path);
    const JsonReader reader(root, config_path);
    settings.has_config = true;
    if (reader.present("add_bos_token") || reader.present("add_eos_token")) {
      // One of the two decides both, as in transformers.
      settings.add_bos = reader.boolean("add_bos_token").value_or(false);
    }
    settings.add_eos = reader.boolean("add_eos_token").value_or(false);
    if (reader.present("legacy")) settings.legacy = reader.boolean("legacy").value_or(false);
    settings.add_prefix_space = reader.boolean("add_prefix_space").value_or(true);
    settings.split_special_tokens = reader.boolean("split_special_tokens").value_or(false);
    settings.tokenizer_class = reader.string("tokenizer_class").value_or("");
    for (const auto& [key, tokens] : read_special_tokens(reader, root, config_path, settings)) {
      // additional_special_tokens is the older name; the newer key wins where it says something.
      if (key == "extra_special_tokens" && !tokens.empty()) settings.extra_tokens.clear();
      add_extra(settings, tokens);
    }
    read_added_tokens_decoder(reader, settings);
  }
  read_older_files(folder, settings);
  std::stable_sort(settings.added_tokens.begin(), settings.added_tokens.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  settings.bos_token = spelling(settings, "bos_token");
  settings.eos_token = spelling(settings, "eos_token");
  const std::string model_path = (folder / "config.json").string();
  if (is_file(model_path)) {
    const json root = read_json_object(model_path);
    const JsonReader reader(root, model_path);
    settings.model_type = reader.string("model_type").value_or("");
    if (settings.tokenizer_class.empty()) {
      settings.tokenizer_class = reader.string("tokenizer_class").value_or("");
    }
  }
  return settings;
}

}  // namespace rillkv::io
