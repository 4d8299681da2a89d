// What scripts/make_llama2_shaped.py writes, without Python.
#pragma once

#include <string>

#include "rillkv/model_config.h"

namespace rillkv::testing {

/// Writes a folder with the shape of LLaMA-2: multi-head attention with head_dim 128, untied,
/// float16 in two shards with an index, a sentencepiece tokenizer.model of 1000 pieces, no
/// tokenizer.json. 2 layers, 2 heads, about 4 MB. Weight NAME is random_weight("llama2/NAME")
/// rounded to float16.
ModelConfig write_llama2_checkpoint(const std::string& folder);

}  // namespace rillkv::testing
