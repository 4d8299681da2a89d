#include <map>
#include <unordered_map>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/quotes.h"
#include "src/io/bpe_model.h"
#include "src/io/json_reader.h"
#include "src/io/nfc.h"
#include "src/io/pre_tokenizer.h"
#include "src/io/special_tokens.h"
#include "src/io/tokenizers.h"
#include "src/io/utf8.h"

namespace rillkv::io {
namespace {

using nlohmann::json;

bool contains_type(const json& section, const char* type) {
  if (!section.is_object()) return false;
  if (section.value("type", json()) == type) return true;
  for (const char* list : {"pretokenizers", "processors", "decoders"}) {
    const auto found = section.find(list);
    if (found == section.end() || !found->is_array()) continue;
    for (const json& item : *found) {
      if (contains_type(item, type)) return true;
    }
  }
  return false;
}

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(const json& root, const std::string& path, const TokenizerSettings& settings)
      : model_(section(root, "model"), alphabet_, path + ": model"),
        pre_tokenizer_(section(root, "pre_tokenizer"), path + ": pre_tokenizer") {
    const JsonReader reader(root, path);
    if (reader.has("normalizer")) {
      nfc_ = section(root, "normalizer") == json{{"type", "NFC"}};
      if (!nfc_) reader.fail("normalizer", "null or {\"type\":\"NFC\"}");
    }
    if (!contains_type(section(root, "decoder"), "ByteLevel")) {
      reader.fail("decoder", "type ByteLevel");
    }
    for (const auto& [token, id] : model_.vocabulary()) add_token(token, id, path);
    read_added_tokens(reader);
    if (reader.has("post_processor")) {
      read_post_processor(section(root, "post_processor"), path + ": post_processor");
    }
    bos_id_ = token_to_id(settings.bos_token).value_or(-1);
    eos_id_ = token_to_id(settings.eos_token).value_or(-1);
  }

  using Tokenizer::encode;
  std::vector<int64_t> encode(const std::vector<TextPart>& parts, bool add_bos) const override {
    std::vector<TextOrToken> items;
    for (const TextPart& part : parts) {
      part.trusted ? all_added_.split(part.text, items) : append_text(part.text, items);
    }
    std::vector<int64_t> ids;
    if (add_bos) ids = prefix_;
    WordCache cache;
    for (const TextOrToken& item : items) {
      if (const auto* id = std::get_if<int64_t>(&item)) {
        ids.push_back(*id);
        continue;
      }
      // Tokens that were added without being special cannot forge anything: cut in any text.
      std::vector<TextOrToken> plain;
      ordinary_added_.split(std::get<std::string>(item), plain);
      for (const TextOrToken& inner : plain) {
        if (const auto* id = std::get_if<int64_t>(&inner)) {
          ids.push_back(*id);
        } else {
          encode_text(std::get<std::string>(inner), cache, ids);
        }
      }
    }
    return ids;
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()); }

  std::optional<int64_t> token_to_id(std::string_view token) const override {
    if (const auto found = added_.find(std::string(token)); found != added_.end()) {
      return found->second;
    }
    const auto found = model_.vocabulary().find(std::string(token));
    if (found == model_.vocabulary().end()) return std::nullopt;
    return found->second;
  }

  bool is_special(int64_t id) const override {
    return id >= 0 && id < vocab_size() && special_[static_cast<size_t>(id)];
  }

 protected:
  std::string token_bytes(int64_t id) const override { return bytes_[static_cast<size_t>(id)]; }

 private:
  using WordCache = std::unordered_map<std::string, std::vector<int64_t>>;

  static const json& section(const json& root, const char* key) {
    static const json kNull;
    const auto found = root.find(key);
    return found == root.end() ? kNull : *found;
  }

  void add_token(const std::string& token, int64_t id, const std::string& path) {
    constexpr int64_t kLargestId = 1 << 28;
    RILLKV_CHECK(id >= 0 && id <= kLargestId, path, ": id ", id, " of token ", in_quotes(token),
                 " is out of range");
    const auto index = static_cast<size_t>(id);
    if (index >= bytes_.size()) {
      bytes_.resize(index + 1);
      special_.resize(index + 1);
    }
    // A spelling with characters outside the alphabet stands for itself.
    bytes_[index] = alphabet_.to_bytes(token).value_or(token);
  }

  void read_added_tokens(const JsonReader& root) {
    const json* list = root.find("added_tokens");
    if (list == nullptr) return;
    if (!list->is_array()) root.fail("added_tokens", "an array");
    for (const json& item : *list) {
      const JsonReader reader(item, root.name("added_tokens"));
      const auto content = reader.string("content");
      if (!content || content->empty()) reader.fail("content", "a non-empty string");
      const int64_t id = reader.required_integer("id", 0, 1 << 28);
      for (const char* key : {"lstrip", "rstrip", "single_word"}) {
        if (reader.boolean(key).value_or(false)) {
          reader.fail(key, "false for token " + in_quotes(*content));
        }
      }
      const bool special = reader.boolean("special").value_or(false);
      add_token(*content, id, root.name("added_tokens"));
      special_[static_cast<size_t>(id)] = special;
      added_[*content] = id;
      all_added_.add(*content, id);
      if (!special) ordinary_added_.add(*content, id);
    }
    all_added_.finish();
    ordinary_added_.finish();
  }

  // What comes before the text; what a template puts after it (EOS) is not for prompts.
  void read_post_processor(const json& processor, const std::string& where) {
    const JsonReader reader(processor, where);
    const std::string type = reader.string("type").value_or("");
    if (type == "ByteLevel") return;  // concerns offsets only
    if (type == "Sequence") {
      const json* list = reader.find("processors");
      if (list == nullptr || !list->is_array()) reader.fail("processors", "an array");
      for (const json& item : *list) read_post_processor(item, where);
      return;
    }
    if (type != "TemplateProcessing") {
      reader.fail("type", "ByteLevel, TemplateProcessing or Sequence");
    }
    const json* single = reader.find("single");
    if (single == nullptr || !single->is_array()) reader.fail("single", "an array");
    for (const json& item : *single) {
      RILLKV_CHECK(item.is_object() && item.size() == 1, where,
                   ": \"single\" must hold SpecialToken and Sequence objects");
      if (item.contains("Sequence")) return;
      const auto& special = section(item, "SpecialToken");
      const JsonReader token(special, where + ": SpecialToken");
      const std::string name = token.string("id").value_or("");
      const auto id = token_to_id(name);
      RILLKV_CHECK(id, where, ": SpecialToken ", in_quotes(name), " is not in the vocab");
      prefix_.push_back(*id);
    }
  }

  void encode_text(const std::string& text, WordCache& cache, std::vector<int64_t>& ids) const {
    // Natural text repeats its words; other pieces are not worth remembering.
    constexpr size_t kLongestCached = 32;
    constexpr size_t kMostCached = 1 << 17;
    std::string changed;
    if (!is_utf8(text)) changed = replace_invalid_utf8(text);
    if (nfc_) changed = normalize_nfc(changed.empty() ? text : changed);
    pre_tokenizer_.split(changed.empty() ? text : changed, [&](std::string_view piece) {
      if (piece.size() > kLongestCached) {
        model_.encode(piece, ids);
        return;
      }
      std::string key(piece);
      auto found = cache.find(key);
      if (found == cache.end()) {
        std::vector<int64_t> tokens;
        model_.encode(piece, tokens);
        if (cache.size() >= kMostCached) cache.clear();
        found = cache.emplace(std::move(key), std::move(tokens)).first;
      }
      ids.insert(ids.end(), found->second.begin(), found->second.end());
    });
  }

  bool nfc_ = false;
  ByteAlphabet alphabet_;
  BpeModel model_;
  PreTokenizer pre_tokenizer_;
  std::map<std::string, int64_t> added_;
  SpecialTokens all_added_;
  SpecialTokens ordinary_added_;
  std::vector<std::string> bytes_;  // by id
  std::vector<bool> special_;       // by id
  std::vector<int64_t> prefix_;     // before every text when BOS is asked for
};

}  // namespace

bool is_byte_level_bpe(const json& root) {
  const auto model = root.find("model");
  if (model == root.end() || !model->is_object()) return false;
  // Older files leave the type out; only BPE has merges.
  const bool bpe = model->value("type", json("BPE")) == "BPE" && model->contains("merges");
  const auto pre_tokenizer = root.find("pre_tokenizer");
  return bpe && pre_tokenizer != root.end() && contains_type(*pre_tokenizer, "ByteLevel");
}

std::unique_ptr<Tokenizer> make_bpe_tokenizer(const json& root, const std::string& path,
                                              const TokenizerSettings& settings) {
  return std::make_unique<BpeTokenizer>(root, path, settings);
}

}  // namespace rillkv::io
