// The presets of configs/presets, compiled in by CMake from the JSON files themselves.
#pragma once

#include <array>

namespace rillkv {

struct Preset {
  const char* name;
  const char* json;
};

extern const std::array<Preset, 6> kPresets;

}  // namespace rillkv
