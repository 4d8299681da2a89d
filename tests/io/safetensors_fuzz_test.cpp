// Seeded mutations of a valid file: parsing throws rillkv::Error or succeeds with the guarantees of
// parse_safetensors_header, and touches no byte outside the file (run under AddressSanitizer).
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>

#include "rillkv/error.h"
#include "src/io/safetensors_header.h"

namespace rillkv::io {
namespace {

std::string valid_file() {
  std::map<std::string, SafetensorsEntry> tensors;
  tensors["model.embed_tokens.weight"] = {"BF16", {7, 8}, 0, 112};
  tensors["model.layers.0.self_attn.q_proj.weight"] = {"F32", {4, 2}, 112, 144};
  tensors["n"] = {"F16", {0}, 144, 144};
  return make_safetensors_header(tensors, {{"format", "pt"}}) + std::string(144, 'x');
}

std::string mutated(const std::string& original, std::mt19937& random) {
  static const char* const kTokens[] = {"18446744073709551615",
                                        "-1",
                                        "9223372036854775807",
                                        "[",
                                        "]",
                                        "{",
                                        "}",
                                        "\"",
                                        ",",
                                        ":",
                                        "null",
                                        "1e308",
                                        "0",
                                        "\"dtype\"",
                                        "\"shape\"",
                                        "[0,144]",
                                        "\\u0000"};
  const auto below = [&](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };
  std::string file = original;
  for (size_t edits = 1 + below(4); edits > 0 && !file.empty(); --edits) {
    // Most edits go to the length and the header, where the decisions are taken.
    const size_t at = below(below(4) == 0 ? file.size() : std::min<size_t>(file.size(), 330));
    switch (below(6)) {
      case 0:
        file[at] = static_cast<char>(below(256));
        break;
      case 1:
        file[at] = static_cast<char>(file[at] ^ (1 << below(8)));
        break;
      case 2:
        file.erase(at, 1 + below(8));
        break;
      case 3:
        file.insert(at, kTokens[below(std::size(kTokens))]);
        break;
      case 4:
        file.resize(below(2) == 0 ? at : file.size() + at);
        break;
      default: {  // digits are where lies about sizes hide
        const size_t digit = file.find_first_of("0123456789", at);
        if (digit != file.npos) file[digit] = static_cast<char>('0' + below(10));
      }
    }
    // Half of the time keep the length honest, so that the JSON itself is reached.
    if (file.size() >= 8 && below(2) == 0) {
      const size_t end = file.rfind('}');
      const uint64_t length = end == file.npos || end < 8 ? 0 : end + 1 - 8;
      for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i) & 0xff);
    }
  }
  return file;
}

TEST(SafetensorsFuzz, MutationsThrowOrKeepTheGuarantees) {
  int rounds = 20000;
  if (const char* text = std::getenv("RILLKV_FUZZ_ROUNDS")) rounds = std::atoi(text);
  std::mt19937 random(20261124);
  const std::string original = valid_file();
  ASSERT_EQ(parse_safetensors_header(original, "f").tensors.size(), 3u);
  int accepted = 0;
  for (int round = 0; round < rounds; ++round) {
    const std::string file = mutated(original, random);
    // An allocation of exactly this size: a read beyond it is seen.
    const auto exact = std::make_unique<char[]>(file.size());
    std::copy(file.begin(), file.end(), exact.get());
    try {
      const auto header = parse_safetensors_header({exact.get(), file.size()}, "f");
      ++accepted;
      for (const auto& [name, entry] : header.tensors) {
        ASSERT_LE(entry.begin, entry.end);
        ASSERT_LE(entry.end, file.size());
        int64_t elements = 1;
        for (const int64_t size : entry.shape) {
          ASSERT_GE(size, 0);
          ASSERT_FALSE(__builtin_mul_overflow(elements, size, &elements));
        }
        const int bits = safetensors_dtype_bits(entry.dtype);
        if (bits != 0) {
          ASSERT_EQ(entry.end - entry.begin, static_cast<uint64_t>(elements * bits / 8));
        }
      }
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
  // Both outcomes must occur, or the mutations test nothing.
  EXPECT_GT(accepted, rounds / 1000);
  EXPECT_LT(accepted, rounds / 2);
}

}  // namespace
}  // namespace rillkv::io
