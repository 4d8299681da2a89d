// ROUGE-L (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004) with the sentence
// splitting, set semantics and tie breaking of the PyPI package `rouge`.
#include <algorithm>
#include <cstdint>
#include <set>
#include <unordered_map>

#include "rillkv/eval/metrics.h"
#include "src/eval/unicode.h"

namespace rillkv::eval {
namespace {

using Sentence = std::vector<int32_t>;  // Word ids.

/// Gives equal words equal ids, so that tables compare integers.
class Vocabulary {
 public:
  int32_t id(const std::u32string& word) {
    return ids_.try_emplace(word, static_cast<int32_t>(ids_.size())).first->second;
  }

 private:
  std::unordered_map<std::u32string, int32_t> ids_;
};

std::vector<Sentence> sentences_of(std::string_view text, Vocabulary& vocabulary) {
  std::vector<Sentence> sentences;
  for (const std::u32string& piece : split(decode_utf8(text), U'.')) {
    if (piece.empty()) continue;
    Sentence sentence;
    for (const std::u32string& word : split_whitespace(piece)) {
      sentence.push_back(vocabulary.id(word));
    }
    // Only white space: the reference splits "" at " " and counts one empty word.
    if (sentence.empty()) sentence.push_back(vocabulary.id(U""));
    sentences.push_back(std::move(sentence));
  }
  return sentences;
}

std::set<int32_t> words_of(const std::vector<Sentence>& sentences) {
  std::set<int32_t> words;
  for (const Sentence& sentence : sentences) words.insert(sentence.begin(), sentence.end());
  return words;
}

/// Adds the words of one longest common subsequence to `words`; returns the steps of the walk
/// back. Which of several subsequences decides the score, so ties go the reference's way.
int64_t collect_lcs(const Sentence& truth, const Sentence& prediction, std::set<int32_t>& words) {
  const size_t n = truth.size(), m = prediction.size();
  std::vector<int32_t> table((n + 1) * (m + 1), 0);
  const auto at = [&](size_t i, size_t j) -> int32_t& { return table[i * (m + 1) + j]; };
  for (size_t i = 1; i <= n; ++i) {
    for (size_t j = 1; j <= m; ++j) {
      at(i, j) = truth[i - 1] == prediction[j - 1] ? at(i - 1, j - 1) + 1
                                                   : std::max(at(i - 1, j), at(i, j - 1));
    }
  }
  int64_t steps = 0;
  for (size_t i = n, j = m; i > 0 && j > 0; ++steps) {
    if (truth[i - 1] == prediction[j - 1]) {
      words.insert(truth[i - 1]);
      --i;
      --j;
    } else if (at(i - 1, j) > at(i, j - 1)) {
      --i;
    } else {
      --j;
    }
  }
  return steps;
}

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += ' ';
    text += words[i];
  }
  return text;
}

}  // namespace

RougeScore rouge_l(std::string_view prediction, std::string_view truth, RougeOptions options) {
  Vocabulary vocabulary;
  const std::vector<Sentence> predicted = sentences_of(prediction, vocabulary);
  const std::vector<Sentence> wanted = sentences_of(truth, vocabulary);
  RougeScore score;
  if (predicted.empty() || wanted.empty()) return score;

  std::set<int32_t> common;
  for (const Sentence& reference : wanted) {
    for (const Sentence& candidate : predicted) {
      const int64_t steps = collect_lcs(reference, candidate, common);
      if (options.max_recursion_steps > 0 && steps > options.max_recursion_steps) {
        score.recursion_exceeded = true;
        return score;
      }
    }
  }
  const auto shared = static_cast<double>(common.size());
  score.precision = shared / static_cast<double>(words_of(predicted).size());
  score.recall = shared / static_cast<double>(words_of(wanted).size());
  score.f1 = 2 * (score.precision * score.recall / (score.precision + score.recall + 1e-8));
  return score;
}

RougeScore rouge_l_words(const std::vector<std::string>& prediction,
                         const std::vector<std::string>& truth, RougeOptions options) {
  return rouge_l(join(prediction), join(truth), options);
}

}  // namespace rillkv::eval
