// The evaluations' back end over a real model and one cache configuration.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "rillkv/chat.h"
#include "rillkv/eval/backend.h"
#include "rillkv/llama.h"
#include "rillkv/tokenizer.h"

namespace rillkv::eval {

struct ModelBackendOptions {
  CompressionConfig config;
  ChatTemplate chat;
};

/// Each run prefills a fresh cache in chunks and decodes greedily. The model and the tokenizer may
/// be shared with other back ends.
class ModelBackend : public GenerationBackend {
 public:
  /// Throws UsageError if the configuration does not fit the model.
  ModelBackend(LlamaModel model, std::shared_ptr<const Tokenizer> tokenizer,
               ModelBackendOptions options);

  std::vector<int64_t> encode_prompt(std::string_view text, bool chat) const override;
  std::vector<int64_t> encode(std::string_view text) const override;
  std::string decode(const std::vector<int64_t>& ids) const override;
  Generation run(const GenerationRequest& request) override;

 private:
  LlamaModel model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  ModelBackendOptions options_;
  std::vector<int64_t> stop_ids_;
};

}  // namespace rillkv::eval
