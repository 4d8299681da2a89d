#include "rillkv/tokenizer.h"

#include <filesystem>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "src/io/json_reader.h"
#include "src/io/tokenizer/tokenizers.h"
#include "src/io/utf8.h"

namespace rillkv {
std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& folder) {
  namespace fs = std::filesystem;
  const fs::path json_path = fs::path(folder) / "tokenizer.json";
  const fs::path model_path = fs::path(folder) / "tokenizer.model";
  const bool has_model = is_file(model_path);
  const io::TokenizerSettings settings = io::read_tokenizer_settings(folder);
  if (is_file(json_path)) {
    nlohmann::json root = io::read_json_object(json_path.string());
    if (io::is_bpe(root)) {
      return io::make_bpe_tokenizer(std::move(root), json_path.string(), settings);
    }
    RILLKV_CHECK(has_model, json_path.string(),
                 ": expected a model of type BPE, or a tokenizer.model beside the file");
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

std::string Tokenizer::decode_generated(const std::vector<int64_t>& ids,
                                        const std::vector<int64_t>& prompt) const {
  TextStream stream(*this, /*skip_special=*/true, prompt);
  std::string text;
  for (const int64_t id : ids) {
    if (id < vocab_size()) text += stream.push(id);
  }
  return text + stream.finish();
}

TextStream::TextStream(const Tokenizer& tokenizer, bool skip_special,
                       const std::vector<int64_t>& prompt)
    : tokenizer_(tokenizer), skip_special_(skip_special) {
  for (const int64_t id : prompt) {
    if (id < tokenizer.vocab_size()) push(id);
  }
}

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
