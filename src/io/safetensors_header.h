// The header of a safetensors file, checked in full before a byte of data is touched.
// Format: https://huggingface.co/docs/safetensors: u64 little-endian header length n, n bytes of
// JSON {"name": {"dtype", "shape", "data_offsets": [begin, end)}, "__metadata__": {...}}, data.
// This unit knows nothing of Torch, so that it can be fuzzed by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace rillkv::io {

struct SafetensorsEntry {
  std::string dtype;  // as the file spells it, "BF16"
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> tensors;
  std::map<std::string, std::string> metadata;
};

/// Reads the header at the beginning of `file`, which is the whole file (mapped, say); `name` names
/// it in errors. Guarantees for every entry: begin <= end <= file.size(), non-negative sizes whose
/// product fits in int64, and for known dtypes end - begin equal to what the shape needs. Entries
/// neither overlap nor leave holes (the format forbids both). Throws Error naming file and tensor.
SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& name);

/// The bytes that precede the data when `tensors` (begin and end counted from the start of the
/// data) and `metadata` are written: length, JSON, and spaces up to a multiple of 8.
std::string make_safetensors_header(const std::map<std::string, SafetensorsEntry>& tensors,
                                    const std::map<std::string, std::string>& metadata);

/// Bits of one element, or 0 for a dtype that this library does not know.
int safetensors_dtype_bits(std::string_view dtype);

}  // namespace rillkv::io
