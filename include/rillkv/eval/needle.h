// Needle in a haystack: a fact hidden at a depth of a long text, asked for at its end; a grid of
// depths and lengths, the dense cache beside the compressed one in every cell.
//
// Each cell gives a retrieval score (is the answer in what the model generates?) and a margin: the
// log-probability of the right answer's tokens less that of a wrong one's, in nats (see
// Generation::margin). The margin moves long before the score does, so it shows what compression
// costs a model that still finds the needle. A length at which the dense cache itself fails says
// nothing about compression and is marked unsolvable.
//
// A reply that the limit of new tokens ends before it has given an answer (see answer_cut_off) is
// counted as cut off and is no part of a score: it says what the limit was, not what was found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "rillkv/compression_config.h"
#include "rillkv/eval/backend.h"
#include "rillkv/eval/progress.h"
#include "rillkv/eval/result_log.h"

namespace rillkv::eval {

/// What is hidden and how it is asked for.
struct Needle {
  std::string fact;        ///< A sentence, put between two sentences of the haystack.
  std::string question;    ///< Asked after the text.
  std::string lead;        ///< How the answer begins; ends a prompt without chat. May be empty.
  std::string answer;      ///< What the model should say next.
  std::string distractor;  ///< A wrong answer of the same form, for the margin.
};

/// A made-up place and its 5-digit number; the distractor is another number without a digit in
/// its place. Deterministic in `seed`.
Needle random_needle(uint64_t seed);

/// All *.txt files of a folder, in the order of their names, joined by empty lines. Throws Error if
/// there is none or all are empty.
std::string load_haystack(const std::filesystem::path& folder);
/// The project's own prose, about 1500 tokens.
std::string_view default_haystack();

/// At least `tokens` tokens of the haystack: its paragraphs in order, then over again in a seeded
/// order for as long as needed.
std::string stretch_haystack(const GenerationBackend& backend, std::string_view haystack,
                             int64_t tokens, uint64_t seed);

struct NeedleOptions {
  std::vector<int64_t> lengths = {512, 1024, 2048, 4096, 8192};  ///< Prompt tokens, at most.
  std::vector<double> depths = {0, 25, 50, 75, 100};             ///< Per cent of the text.
  int64_t samples = 1;                                           ///< Needles a cell, averaged.
  int64_t max_new_tokens = 0;  ///< 0: as many as the answer takes, see needle_new_tokens.
  bool chat = false;           ///< The whole prompt as a user's turn.
  double solved_score = 0.5;   ///< Mean dense score from which a length counts as solved.
  uint64_t seed = 1;
  std::string haystack;  ///< Empty: default_haystack().
  /// One fixed needle for every cell instead of random ones; used if its fact is not empty.
  Needle needle;
};
/// Throws UsageError for empty lists, depths outside 0..100, lengths or samples that are not
/// positive, and a negative number of new tokens.
void check(const NeedleOptions& options);

/// A prompt of at most `length` tokens with the needle at `depth` per cent, at the next sentence
/// boundary before it. Throws Error if length does not even hold needle and question.
std::vector<int64_t> needle_prompt(const GenerationBackend& backend, const NeedleOptions& options,
                                   const Needle& needle, int64_t length, double depth);

/// How many tokens a model may generate: max_new_tokens if given. Otherwise the tokens of what it
/// has yet to say and 16 more for words around it ("Sure! The answer is **"): of " ANSWER." after a
/// prompt that ends with the lead; of "LEAD ANSWER." in a chat, where the reply starts afresh;
/// where there is no lead, of the fact or the answer, whichever is longer. Tokens are the back
/// end's, so a tokenizer that writes numbers digit by digit gets what it needs.
int64_t needle_new_tokens(const GenerationBackend& backend, const NeedleOptions& options,
                          const Needle& needle);

/// Whether a reply that the limit ended had not yet given an answer, right or wrong: the right one
/// is not in it, no sentence or line of it is complete, where the answer is a number it names no
/// other number of as many digits, and it does not go round in circles (eight words or more of
/// which fewer than half are different).
bool answer_cut_off(const Needle& needle, std::string_view text);

/// 1 if the answer occurs in the text (letter case and punctuation aside), else 0.
double needle_score(const Needle& needle, std::string_view text);

/// Runs what `log` does not hold yet of the grid: every cell and sample on `dense` (may be null)
/// and on `compressed`. Returns whether the grid is complete; false after an interruption.
bool run_needle(const NeedleOptions& options, GenerationBackend& compressed,
                GenerationBackend* dense, ResultLog& log, const Progress& progress = {});

/// The report from the log's records. Keys: benchmark, complete, lengths, depths, samples,
/// solved_score, cells [{length, depth, samples, prompt_tokens, score, margin, cut_off, text,
/// baseline{score, margin, cut_off, text}, solvable}], score, margin (means over all finished
/// cells), cut_off, score_solvable, margin_solvable (over lengths the dense cache solves),
/// baseline{score, margin, cut_off}, unsolvable_lengths, performance{compressed, baseline}. Without
/// baseline the keys that need one are null. cut_off counts samples; scores are of the others, null
/// if there is none. A length whose dense replies were cut off is solvable if it is solved although
/// they count as wrong; otherwise `solvable` is null, and it is not among the unsolvable ones.
/// `config` is the compressed side's, for what PerformanceSummary says of its sinks. Throws Error
/// naming a record that is unusable.
nlohmann::json needle_report(const NeedleOptions& options, const ResultLog& log,
                             const CompressionConfig& config = {});

}  // namespace rillkv::eval
