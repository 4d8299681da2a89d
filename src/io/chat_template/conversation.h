// A conversation as a template's variables.
#pragma once

#include "rillkv/chat.h"
#include "src/io/chat_template/value.h"

namespace rillkv {

struct Conversation::Data {
  /// messages, tools, documents, add_generation_prompt and whatever else was given.
  io::jinja::Dict variables;
  bool has_tools = false;
  /// Of a conversation that is one user's turn: its text.
  std::optional<std::string> only_text;
};

}  // namespace rillkv
