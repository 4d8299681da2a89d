#include "src/io/tokenizer/nfc.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "src/io/tokenizer/nfc_tables.h"
#include "src/io/utf8.h"

namespace rillkv::io {
namespace {

// Hangul syllables are composed by arithmetic (Unicode Standard, section 3.12).
constexpr uint32_t kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTrails = 0x11a7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTrailCount = 28;
constexpr uint32_t kSyllableCount = kLeadCount * kVowelCount * kTrailCount;

int combining_class(uint32_t code) {
  const CombiningRange* end = kCombiningRanges + kCombiningRangeCount;
  const CombiningRange* found =
      std::lower_bound(kCombiningRanges, end, code,
                       [](const CombiningRange& range, uint32_t c) { return range.last < c; });
  return found != end && found->first <= code ? found->combining_class : 0;
}

void decompose(uint32_t code, std::vector<uint32_t>& out) {
  if (code - kSyllables < kSyllableCount) {  // unsigned: also false for smaller codes
    const uint32_t index = code - kSyllables;
    out.push_back(kLeads + index / (kVowelCount * kTrailCount));
    out.push_back(kVowels + index / kTrailCount % kVowelCount);
    if (index % kTrailCount != 0) out.push_back(kTrails + index % kTrailCount);
    return;
  }
  const Decomposition* end = kDecompositions + kDecompositionCount;
  const Decomposition* found =
      std::lower_bound(kDecompositions, end, code,
                       [](const Decomposition& entry, uint32_t c) { return entry.code < c; });
  if (found == end || found->code != code) {
    out.push_back(code);
    return;
  }
  decompose(found->first, out);
  if (found->second != 0) decompose(found->second, out);
}

// The code point that stands for the pair, or 0.
uint32_t compose(uint32_t first, uint32_t second) {
  if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTrailCount;
  }
  if (first - kSyllables < kSyllableCount && (first - kSyllables) % kTrailCount == 0 &&
      second - kTrails - 1 < kTrailCount - 1) {
    return first + (second - kTrails);
  }
  static const auto pairs = [] {
    std::unordered_map<uint64_t, uint32_t> result;
    for (size_t i = 0; i < kDecompositionCount; ++i) {
      const Decomposition& entry = kDecompositions[i];
      if (entry.composes && entry.second != 0) {
        result[uint64_t{entry.first} << 32 | entry.second] = entry.code;
      }
    }
    return result;
  }();
  const auto found = pairs.find(uint64_t{first} << 32 | second);
  return found == pairs.end() ? 0 : found->second;
}

// Stably sorts every run of combining marks by class.
void order(std::vector<uint32_t>& codes, std::vector<int>& classes) {
  std::vector<std::pair<int, uint32_t>> run;
  for (size_t begin = 0; begin < codes.size();) {
    if (classes[begin] == 0) {
      ++begin;
      continue;
    }
    size_t end = begin;
    run.clear();
    for (; end < codes.size() && classes[end] != 0; ++end)
      run.emplace_back(classes[end], codes[end]);
    std::stable_sort(run.begin(), run.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [value, code] : run) {
      classes[begin] = value;
      codes[begin++] = code;
    }
  }
}

}  // namespace

std::string normalize_nfc(std::string_view text) {
  // Code points below U+0300 (first bytes below 0xcc) never change and never combine.
  if (std::all_of(text.begin(), text.end(), [](char c) { return (c & 0xff) < 0xcc; })) {
    return std::string(text);
  }
  std::vector<uint32_t> codes;
  while (!text.empty()) {
    const size_t length = utf8_step(text).length;
    decompose(decode_utf8(text.substr(0, length)), codes);
    text.remove_prefix(length);
  }
  std::vector<int> classes;
  for (const uint32_t code : codes) classes.push_back(combining_class(code));
  order(codes, classes);

  // A character joins the last starter unless something of its own class or higher, or another
  // starter, lies between.
  constexpr size_t kNone = ~size_t{0};
  size_t starter = kNone;
  size_t kept = 0;
  int last_class = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    const bool adjacent = starter != kNone && kept == starter + 1;
    if (starter != kNone && (adjacent || (last_class != 0 && last_class < classes[i]))) {
      if (const uint32_t whole = compose(codes[starter], codes[i]); whole != 0) {
        codes[starter] = whole;
        continue;
      }
    }
    if (classes[i] == 0) starter = kept;
    last_class = classes[i];
    codes[kept++] = codes[i];
  }
  std::string result;
  for (size_t i = 0; i < kept; ++i) append_utf8(result, codes[i]);
  return result;
}

}  // namespace rillkv::io
