// Random models whose weights are computed from their names, the same to the bit here and in
// scripts/make_goldens.py (random_integers, random_weight): nothing but logits needs to be stored.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "rillkv/model_config.h"

namespace rillkv::testing {

/// Element i: the top 24 bits of SplitMix64's i-th output from the seed FNV-1a(name).
std::vector<int32_t> random_integers(const std::string& name, int64_t count);

/// float32, uniform around 1 (norms) or 0; the scale follows from name and shape.
at::Tensor random_weight(const std::string& name, const std::vector<int64_t>& shape);

/// The weights of the model called `name` by their checkpoint names ("model.norm.weight").
std::function<at::Tensor(const std::string&)> random_llama(const std::string& name,
                                                           const ModelConfig& config);

}  // namespace rillkv::testing
