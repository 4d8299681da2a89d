// Conversations as the prompts that instruction-tuned models were trained with: the checkpoint's
// own chat template, as transformers' apply_chat_template evaluates it, or a named format.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rillkv/tokenizer.h"

namespace rillkv {

/// What has been said, and which tools there are. Immutable.
class Conversation {
 public:
  /// One user's turn, after a system prompt if there is one.
  static Conversation of(const std::string& user,
                         const std::optional<std::string>& system = std::nullopt);

  /// From JSON: a list of messages ({"role": "user", "content": ...}; other keys are the
  /// template's) or an object with "messages" and, if wanted, "tools", "documents",
  /// "add_generation_prompt" (true unless it says false) and "chat_template_kwargs", whose entries
  /// become variables of the template. As transformers do, a message's null entries count as
  /// missing. Throws Error, which begins with `where`.
  static Conversation from_json(std::string_view text, const std::string& where);

  struct Data;
  const Data& data() const { return *data_; }

 private:
  explicit Conversation(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
  std::shared_ptr<const Data> data_;
};

/// How a conversation becomes a prompt. Cheap to copy; may be used from several threads.
class ChatTemplate {
 public:
  /// No template: the text as it is.
  ChatTemplate();

  /// The names that named() knows, "none" first.
  static const std::vector<std::string>& names();

  /// "none", or one of the formats that every checkpoint of a family shares, without any default
  /// system prompt: chatml, llama2, llama3, mistral-v1 (`[INST] Hi [/INST]`), mistral-v3
  /// (`[INST] Hi[/INST]`), zephyr. White space around a turn goes where the family's templates
  /// strip it (LLaMA's), as Python's str.strip() does. Throws UsageError for another name.
  static ChatTemplate named(const std::string& name);

  /// The checkpoint's own: `chat_template.jinja` and `additional_chat_templates/` in `folder`, or
  /// else `chat_template` in its tokenizer_config.json, a text or a list of named ones, of which
  /// "tool_use" serves conversations with tools and "default" the others. Throws UsageError if the
  /// checkpoint has none, Error for one that does not parse.
  static ChatTemplate load(const std::string& folder);

  /// The template in `path`, with the special tokens of the checkpoint in `folder`.
  static ChatTemplate from_file(const std::string& path, const std::string& folder);

  /// The same with another date for strftime_now(), "2026-03-05"; today otherwise. Throws
  /// UsageError for what is no date.
  ChatTemplate at_date(const std::string& date) const;

  bool is_none() const;
  /// What decides prompts: the name, or a hash of the template and, where it asks for one, the
  /// date.
  std::string description() const;

  struct Data;
  const Data& data() const { return *data_; }

 private:
  explicit ChatTemplate(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
  std::shared_ptr<const Data> data_;
};

/// The prompt up to where the assistant begins to speak. Only the template's own text, its special
/// tokens and the usual roles are trusted: special tokens spelt out in messages, tools or documents
/// stay ordinary text, whatever the template does to them. (`[INST]` of LLaMA 2 is ordinary text
/// for its tokenizer too, so there a user can imitate it.) `tokenizer` gives the text of BOS and
/// EOS where the checkpoint's configuration does not. Throws Error: one line with the template's
/// name and line, also for the template's own raise_exception(). Throws UsageError without a
/// template, unless the conversation is one user's turn: transformers trust that text, and so does
/// this.
std::vector<TextPart> render_chat(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                  const Conversation& conversation);

/// The ids of that prompt. As in transformers, BOS is where the template puts it; without a
/// template, where the tokenizer does. Throws UsageError if the tokenizer lacks a special token of
/// a named format: the model was not trained with it.
std::vector<int64_t> encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                 const Conversation& conversation);

/// The id that ends the assistant's turn: the special token that the template puts behind it. -1 if
/// it puts none there. Without a template, EOS.
int64_t end_of_turn_id(const Tokenizer& tokenizer, const ChatTemplate& chat);

/// The ids at which generation stops, each once: the model's own end-of-sequence ids
/// (ModelConfig::eos_token_ids) and the end of the assistant's turn.
std::vector<int64_t> stop_ids(const Tokenizer& tokenizer, const ChatTemplate& chat,
                              std::vector<int64_t> eos_token_ids);

}  // namespace rillkv
