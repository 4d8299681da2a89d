// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rillkv {

/// A stretch of text in a prompt. Special tokens ("<|im_end|>") are recognised only in trusted
/// stretches; in the others their spelling is ordinary text, so that a user cannot forge turns.
struct TextPart {
  std::string text;
  bool trusted = false;
};

/// Immutable after load(): every member may be called from several threads at once.
/// Input that is not UTF-8 is read as Python's `errors="replace"` reads it: each maximal invalid
/// sequence counts as U+FFFD. NUL and other control bytes are ordinary characters.
class Tokenizer {
 public:
  /// From a model's folder: `tokenizer.json` if it is BPE, over bytes (SmolLM2, LLaMA 3, Qwen2) or
  /// over characters (LLaMA 1 and 2, TinyLlama, Mistral), otherwise `tokenizer.model`
  /// (sentencepiece). Both, and the files beside them (`tokenizer_config.json`,
  /// `special_tokens_map.json`, `added_tokens.json`), are read as transformers 5 reads them. Throws
  /// Error naming the file and, for a feature that is not supported, its key.
  static std::unique_ptr<Tokenizer> load(const std::string& folder);

  virtual ~Tokenizer() = default;

  /// Ids of `text`. `add_bos` puts in front what the tokenizer itself prescribes: the BOS token for
  /// LLaMA, nothing for SmolLM2. `parse_special` = true recognises special tokens in the text, as
  /// transformers do by default; false is what the sentencepiece package does.
  std::vector<int64_t> encode(std::string_view text, bool add_bos, bool parse_special = true) const;

  /// Ids of the parts' texts joined; the tokens do not depend on where untrusted text was cut.
  virtual std::vector<int64_t> encode(const std::vector<TextPart>& parts, bool add_bos) const = 0;

  /// Text of the ids; bytes that form no UTF-8 become U+FFFD. Throws Error for an id out of range.
  std::string decode(const std::vector<int64_t>& ids, bool skip_special = true) const;

  /// What a model generated behind `prompt`, as text: decode() of both less decode() of the prompt.
  /// A space that decode() drops where a text begins is kept in a text that goes on ("The capital
  /// of France is" + " Paris"). A padded model may choose ids past the vocabulary: they are no
  /// text.
  std::string decode_generated(const std::vector<int64_t>& ids,
                               const std::vector<int64_t>& prompt = {}) const;

  /// One more than the greatest id. A model's vocab_size may be larger (padded), never smaller.
  virtual int64_t vocab_size() const = 0;
  /// -1 if there is none.
  int64_t bos_id() const { return bos_id_; }
  int64_t eos_id() const { return eos_id_; }
  virtual std::optional<int64_t> token_to_id(std::string_view token) const = 0;
  virtual bool is_special(int64_t id) const = 0;

 protected:
  friend class TextStream;
  /// The bytes that one token adds to a text.
  virtual std::string token_bytes(int64_t id) const = 0;
  /// True if the token's first byte is a space that is dropped where a text begins, because the
  /// encoder puts it there (sentencepiece's dummy prefix).
  virtual bool has_prefix_space(int64_t /*id*/) const { return false; }

  int64_t bos_id_ = -1;
  int64_t eos_id_ = -1;
};

/// Decodes token by token without ever giving out half a character: what push() and finish()
/// return, joined, is decode() of all ids, less the prompt's text. The tokenizer must outlive it.
class TextStream {
 public:
  /// With a `prompt` the text goes on behind it, whose own text is not repeated. A prompt of
  /// nothing but special tokens is the beginning of a text; ids past the vocabulary are no text.
  explicit TextStream(const Tokenizer& tokenizer, bool skip_special = true,
                      const std::vector<int64_t>& prompt = {});

  /// The text that is certain after this token; often empty within a character of several bytes.
  std::string push(int64_t id);
  /// The rest: bytes that never became a character, as U+FFFD. The stream then starts anew, with a
  /// text that follows nothing.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool at_start_ = true;
  std::string pending_;
};

}  // namespace rillkv
