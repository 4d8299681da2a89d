#include "rillkv/eval/content_hash.h"

#include <cstdint>

namespace rillkv::eval {

std::string content_hash(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) {
    hash ^= static_cast<unsigned char>(byte);
    hash *= 0x100000001b3;
  }
  std::string text(16, '0');
  for (int i = 15; i >= 0; --i, hash >>= 4)
    text[static_cast<size_t>(i)] = "0123456789abcdef"[hash & 15];
  return text;
}

}  // namespace rillkv::eval
