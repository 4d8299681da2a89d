#include "rillkv/eval/result_log.h"

#include <cmath>
#include <system_error>

#include "rillkv/error.h"
#include "rillkv/files.h"

namespace rillkv::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

void make_parent(const fs::path& path) {
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  RILLKV_CHECK(!error, "cannot create folder ", path.parent_path().string(), ": ", error.message());
}

std::string short_dump(const Json& flat, const std::string& key) {
  return flat.contains(key) ? flat.at(key).dump() : std::string("absent");
}

/// One line that names the first place where two fingerprints differ.
std::string first_difference(const Json& before, const Json& now) {
  const Json old_flat = before.flatten(), new_flat = now.flatten();
  for (const Json* side : {&new_flat, &old_flat}) {
    for (const auto& item : side->items()) {
      const std::string was = short_dump(old_flat, item.key()),
                        is = short_dump(new_flat, item.key());
      if (was != is) return str_cat(item.key(), " was ", was, ", is ", is);
    }
  }
  return "they differ";
}

/// What a fingerprint is once it has been written and read: 1 and 1.0 are the same, bytes that are
/// no UTF-8 (a folder's name, say) the replacement character.
Json round_trip(const Json& json) {
  return Json::parse(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

/// Where JSON holds a number that is none, "/kl" or "/stats/ttft_s"; empty if nowhere.
std::string not_finite(const Json& json, const std::string& at) {
  if (json.is_number_float() && !std::isfinite(json.get<double>())) return at;
  if (!json.is_structured()) return "";
  for (const auto& item : json.items()) {
    const std::string found = not_finite(item.value(), at + "/" + item.key());
    if (!found.empty()) return found;
  }
  return "";
}

void write_dump(const fs::path& path, const std::string& dump) {
  make_parent(path);
  write_file_atomically(path.string(), dump + "\n");
}

}  // namespace

void write_json_atomically(const fs::path& path, const Json& json) {
  write_dump(path, json.dump(2, ' ', false, Json::error_handler_t::replace));
}

void write_json_atomically(const fs::path& path, const nlohmann::ordered_json& json) {
  write_dump(path, json.dump(2, ' ', false, Json::error_handler_t::replace));
}

Json read_json(const fs::path& path) {
  try {
    return Json::parse(read_file(path.string()));
  } catch (const Json::parse_error& error) {
    throw Error(str_cat(path.string(), ": not JSON: ", error.what()));
  }
}

std::vector<Json> read_jsonl(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  RILLKV_CHECK(in, "cannot read ", path.string());
  std::vector<Json> records;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    Json record = Json::parse(line, nullptr, false);
    RILLKV_CHECK(record.is_object(), path.string(), ":", number, ": expected a JSON object");
    records.push_back(std::move(record));
  }
  return records;
}

ResultLog::ResultLog(fs::path path, const Json& fingerprint, bool restart)
    : path_(std::move(path)) {
  const fs::path run_file = path_.string() + ".run.json";
  if (restart) {
    std::error_code error;
    fs::remove(path_, error);
    fs::remove(run_file, error);
  }
  make_parent(path_);
  const Json wanted = round_trip(fingerprint);
  // A run that ended before its first record leaves nothing worth keeping: it binds nobody.
  std::error_code error;
  const bool recorded = is_file(path_) && fs::file_size(path_, error) > 0 && !error;
  if (recorded && is_file(run_file)) {
    const Json before = read_json(run_file);
    RILLKV_CHECK(before == wanted, "results in ", path_.string(),
                 " were made differently: ", first_difference(before, wanted),
                 "; restart or choose another output folder");
  } else {
    RILLKV_CHECK(!recorded, path_.string(), " exists but ", run_file.string(),
                 ", which says how it was made, does not; restart or choose another output folder");
    write_json_atomically(run_file, wanted);
  }
  load();
  out_.open(path_, std::ios::binary | std::ios::app);
  RILLKV_CHECK(out_, "cannot write ", path_.string());
}

bool ResultLog::made_with(const fs::path& path, const Json& fingerprint) {
  const fs::path run_file = path.string() + ".run.json";
  return is_file(run_file) && read_json(run_file) == round_trip(fingerprint);
}

void ResultLog::load() {
  if (!is_file(path_)) return;
  const std::string text = read_file(path_.string());
  size_t begin = 0;
  for (int64_t number = 1; begin < text.size(); ++number) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) {  // Torn by a crash while it was written.
      std::error_code error;
      fs::resize_file(path_, begin, error);
      RILLKV_CHECK(!error, "cannot repair ", path_.string(), ": ", error.message());
      return;
    }
    const Json record = Json::parse(text.begin() + begin, text.begin() + end, nullptr, false);
    RILLKV_CHECK(record.is_object() && record.contains("key") && record["key"].is_string(),
                 path_.string(), ":", number, ": expected a JSON object with a string \"key\"");
    RILLKV_CHECK(find(record["key"]) == nullptr, path_.string(), ":", number, ": key ",
                 record["key"].dump(), " occurs twice");
    add(record);
    begin = end + 1;
  }
}

void ResultLog::add(Json record) {
  index_.emplace(record.at("key").get<std::string>(), records_.size());
  records_.push_back(std::move(record));
}

const Json* ResultLog::find(const std::string& key) const {
  const auto it = index_.find(key);
  return it == index_.end() ? nullptr : &records_[it->second];
}

void ResultLog::append(const std::string& key, Json record) {
  RILLKV_CHECK(find(key) == nullptr, path_.string(), ": key \"", key, "\" is already there");
  const std::string bad = not_finite(record, "");
  RILLKV_CHECK(bad.empty(), path_.string(), ": key \"", key, "\": expected finite numbers, got ",
               record.at(Json::json_pointer(bad)).get<double>(), " in ", bad);
  record["key"] = key;
  record.update(stamp_);
  out_ << record.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  out_.flush();
  RILLKV_CHECK(out_, "cannot write ", path_.string());
  add(std::move(record));
}

}  // namespace rillkv::eval
