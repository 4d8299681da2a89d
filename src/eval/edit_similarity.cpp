// fuzz.ratio in its two published meanings: Ratcliff/Obershelp matching blocks (difflib) and the
// normalised longest common subsequence (python-Levenshtein, rapidfuzz).
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "rillkv/eval/metrics.h"
#include "src/eval/unicode.h"

namespace rillkv::eval {
namespace {

/// Counts the characters in difflib's matching blocks: the longest common substring, then the same
/// to its left and right.
class BlockMatcher {
 public:
  BlockMatcher(const std::u32string& a, const std::u32string& b) : a_(a), b_(b) {
    for (size_t j = 0; j < b.size(); ++j) places_[b[j]].push_back(j);
    // A character that fills more than 1 % of a text of 200 or more starts no match ("autojunk").
    constexpr size_t kLongText = 200;
    if (b.size() >= kLongText) {
      const size_t popular = b.size() / 100 + 1;
      std::erase_if(places_, [&](const auto& item) { return item.second.size() > popular; });
    }
  }

  size_t matched_characters() {
    size_t matched = 0;
    std::vector<Range> pending{{0, a_.size(), 0, b_.size()}};
    while (!pending.empty()) {
      const Range range = pending.back();
      pending.pop_back();
      const Block block = longest(range);
      if (block.size == 0) continue;
      matched += block.size;
      if (range.a_begin < block.a && range.b_begin < block.b) {
        pending.push_back({range.a_begin, block.a, range.b_begin, block.b});
      }
      if (block.a + block.size < range.a_end && block.b + block.size < range.b_end) {
        pending.push_back({block.a + block.size, range.a_end, block.b + block.size, range.b_end});
      }
    }
    return matched;
  }

 private:
  struct Range {
    size_t a_begin, a_end, b_begin, b_end;
  };
  struct Block {
    size_t a, b, size;
  };

  /// Longest common run in the range; of several the one that starts first in a, then in b.
  Block longest(const Range& range) const {
    Block best{range.a_begin, range.b_begin, 0};
    std::unordered_map<size_t, size_t> run_ending;  // Last index in b -> length, for a[i - 1].
    for (size_t i = range.a_begin; i < range.a_end; ++i) {
      std::unordered_map<size_t, size_t> run_here;
      const auto places = places_.find(a_[i]);
      if (places != places_.end()) {
        for (size_t j : places->second) {
          if (j < range.b_begin) continue;
          if (j >= range.b_end) break;
          size_t run = 1;
          if (j > 0) {
            const auto before = run_ending.find(j - 1);
            if (before != run_ending.end()) run += before->second;
          }
          run_here[j] = run;
          if (run > best.size) best = {i + 1 - run, j + 1 - run, run};
        }
      }
      run_ending.swap(run_here);
    }
    // Popular characters start no run but may lengthen one.
    while (best.a > range.a_begin && best.b > range.b_begin && a_[best.a - 1] == b_[best.b - 1]) {
      best = {best.a - 1, best.b - 1, best.size + 1};
    }
    while (best.a + best.size < range.a_end && best.b + best.size < range.b_end &&
           a_[best.a + best.size] == b_[best.b + best.size]) {
      ++best.size;
    }
    return best;
  }

  const std::u32string& a_;
  const std::u32string& b_;
  std::unordered_map<char32_t, std::vector<size_t>> places_;
};

size_t lcs_length(const std::u32string& a, const std::u32string& b) {
  std::vector<size_t> row(b.size() + 1, 0);
  for (char32_t c : a) {
    size_t diagonal = 0;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = c == b[j - 1] ? diagonal + 1 : std::max(above, row[j - 1]);
      diagonal = above;
    }
  }
  return row.back();
}

/// Nearest integer, half-way cases to the even one, as Python's round().
int round_half_even(double x) {
  const double low = std::floor(x);
  const double fraction = x - low;
  const bool up = fraction > 0.5 || (fraction == 0.5 && std::fmod(low, 2.0) != 0);
  return static_cast<int>(low) + (up ? 1 : 0);
}

}  // namespace

int edit_ratio(std::string_view a, std::string_view b, EditRatio kind) {
  if (a == b) return 100;
  if (a.empty() || b.empty()) return 0;
  const std::u32string left = decode_utf8(a), right = decode_utf8(b);
  const size_t matched = kind == EditRatio::kIndel ? lcs_length(left, right)
                                                   : BlockMatcher(left, right).matched_characters();
  const double ratio =
      2.0 * static_cast<double>(matched) / static_cast<double>(left.size() + right.size());
  return round_half_even(100 * ratio);
}

double code_similarity(std::string_view prediction, std::string_view truth, EditRatio kind) {
  const size_t start = std::min(prediction.find_first_not_of('\n'), prediction.size());
  std::string_view rest = prediction.substr(start);
  std::string_view chosen;
  while (true) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    if (line.find('`') == line.npos && line.find('#') == line.npos &&
        line.find("//") == line.npos) {
      chosen = line;
      break;
    }
    if (end == rest.size()) break;
    rest.remove_prefix(end + 1);
  }
  return edit_ratio(chosen, truth, kind) / 100.0;
}

}  // namespace rillkv::eval
