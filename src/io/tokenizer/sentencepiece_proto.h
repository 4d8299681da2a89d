// What the sentencepiece package does not say of its model files (Protocol Buffers,
// sentencepiece_model.proto).
#pragma once

#include <string_view>
#include <vector>

namespace rillkv::io {

/// Appended to a model's bytes, this overrides what its normalizer_spec (field 3) says of
/// add_dummy_prefix (3) and remove_extra_whitespaces (4): both false. Protocol Buffers merge a
/// message that is there twice.
inline constexpr std::string_view kSpacesAsTheyAre{"\x1a\x04\x18\x00\x20\x00", 6};

/// By id, whether a piece is a symbol that its user defined (type 4), which is found in a text
/// before anything else. `model` is the content of a model file; what is damaged ends the list.
std::vector<bool> user_defined_pieces(std::string_view model);

}  // namespace rillkv::io
