#include "rillkv/eval/model_backend.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "rillkv/device.h"
#include "rillkv/error.h"
#include "rillkv/eval/memory_sampler.h"
#include "rillkv/generation.h"
#include "rillkv/memory.h"

namespace rillkv::eval {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

bool contains(const std::vector<int64_t>& ids, int64_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

at::Tensor one_token(const int64_t& id) {
  return at::from_blob(const_cast<int64_t*>(&id), {1}, at::kLong);
}

/// One sequence that is fed token by token after its prompt.
class Sequence {
 public:
  Sequence(const LlamaModel& model, const CompressionConfig& config,
           const std::vector<int64_t>& prompt)
      : model_(model), cache_(model->make_cache(config)) {
    const GenerationResult prefill = generate(model, prompt, cache_, {});
    logits_ = prefill.last_logits;
    ttft_s_ = prefill.ttft_s;
  }

  /// [vocab] f32, of what comes next.
  const at::Tensor& logits() const { return logits_; }
  double ttft_s() const { return ttft_s_; }
  double decode_s() const { return decode_s_; }
  int64_t decode_steps() const { return decode_steps_; }
  const QuantizedKvCache& cache() const { return cache_; }

  void feed(int64_t token) {
    const Clock::time_point start = Clock::now();
    logits_ = model_->forward(one_token(token), cache_, Logits::kLast)[0];
    decode_s_ += seconds_since(start);
    ++decode_steps_;
  }

 private:
  const LlamaModel& model_;
  QuantizedKvCache cache_;
  at::Tensor logits_;
  double ttft_s_ = 0, decode_s_ = 0;
  int64_t decode_steps_ = 0;
};

/// The most likely token; `banned` ones count as impossible.
int64_t best_token(const at::Tensor& logits, const std::vector<int64_t>& banned) {
  at::Tensor row = logits;
  if (!banned.empty()) {
    row = logits.clone();
    for (int64_t id : banned) {  // A tokenizer may know tokens that the model lacks.
      if (id < row.numel()) row[id] = -std::numeric_limits<float>::infinity();
    }
  }
  return choose_token(row, 0, 0);
}

/// Greedy decoding that can be driven over a known answer first.
class GreedyRun {
 public:
  GreedyRun(Sequence& sequence, const GenerationRequest& request, std::vector<int64_t> stop_ids,
            bool first_token_may_stop)
      : sequence_(sequence),
        request_(request),
        stop_ids_(std::move(stop_ids)),
        first_token_may_stop_(first_token_may_stop) {}

  bool done() const {
    return ended_ || static_cast<int64_t>(tokens_.size()) >= request_.max_new_tokens;
  }

  /// The token greedy decoding takes now, -1 when it ends.
  int64_t choose() {
    if (done()) return -1;
    const bool keep_going = tokens_.empty() && !first_token_may_stop_;
    const int64_t next =
        best_token(sequence_.logits(), keep_going ? stop_ids_ : std::vector<int64_t>{});
    if (!keep_going && contains(stop_ids_, next)) {
      ended_ = true;
      return -1;
    }
    return next;
  }

  void take(int64_t token) { tokens_.push_back(token); }

  /// Goes on until the end; the last token is not fed, nothing would follow it.
  void finish() {
    for (int64_t next = choose(); next >= 0; next = choose()) {
      take(next);
      if (!done()) sequence_.feed(next);
    }
  }

  const std::vector<int64_t>& tokens() const { return tokens_; }
  /// Whether only the limit ended it.
  bool reached_limit() const { return !ended_; }

 private:
  Sequence& sequence_;
  const GenerationRequest& request_;
  std::vector<int64_t> stop_ids_;
  bool first_token_may_stop_;
  std::vector<int64_t> tokens_;
  bool ended_ = false;
};

/// Adds what position i says about answer and distractor.
void measure(const at::Tensor& logits, const GenerationRequest& request, size_t i,
             Generation& generation) {
  const at::Tensor log_probs = logits.to(at::kDouble).log_softmax(-1);
  const double right = log_probs[request.answer[i]].item<double>();
  generation.answer_log_prob += right;
  if (i < request.distractor.size()) {
    generation.margin += right - log_probs[request.distractor[i]].item<double>();
  }
}

void fill_stats(const Sequence& sequence, size_t prompt_tokens, size_t new_tokens,
                RunStats& stats) {
  stats.prompt_tokens = static_cast<int64_t>(prompt_tokens);
  stats.new_tokens = static_cast<int64_t>(new_tokens);
  stats.ttft_s = sequence.ttft_s();
  stats.decode_steps = sequence.decode_steps();
  stats.decode_s = sequence.decode_s();
  stats.cache = sequence.cache().report();
  stats.device_peak_bytes = device_peak_bytes(sequence.cache().device());
}

}  // namespace

ModelBackend::ModelBackend(LlamaModel model, std::shared_ptr<const Tokenizer> tokenizer,
                           ModelBackendOptions options)
    : model_(std::move(model)), tokenizer_(std::move(tokenizer)), options_(std::move(options)) {
  options_.config.validate_for(model_->config().head_dim);
  stop_ids_ = stop_ids(*tokenizer_, options_.chat, model_->config().eos_token_ids);
}

std::vector<int64_t> ModelBackend::encode_prompt(std::string_view text, bool chat) const {
  if (!chat || options_.chat.is_none()) {
    return tokenizer_->encode(text, /*add_bos=*/true);
  }
  return encode_chat(*tokenizer_, options_.chat, Conversation::of(std::string(text)));
}

std::vector<int64_t> ModelBackend::encode(std::string_view text) const {
  // Sentencepiece puts a space before a text of its own, so the text is encoded after something.
  const std::string anchor = !text.empty() && text.front() == ' ' ? "x" : "\n";
  const std::vector<int64_t> head = tokenizer_->encode(anchor, /*add_bos=*/false);
  std::vector<int64_t> all = tokenizer_->encode(anchor + std::string(text), /*add_bos=*/false);
  if (all.size() < head.size() || !std::equal(head.begin(), head.end(), all.begin())) {
    return tokenizer_->encode(text, /*add_bos=*/false);  // The anchor merged with the text.
  }
  all.erase(all.begin(), all.begin() + static_cast<int64_t>(head.size()));
  return all;
}

std::string ModelBackend::decode(const std::vector<int64_t>& ids) const {
  return tokenizer_->decode_generated(ids);
}

Generation ModelBackend::run(const GenerationRequest& request) {
  RILLKV_CHECK(!request.prompt.empty(), "expected a prompt of at least one token, got none");
  RILLKV_CHECK(request.answer.empty() == request.distractor.empty(),
               "expected answer and distractor or neither");
  const int64_t vocab = model_->config().vocab_size;
  for (const std::vector<int64_t>* ids : {&request.answer, &request.distractor}) {
    for (const int64_t id : *ids) {
      RILLKV_CHECK(id >= 0 && id < vocab, "expected answers of token ids in 0..", vocab - 1,
                   ", got ", id);
    }
  }
  const at::NoGradGuard no_grad;
  std::vector<int64_t> stop_ids = stop_ids_;
  if (request.stop_at_newline) {
    const std::vector<int64_t> newline = tokenizer_->encode("\n", /*add_bos=*/false);
    if (!newline.empty()) stop_ids.push_back(newline.back());
  }
  Generation generation;
  release_freed_memory();  // What the other side left is not this one's.
  MemorySampler memory;
  auto sequence = std::make_unique<Sequence>(model_, options_.config, request.prompt);
  auto greedy = std::make_unique<GreedyRun>(*sequence, request, stop_ids, !request.stop_at_newline);

  // Over the answer first. While greedy decoding says the same, one pass serves both.
  bool diverged = false;
  for (size_t i = 0; i < request.answer.size(); ++i) {
    measure(sequence->logits(), request, i, generation);
    const int64_t next = diverged ? -1 : greedy->choose();
    if (next == request.answer[i]) {
      greedy->take(next);
    } else if (next >= 0) {
      diverged = true;
    }
    const bool last = i + 1 == request.answer.size();
    if (!last || (!diverged && !greedy->done())) sequence->feed(request.answer[i]);
  }
  if (diverged) {
    greedy.reset();
    sequence.reset();  // Two caches at a time would count as this run's memory.
    sequence = std::make_unique<Sequence>(model_, options_.config, request.prompt);
    greedy = std::make_unique<GreedyRun>(*sequence, request, stop_ids, !request.stop_at_newline);
  }
  greedy->finish();
  generation.tokens = greedy->tokens();
  generation.text = tokenizer_->decode_generated(generation.tokens, request.prompt);
  generation.reached_limit = greedy->reached_limit();
  fill_stats(*sequence, request.prompt.size(), generation.tokens.size(), generation.stats);
  generation.stats.memory = memory.stop();
  return generation;
}

}  // namespace rillkv::eval
