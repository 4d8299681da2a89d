#include "rillkv/chat.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/quotes.h"
#include "src/io/json_reader.h"

namespace rillkv {
namespace {

constexpr char kTurnStart[] = "<|im_start|>";
constexpr char kTurnEnd[] = "<|im_end|>";
constexpr char kText3Start[] = "<|begin_of_text|>";
constexpr char kHeader3Start[] = "<|start_header_id|>";
constexpr char kHeader3End[] = "<|end_header_id|>";
constexpr char kTurn3End[] = "<|eot_id|>";

std::vector<const char*> needed_tokens(ChatTemplate chat) {
  switch (chat) {
    case ChatTemplate::kChatML:
      return {kTurnStart, kTurnEnd};
    case ChatTemplate::kLlama3:
      return {kText3Start, kHeader3Start, kHeader3End, kTurn3End};
    case ChatTemplate::kNone:
    case ChatTemplate::kLlama2:
      break;
  }
  return {};
}

std::string stripped(const std::string& text) {
  constexpr char kSpaces[] = " \t\n\v\f\r";
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == text.npos) return "";
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}

/// A literal of a Jinja program, whose line breaks may be written as escapes.
std::string with_line_breaks(std::string_view literal) {
  std::string text;
  for (size_t i = 0; i < literal.size(); ++i) {
    const bool escape = literal.substr(i, 2) == "\\n";
    text += escape ? '\n' : literal[i];
    i += escape;
  }
  return text;
}

}  // namespace

ChatTemplate parse_chat_template(const std::string& name) {
  if (name == "none") return ChatTemplate::kNone;
  if (name == "chatml") return ChatTemplate::kChatML;
  if (name == "llama2") return ChatTemplate::kLlama2;
  if (name == "llama3") return ChatTemplate::kLlama3;
  throw UsageError(
      str_cat("chat template must be none, chatml, llama2 or llama3, found ", in_quotes(name)));
}

std::optional<std::string> default_system_prompt(ChatTemplate chat, const std::string& folder) {
  if (chat != ChatTemplate::kChatML) return std::nullopt;
  const auto path = std::filesystem::path(folder) / "tokenizer_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  const nlohmann::json root = io::read_json_object(path.string());
  const nlohmann::json* value = io::JsonReader(root, path.string()).find("chat_template");
  if (value == nullptr || !value->is_string()) return std::nullopt;
  // The template is a Jinja program; the prompt we look for is a literal in it.
  const std::string text = with_line_breaks(value->get<std::string>());
  const std::string start = str_cat(kTurnStart, "system\n");
  const size_t begin = text.find(start);
  if (begin == text.npos) return std::nullopt;
  const size_t end = text.find(kTurnEnd, begin);
  if (end == text.npos) return std::nullopt;
  std::string prompt = text.substr(begin + start.size(), end - begin - start.size());
  // Quotes or braces mean that it is put together by the program, not a literal.
  if (prompt.empty() || prompt.find_first_of("'\"{}") != prompt.npos) return std::nullopt;
  return prompt;
}

std::vector<TextPart> make_chat_prompt(ChatTemplate chat, const std::string& user,
                                       const std::optional<std::string>& system) {
  std::vector<TextPart> parts;
  const auto own = [&](const std::string& text) { parts.push_back({text, true}); };
  const auto given = [&](const std::string& text) { parts.push_back({text, false}); };
  switch (chat) {
    case ChatTemplate::kNone:
      if (system) throw UsageError("a system prompt needs a chat template, found none");
      own(user);
      break;
    case ChatTemplate::kChatML:
      if (system) {
        own(str_cat(kTurnStart, "system\n"));
        given(*system);
        own(str_cat(kTurnEnd, "\n"));
      }
      own(str_cat(kTurnStart, "user\n"));
      given(user);
      own(str_cat(kTurnEnd, "\n", kTurnStart, "assistant\n"));
      break;
    case ChatTemplate::kLlama2:
      own("[INST] ");
      if (system) {
        own("<<SYS>>\n");
        given(stripped(*system));
        own("\n<</SYS>>\n\n");
      }
      given(stripped(user));
      own(" [/INST]");
      break;
    case ChatTemplate::kLlama3: {
      const auto header = [](const char* role) {
        return str_cat(kHeader3Start, role, kHeader3End, "\n\n");
      };
      own(kText3Start);
      if (system) {
        own(header("system"));
        given(stripped(*system));
        own(kTurn3End);
      }
      own(header("user"));
      given(stripped(user));
      own(kTurn3End + header("assistant"));
      break;
    }
  }
  return parts;
}

std::vector<int64_t> encode_chat(const Tokenizer& tokenizer, ChatTemplate chat,
                                 const std::string& user,
                                 const std::optional<std::string>& system) {
  for (const char* token : needed_tokens(chat)) {
    if (!tokenizer.token_to_id(token)) {
      throw UsageError(str_cat("this chat template needs the token ", token,
                               ", which the model's tokenizer does not have"));
    }
  }
  // ChatML has no BOS; LLaMA 3's is part of the format's own text.
  const bool add_bos = chat == ChatTemplate::kNone || chat == ChatTemplate::kLlama2;
  return tokenizer.encode(make_chat_prompt(chat, user, system), add_bos);
}

int64_t end_of_turn_id(const Tokenizer& tokenizer, ChatTemplate chat) {
  switch (chat) {
    case ChatTemplate::kChatML:
      return tokenizer.token_to_id(kTurnEnd).value_or(-1);
    case ChatTemplate::kLlama3:
      return tokenizer.token_to_id(kTurn3End).value_or(-1);
    case ChatTemplate::kNone:
    case ChatTemplate::kLlama2:
      break;
  }
  return tokenizer.eos_id();
}

std::vector<int64_t> stop_ids(const Tokenizer& tokenizer, ChatTemplate chat,
                              std::vector<int64_t> eos_token_ids) {
  std::vector<int64_t> ids = std::move(eos_token_ids);
  const int64_t end = end_of_turn_id(tokenizer, chat);
  if (end >= 0 && std::find(ids.begin(), ids.end(), end) == ids.end()) ids.push_back(end);
  return ids;
}

}  // namespace rillkv
