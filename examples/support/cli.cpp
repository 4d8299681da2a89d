#include "support/cli.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <charconv>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <new>

#include "rillkv/device.h"
#include "rillkv/error.h"
#include "rillkv/files.h"
#include "rillkv/log.h"
#include "rillkv/quotes.h"
#include "rillkv/threads.h"

namespace rillkv::cli {

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &local);
  return text;
}

void add_model_options(CLI::App& app, ModelOptions& o) {
  app.add_option("--model", o.model, "Checkpoint folder: config.json, safetensors, tokenizer")
      ->required();
  std::string presets;
  for (const std::string& name : CompressionConfig::preset_names()) {
    presets += (presets.empty() ? "" : ", ") + name;
  }
  app.add_option("--config", o.config,
                 "Compression: a JSON file or a preset (" + presets + "; default: balanced)");
  app.add_option("--set", o.settings, "Override one configuration key, as key=value; repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--device", o.device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--dtype", o.dtype, "auto, float32, bfloat16 or float16")->capture_default_str();
  std::string formats;
  for (const std::string& name : ChatTemplate::names()) formats += ", " + name;
  app.add_option("--chat", o.chat,
                 "Chat template: auto (the checkpoint's own)" + formats +
                     "; none is the default even where the checkpoint has a template")
      ->capture_default_str();
  app.add_option("--chat-template-file", o.chat_template_file,
                 "A Jinja template in place of the checkpoint's own");
  app.add_option("--chat-date", o.chat_date,
                 "The date that a template is told, as 2026-03-05 (default: today)");
  app.add_option("--chunk-size", o.chunk_size,
                 "Tokens a prefill step (overrides the configuration)");
  app.add_option(
      "--threads", o.threads,
      "CPU threads (default: OMP_NUM_THREADS, or the cores that affinity and quota leave)");
  auto* quiet = app.add_flag("--quiet", o.quiet, "Print results only");
  app.add_flag("--verbose", o.verbose, "Print details")->excludes(quiet);
}

void apply_log_level(const ModelOptions& o) {
  if (o.quiet) set_log_level(LogLevel::kQuiet);
  if (o.verbose) set_log_level(LogLevel::kDebug);
}

CompressionConfig make_config(const ModelOptions& o) {
  apply_log_level(o);
  // The defaults are the preset balanced, but none of its keys counts as given.
  CompressionConfig config =
      o.config.empty() ? CompressionConfig() : CompressionConfig::load(o.config);
  for (const std::string& setting : o.settings) config.set(setting);
  if (o.chunk_size) config.set(str_cat("chunk_size=", *o.chunk_size));
  config.validate();
  return config;
}

ChatTemplate open_chat(const ModelOptions& o) {
  ChatTemplate chat;
  if (!o.chat_template_file.empty()) {
    if (o.chat != "none" && o.chat != "auto") {
      throw UsageError(str_cat("give one of --chat ", o.chat, " and --chat-template-file"));
    }
    chat = ChatTemplate::from_file(o.chat_template_file, o.model);
  } else if (o.chat == "auto") {
    chat = ChatTemplate::load(o.model);
  } else {
    chat = ChatTemplate::named(o.chat);
  }
  return chat.at_date(o.chat_date.empty() ? today() : o.chat_date);
}

LlamaModel load(const ModelOptions& o) {
  apply_log_level(o);
  if (o.threads && *o.threads < 1) {
    throw UsageError(str_cat("expected --threads >= 1, got ", *o.threads));
  }
  LoadOptions options;
  options.device = open_device(o.device);
  at::set_num_threads(o.threads ? *o.threads : default_threads());
  options.dtype = parse_dtype(o.dtype, options.device);
  return load_model(o.model, options);
}

void check_writable(const std::string& path) {
  if (path.empty()) return;
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path folder = fs::absolute(path, error).parent_path();
  const std::string cannot = "cannot write " + in_quotes(path);
  RILLKV_CHECK(fs::is_directory(folder, error), cannot, ": no such folder");
  RILLKV_CHECK(!fs::is_directory(path, error), cannot, ": it is a folder");
  const fs::path probe = folder / (".rillkv-probe-" + std::to_string(::getpid()));
  std::FILE* file = std::fopen(probe.c_str(), "wb");
  RILLKV_CHECK(file != nullptr, cannot, ": the folder is not writable");
  std::fclose(file);
  fs::remove(probe, error);
}

std::vector<int64_t> read_token_ids(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<int64_t> ids;
  const auto is_space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  for (size_t i = 0; i < text.size();) {
    if (is_space(text[i])) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < text.size() && !is_space(text[end])) ++end;
    int64_t id = 0;
    const auto [stop, error] = std::from_chars(text.data() + i, text.data() + end, id);
    RILLKV_CHECK(error == std::errc() && stop == text.data() + end, in_quotes(path),
                 ": expected token ids separated by white space, got ",
                 in_quotes(std::string_view(text).substr(i, end - i)));
    ids.push_back(id);
    i = end;
  }
  return ids;
}

int run(CLI::App& app, int argc, char** argv, const std::function<void()>& program) {
  const std::string name = std::filesystem::path(argv[0]).filename();
  const auto fail = [&](std::string_view message, int code) {
    const std::string line(message.substr(0, message.find('\n')));
    std::fprintf(stderr, "%s: error: %s\n", name.c_str(), line.c_str());
    return code;
  };
  try {
    app.parse(argc, argv);
    program();
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    return fail(e.what(), 2);
  } catch (const UsageError& e) {
    return fail(e.what(), 2);
  } catch (const c10::Error& e) {
    return fail(e.what_without_backtrace(), 1);
  } catch (const std::bad_alloc&) {
    return fail("out of memory", 1);
  } catch (const std::exception& e) {
    return fail(e.what(), 1);
  }
}

}  // namespace rillkv::cli
