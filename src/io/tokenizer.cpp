#include "rillkv/tokenizer.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "src/io/json_reader.h"
#include "src/io/tokenizers.h"
#include "src/io/utf8.h"

namespace rillkv {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A token is written as "<s>" or as {"content": "<s>", ...}.
std::string spelling(const io::JsonReader& reader, const char* key) {
  const json* value = reader.find(key);
  if (value == nullptr) return "";
  if (value->is_object())
    return io::JsonReader(*value, reader.name(key)).string("content").value_or("");
  return reader.string(key).value_or("");
}

io::TokenizerSettings read_settings(const fs::path& folder) {
  io::TokenizerSettings settings;
  const fs::path config_path = folder / "tokenizer_config.json";
  if (is_file(config_path)) {
    const json root = io::read_json_object(config_path.string());
    const io::JsonReader reader(root, config_path.string());
    settings.bos_token = spelling(reader, "bos_token");
    settings.eos_token = spelling(reader, "eos_token");
    settings.add_bos = reader.boolean("add_bos_token").value_or(true);
    if (const json* tokens = reader.find("added_tokens_decoder")) {
      if (!tokens->is_object()) reader.fail("added_tokens_decoder", "an object");
      for (const auto& [id, token] : tokens->items()) {
        const io::JsonReader entry(token, reader.name("added_tokens_decoder"));
        const bool number =
            !id.empty() && id.size() < 10 &&
            std::all_of(id.begin(), id.end(), [](char c) { return c >= '0' && c <= '9'; });
        if (!number) reader.fail("added_tokens_decoder", "token ids as keys");
        settings.added_tokens.push_back({entry.string("content").value_or(""),
                                         std::strtoll(id.c_str(), nullptr, 10),
                                         entry.boolean("special").value_or(false)});
      }
    }
  }
  const fs::path added_path = folder / "added_tokens.json";
  if (is_file(added_path)) {
    const json root = io::read_json_object(added_path.string());
    const io::JsonReader reader(root, added_path.string());
    for (const auto& item : root.items()) {
      const auto known = [&](const io::AddedToken& token) { return token.spelling == item.key(); };
      const auto& tokens = settings.added_tokens;
      if (std::any_of(tokens.begin(), tokens.end(), known)) continue;
      const int64_t id = reader.required_integer(item.key().c_str(), 0, 1 << 28);
      settings.added_tokens.push_back({item.key(), id, true});
    }
  }
  return settings;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& folder) {
  const fs::path json_path = fs::path(folder) / "tokenizer.json";
  const fs::path model_path = fs::path(folder) / "tokenizer.model";
  const bool has_model = is_file(model_path);
  const io::TokenizerSettings settings = read_settings(folder);
  if (is_file(json_path)) {
    const json root = io::read_json_object(json_path.string());
    if (io::is_byte_level_bpe(root)) {
      return io::make_bpe_tokenizer(root, json_path.string(), settings);
    }
    RILLKV_CHECK(has_model, json_path.string(),
                 ": expected a byte-level BPE, or a tokenizer.model beside it");
  }
  RILLKV_CHECK(has_model, folder, ": neither tokenizer.json nor tokenizer.model is there");
  return io::make_sentencepiece_tokenizer(model_path.string(), settings);
}

std::vector<int64_t> Tokenizer::encode(std::string_view text, bool add_bos,
                                       bool parse_special) const {
  return encode({TextPart{std::string(text), parse_special}}, add_bos);
}

std::string Tokenizer::decode(const std::vector<int64_t>& ids, bool skip_special) const {
  TextStream stream(*this, skip_special);
  std::string text;
  for (const int64_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

std::string Tokenizer::decode_generated(std::vector<int64_t> ids) const {
  std::erase_if(ids, [&](int64_t id) { return id >= vocab_size(); });
  return decode(ids);
}

TextStream::TextStream(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string TextStream::push(int64_t id) {
  RILLKV_CHECK(id >= 0 && id < tokenizer_.vocab_size(), "token id ", id,
               " is out of range: the tokenizer has ids 0..", tokenizer_.vocab_size() - 1);
  if (skip_special_ && tokenizer_.is_special(id)) return "";
  std::string bytes = tokenizer_.token_bytes(id);
  if (at_start_ && tokenizer_.has_prefix_space(id)) bytes.erase(0, 1);
  at_start_ = false;
  pending_ += bytes;

  // Everything but a character that the next token may complete.
  size_t ready = 0;
  while (ready < pending_.size()) {
    const io::Utf8Step step = io::utf8_step(std::string_view(pending_).substr(ready));
    if (step.truncated) break;
    ready += step.length;
  }
  std::string text = io::replace_invalid_utf8(std::string_view(pending_).substr(0, ready));
  pending_.erase(0, ready);
  return text;
}

std::string TextStream::finish() {
  std::string text = io::replace_invalid_utf8(pending_);
  pending_.clear();
  at_start_ = true;
  return text;
}

}  // namespace rillkv
