#include <sentencepiece_processor.h>

#include <unordered_map>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "rillkv/quotes.h"
#include "src/io/special_tokens.h"
#include "src/io/tokenizers.h"
#include "src/io/utf8.h"

namespace rillkv::io {
namespace {

constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";  // U+2581, a space inside a piece

// A text between special tokens is encoded by itself, so each begins with the prefix space: the
// behaviour that transformers call "legacy", which LLaMA 1 and 2 were trained with.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::string& path, const TokenizerSettings& settings)
      : path_(path), add_bos_(settings.add_bos) {
    // Parsed from memory: the library's own file reading logs to stderr.
    const std::string model = read_file(path);
    const auto status = processor_.LoadFromSerializedProto(model);
    RILLKV_CHECK(status.ok(), path, ": not a sentencepiece model (", status.error_message(), ")");
    const int count = processor_.GetPieceSize();
    RILLKV_CHECK(count > 0, path, ": the sentencepiece model has no pieces");
    pieces_.resize(static_cast<size_t>(count));
    for (int id = 0; id < count; ++id) read_piece(id);
    for (const AddedToken& token : settings.added_tokens) add(token);
    all_added_.finish();
    ordinary_added_.finish();

    bos_id_ = token_to_id(settings.bos_token).value_or(processor_.bos_id());
    eos_id_ = token_to_id(settings.eos_token).value_or(processor_.eos_id());
    std::vector<std::string> probe;
    check(processor_.Encode("a", &probe));
    has_dummy_prefix_ = !probe.empty() && probe[0].rfind(kSpaceSymbol, 0) == 0;
  }

  using Tokenizer::encode;
  std::vector<int64_t> encode(const std::vector<TextPart>& parts, bool add_bos) const override {
    std::vector<TextOrToken> items;
    for (const TextPart& part : parts) {
      part.trusted ? all_added_.split(part.text, items) : append_text(part.text, items);
    }
    std::vector<int64_t> ids;
    if (add_bos && add_bos_ && bos_id_ >= 0) ids.push_back(bos_id_);
    for (const TextOrToken& item : items) {
      if (const auto* id = std::get_if<int64_t>(&item)) {
        ids.push_back(*id);
        continue;
      }
      std::vector<TextOrToken> plain;
      ordinary_added_.split(std::get<std::string>(item), plain);
      for (const TextOrToken& inner : plain) {
        if (const auto* id = std::get_if<int64_t>(&inner)) {
          ids.push_back(*id);
        } else {
          encode_text(std::get<std::string>(inner), ids);
        }
      }
    }
    return ids;
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(pieces_.size()); }

  std::optional<int64_t> token_to_id(std::string_view token) const override {
    const auto found = ids_.find(std::string(token));
    if (found == ids_.end()) return std::nullopt;
    return found->second;
  }

  bool is_special(int64_t id) const override {
    return id >= 0 && id < vocab_size() && pieces_[static_cast<size_t>(id)].special;
  }

 protected:
  std::string token_bytes(int64_t id) const override {
    return pieces_[static_cast<size_t>(id)].bytes;
  }

  bool has_prefix_space(int64_t id) const override {
    return has_dummy_prefix_ && pieces_[static_cast<size_t>(id)].prefix_space;
  }

 private:
  struct Piece {
    std::string bytes;
    bool special = false;
    bool prefix_space = false;
  };

  void check(const sentencepiece::util::Status& status) const {
    RILLKV_CHECK(status.ok(), path_, ": sentencepiece failed: ", status.error_message());
  }

  void read_piece(int id) {
    const std::string& text = processor_.IdToPiece(id);
    ids_.emplace(text, id);
    Piece& piece = pieces_[static_cast<size_t>(id)];
    if (processor_.IsControl(id)) {
      piece.bytes = text;
      piece.special = true;
      all_added_.add(text, id);
    } else if (processor_.IsUnknown(id)) {
      piece.bytes = " \xe2\x81\x87 ";  // what the package prints for it
    } else if (processor_.IsByte(id)) {
      piece.bytes = std::string(1, static_cast<char>(byte_value(text)));
    } else {
      for (size_t i = 0; i < text.size();) {
        const bool space = std::string_view(text).substr(i, kSpaceSymbol.size()) == kSpaceSymbol;
        piece.bytes += space ? ' ' : text[i];
        i += space ? kSpaceSymbol.size() : 1;
      }
      piece.prefix_space = text.rfind(kSpaceSymbol, 0) == 0;
    }
  }

  // Byte pieces are spelt "<0x0A>".
  int byte_value(const std::string& text) const {
    int value = 0;
    bool valid = text.size() == 6 && text.rfind("<0x", 0) == 0 && text[5] == '>';
    for (size_t i = 3; valid && i < 5; ++i) {
      const char c = text[i];
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      valid = digit >= 0;
      value = value * 16 + digit;
    }
    RILLKV_CHECK(valid, path_, ": ", in_quotes(text), " is not the spelling of a byte piece");
    return value;
  }

  void add(const AddedToken& token) {
    constexpr int64_t kLargestId = 1 << 28;
    RILLKV_CHECK(token.id >= 0 && token.id <= kLargestId, path_, ": id ", token.id,
                 " of added token ", in_quotes(token.spelling), " is out of range");
    const auto index = static_cast<size_t>(token.id);
    if (index < pieces_.size()) {
      const auto known = ids_.find(token.spelling);
      RILLKV_CHECK(known != ids_.end() && known->second == token.id, path_, ": added token ",
                   in_quotes(token.spelling), " has id ", token.id, ", which the model gives to ",
                   in_quotes(pieces_[index].bytes));
      // <unk> is listed among the added tokens too, but is not cut out of texts.
      if (processor_.IsControl(static_cast<int>(token.id)) || pieces_[index].special) return;
      if (processor_.IsUnknown(static_cast<int>(token.id))) return;
    } else {
      pieces_.resize(index + 1);
      pieces_[index].bytes = token.spelling;
      ids_[token.spelling] = token.id;
    }
    pieces_[index].special = token.special;
    all_added_.add(token.spelling, token.id);
    if (!token.special) ordinary_added_.add(token.spelling, token.id);
  }

  void encode_text(const std::string& text, std::vector<int64_t>& ids) const {
    std::vector<int> pieces;
    check(processor_.Encode(is_utf8(text) ? text : replace_invalid_utf8(text), &pieces));
    ids.insert(ids.end(), pieces.begin(), pieces.end());
  }

  std::string path_;
  bool add_bos_;
  bool has_dummy_prefix_ = false;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<Piece> pieces_;  // by id
  std::unordered_map<std::string, int64_t> ids_;
  SpecialTokens all_added_;
  SpecialTokens ordinary_added_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& path,
                                                        const TokenizerSettings& settings) {
  return std::make_unique<SentencePieceTokenizer>(path, settings);
}

}  // namespace rillkv::io
