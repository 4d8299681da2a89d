// What the command-line programs share: the options that choose a model and a cache, and how errors
// end a program.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "rillkv/chat.h"
#include "rillkv/compression_config.h"
#include "rillkv/kv_cache.h"
#include "rillkv/llama.h"
#include "rillkv/tokenizer.h"

namespace rillkv::cli {

struct ModelOptions {
  std::string model;
  std::string config;                 // file or preset; empty: the defaults, "balanced"
  std::vector<std::string> settings;  // key=value
  std::string device = "cpu";
  std::string dtype = "auto";
  std::string chat = "none";          // or auto: the checkpoint's own template
  std::string chat_template_file;     // in place of the checkpoint's
  std::string chat_date;              // for templates that ask for one; empty: today
  std::optional<int64_t> chunk_size;  // otherwise the configuration's
  std::optional<int> threads;         // otherwise default_threads()
  bool quiet = false;
  bool verbose = false;
};

/// Adds --model, --config, --set, --device, --dtype, --chat, --chat-template-file, --chat-date,
/// --chunk-size, --threads, --quiet, --verbose.
void add_model_options(CLI::App& app, ModelOptions& options);

/// Log level from --quiet and --verbose; whatever logs first calls it.
void apply_log_level(const ModelOptions& options);

/// The configuration that the options describe. Throws UsageError.
CompressionConfig make_config(const ModelOptions& options);

/// The local date, as --chat-date takes it.
std::string today();

/// The chat template that the options choose. A date that the template asks for is today's from
/// here on, also past midnight. Throws UsageError, Error.
ChatTemplate open_chat(const ModelOptions& options);

/// Sets log level and threads, checks the device, loads the weights.
LlamaModel load(const ModelOptions& options);

/// Checks that `path` can be written before hours of work go to its making. Throws Error.
void check_writable(const std::string& path);

/// Token ids separated by white space. Throws Error naming the file and the first thing that is no
/// id.
std::vector<int64_t> read_token_ids(const std::string& path);

/// Parses and runs. Exit codes: 0, 1 run-time failure, 2 bad usage; one line on stderr for an
/// error.
int run(CLI::App& app, int argc, char** argv, const std::function<void()>& program);

}  // namespace rillkv::cli
