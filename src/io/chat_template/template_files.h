// Where a checkpoint keeps its chat templates, and what they may know of its tokenizer.
#pragma once

#include <map>
#include <string>

#include "src/io/chat_template/value.h"

namespace rillkv::io::jinja {

struct TemplateSource {
  std::string text;
  std::string where;  // for errors
};

/// The templates of a checkpoint by name ("default", "tool_use", ...), empty if it has none. As in
/// transformers, files of their own count before tokenizer_config.json.
std::map<std::string, TemplateSource> find_templates(const std::string& folder);

/// bos_token, eos_token and so on, as tokenizer_config.json (in older checkpoints
/// special_tokens_map.json too) spells them.
Dict find_special_tokens(const std::string& folder);

}  // namespace rillkv::io::jinja
