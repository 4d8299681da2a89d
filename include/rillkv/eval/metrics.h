// The scores of LongBench and of question answering, on UTF-8 text.
//
// Each agrees to rounding with the Python code it names; tests/eval/metrics_test.cpp compares them
// on pairs scored by scripts/make_metric_goldens.py. All functions are pure and thread-safe.
// Source: Bai et al., "LongBench" (arXiv 2308.14508), and its published scorer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rillkv::eval {

/// SQuAD's normalisation: lower case, no ASCII punctuation, no "a", "an", "the", single spaces.
std::string normalize_english(std::string_view text);
/// Lower case, no ASCII or full-width punctuation, no white space at all.
std::string normalize_chinese(std::string_view text);

/// Harmonic mean of token precision and recall after normalize_english, in [0, 1]; 0 if no token
/// is shared (also if both are empty).
double token_f1(std::string_view prediction, std::string_view truth);
/// The same on text a segmenter has already cut (scripts/segment_chinese.py); words are normalised
/// by normalize_chinese and dropped when nothing is left.
double token_f1_words(const std::vector<std::string>& prediction,
                      const std::vector<std::string>& truth);
/// 1 if both are equal after normalize_english, else 0.
double exact_match(std::string_view prediction, std::string_view truth);

struct RougeScore {
  double precision = 0, recall = 0, f1 = 0;
  /// True when the reference implementation would have exceeded Python's recursion limit, which
  /// LongBench scores as 0. Only with a limit in RougeOptions.
  bool recursion_exceeded = false;
};

struct RougeOptions {
  /// The PyPI package `rouge` walks its table by recursion, so a "sentence" (text between two full
  /// stops) pair that needs more steps than Python's limit of 1000 frames leaves raises, and
  /// LongBench counts 0. 0 means no limit: the score the formula gives.
  int64_t max_recursion_steps = 0;
};
/// What is left of Python's limit inside LongBench's scorer (measured: 990 words score, 991 raise).
inline constexpr int64_t kLongBenchRougeSteps = 990;
/// One frame less in the scorer's Chinese variant.
inline constexpr int64_t kLongBenchRougeStepsZh = 989;

/// Summary-level ROUGE-L as the PyPI package `rouge` 1.0 computes it: sentences end at '.', words
/// at white space, *sets* of words (not counts) of the union of longest common subsequences,
/// F = 2PR / (P + R + 1e-8). Empty text (nothing between full stops) scores 0.
RougeScore rouge_l(std::string_view prediction, std::string_view truth, RougeOptions options = {});
/// rouge_l of segmented text, the words joined by spaces.
RougeScore rouge_l_words(const std::vector<std::string>& prediction,
                         const std::vector<std::string>& truth, RougeOptions options = {});

/// 1 / (class names found in the prediction) if the true one is among them, else 0. Names that are
/// part of the true name are not counted, except where the reference misses them because it
/// removes while it iterates; so does this. Throws Error if `classes` is empty.
double classification_score(std::string_view prediction, std::string_view truth,
                            const std::vector<std::string>& classes);

/// Share of the prediction's numbers that equal N of the truth's "Paragraph N".
/// Throws Error if the truth has no such part.
double retrieval_score(std::string_view prediction, std::string_view truth);
/// The same for "段落N".
double retrieval_score_chinese(std::string_view prediction, std::string_view truth);
/// Share of the prediction's numbers that equal the truth, digit for digit.
double count_score(std::string_view prediction, std::string_view truth);

enum class EditRatio {
  /// fuzzywuzzy without python-Levenshtein, which is what LongBench's requirements install:
  /// difflib's matching blocks, frequent characters of long texts ignored.
  kDifflib,
  /// fuzzywuzzy with python-Levenshtein, and rapidfuzz (rounded): longest common subsequence.
  kIndel,
};

/// fuzz.ratio: similarity 0..100, half-way values rounded to even; an empty text matches only an
/// empty text.
int edit_ratio(std::string_view a, std::string_view b, EditRatio kind = EditRatio::kDifflib);

/// edit_ratio / 100 of the prediction's first line that looks like code (no '`', '#' or "//").
double code_similarity(std::string_view prediction, std::string_view truth,
                       EditRatio kind = EditRatio::kDifflib);

}  // namespace rillkv::eval
