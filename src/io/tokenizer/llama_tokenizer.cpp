#include "src/io/tokenizer/llama_tokenizer.h"

#include <algorithm>
#include <string>

namespace rillkv::io {
namespace {

using nlohmann::json;

constexpr char kSpaceSymbol[] = "\xe2\x96\x81";  // U+2581

bool is_code_llama(const TokenizerSettings& settings) {
  return settings.tokenizer_class.rfind("CodeLlamaTokenizer", 0) == 0;
}

}  // namespace

bool contains_type(const json& section, const char* type) {
  if (!section.is_object()) return false;
  if (section.value("type", json()) == type) return true;
  for (const char* list : {"normalizers", "pretokenizers", "processors", "decoders"}) {
    const auto found = section.find(list);
    if (found == section.end() || !found->is_array()) continue;
    for (const json& item : *found) {
      if (contains_type(item, type)) return true;
    }
  }
  return false;
}

bool is_rebuilt_as_llama(const json& root, const TokenizerSettings& settings) {
  const std::string& name = settings.tokenizer_class;
  const bool llama = name == "LlamaTokenizer" || name == "LlamaTokenizerFast" ||
                     name == "CodeLlamaTokenizer" || name == "CodeLlamaTokenizerFast";
  if (!llama || settings.model_type == "mistral") return false;
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    const auto section = root.find(key);
    if (section != root.end() && contains_type(*section, "ByteLevel")) return false;
  }
  return true;
}

void rebuild_as_llama(json& root, TokenizerSettings& settings) {
  json& model = root["model"];
  model.erase("unk_token");
  model.erase("ignore_merges");
  model.erase("dropout");
  model["fuse_unk"] = true;
  model["byte_fallback"] = true;
  if (is_code_llama(settings)) model["unk_token"] = "<unk>";

  root.erase("normalizer");
  const bool legacy = !is_code_llama(settings) && settings.legacy.value_or(false);
  const char* scheme = !settings.add_prefix_space ? "never" : legacy ? "always" : "first";
  root["pre_tokenizer"] = {{"type", "Metaspace"},
                           {"replacement", kSpaceSymbol},
                           {"prepend_scheme", scheme},
                           {"split", false}};
  json decoders = {{{"type", "Replace"}, {"pattern", {{"String", kSpaceSymbol}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}};
  if (settings.add_prefix_space || is_code_llama(settings)) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  root["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};

  // What the class itself names where the files do not.
  constexpr const char* kDefaults[][2] = {
      {"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}};
  for (const auto& [key, spelling] : kDefaults) {
    const auto said = [&](const auto& entry) { return entry.first == key; };
    auto& named = settings.named_tokens;
    if (std::any_of(named.begin(), named.end(), said)) continue;
    AddedToken token;
    token.spelling = spelling;
    named.emplace_back(key, token);
  }
  if (is_code_llama(settings) && settings.extra_tokens.empty()) {
    for (const char* spelling : {"\xe2\x96\x81<PRE>", "\xe2\x96\x81<MID>", "\xe2\x96\x81<SUF>",
                                 "\xe2\x96\x81<EOT>", "<FILL_ME>"}) {
      AddedToken token;
      token.spelling = spelling;
      settings.extra_tokens.push_back(token);
    }
  }
  if (settings.has_added_tokens_decoder) root["added_tokens"] = json::array();
}

}  // namespace rillkv::io
