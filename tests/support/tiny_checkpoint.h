// A checkpoint folder with a random model and a small real tokenizer, for tests that need text in
// and text out but no sense.
#pragma once

#include <string>

namespace rillkv::testing {

/// Writes config.json, model.safetensors and the tokenizer into `folder`: 2 layers, 4 heads over 2
/// kv heads of 32, float32, 1024 positions; about 1 MB.
void write_tiny_checkpoint(const std::string& folder);

}  // namespace rillkv::testing
