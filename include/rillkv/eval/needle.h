// Needle in a haystack: a fact hidden at a depth of a long text, asked for at its end; a grid of
// depths and lengths, the dense cache beside the compressed one in every cell.
//
// Each cell gives a retrieval score (is the answer in what the model generates?) and a margin: the
// log-probability of the right answer's tokens less that of a wrong one's, in nats (see
// Generation::margin). The margin moves long before the score does, so it shows what compression
// costs a model that still finds the needle. A length at which the dense cache itself fails says
// nothing about compression and is marked unsolvable.
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
  int64_t max_new_tokens = 12;
  bool chat = false;          ///< The whole prompt as a user's turn.
  double solved_score = 0.5;  ///< Mean dense score from which a length counts as solved.
  uint64_t seed = 1;
  std::string haystack;  ///< Empty: default_haystack().
  /// One fixed needle for every cell instead of random ones; used if its fact is not empty.
  Needle needle;
};
/// Throws UsageError for empty lists, depths outside 0..100, lengths or counts that are not
/// positive.
void check(const NeedleOptions& options);

/// A prompt of at most `length` tokens with the needle at `depth` per cent, at the next sentence
/// boundary before it. Throws Error if length does not even hold needle and question.
std::vector<int64_t> needle_prompt(const GenerationBackend& backend, const NeedleOptions& options,
                                   const Needle& needle, int64_t length, double depth);

/// 1 if the answer occurs in the text (letter case and punctuation aside), else 0.
double needle_score(const Needle& needle, std::string_view text);

/// Runs what `log` does not hold yet of the grid: every cell and sample on `dense` (may be null)
/// and on `compressed`. Returns whether the grid is complete; false after an interruption.
bool run_needle(const NeedleOptions& options, GenerationBackend& compressed,
                GenerationBackend* dense, ResultLog& log, const Progress& progress = {});

/// The report from the log's records. Keys: benchmark, complete, lengths, depths, samples,
/// solved_score, cells [{length, depth, samples, prompt_tokens, score, margin, text,
/// baseline{score, margin, text}, solvable}], score, margin (means over all finished cells),
/// score_solvable, margin_solvable (over lengths the dense cache solves), baseline{score, margin},
/// unsolvable_lengths, performance{compressed, baseline}. Without baseline the keys that need one
/// are null. `config` is the compressed side's, for what PerformanceSummary says of its sinks.
nlohmann::json needle_report(const NeedleOptions& options, const ResultLog& log,
                             const CompressionConfig& config = {});

}  // namespace rillkv::eval
