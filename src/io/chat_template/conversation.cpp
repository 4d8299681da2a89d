#include "src/io/chat_template/conversation.h"

#include <algorithm>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/quotes.h"
#include "src/io/chat_template/json_values.h"
#include "src/io/utf8.h"

namespace rillkv {
namespace {

using io::jinja::Dict;
using io::jinja::Kind;
using io::jinja::Text;
using io::jinja::Value;

/// Roles that may be part of a special token ("<|" + role + "|>"); any other is a user's text.
Value role_value(const std::string& role) {
  constexpr std::string_view kRoles[] = {"system",    "developer", "user",         "assistant",
                                         "tool",      "function",  "ipython",      "model",
                                         "documents", "document",  "tool_response"};
  const bool known = std::find(std::begin(kRoles), std::end(kRoles), role) != std::end(kRoles);
  return Value(Text(role, known));
}

/// As apply_chat_template: null entries go, and a message's reasoning gets the names that templates
/// read it by.
Value normalized(const Value& message, const std::string& where) {
  RILLKV_CHECK(message.is(Kind::kDict), where, ": expected messages that are objects, found ",
               message.type_name());
  const Value* role = message.dict().find("role");
  RILLKV_CHECK(role != nullptr && role->is_string(), where,
               ": expected a \"role\" that is a string in every message");
  const Value* reasoning = nullptr;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* found = message.dict().find(name);
    if (reasoning == nullptr && found != nullptr && !found->is(Kind::kNone)) reasoning = found;
  }
  Dict result;
  if (reasoning != nullptr) result.set("thinking", *reasoning);
  for (const auto& [key, value] : message.dict().items()) {
    const std::string& name = key.text().bytes();
    if (value.is(Kind::kNone)) continue;
    result.set(name, name == "role" ? role_value(role->text().bytes()) : value);
  }
  if (reasoning != nullptr) result.set("reasoning_content", *reasoning);
  return Value::dict(std::move(result));
}

Value normalized_list(const Value& messages, const std::string& where) {
  RILLKV_CHECK(messages.is(Kind::kList) && !messages.items().empty(), where,
               ": expected a list of at least one message");
  std::vector<Value> result;
  for (const Value& message : messages.items()) result.push_back(normalized(message, where));
  return Value::list(std::move(result));
}

Value list_of_objects(const Value& value, const char* key, const std::string& where) {
  const bool good =
      value.is(Kind::kList) && std::all_of(value.items().begin(), value.items().end(),
                                           [](const Value& item) { return item.is(Kind::kDict); });
  RILLKV_CHECK(good, where, ": expected \"", key, "\" to be a list of objects");
  return value;
}

void set_defaults(Conversation::Data& data) {
  data.variables.set("tools", Value());
  data.variables.set("documents", Value());
  data.variables.set("add_generation_prompt", Value(true));
}

/// The text, if that is all there is.
std::optional<std::string> only_text(const Value& messages) {
  if (messages.items().size() != 1) return std::nullopt;
  const Dict& message = messages.items()[0].dict();
  const Value* content = message.find("content");
  const bool plain = message.find("role")->text().bytes() == "user" && message.size() == 2 &&
                     content != nullptr && content->is_string();
  return plain ? std::optional(content->text().bytes()) : std::nullopt;
}

}  // namespace

Conversation Conversation::of(const std::string& user, const std::optional<std::string>& system) {
  auto data = std::make_shared<Data>();
  set_defaults(*data);
  std::vector<Value> messages;
  const auto add = [&](const char* role, const std::string& text) {
    Dict message;
    message.set("role", role_value(role));
    message.set("content", Value(Text(io::replace_invalid_utf8(text), false)));
    messages.push_back(Value::dict(std::move(message)));
  };
  if (system) add("system", *system);
  add("user", user);
  if (!system) data->only_text = user;  // as it is: without a template, bytes are the tokenizer's
  data->variables.set("messages", Value::list(std::move(messages)));
  return Conversation(std::move(data));
}

Conversation Conversation::from_json(std::string_view text, const std::string& where) {
  auto data = std::make_shared<Data>();
  set_defaults(*data);
  Dict& variables = data->variables;
  const Value root = io::jinja::parse_json_value(text, where);
  if (!root.is(Kind::kDict)) {
    variables.set("messages", normalized_list(root, where));
  } else {
    RILLKV_CHECK(root.dict().find("messages") != nullptr, where, ": expected a key \"messages\"");
    for (const auto& [key, value] : root.dict().items()) {
      const std::string& name = key.text().bytes();
      if (name == "messages") {
        variables.set(name, normalized_list(value, where));
      } else if (name == "tools" || name == "documents") {
        if (value.is(Kind::kNone)) continue;
        variables.set(name, list_of_objects(value, name.c_str(), where));
        data->has_tools |= name == "tools";
      } else if (name == "add_generation_prompt") {
        RILLKV_CHECK(value.is(Kind::kBool), where, ": expected \"", name, "\" to be true or false");
        variables.set(name, value);
      } else if (name == "chat_template_kwargs") {
        RILLKV_CHECK(value.is(Kind::kDict), where, ": expected \"", name, "\" to be an object");
        for (const auto& [variable, given] : value.dict().items()) {
          variables.set(variable.text().bytes(), given);
        }
      } else {
        throw Error(str_cat(where, ": unknown key ", in_quotes(name),
                            ", expected messages, tools, documents, add_generation_prompt or "
                            "chat_template_kwargs"));
      }
    }
    RILLKV_CHECK(variables.find("messages")->is(Kind::kList), where,
                 ": chat_template_kwargs may not replace \"messages\"");
  }
  data->only_text = only_text(*variables.find("messages"));
  return Conversation(std::move(data));
}

}  // namespace rillkv
