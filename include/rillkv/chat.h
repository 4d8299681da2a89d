// The prompt formats that instruction-tuned models were trained with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "rillkv/tokenizer.h"

namespace rillkv {

enum class ChatTemplate {
  kNone,    ///< the text as it is
  kChatML,  ///< SmolLM2, Qwen2: `<|im_start|>role\n ... <|im_end|>\n`
  kLlama2,  ///< `[INST] <<SYS>> ... <</SYS>> ... [/INST]`
  kLlama3,  ///< `<|start_header_id|>role<|end_header_id|>\n\n ... <|eot_id|>`
};

/// none, chatml, llama2 or llama3. Throws UsageError for any other name.
ChatTemplate parse_chat_template(const std::string& name);

/// The system prompt of a chat in which the user gives none: what the checkpoint's own ChatML
/// template supplies then (`chat_template` in `folder`/tokenizer_config.json; SmolLM2 introduces
/// itself there), so that what is generated equals transformers' `apply_chat_template`. Nothing if
/// the file has none, and for the other templates, which supply none.
std::optional<std::string> default_system_prompt(ChatTemplate chat, const std::string& folder);

/// One user turn, up to where the assistant begins to speak. Only the template's own text is
/// trusted: special tokens spelt out in `user` or `system` stay ordinary text. (`[INST]` and
/// `<<SYS>>` of LLaMA 2 are ordinary text for its tokenizer too, so there a user can imitate them.)
/// LLaMA's templates strip white space around both texts. kNone trusts `user`, as transformers do.
/// Throws UsageError for a system prompt with kNone.
std::vector<TextPart> make_chat_prompt(ChatTemplate chat, const std::string& user,
                                       const std::optional<std::string>& system = std::nullopt);

/// The ids of that prompt, with BOS where the format has it. Throws UsageError if the tokenizer
/// lacks a special token of the format: the model was not trained with it.
std::vector<int64_t> encode_chat(const Tokenizer& tokenizer, ChatTemplate chat,
                                 const std::string& user,
                                 const std::optional<std::string>& system = std::nullopt);

/// The id that ends the assistant's turn, -1 if the format has none that `tokenizer` knows.
int64_t end_of_turn_id(const Tokenizer& tokenizer, ChatTemplate chat);

/// The ids at which generation stops, each once: the model's own end-of-sequence ids
/// (ModelConfig::eos_token_ids) and the end of the assistant's turn.
std::vector<int64_t> stop_ids(const Tokenizer& tokenizer, ChatTemplate chat,
                              std::vector<int64_t> eos_token_ids);

}  // namespace rillkv
