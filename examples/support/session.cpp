#include "support/session.h"

#include <ctime>

#include "rillkv/error.h"
#include "rillkv/eval/content_hash.h"
#include "rillkv/version.h"
#include "rillkv_commit.h"
#include "support/machine.h"

namespace rillkv::cli {
namespace {

namespace fs = std::filesystem;

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

std::string canonical(const std::string& path) {
  std::error_code error;
  const fs::path full = fs::weakly_canonical(path, error);
  return error ? path : full.string();
}

}  // namespace

const Tokenizer& Session::need_tokenizer() {
  if (tokenizer == nullptr) tokenizer = Tokenizer::load(options.model);
  return *tokenizer;
}

std::unique_ptr<eval::ModelBackend> Session::backend(bool dense) {
  need_tokenizer();
  eval::ModelBackendOptions backend_options;
  backend_options.config = dense ? config.baseline() : config;
  backend_options.chat = chat;
  return std::make_unique<eval::ModelBackend>(model, tokenizer, std::move(backend_options));
}

nlohmann::json Session::fingerprint() const {
  return {{"model", canonical(options.model)},
          {"config", nlohmann::json::parse(config.to_json())},
          {"dtype", c10::toString(model->dtype())},
          {"device", options.device},
          {"chat", chat.description()},
          {"version", version()}};
}

Session open_session(const ModelOptions& options) {
  Session session;
  session.options = options;
  session.config = make_config(options);
  if (session.options.chat_date.empty()) session.options.chat_date = today();
  session.chat = open_chat(session.options);  // Before the weights are read.
  session.model = load(options);
  session.config.validate_for(session.model->config().head_dim);
  return session;
}

OrderedJson provenance(const Session& session) {
  OrderedJson json;
  json["config"] = OrderedJson::parse(session.config.to_json());
  json["model"] = session.options.model;
  json["dtype"] = c10::toString(session.model->dtype());
  json["device"] = session.options.device;
  json["chat"] = session.chat.description();
  json["version"] = version();
  json["commit"] = RILLKV_COMMIT;
  json["machine"] = machine_json();
  json["created"] = now_utc();
  return json;
}

nlohmann::json record_stamp() { return {{"commit", RILLKV_COMMIT}}; }

std::string tokens_hash(const std::vector<int64_t>& tokens) {
  return eval::content_hash(
      {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int64_t)});
}

eval::Progress bar_progress(const std::string& label, bool quiet) {
  auto bar = std::make_shared<std::unique_ptr<ProgressBar>>();
  return [=](int64_t done, int64_t total, const std::string&) {
    if (!*bar) *bar = std::make_unique<ProgressBar>(label, total, quiet, done);
    (*bar)->update(done);
    if (done == total) bar->reset();
  };
}

fs::path log_path(const std::string& report, const std::string& kind) {
  fs::path path = report;
  path.replace_extension();
  return path.string() + "." + kind + ".jsonl";
}

void remove_log(const fs::path& log) {
  std::error_code ignored;
  fs::remove(log, ignored);
  fs::remove(log.string() + ".run.json", ignored);
}

void throw_interrupted(const std::string& where) {
  throw Error("interrupted; finished work is in " + where + ", the same command goes on");
}

}  // namespace rillkv::cli
