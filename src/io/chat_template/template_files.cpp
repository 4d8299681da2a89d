#include "src/io/chat_template/template_files.h"

#include <filesystem>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "rillkv/quotes.h"
#include "src/io/json_reader.h"

namespace rillkv::io::jinja {
namespace {

namespace fs = std::filesystem;

void add_files(const fs::path& folder, std::map<std::string, TemplateSource>& templates) {
  const fs::path own = folder / "chat_template.jinja";
  if (is_file(own.string())) templates["default"] = {read_file(own.string()), own.string()};
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder / "additional_chat_templates", error)) {
    const std::string path = entry.path().string();
    if (entry.path().extension() != ".jinja" || !is_file(path)) continue;
    templates[entry.path().stem().string()] = {read_file(path), path};
  }
}

void add_configured(const nlohmann::json& value, const std::string& path,
                    std::map<std::string, TemplateSource>& templates) {
  const std::string where = str_cat(path, ": chat_template");
  if (value.is_null()) return;
  if (value.is_string()) {
    templates["default"] = {value.get<std::string>(), where};
    return;
  }
  RILLKV_CHECK(value.is_array(), where,
               ": expected a string or a list of {\"name\", \"template\"}, found ",
               value.type_name());
  for (const nlohmann::json& entry : value) {
    const JsonReader reader(entry, where);
    const auto name = reader.string("name");
    const auto text = reader.string("template");
    if (!name) reader.fail("name", "a string");
    if (!text) reader.fail("template", "a string");
    templates[*name] = {*text, str_cat(where, " ", in_quotes(*name))};
  }
}

constexpr const char* kTokenKeys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                      "pad_token", "cls_token", "mask_token"};

/// A token is a string or {"content": string, ...}.
void add_tokens(const nlohmann::json& root, const std::string& path, Dict& tokens) {
  for (const char* key : kTokenKeys) {
    const auto found = root.find(key);
    if (found == root.end() || found->is_null()) continue;
    const nlohmann::json* text = &*found;
    if (found->is_object() && found->contains("content")) text = &(*found)["content"];
    RILLKV_CHECK(text->is_string(), path, ": key \"", key, "\": expected a token's text, found ",
                 text->type_name());
    tokens.set(key, Value::own(text->get<std::string>()));
  }
}

}  // namespace

std::map<std::string, TemplateSource> find_templates(const std::string& folder) {
  std::map<std::string, TemplateSource> templates;
  add_files(folder, templates);
  if (!templates.empty()) return templates;
  const std::string path = (fs::path(folder) / "tokenizer_config.json").string();
  if (!is_file(path)) return templates;
  const nlohmann::json root = read_json_object(path);
  if (const auto found = root.find("chat_template"); found != root.end()) {
    add_configured(*found, path, templates);
  }
  return templates;
}

Dict find_special_tokens(const std::string& folder) {
  Dict tokens;
  bool complete = false;
  const std::string config = (fs::path(folder) / "tokenizer_config.json").string();
  if (is_file(config)) {
    const nlohmann::json root = read_json_object(config);
    add_tokens(root, config, tokens);
    complete = root.contains("added_tokens_decoder");
  }
  const std::string legacy = (fs::path(folder) / "special_tokens_map.json").string();
  if (!complete && is_file(legacy)) add_tokens(read_json_object(legacy), legacy, tokens);
  return tokens;
}

}  // namespace rillkv::io::jinja
