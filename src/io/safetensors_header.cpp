#include "src/io/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/quotes.h"
#include "src/io/json_reader.h"
#include "src/io/lfs_pointer.h"

namespace rillkv::io {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
// The reference implementation's limit; it keeps a lying length from costing memory.
constexpr uint64_t kLongestHeader = 100'000'000;
constexpr char kMetadataKey[] = "__metadata__";

uint64_t read_length(std::string_view file) {
  uint64_t length = 0;
  for (size_t i = kLengthBytes; i-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(file[i]);
  }
  return length;
}

const json& member(const json& entry, const char* key, const std::string& what) {
  const auto found = entry.find(key);
  RILLKV_CHECK(found != entry.end(), what, ": \"", key, "\" is missing");
  return *found;
}

uint64_t natural(const json& value, const char* key, const std::string& what) {
  // nlohmann types a literal without sign as unsigned, one with a minus as signed.
  RILLKV_CHECK(value.is_number_unsigned(), what, ": \"", key,
               "\" must hold non-negative integers, found ", in_quotes(spell(value)));
  return value.get<uint64_t>();
}

// Number of bytes that shape and dtype need. Zero in any dimension makes it zero, but the product
// of the others must fit all the same: strides are computed from it.
uint64_t needed_bytes(const SafetensorsEntry& entry, int bits, const std::string& what) {
  uint64_t count = 1;
  bool empty = false;
  for (const int64_t size : entry.shape) {
    if (size == 0) {
      empty = true;
      continue;
    }
    const bool overflow = __builtin_mul_overflow(count, static_cast<uint64_t>(size), &count);
    RILLKV_CHECK(!overflow && count <= uint64_t{INT64_MAX} / 128, what, ": the shape overflows");
  }
  if (empty) return 0;
  const uint64_t total_bits = count * static_cast<uint64_t>(bits);
  RILLKV_CHECK(total_bits % 8 == 0, what, ": the elements do not fill whole bytes");
  return total_bits / 8;
}

SafetensorsEntry read_entry(const json& value, const std::string& what, uint64_t data_start,
                            uint64_t file_size) {
  RILLKV_CHECK(value.is_object(), what, ": expected an object, found ", value.type_name());
  SafetensorsEntry entry;

  const json& dtype = member(value, "dtype", what);
  RILLKV_CHECK(dtype.is_string(), what, ": \"dtype\" must be a string, found ", dtype.type_name());
  entry.dtype = dtype.get<std::string>();

  const json& shape = member(value, "shape", what);
  RILLKV_CHECK(shape.is_array(), what, ": \"shape\" must be an array, found ", shape.type_name());
  constexpr size_t kMostDimensions = 64;  // Torch's own limit
  RILLKV_CHECK(shape.size() <= kMostDimensions, what, ": ", shape.size(), " dimensions, at most ",
               kMostDimensions, " are supported");
  for (const json& size : shape) {
    const uint64_t number = natural(size, "shape", what);
    RILLKV_CHECK(number <= uint64_t{INT64_MAX}, what, ": the shape overflows");
    entry.shape.push_back(static_cast<int64_t>(number));
  }

  const json& offsets = member(value, "data_offsets", what);
  RILLKV_CHECK(offsets.is_array() && offsets.size() == 2, what,
               ": \"data_offsets\" must be [begin, end]");
  const uint64_t begin = natural(offsets[0], "data_offsets", what);
  const uint64_t end = natural(offsets[1], "data_offsets", what);
  const uint64_t data_size = file_size - data_start;
  RILLKV_CHECK(begin <= end, what, ": data_offsets [", begin, ", ", end, "] end before they begin");
  RILLKV_CHECK(end <= data_size, what, ": data_offsets [", begin, ", ", end,
               "] reach beyond the file's ", data_size, " data bytes (truncated?)");
  entry.begin = data_start + begin;
  entry.end = data_start + end;

  const int bits = safetensors_dtype_bits(entry.dtype);
  const uint64_t needed = needed_bytes(entry, bits == 0 ? 8 : bits, what);
  // An unknown dtype is the business of whoever asks for that tensor.
  RILLKV_CHECK(bits == 0 || needed == end - begin, what, ": ", entry.dtype, " of this shape needs ",
               needed, " bytes, data_offsets give ", end - begin);
  return entry;
}

// Sorted by position the entries must tile the data from its first byte to its last.
void check_tiling(const SafetensorsHeader& header, uint64_t data_start, uint64_t file_size,
                  const std::string& name) {
  using Item = std::pair<const std::string, SafetensorsEntry>;
  std::vector<const Item*> order;
  for (const Item& item : header.tensors) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const Item* a, const Item* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t reached = data_start;
  const std::string* previous = nullptr;
  for (const Item* item : order) {
    const SafetensorsEntry& entry = item->second;
    RILLKV_CHECK(entry.begin >= reached, name, ": tensor ", in_quotes(item->first),
                 " overlaps tensor ", in_quotes(previous == nullptr ? "" : *previous));
    RILLKV_CHECK(entry.begin == reached, name, ": ", entry.begin - reached, " bytes before tensor ",
                 in_quotes(item->first), " belong to no tensor");
    reached = entry.end;
    previous = &item->first;
  }
  RILLKV_CHECK(reached == file_size, name, ": ", file_size - reached,
               " bytes at the end of the file belong to no tensor");
}

}  // namespace

int safetensors_dtype_bits(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int> kKnown[] = {
      {"BOOL", 8}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
      {"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},    {"U32", 32},
      {"F32", 32}, {"F64", 64}, {"I64", 64}, {"U64", 64},    {"C64", 64}};
  for (const auto& [name, bits] : kKnown) {
    if (name == dtype) return bits;
  }
  return 0;
}

SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& name) {
  refuse_lfs_pointer(file, name);
  RILLKV_CHECK(file.size() >= kLengthBytes, name, ": not a safetensors file: ", file.size(),
               " bytes, at least ", kLengthBytes, " needed");
  const uint64_t length = read_length(file);
  RILLKV_CHECK(length <= file.size() - kLengthBytes, name, ": the header is said to be ", length,
               " bytes long, but the file has only ", file.size() - kLengthBytes,
               " after the length (truncated, or not safetensors)");
  RILLKV_CHECK(length <= kLongestHeader, name, ": the header is said to be ", length,
               " bytes long, at most ", kLongestHeader, " are accepted");
  const uint64_t data_start = kLengthBytes + length;
  constexpr int kDeepest = 4;  // file, tensor, shape
  const json root = parse_json(file.substr(kLengthBytes, length), name + ": header", kDeepest);
  RILLKV_CHECK(root.is_object(), name, ": the header must be a JSON object, found ",
               root.type_name());

  SafetensorsHeader header;
  for (const auto& [key, value] : root.items()) {
    const std::string what = str_cat(name, ": tensor ", in_quotes(key));
    if (key == kMetadataKey) {
      if (value.is_null()) continue;  // the reference implementation's optional map
      RILLKV_CHECK(value.is_object(), name, ": __metadata__ must be an object or null, found ",
                   value.type_name());
      for (const auto& [field, text] : value.items()) {
        RILLKV_CHECK(text.is_string(), name, ": __metadata__ ", in_quotes(field),
                     " must be a string, found ", text.type_name());
        header.metadata[field] = text.get<std::string>();
      }
    } else {
      header.tensors[key] = read_entry(value, what, data_start, file.size());
    }
  }
  check_tiling(header, data_start, file.size(), name);
  return header;
}

std::string make_safetensors_header(const std::map<std::string, SafetensorsEntry>& tensors,
                                    const std::map<std::string, std::string>& metadata) {
  json root = json::object();
  if (!metadata.empty()) root[kMetadataKey] = metadata;
  for (const auto& [name, entry] : tensors) {
    root[name] = {
        {"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {entry.begin, entry.end}}};
  }
  std::string text = root.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string header;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header += static_cast<char>(text.size() >> (8 * i) & 0xff);
  }
  return header + text;
}

}  // namespace rillkv::io
