// ablate: what each setting buys. One row of quality, size and time for every point of a grid over
// configuration keys.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>

#include "rillkv/error.h"
#include "rillkv/eval/result_log.h"
#include "rillkv/files.h"
#include "rillkv/quotes.h"
#include "support/commands.h"

namespace {

using namespace rillkv;
using cli::OrderedJson;
using nlohmann::json;
namespace fs = std::filesystem;

struct Arguments {
  cli::ModelOptions model;
  cli::PerplexityArguments perplexity;
  std::string grid, json, csv;
  std::vector<std::string> vary;
  bool restart = false;
};

/// One configuration to measure: the base with these keys changed.
struct Row {
  std::string label;
  std::vector<std::pair<std::string, json>> settings;
};

std::string short_value(const json& value) {
  std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  std::erase(text, ' ');
  return text;
}

std::string label_of(const Row& row) {
  std::string label;
  for (const auto& [key, value] : row.settings) {
    label += (label.empty() ? "" : " ") + key + "=" + short_value(value);
  }
  return label.empty() ? "base" : label;
}

/// Every combination of the lists' values, the last key varying fastest.
std::vector<Row> product(const std::vector<std::pair<std::string, json>>& lists) {
  std::vector<Row> rows(1);
  for (const auto& [key, values] : lists) {
    std::vector<Row> longer;
    for (const Row& row : rows) {
      for (const json& value : values) {
        longer.push_back(row);
        longer.back().settings.emplace_back(key, value);
      }
    }
    rows = std::move(longer);
  }
  for (Row& row : rows) row.label = label_of(row);
  return rows;
}

void check_list(const std::string& where, const std::string& key, const json& values) {
  if (!values.is_array() || values.empty()) {
    throw UsageError(
        str_cat(where, ": expected a non-empty list of values for ", key, ", got ", values.dump()));
  }
}

/// Whether a report can hold this text as it is.
bool is_utf8(const json& text) {
  try {
    text.dump();
    return true;
  } catch (const json::exception&) {
    return false;
  }
}

/// "key=[v1,v2]" or "key=v1,v2".
std::pair<std::string, json> parse_vary(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw UsageError(str_cat("--vary: expected key=value,value,..., got ", in_quotes(text)));
  }
  const std::string key = text.substr(0, equals), list = text.substr(equals + 1);
  json values = json::parse(list, nullptr, false);
  if (!values.is_array()) values = json::parse("[" + list + "]", nullptr, false);
  if (values.is_discarded()) {  // Bare words: policy=ema,adaptive
    values = json::array();
    for (size_t begin = 0; begin <= list.size();) {
      const size_t end = std::min(list.find(',', begin), list.size());
      values.push_back(list.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  check_list("--vary", key, values);
  for (const json& value : values) {
    if (value.is_string() && !is_utf8(value)) {
      throw UsageError(str_cat("--vary: expected UTF-8, got ", in_quotes(list)));
    }
  }
  return {key, values};
}

/// The grid file: {"grid": {key: [values]}} and/or {"rows": [{"label": ..., "set": {key: value}}]}.
std::vector<Row> read_grid(const std::string& path) {
  const json file = eval::read_json(path);
  if (!file.is_object()) throw UsageError(path + ": expected an object with grid or rows");
  for (const auto& item : file.items()) {
    if (item.key() != "grid" && item.key() != "rows" && item.key() != "about") {
      throw UsageError(
          str_cat(path, ": unknown key ", in_quotes(item.key()), ": expected grid, rows or about"));
    }
  }
  std::vector<Row> rows;
  const json listed = file.value("rows", json::array());
  if (!listed.is_array()) throw UsageError(path + ": expected rows to be a list");
  for (const json& entry : listed) {
    if (!entry.is_object() || !entry.contains("set") || !entry["set"].is_object()) {
      throw UsageError(str_cat(path, ": expected each row to be {\"label\", \"set\": {...}}, got ",
                               entry.dump()));
    }
    Row row;
    for (const auto& item : entry["set"].items()) {
      row.settings.emplace_back(item.key(), item.value());
    }
    const json label = entry.value("label", json(label_of(row)));
    if (!label.is_string()) {
      throw UsageError(str_cat(path, ": expected each label to be a text, got ", label.dump()));
    }
    row.label = label.get<std::string>();
    rows.push_back(std::move(row));
  }
  const json grid = file.value("grid", json::object());
  if (!grid.is_object()) throw UsageError(path + ": expected grid to be an object of lists");
  std::vector<std::pair<std::string, json>> lists;
  for (const auto& item : grid.items()) {
    check_list(path, item.key(), item.value());
    lists.emplace_back(item.key(), item.value());
  }
  if (!lists.empty()) {
    for (Row& row : product(lists)) rows.push_back(std::move(row));
  }
  if (rows.empty()) throw UsageError(path + ": expected at least one row or grid key");
  return rows;
}

CompressionConfig configure(const CompressionConfig& base, const Row& row) {
  CompressionConfig config = base;
  for (const auto& [key, value] : row.settings) config.set(key + "=" + value.dump());
  config.validate();
  return config;
}

std::string csv_field(const json& value) {
  if (value.is_null()) return "";
  std::string text = short_value(value);
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

/// Value behind dotted keys, null if absent.
json at_path(const json& object, const std::string& path) {
  const json* value = &object;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    if (!value->is_object() || !value->contains(key)) return nullptr;
    value = &(*value)[key];
    begin = end + 1;
  }
  return *value;
}

const std::vector<std::pair<const char*, const char*>>& csv_columns() {
  static const std::vector<std::pair<const char*, const char*>> columns = {
      {"bits_sealed", "result.kv_bits_sealed.total"},
      {"bits_sealed_key", "result.kv_bits_sealed.key"},
      {"bits_sealed_value", "result.kv_bits_sealed.value"},
      {"bits_all", "result.kv_bits_per_element.total"},
      {"kl_mean", "result.kl_mean"},
      {"top1_agreement", "result.top1_agreement"},
      {"perplexity", "result.perplexity"},
      {"perplexity_dense", "result.baseline.perplexity"},
      {"compression_ratio", "result.performance.compressed.compression_ratio"},
      {"outlier_rate_key", "result.performance.compressed.outlier_rate.key"},
      {"outlier_rate_value", "result.performance.compressed.outlier_rate.value"},
      {"seconds", "result.seconds"},
      {"error", "error"}};
  return columns;
}

std::string to_csv(const std::vector<json>& rows, const std::vector<std::string>& keys) {
  std::string text = "label";
  for (const std::string& key : keys) text += "," + key;
  for (const auto& column : csv_columns()) text += str_cat(",", column.first);
  text += "\n";
  for (const json& row : rows) {
    text += csv_field(at_path(row, "label"));
    for (const std::string& key : keys) text += "," + csv_field(at_path(row, "config." + key));
    for (const auto& column : csv_columns()) text += "," + csv_field(at_path(row, column.second));
    text += "\n";
  }
  return text;
}

std::vector<std::string> varied_keys(const std::vector<Row>& rows) {
  std::vector<std::string> keys;
  for (const Row& row : rows) {
    for (const auto& setting : row.settings) {
      if (std::find(keys.begin(), keys.end(), setting.first) == keys.end()) {
        keys.push_back(setting.first);
      }
    }
  }
  return keys;
}

void write_reports(const Arguments& a, const cli::Session& session, const std::vector<json>& rows,
                   const std::vector<std::string>& keys, const std::string& text_hash,
                   bool complete) {
  OrderedJson report;
  report["complete"] = complete;
  report["varied"] = keys;
  report["protocol"] = a.perplexity.protocol;
  report["context"] = a.perplexity.context;
  report["windows"] = a.perplexity.windows;
  report["stride"] = a.perplexity.stride;
  report["bos"] = a.perplexity.bos;
  report["text"] = a.perplexity.text + a.perplexity.token_ids;
  report["text_hash"] = text_hash;
  report["rows"] = rows;
  report.update(cli::provenance(session));
  eval::write_json_atomically(a.json, report);
  const std::string csv =
      a.csv.empty() ? fs::path(a.json).replace_extension(".csv").string() : a.csv;
  write_file_atomically(csv, to_csv(rows, keys));
}

/// Everything that `row` is, as the key of its record.
std::string key_of(const Row& row) {
  json settings = json::array();
  for (const auto& setting : row.settings) {
    settings.push_back(json::array({setting.first, setting.second}));
  }
  return row.label + " " + settings.dump();
}

/// Runs one row, going on where an interruption cut it; null if one cuts it now. A configuration
/// that cannot run becomes a row with its error, whatever went wrong: the other rows do not depend
/// on it.
json measure(cli::Session& session, const CompressionConfig& base, const Row& row,
             const cli::PerplexityInput& input, const Arguments& a, const fs::path& windows) {
  json record = {{"label", row.label}};
  try {
    session.config = configure(base, row);
    record["config"] = json::parse(session.config.to_json());
    session.config.validate_for(session.model->config().head_dim);
    // Windows of another row, or of other options, are of no use.
    const json fingerprint = cli::perplexity_fingerprint(session, input, a.perplexity);
    const bool stale = !eval::ResultLog::made_with(windows, fingerprint);
    const OrderedJson result = cli::run_perplexity(session, input, a.perplexity, windows, stale);
    if (!result.value("complete", false)) return nullptr;
    json kept = result;
    for (const char* key : {"config", "machine", "model", "dtype", "device", "chat", "version",
                            "commit", "created", "text", "text_tokens", "text_hash"}) {
      kept.erase(key);  // The report has them once.
    }
    record["result"] = kept;
  } catch (const std::exception& error) {
    const std::string what = error.what();
    record["error"] = what.substr(0, what.find('\n'));
    if (!record.contains("config")) {  // Not even a configuration: the base stands in its columns.
      record["config"] = json::parse(base.to_json());
    }
  }
  cli::remove_log(windows);
  return record;
}

/// A figure of a row; what was not finite is null in a record.
double figure(const json& value) { return value.is_number() ? value.get<double>() : std::nan(""); }

void print_row(const json& row) {
  const std::string label = short_value(at_path(row, "label"));
  if (row.contains("error")) {
    std::printf("%-44s failed: %s\n", label.c_str(), row["error"].get<std::string>().c_str());
  } else {
    std::printf("%-44s %9.3f %10.6f %8.2f %8.1f\n", label.c_str(),
                figure(at_path(row, "result.kv_bits_sealed.total")),
                figure(at_path(row, "result.kl_mean")),
                100 * figure(at_path(row, "result.top1_agreement")),
                figure(at_path(row, "result.seconds")));
  }
  std::fflush(stdout);
}

void ablate(const Arguments& a) {
  cli::check(a.perplexity);
  std::vector<Row> rows;
  if (!a.grid.empty()) rows = read_grid(a.grid);
  if (!a.vary.empty()) {
    std::vector<std::pair<std::string, json>> lists;
    for (const std::string& text : a.vary) lists.push_back(parse_vary(text));
    for (Row& row : product(lists)) rows.push_back(std::move(row));
  }
  if (rows.empty()) throw UsageError("expected --grid FILE or --vary key=value,value,...");
  const std::vector<std::string> keys = varied_keys(rows);
  const CompressionConfig base = cli::make_config(a.model);
  const json known = json::parse(base.to_json());
  for (const std::string& key : keys) {
    if (!known.contains(key))
      throw UsageError(str_cat("unknown configuration key ", in_quotes(key)));
  }
  cli::check_writable(a.json);
  if (!a.csv.empty()) cli::check_writable(a.csv);

  cli::Session session = cli::open_session(a.model);
  const cli::PerplexityInput input = cli::perplexity_input(session, a.perplexity);
  const fs::path log_file = cli::log_path(a.json, "rows");
  const fs::path windows = cli::log_path(a.json, "windows");
  eval::ResultLog log(log_file, cli::perplexity_fingerprint(session, input, a.perplexity),
                      a.restart);
  log.stamp(cli::record_stamp());
  if (a.restart) cli::remove_log(windows);

  const std::string hash = cli::tokens_hash(input.tokens);
  std::vector<json> finished;
  bool failed = false;
  std::printf("%-44s %9s %10s %8s %8s\n", "", "bits", "KL", "top-1 %", "seconds");
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string key = key_of(rows[i]);
    json row;
    if (const json* done = log.find(key)) {
      row = *done;
    } else {
      if (!eval::interrupted()) row = measure(session, base, rows[i], input, a, windows);
      session.config = base;
      if (row.is_null()) {
        write_reports(a, session, finished, keys, hash, false);
        cli::throw_interrupted(log_file.string());
      }
      // A row that failed is tried again by the next run.
      if (!row.contains("error")) {
        log.append(key, row);
        row = *log.find(key);  // as a resumed run reads it, stamp included
      }
    }
    row.erase("key");
    failed = failed || row.contains("error");
    finished.push_back(std::move(row));
    write_reports(a, session, finished, keys, hash, i + 1 == rows.size());
    print_row(finished.back());
  }
  RILLKV_CHECK(!failed, "some rows failed; their errors are in ", a.json,
               ", the same command tries them again");
  cli::remove_log(log_file);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measure a grid of configurations: quality, bits and time of each.");
  Arguments a;
  cli::add_model_options(app, a.model);
  cli::add_perplexity_options(app, a.perplexity, /*input_required=*/true);
  app.add_option("--grid", a.grid, "JSON file with a grid of lists, or rows with a label each");
  app.add_option("--vary", a.vary, "One configuration key and its values, key=v1,v2; repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--json", a.json, "Where the rows go; a CSV file goes beside it")->required();
  app.add_option("--csv", a.csv, "Where the CSV file goes instead");
  app.add_flag("--restart", a.restart, "Forget the finished rows of an interrupted run");
  return cli::run(app, argc, argv, [&] {
    const eval::InterruptGuard guard;
    ablate(a);
  });
}
