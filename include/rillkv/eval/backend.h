// What the task evaluations (LongBench, needle in a haystack) need of a model: text to tokens and
// back, and one prompt run. They are written against this interface so that tests can use a fake.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rillkv/eval/run_stats.h"

namespace rillkv::eval {

struct GenerationRequest {
  std::vector<int64_t> prompt;  ///< Token ids, special ones included.
  int64_t max_new_tokens = 0;   ///< Greedy; stops early at an end-of-sequence token.
  /// Also stop at a line break, but not before one token has been produced.
  bool stop_at_newline = false;
  /// An answer to measure, and a wrong one to measure it against; both empty or neither.
  std::vector<int64_t> answer, distractor;
};

struct Generation {
  std::vector<int64_t> tokens;  ///< New tokens, without the one that ended the sequence.
  std::string text;             ///< The same, decoded without special tokens.
  bool reached_limit = false;   ///< Ended by max_new_tokens, not by a token that ends it.
  /// Sum over i of log p(answer_i | prompt, answer_0 .. answer_(i-1)), nats; 0 without an answer.
  double answer_log_prob = 0;
  /// The same sum of log p(answer_i) - log p(distractor_i), both after the right answer so far, up
  /// to the shorter of the two. One pass measures both, and a token in which they agree adds 0.
  double margin = 0;
  RunStats stats;  ///< What the back end can measure.
};

/// A model with one cache policy. Each run starts from an empty cache, so runs are independent and
/// equal requests give equal results. Not thread-safe unless an implementation says so.
class GenerationBackend {
 public:
  virtual ~GenerationBackend() = default;

  /// Ids of a whole prompt: with the special tokens the model's tokenizer puts around a plain
  /// text, or, with `chat`, with the text as the user's turn of the selected chat template (no
  /// template selected: as plain text).
  virtual std::vector<int64_t> encode_prompt(std::string_view text, bool chat) const = 0;
  /// Ids of a piece of text that follows other text, without special tokens.
  virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  /// Text of ids, special tokens left out.
  virtual std::string decode(const std::vector<int64_t>& ids) const = 0;
  virtual Generation run(const GenerationRequest& request) = 0;
};

}  // namespace rillkv::eval
