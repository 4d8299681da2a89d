// A loaded model with its tokenizer, and what every report says about how it was made.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/eval/model_backend.h"
#include "rillkv/eval/progress.h"
#include "support/cli.h"
#include "support/progress_bar.h"

namespace rillkv::cli {

using OrderedJson = nlohmann::ordered_json;

/// Loaded once, used by every evaluation of a program.
struct Session {
  ModelOptions options;
  CompressionConfig config;
  ChatTemplate chat;
  LlamaModel model{nullptr};
  std::shared_ptr<const Tokenizer> tokenizer;  ///< Null until needed by text input.

  const Tokenizer& need_tokenizer();
  /// Over this session's configuration, or the same with policy dense.
  std::unique_ptr<eval::ModelBackend> backend(bool dense);
  /// What decides results: model, configuration, dtype, chat template, version.
  nlohmann::json fingerprint() const;
};

/// Configuration and weights from the options; the tokenizer follows on demand.
Session open_session(const ModelOptions& options);

/// "config", "model", "dtype", "device", "version", "commit", "machine", "created": with the seed,
/// all it takes to run the same again.
OrderedJson provenance(const Session& session);

/// What each record of a log says about its making beyond the log's fingerprint.
nlohmann::json record_stamp();

/// eval::content_hash of token ids.
std::string tokens_hash(const std::vector<int64_t>& tokens);

/// A progress callback that draws one bar over all calls.
eval::Progress bar_progress(const std::string& label, bool quiet);

/// The path of the log in which a report's unfinished work is kept: REPORT.json ->
/// REPORT.<kind>.jsonl.
std::filesystem::path log_path(const std::string& report, const std::string& kind);
/// Removes such a log and its fingerprint once the report holds everything.
void remove_log(const std::filesystem::path& log);

/// Thrown after an interruption, when finished work is on disk.
[[noreturn]] void throw_interrupted(const std::string& where);

}  // namespace rillkv::cli
