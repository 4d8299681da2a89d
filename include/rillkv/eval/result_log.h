// Results that survive an interruption: an append-only JSONL file, a record a line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace rillkv::eval {

/// Writes JSON, indented by two spaces, to a temporary file that is then renamed to `path`; creates
/// the folder. Not-a-number becomes null. Throws Error if it cannot be written.
void write_json_atomically(const std::filesystem::path& path, const nlohmann::json& json);
void write_json_atomically(const std::filesystem::path& path, const nlohmann::ordered_json& json);
/// Parses a JSON file. Throws Error naming the file and the parser's reason.
nlohmann::json read_json(const std::filesystem::path& path);
/// Parses a file of one JSON object a line; empty lines are skipped. Throws Error with the number
/// of a line that is not one.
std::vector<nlohmann::json> read_jsonl(const std::filesystem::path& path);

/// Finished work of one run, keyed by a string in each record's "key".
///
/// Beside FILE.jsonl lies FILE.jsonl.run.json, the fingerprint: everything that decides the records
/// (model, configuration, seed, ...). Opening an existing log with another fingerprint throws Error
/// and names the first difference, so results of two set-ups never mix. A last line torn by a
/// crash is dropped; any other malformed line throws Error with its number. append() flushes, so
/// the file is valid after every call, whatever ends the process. One process writes a log.
class ResultLog {
 public:
  /// Opens or creates. `restart` throws old records away first.
  ResultLog(std::filesystem::path path, const nlohmann::json& fingerprint, bool restart = false);

  /// Whether a log is there whose fingerprint is this one.
  static bool made_with(const std::filesystem::path& path, const nlohmann::json& fingerprint);

  /// Fields that append() adds to every record from now on, such as the commit.
  void stamp(nlohmann::json fields) { stamp_ = std::move(fields); }

  /// The finished record, or nullptr.
  const nlohmann::json* find(const std::string& key) const;
  /// Stores `record` with its "key". Throws Error if the key exists, a number in the record is not
  /// finite or the disk is full.
  void append(const std::string& key, nlohmann::json record);

  const std::vector<nlohmann::json>& records() const { return records_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  void load();
  void add(nlohmann::json record);

  std::filesystem::path path_;
  nlohmann::json stamp_ = nlohmann::json::object();
  std::vector<nlohmann::json> records_;
  std::unordered_map<std::string, size_t> index_;
  std::ofstream out_;
};

}  // namespace rillkv::eval
