#include <algorithm>
#include <unordered_map>
#include <utility>

#include "src/io/json_reader.h"
#include "src/io/tokenizer/added_vocabulary.h"
#include "src/io/tokenizer/bpe_model.h"
#include "src/io/tokenizer/decoder.h"
#include "src/io/tokenizer/llama_tokenizer.h"
#include "src/io/tokenizer/normalizer.h"
#include "src/io/tokenizer/post_processor.h"
#include "src/io/tokenizer/pre_tokenizer.h"
#include "src/io/tokenizer/tokenizers.h"

namespace rillkv::io {
namespace {

using nlohmann::json;

const json& section(const json& root, const char* key) {
  static const json kNull;
  const auto found = root.find(key);
  return found == root.end() ? kNull : *found;
}

// The file's own added tokens, in its order.
std::vector<AddedToken> read_added_tokens(const json& root, const std::string& path) {
  const JsonReader file(root, path);
  std::vector<AddedToken> tokens;
  const json* list = file.find("added_tokens");
  if (list == nullptr) return tokens;
  if (!list->is_array()) file.fail("added_tokens", "an array");
  for (const json& item : *list) {
    const std::string where = file.name("added_tokens");
    const JsonReader reader(item, where);
    AddedToken token = read_added_token(item, where, false);
    if (token.spelling.empty()) reader.fail("content", "a non-empty string");
    token.id = reader.required_integer("id", 0, 1 << 28);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// In transformers' order: it decides the ids of those that the model's vocabulary lacks.
void add_tokens(std::vector<AddedToken> tokens, bool rebuilt, const TokenizerSettings& settings,
                AddedVocabulary& vocabulary) {
  // A token that has a role is special whatever its flags say; its other flags stay.
  const auto with_role = [&](AddedToken token) {
    for (const auto& [key, named] : settings.named_tokens) {
      token.special |= named && named->spelling == token.spelling;
    }
    return token;
  };
  std::vector<AddedToken> beside = settings.added_tokens;
  for (AddedToken& token : beside) token = with_role(token);
  if (!settings.has_added_tokens_decoder) {
    for (AddedToken& token : tokens) token = with_role(token);
  }
  if (rebuilt) {
    // By id; the file's count where both say something.
    for (const AddedToken& token : beside) {
      const auto same = [&](const AddedToken& other) { return other.id == token.id; };
      if (std::none_of(tokens.begin(), tokens.end(), same)) tokens.push_back(token);
    }
    std::stable_sort(tokens.begin(), tokens.end(),
                     [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  } else {
    tokens.insert(tokens.end(), beside.begin(), beside.end());
  }
  for (const AddedToken& token : tokens) vocabulary.add(token);
  const auto add_new = [&](const AddedToken& token) {
    const auto same = [&](const AddedToken& other) { return other.spelling == token.spelling; };
    const auto& known = vocabulary.tokens();
    if (std::none_of(known.begin(), known.end(), same)) vocabulary.add(token);
  };
  for (const auto& [key, token] : settings.named_tokens) {
    if (token) add_new(*token);
  }
  for (const AddedToken& token : settings.extra_tokens) add_new(token);
}

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(const json& root, const std::string& path, bool rebuilt,
               const TokenizerSettings& settings)
      : pre_tokenizer_(section(root, "pre_tokenizer"), path + ": pre_tokenizer"),
        normalizer_(section(root, "normalizer"), path + ": normalizer"),
        decoder_(section(root, "decoder"), path + ": decoder"),
        model_(section(root, "model"), pre_tokenizer_.is_byte_level(), path + ": model"),
        added_(model_.vocabulary(), path),
        trusts_nothing_(settings.split_special_tokens) {
    if (pre_tokenizer_.is_byte_level() && !decoder_.is_byte_level()) {
      JsonReader(root, path).fail("decoder", "type ByteLevel");
    }
    add_tokens(read_added_tokens(root, path), rebuilt, settings, added_);
    added_.finish(normalizer_);
    for (const auto& [token, id] : model_.vocabulary()) describe(token, id, false);
    for (size_t i = 0; i < added_.tokens().size(); ++i) {
      describe(added_.texts()[i], added_.tokens()[i].id, added_.tokens()[i].special);
    }
    prefix_ = read_prefix(section(root, "post_processor"), path + ": post_processor", vocab_size());
    for (const auto& [key, token] : settings.named_tokens) {
      if (!token) continue;
      if (key == "bos_token") bos_id_ = token_to_id(token->spelling).value_or(-1);
      if (key == "eos_token") eos_id_ = token_to_id(token->spelling).value_or(-1);
    }
  }

  using Tokenizer::encode;
  std::vector<int64_t> encode(const std::vector<TextPart>& parts, bool add_bos) const override {
    MarkedText text = MarkedText::join(parts);
    if (trusts_nothing_) text.marks.clear();
    std::vector<int64_t> ids;
    if (add_bos) ids = prefix_;
    WordCache cache;
    added_.split(
        text, normalizer_, [&](int64_t id) { ids.push_back(id); },
        [&](std::string_view part, bool begins_input) {
          pre_tokenizer_.split(part, begins_input,
                               [&](std::string_view word) { encode_word(word, cache, ids); });
        });
    return ids;
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()); }

  std::optional<int64_t> token_to_id(std::string_view token) const override {
    return added_.find(std::string(token));
  }

  bool is_special(int64_t id) const override {
    return id >= 0 && id < vocab_size() && special_[static_cast<size_t>(id)];
  }

 protected:
  std::string token_bytes(int64_t id) const override { return bytes_[static_cast<size_t>(id)]; }

  bool has_prefix_space(int64_t id) const override {
    const std::string& bytes = bytes_[static_cast<size_t>(id)];
    return decoder_.strips_first_space() && !bytes.empty() && bytes[0] == ' ';
  }

 private:
  using WordCache = std::unordered_map<std::string, std::vector<int64_t>>;

  void describe(const std::string& token, int64_t id, bool special) {
    const auto index = static_cast<size_t>(id);
    if (index >= bytes_.size()) {
      bytes_.resize(index + 1);
      special_.resize(index + 1);
    }
    bytes_[index] = decoder_.bytes(token);
    special_[index] = special;
  }

  void encode_word(std::string_view word, WordCache& cache, std::vector<int64_t>& ids) const {
    // Natural text repeats its words; other pieces are not worth remembering.
    constexpr size_t kLongestCached = 32;
    constexpr size_t kMostCached = 1 << 17;
    if (word.size() > kLongestCached) {
      model_.encode(word, ids);
      return;
    }
    std::string key(word);
    auto found = cache.find(key);
    if (found == cache.end()) {
      std::vector<int64_t> tokens;
      model_.encode(word, tokens);
      if (cache.size() >= kMostCached) cache.clear();
      found = cache.emplace(std::move(key), std::move(tokens)).first;
    }
    ids.insert(ids.end(), found->second.begin(), found->second.end());
  }

  PreTokenizer pre_tokenizer_;
  Normalizer normalizer_;
  Decoder decoder_;
  BpeModel model_;
  AddedVocabulary added_;
  bool trusts_nothing_;
  std::vector<std::string> bytes_;  // by id
  std::vector<bool> special_;       // by id
  std::vector<int64_t> prefix_;     // before every text when BOS is asked for
};

}  // namespace

bool is_bpe(const json& root) {
  const auto model = root.find("model");
  if (model == root.end() || !model->is_object()) return false;
  // Older files leave the type out; only BPE has merges.
  return model->value("type", json("BPE")) == "BPE" && model->contains("merges");
}

std::unique_ptr<Tokenizer> make_bpe_tokenizer(json root, const std::string& path,
                                              const TokenizerSettings& settings) {
  TokenizerSettings changed = settings;
  const bool rebuilt = is_rebuilt_as_llama(root, settings);
  if (rebuilt) rebuild_as_llama(root, changed);
  return std::make_unique<BpeTokenizer>(root, path, rebuilt, changed);
}

}  // namespace rillkv::io
