// How a checkpoint's tensors become a model's weights: their names, and whether the head is tied.
#pragma once

#include <string>

#include "rillkv/model_config.h"
#include "rillkv/safetensors.h"

namespace rillkv {

/// The name under which `checkpoint` holds weight `name` ("model.norm.weight"), which is the name
/// itself where it holds neither. A model saved without its head lacks the prefix "model.", and one
/// saved inside another has it before "lm_head", too: transformers add and drop it.
std::string stored_name(const Checkpoint& checkpoint, const std::string& name);

/// Whether the head's weights are the embedding table, by what the checkpoint holds rather than by
/// config.json alone, as in transformers: a head of its own is used unless it is the same table.
/// Without one the table is taken, where transformers would make up random numbers. Warns where
/// this is not what config.json says. `folder` names the checkpoint. Expects tensors of the right
/// shapes.
bool head_is_tied(const ModelConfig& config, const Checkpoint& checkpoint,
                  const std::string& folder);

}  // namespace rillkv
