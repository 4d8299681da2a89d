#include "rillkv/chat.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <ctime>
#include <map>
#include <string_view>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "rillkv/quotes.h"
#include "src/io/chat_template/conversation.h"
#include "src/io/chat_template/named_formats.h"
#include "src/io/chat_template/template.h"
#include "src/io/chat_template/template_files.h"

namespace rillkv {

using io::jinja::Dict;
using io::jinja::Template;
using io::jinja::Text;
using io::jinja::Value;

struct ChatTemplate::Data {
  std::string name = "none";
  std::vector<std::string_view> needed_tokens;
  std::map<std::string, std::shared_ptr<const Template>> templates;  // none, or with "default"
  std::string names;  // of all templates that the checkpoint has, for errors
  Dict tokens;
  std::string hash;  // of the texts of `templates`; empty for named formats
  bool uses_date = false;
  std::optional<std::tm> date;
};

namespace {

std::string hash_of(const std::map<std::string, io::jinja::TemplateSource>& sources) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const auto& [name, source] : sources) {
    for (const char c : str_cat(name, '\0', source.text, '\0')) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  }
  char text[24];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::shared_ptr<ChatTemplate::Data> data_of(
    const std::string& name, const std::map<std::string, io::jinja::TemplateSource>& sources,
    const std::string& folder) {
  auto data = std::make_shared<ChatTemplate::Data>();
  data->name = name;
  for (const auto& [key, source] : sources) {
    data->names += (data->names.empty() ? "" : ", ") + key;
    if (key != "default" && key != "tool_use") continue;
    data->templates[key] = std::make_shared<const Template>(source.text, source.where);
    data->uses_date |= source.text.find("strftime_now") != std::string::npos;
  }
  data->hash = hash_of(sources);
  data->tokens = io::jinja::find_special_tokens(folder);
  return data;
}

/// Now, or the template's own date at midnight.
std::tm time_of(const ChatTemplate::Data& data) {
  if (data.date) return *data.date;
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

/// Special tokens by their names; what the checkpoint does not spell is the tokenizer's.
Dict tokens_of(const Tokenizer& tokenizer, const ChatTemplate::Data& data) {
  Dict tokens = data.tokens;
  const auto fill = [&](const char* key, int64_t id) {
    if (id >= 0 && tokens.find(key) == nullptr) {
      tokens.set(key, Value::own(tokenizer.decode({id}, /*skip_special=*/false)));
    }
  };
  fill("bos_token", tokenizer.bos_id());
  fill("eos_token", tokenizer.eos_id());
  return tokens;
}

}  // namespace

ChatTemplate::ChatTemplate() : data_(std::make_shared<Data>()) {}

const std::vector<std::string>& ChatTemplate::names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all{"none"};
    for (const auto& format : io::jinja::named_formats()) all.emplace_back(format.name);
    return all;
  }();
  return names;
}

ChatTemplate ChatTemplate::named(const std::string& name) {
  auto data = std::make_shared<Data>();
  if (name == "none") return ChatTemplate(std::move(data));
  for (const auto& format : io::jinja::named_formats()) {
    if (format.name != name) continue;
    data->name = name;
    data->needed_tokens = format.needed_tokens;
    data->templates["default"] =
        std::make_shared<const Template>(format.source, str_cat("the format ", name));
    return ChatTemplate(std::move(data));
  }
  std::string expected;
  for (const std::string& known : names()) expected += known + ", ";
  throw UsageError(str_cat("expected a chat template of ", expected, "found ", in_quotes(name)));
}

ChatTemplate ChatTemplate::load(const std::string& folder) {
  const auto sources = io::jinja::find_templates(folder);
  if (sources.empty()) {
    throw UsageError(str_cat(folder,
                             ": the checkpoint has no chat template (chat_template.jinja, or "
                             "chat_template in tokenizer_config.json)"));
  }
  auto data = data_of("auto", sources, folder);
  if (data->templates.empty()) {
    throw UsageError(str_cat(folder, ": expected a chat template named default, found ",
                             data->names, "; --chat-template-file chooses one"));
  }
  return ChatTemplate(std::move(data));
}

ChatTemplate ChatTemplate::from_file(const std::string& path, const std::string& folder) {
  return ChatTemplate(data_of("file", {{"default", {read_file(path), path}}}, folder));
}

ChatTemplate ChatTemplate::at_date(const std::string& date) const {
  std::tm parsed{};
  bool digits = date.size() == 10;
  for (size_t i = 0; digits && i < date.size(); ++i) {
    const bool dash = i == 4 || i == 7;
    digits = dash ? date[i] == '-' : std::isdigit(static_cast<unsigned char>(date[i])) != 0;
  }
  if (digits) {
    const auto number = [&](size_t begin, size_t count) {
      return static_cast<int>(std::strtol(date.substr(begin, count).c_str(), nullptr, 10));
    };
    parsed.tm_year = number(0, 4) - 1900;
    parsed.tm_mon = number(5, 2) - 1;
    parsed.tm_mday = number(8, 2);
    std::tm normal = parsed;
    const std::time_t seconds = timegm(&normal);  // 30 February becomes a day of March
    if (normal.tm_mday == parsed.tm_mday && normal.tm_mon == parsed.tm_mon) {
      gmtime_r(&seconds, &parsed);
      auto data = std::make_shared<Data>(*data_);
      data->date = parsed;
      return ChatTemplate(std::move(data));
    }
  }
  throw UsageError(str_cat("expected a date like 2026-03-05, found ", in_quotes(date)));
}

bool ChatTemplate::is_none() const { return data_->templates.empty(); }

std::string ChatTemplate::description() const {
  std::string text = data_->name;
  if (!data_->hash.empty()) text += " " + data_->hash;
  if (data_->uses_date) {
    const std::tm date = time_of(*data_);
    char day[32];
    std::strftime(day, sizeof day, " %Y-%m-%d", &date);
    text += day;
  }
  return text;
}

std::vector<TextPart> render_chat(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                  const Conversation& conversation) {
  const ChatTemplate::Data& data = chat.data();
  const Conversation::Data& said = conversation.data();
  if (chat.is_none()) {
    if (!said.only_text) {
      throw UsageError(
          "a system prompt, several messages or tools need a chat template, found none");
    }
    return {{*said.only_text, true}};
  }
  const bool has_tool_template = data.templates.count("tool_use") > 0;
  const auto found =
      data.templates.find(said.has_tools && has_tool_template ? "tool_use" : "default");
  if (found == data.templates.end()) {
    throw UsageError(
        str_cat("expected a chat template named default, the checkpoint has only ", data.names));
  }
  Dict variables = tokens_of(tokenizer, data);
  for (const auto& [name, value] : said.variables.items()) {
    variables.set(name.text().bytes(), value);
  }
  return found->second->render(variables, time_of(data)).parts();
}

std::vector<int64_t> encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                 const Conversation& conversation) {
  for (const std::string_view token : chat.data().needed_tokens) {
    if (!tokenizer.token_to_id(token)) {
      throw UsageError(str_cat("this chat template needs the token ", token,
                               ", which the model's tokenizer does not have"));
    }
  }
  return tokenizer.encode(render_chat(tokenizer, chat, conversation), /*add_bos=*/chat.is_none());
}

int64_t end_of_turn_id(const Tokenizer& tokenizer, const ChatTemplate& chat) {
  if (chat.is_none()) return tokenizer.eos_id();
  // What stands behind an answer that nobody gives.
  constexpr std::string_view kAnswer = "RILLKV ANSWER";
  std::string text;
  try {
    const Conversation probe = Conversation::from_json(
        str_cat(
            R"({"add_generation_prompt": false, "messages": [{"role": "user", "content": "Hi"},)",
            R"({"role": "assistant", "content": ")", kAnswer, "\"}]}"),
        "probe");
    for (const TextPart& part : render_chat(tokenizer, chat, probe)) text += part.text;
  } catch (const Error&) {
    return -1;  // Not this conversation: the template does not tell.
  }
  const size_t at = text.rfind(kAnswer);
  if (at == text.npos) return -1;
  const std::string behind = text.substr(at + kAnswer.size());
  for (const int64_t id : tokenizer.encode(behind, /*add_bos=*/false)) {
    if (tokenizer.is_special(id)) return id;
    const std::string space = tokenizer.decode({id});
    if (space.find_first_not_of(" \t\r\n") != space.npos) break;
  }
  return -1;
}

std::vector<int64_t> stop_ids(const Tokenizer& tokenizer, const ChatTemplate& chat,
                              std::vector<int64_t> eos_token_ids) {
  std::vector<int64_t> ids = std::move(eos_token_ids);
  const int64_t end = end_of_turn_id(tokenizer, chat);
  if (end >= 0 && std::find(ids.begin(), ids.end(), end) == ids.end()) ids.push_back(end);
  return ids;
}

}  // namespace rillkv
