// The "post_processor" section of a tokenizer.json: the tokens around a text.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rillkv::io {

/// The ids that come before a text (BOS). What comes after it (EOS) is not for prompts and is left
/// out. `section` may be null: none. `vocab_size` bounds the ids. Reads ByteLevel (which concerns
/// offsets only), TemplateProcessing, RobertaProcessing and BertProcessing, alone or in a Sequence;
/// throws Error naming `where` and the key for anything else.
std::vector<int64_t> read_prefix(const nlohmann::json& section, const std::string& where,
                                 int64_t vocab_size);

}  // namespace rillkv::io
