#include <sentencepiece_processor.h>

#include <utility>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "rillkv/log.h"
#include "rillkv/quotes.h"
#include "src/io/tokenizer/added_vocabulary.h"
#include "src/io/tokenizer/decoder.h"
#include "src/io/tokenizer/normalizer.h"
#include "src/io/tokenizer/sentencepiece_proto.h"
#include "src/io/tokenizer/tokenizers.h"

namespace rillkv::io {
namespace {

constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";  // U+2581, a space inside a piece

// Where a space is put in front of a text that has none.
enum class Prefix { kModel, kNever, kFirst, kAlways };

// Without a tokenizer_config.json a text means what the sentencepiece package makes of it, and what
// stands between special tokens is a text of its own: what LLaMA 1 and 2 were trained with. With
// one it means what transformers 5 makes of it: Metaspace instead of the package's dummy prefix,
// "always" with `legacy`, otherwise at the very beginning of a text alone.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::string& path, const TokenizerSettings& settings)
      : path_(path),
        add_bos_(settings.add_bos.value_or(true)),
        prefix_(prefix_of(settings)),
        trusts_nothing_(settings.split_special_tokens),
        normalizer_(nlohmann::json(), path),
        added_(ids_, path) {
    if (settings.add_eos) {
      log(LogLevel::kWarning, str_cat(path,
                                      ": tokenizer_config.json asks for add_eos_token, but "
                                      "prompts get no EOS: they are to be gone on with"));
    }
    // Parsed from memory: the library's own file reading logs to stderr.
    std::string model = read_file(path);
    if (prefix_ != Prefix::kModel) model += kSpacesAsTheyAre;
    const auto status = processor_.LoadFromSerializedProto(model);
    RILLKV_CHECK(status.ok(), path, ": not a sentencepiece model (", status.error_message(), ")");
    const int count = processor_.GetPieceSize();
    RILLKV_CHECK(count > 0, path, ": the sentencepiece model has no pieces");
    pieces_.resize(static_cast<size_t>(count));
    for (int id = 0; id < count; ++id) read_piece(id);
    add_tokens(settings, user_defined_pieces(model));
    added_.finish(normalizer_);
    for (const AddedToken& token : added_.tokens()) describe(token);

    bos_id_ = token_to_id(settings.bos_token).value_or(processor_.bos_id());
    eos_id_ = token_to_id(settings.eos_token).value_or(processor_.eos_id());
    strips_space_ = prefix_ != Prefix::kNever;
    if (prefix_ == Prefix::kModel) {
      std::vector<std::string> probe;
      check(processor_.Encode("a", &probe));
      strips_space_ = !probe.empty() && probe[0].rfind(kSpaceSymbol, 0) == 0;
    }
  }

  using Tokenizer::encode;
  std::vector<int64_t> encode(const std::vector<TextPart>& parts, bool add_bos) const override {
    MarkedText text = MarkedText::join(parts);
    if (trusts_nothing_) text.marks.clear();
    std::vector<int64_t> ids;
    if (add_bos && add_bos_ && bos_id_ >= 0) ids.push_back(bos_id_);
    added_.split(
        text, normalizer_, [&](int64_t id) { ids.push_back(id); },
        [&](std::string_view part, bool begins_input) { encode_text(part, begins_input, ids); });
    return ids;
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(pieces_.size()); }

  std::optional<int64_t> token_to_id(std::string_view token) const override {
    return added_.find(std::string(token));
  }

  bool is_special(int64_t id) const override {
    return id >= 0 && id < vocab_size() && pieces_[static_cast<size_t>(id)].special;
  }

 protected:
  std::string token_bytes(int64_t id) const override {
    return pieces_[static_cast<size_t>(id)].bytes;
  }

  bool has_prefix_space(int64_t id) const override {
    return strips_space_ && pieces_[static_cast<size_t>(id)].prefix_space;
  }

 private:
  struct Piece {
    std::string bytes;
    bool special = false;
    bool prefix_space = false;
  };

  static Prefix prefix_of(const TokenizerSettings& settings) {
    if (!settings.has_config) return Prefix::kModel;
    if (!settings.add_prefix_space) return Prefix::kNever;
    return settings.legacy.value_or(false) ? Prefix::kAlways : Prefix::kFirst;
  }

  void check(const sentencepiece::util::Status& status) const {
    RILLKV_CHECK(status.ok(), path_, ": sentencepiece failed: ", status.error_message());
  }

  void read_piece(int id) {
    const std::string& text = processor_.IdToPiece(id);
    ids_.emplace(text, id);
    Piece& piece = pieces_[static_cast<size_t>(id)];
    if (processor_.IsUnknown(id)) {
      piece.bytes = " \xe2\x81\x87 ";  // what the package prints for it
    } else if (processor_.IsByte(id)) {
      piece.bytes = std::string(1, static_cast<char>(byte_value(text)));
    } else {
      describe(piece, text);
    }
  }

  static void describe(Piece& piece, const std::string& text) {
    piece.bytes.clear();
    for (size_t i = 0; i < text.size();) {
      const bool space = std::string_view(text).substr(i, kSpaceSymbol.size()) == kSpaceSymbol;
      piece.bytes += space ? ' ' : text[i];
      i += space ? kSpaceSymbol.size() : 1;
    }
    piece.prefix_space = !piece.bytes.empty() && piece.bytes[0] == ' ';
  }

  // Byte pieces are spelt "<0x0A>".
  int byte_value(const std::string& text) const {
    const int value = fallback_byte(text);
    RILLKV_CHECK(value >= 0, path_, ": ", in_quotes(text), " is not the spelling of a byte piece");
    return value;
  }

  // What the model itself calls special or a symbol of the user's, then the files beside it, in
  // transformers' order: it decides the ids of those that nobody numbers.
  void add_tokens(const TokenizerSettings& settings, const std::vector<bool>& symbols) {
    for (int id = 0; id < static_cast<int>(pieces_.size()); ++id) {
      AddedToken token;
      token.spelling = processor_.IdToPiece(id);
      token.id = id;
      token.special = processor_.IsControl(id) || processor_.IsUnknown(id);
      // The package finds such a symbol by itself, without a text of its own behind it.
      const auto index = static_cast<size_t>(id);
      const bool symbol = prefix_ != Prefix::kModel && index < symbols.size() && symbols[index];
      if (token.special || symbol) added_.add(token);
    }
    for (const AddedToken& token : settings.added_tokens) {
      const auto known = ids_.find(token.spelling);
      const bool clashes = token.id >= 0 && token.id < static_cast<int64_t>(pieces_.size()) &&
                           (known == ids_.end() || known->second != token.id);
      RILLKV_CHECK(!clashes, path_, ": added token ", in_quotes(token.spelling), " has id ",
                   token.id, ", which the model gives to ",
                   in_quotes(processor_.IdToPiece(static_cast<int>(token.id))));
      added_.add(token);
    }
    const auto add_new = [&](const AddedToken& token) {
      for (const AddedToken& known : added_.tokens()) {
        if (known.spelling == token.spelling) return;
      }
      added_.add(token);
    };
    for (const auto& [key, token] : settings.named_tokens) {
      if (token) add_new(*token);
    }
    for (const AddedToken& token : settings.extra_tokens) add_new(token);
  }

  void describe(const AddedToken& token) {
    const auto index = static_cast<size_t>(token.id);
    if (index >= pieces_.size()) pieces_.resize(index + 1);
    Piece& piece = pieces_[index];
    // The package prints what it could not read; transformers skips it.
    if (prefix_ == Prefix::kModel && token.id == processor_.unk_id()) return;
    describe(piece, token.spelling);
    piece.special = token.special;
  }

  void encode_text(std::string_view text, bool begins_input, std::vector<int64_t>& ids) const {
    const bool prepends = prefix_ == Prefix::kAlways || (prefix_ == Prefix::kFirst && begins_input);
    const bool has_space = text[0] == ' ' || text.substr(0, kSpaceSymbol.size()) == kSpaceSymbol;
    std::string prefixed;
    if (prepends && !has_space) {
      prefixed = ' ';
      prefixed += text;
      text = prefixed;
    }
    std::vector<int> pieces;
    check(processor_.Encode(absl::string_view(text.data(), text.size()), &pieces));
    ids.insert(ids.end(), pieces.begin(), pieces.end());
  }

  std::string path_;
  bool add_bos_;
  Prefix prefix_;
  bool trusts_nothing_;
  bool strips_space_ = false;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<Piece> pieces_;  // by id
  AddedVocabulary::Vocabulary ids_;
  Normalizer normalizer_;  // changes nothing
  AddedVocabulary added_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& path,
                                                        const TokenizerSettings& settings) {
  return std::make_unique<SentencePieceTokenizer>(path, settings);
}

}  // namespace rillkv::io
