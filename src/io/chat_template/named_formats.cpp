#include "src/io/chat_template/named_formats.h"

namespace rillkv::io::jinja {
namespace {

// SmolLM2, Qwen2 and many more. Their own templates differ in the default system prompt.
constexpr std::string_view kChatMl = R"({%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor -%}
{{ '<|im_start|>assistant\n' if add_generation_prompt }})";

// Meta's `chat_completion` of LLaMA 2: the system prompt is part of the first user's turn.
constexpr std::string_view kLlama2 = R"(
{%- set system = messages[0].content if messages[0].role == 'system' else none -%}
{%- for message in messages[(0 if system is none else 1):] -%}
  {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('expected turns of user, assistant, user ...') }}
  {%- endif -%}
  {%- if message.role == 'user' -%}
    {{ bos_token + '[INST] ' }}
    {%- if loop.first and system is not none -%}
      {{ '<<SYS>>\n' + system | trim + '\n<</SYS>>\n\n' }}
    {%- endif -%}
    {{ message.content | trim + ' [/INST]' }}
  {%- else -%}
    {{ ' ' + message.content | trim + ' ' + eos_token }}
  {%- endif -%}
{%- endfor -%})";

// The prompt format page of Meta's llama-models.
constexpr std::string_view kLlama3 = R"({{- '<|begin_of_text|>' }}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt }})";

// Mistral's tokenizers differ in the spaces; a system prompt stands before the first user's text
// (v1) or the last one's (v3).
constexpr std::string_view kMistralV1 = R"(
{%- set system = messages[0].content if messages[0].role == 'system' else none -%}
{{ bos_token }}
{%- for message in messages[(0 if system is none else 1):] -%}
  {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('expected turns of user, assistant, user ...') }}
  {%- endif -%}
  {%- if message.role == 'user' -%}
    {{ ' [INST] ' + (system + '\n\n' if loop.first and system is not none else '') + message.content + ' [/INST]' }}
  {%- else -%}
    {{ ' ' + message.content + eos_token }}
  {%- endif -%}
{%- endfor -%})";

constexpr std::string_view kMistralV3 = R"(
{%- set system = messages[0].content if messages[0].role == 'system' else none -%}
{%- set last_user = messages | selectattr('role', 'equalto', 'user') | list | length -%}
{%- set seen = namespace(users=0) -%}
{{ bos_token }}
{%- for message in messages[(0 if system is none else 1):] -%}
  {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('expected turns of user, assistant, user ...') }}
  {%- endif -%}
  {%- if message.role == 'user' -%}
    {%- set seen.users = seen.users + 1 -%}
    {{ '[INST] ' + (system + '\n\n' if seen.users == last_user and system is not none else '') + message.content + '[/INST]' }}
  {%- else -%}
    {{ ' ' + message.content | trim + eos_token }}
  {%- endif -%}
{%- endfor -%})";

// Zephyr, StableLM-Zephyr, TinyLlama-Chat.
constexpr std::string_view kZephyr = R"({%- for message in messages -%}
{{ '<|' + message.role + '|>\n' + message.content + eos_token + '\n' }}
{%- endfor -%}
{{ '<|assistant|>\n' if add_generation_prompt }})";

}  // namespace

const std::vector<NamedFormat>& named_formats() {
  static const std::vector<NamedFormat> formats = {
      {"chatml", kChatMl, {"<|im_start|>", "<|im_end|>"}},
      {"llama2", kLlama2, {}},
      {"llama3",
       kLlama3,
       {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
      {"mistral-v1", kMistralV1, {}},
      {"mistral-v3", kMistralV3, {}},
      {"zephyr", kZephyr, {}},
  };
  return formats;
}

}  // namespace rillkv::io::jinja
