// The presets of configs/presets, compiled in by CMake from the JSON files themselves: that folder
// is the one list of them.
#pragma once

#include <span>

namespace rillkv {

struct Preset {
  const char* name;
  const char* json;
};

/// Sorted by name.
std::span<const Preset> presets();

}  // namespace rillkv
