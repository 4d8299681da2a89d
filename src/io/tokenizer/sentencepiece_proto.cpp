#include "src/io/tokenizer/sentencepiece_proto.h"

#include <cstdint>
#include <optional>

namespace rillkv::io {
namespace {

// The fields of one message, one after the other.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}

  /// Reads the next field; false at the end and where the message is damaged.
  bool next() {
    const auto tag = varint();
    if (!tag) return false;
    number = *tag >> 3;
    size_t length = 0;
    switch (*tag & 7) {
      case 0: {
        const auto read = varint();
        value = read.value_or(0);
        return read.has_value();
      }
      case 1:
        length = 8;
        break;
      case 2:
        length = varint().value_or(UINT64_MAX);
        break;
      case 5:
        length = 4;
        break;
      default:
        return false;
    }
    if (length > rest_.size()) return false;
    bytes = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return true;
  }

  uint64_t number = 0;
  uint64_t value = 0;      // of a number
  std::string_view bytes;  // of anything else

 private:
  std::optional<uint64_t> varint() {
    uint64_t result = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_[0]);
      rest_.remove_prefix(1);
      result |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return result;
    }
    return std::nullopt;
  }

  std::string_view rest_;
};

}  // namespace

std::vector<bool> user_defined_pieces(std::string_view model) {
  constexpr uint64_t kPieces = 1, kType = 3, kUserDefined = 4;
  std::vector<bool> result;
  Fields fields(model);
  while (fields.next()) {
    if (fields.number != kPieces) continue;
    bool user_defined = false;
    Fields piece(fields.bytes);
    while (piece.next()) {
      if (piece.number == kType) user_defined = piece.value == kUserDefined;
    }
    result.push_back(user_defined);
  }
  return result;
}

}  // namespace rillkv::io
