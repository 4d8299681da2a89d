// A model that needs no weights: words are tokens, and what it says is scripted by the test.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "rillkv/eval/backend.h"

namespace rillkv::testing {

/// Tokens are a word with the white space before it, or trailing white space. Id 0 begins every
/// prompt, ids 1 and 2 enclose a user's turn; decoding drops all three.
class FakeBackend : public eval::GenerationBackend {
 public:
  using Script = std::function<std::string(const std::string& prompt)>;

  explicit FakeBackend(Script script) : script_(std::move(script)) {}

  std::vector<int64_t> encode_prompt(std::string_view text, bool chat) const override {
    std::vector<int64_t> ids{kBegin};
    if (chat) ids.push_back(kUser);
    for (int64_t id : encode(text)) ids.push_back(id);
    if (chat) ids.push_back(kAssistant);
    return ids;
  }

  std::vector<int64_t> encode(std::string_view text) const override {
    std::vector<int64_t> ids;
    for (size_t i = 0; i < text.size();) {
      size_t end = i;
      while (end < text.size() && is_space(text[end])) ++end;
      while (end < text.size() && !is_space(text[end])) ++end;
      ids.push_back(id_of(std::string(text.substr(i, end - i))));
      i = end;
    }
    return ids;
  }

  std::string decode(const std::vector<int64_t>& ids) const override {
    std::string text;
    for (int64_t id : ids) {
      if (id > kAssistant) text += words_.at(static_cast<size_t>(id - kAssistant - 1));
    }
    return text;
  }

  eval::Generation run(const eval::GenerationRequest& request) override {
    requests.push_back(request);
    eval::Generation generation;
    const std::string prompt = decode(request.prompt);
    generation.text = script_(prompt);
    generation.tokens = encode(generation.text);
    if (static_cast<int64_t>(generation.tokens.size()) > request.max_new_tokens) {
      generation.tokens.resize(static_cast<size_t>(request.max_new_tokens));
      generation.text = decode(generation.tokens);
      generation.reached_limit = true;
    }
    // An answer the script would say is likely, any other is not.
    if (!request.answer.empty()) {
      const bool said = generation.text.find(decode(request.answer)) != std::string::npos;
      generation.answer_log_prob = said ? -0.5 : -7.5;
      generation.margin = said ? 7 : 0;
    }
    generation.stats.prompt_tokens = static_cast<int64_t>(request.prompt.size());
    generation.stats.new_tokens = static_cast<int64_t>(generation.tokens.size());
    generation.stats.ttft_s = 0.5;
    generation.stats.cache.kv_bytes = 100;
    generation.stats.cache.kv_bytes_bf16 = 350;
    generation.stats.cache.kv_bits_sealed.total = 4.5;
    generation.stats.memory = {1000, 800, 4};
    return generation;
  }

  std::vector<eval::GenerationRequest> requests;

  static constexpr int64_t kBegin = 0, kUser = 1, kAssistant = 2;

 private:
  static bool is_space(char c) { return c == ' ' || c == '\n'; }
  int64_t id_of(const std::string& word) const {
    const auto [it, fresh] = ids_.try_emplace(word, static_cast<int64_t>(words_.size()));
    if (fresh) words_.push_back(word);
    return it->second + kAssistant + 1;
  }

  Script script_;
  mutable std::map<std::string, int64_t> ids_;
  mutable std::vector<std::string> words_;
};

}  // namespace rillkv::testing
