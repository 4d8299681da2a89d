#include "src/io/json_reader.h"

#include <set>
#include <utility>
#include <vector>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "rillkv/quotes.h"

namespace rillkv::io {

using nlohmann::json;

json parse_json(std::string_view text, const std::string& where, int deepest) {
  // nlohmann keeps the last of two equal keys silently; a file with both is lying about one.
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
        RILLKV_CHECK(depth < deepest, where, ": JSON is nested deeper than ", deepest, " levels");
        keys.emplace_back();
        break;
      case json::parse_event_t::array_start:
        RILLKV_CHECK(depth < deepest, where, ": JSON is nested deeper than ", deepest, " levels");
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key: {
        const auto& key = value.get_ref<const std::string&>();
        RILLKV_CHECK(keys.back().insert(key).second, where, ": duplicate key ", in_quotes(key));
        break;
      }
      default:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line ...": drop the internal identifier.
    std::string_view what = error.what();
    if (const size_t end = what.find("] "); end != what.npos) what.remove_prefix(end + 2);
    const std::string clean = in_quotes(what);
    throw Error(str_cat(where, ": bad JSON: ", clean.substr(1, clean.size() - 2)));
  }
}

json read_json_object(const std::string& path) {
  json value = parse_json(read_file(path), path);
  RILLKV_CHECK(value.is_object(), path, ": expected a JSON object, found ", value.type_name());
  return value;
}

JsonReader::JsonReader(const json& object, std::string where, Null null)
    : object_(object), where_(std::move(where)), null_(null) {
  RILLKV_CHECK(object.is_object(), where_, ": expected a JSON object, found ", object.type_name());
}

const json* JsonReader::find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::string JsonReader::name(const char* key) const {
  return str_cat(where_, ": key \"", key, "\"");
}

void JsonReader::fail(const char* key, const std::string& expectation) const {
  std::string actual = is_null(key) ? "null" : "nothing";
  if (const json* value = find(key)) {
    actual = value->dump(-1, ' ', true, json::error_handler_t::replace);
    if (actual.size() > 120) actual = actual.substr(0, 120) + "...";
  }
  throw Error(str_cat(name(key), ": expected ", expectation, ", found ", actual));
}

const json* JsonReader::value(const char* key, const std::string& expectation) const {
  if (null_ == Null::kError && is_null(key)) fail(key, expectation);
  return find(key);
}

std::optional<int64_t> JsonReader::integer(const char* key, int64_t least, int64_t greatest) const {
  const std::string expectation = str_cat("an integer in ", least, "..", greatest);
  const json* found = value(key, expectation);
  if (found == nullptr) return std::nullopt;
  if (!found->is_number_integer()) fail(key, expectation);
  // An unsigned value beyond int64 would wrap to a negative one.
  if (found->is_number_unsigned() && found->get<uint64_t>() > uint64_t{INT64_MAX}) {
    fail(key, expectation);
  }
  const auto result = found->get<int64_t>();
  if (result < least || result > greatest) fail(key, expectation);
  return result;
}

int64_t JsonReader::required_integer(const char* key, int64_t least, int64_t greatest) const {
  const auto found = integer(key, least, greatest);
  if (!found) fail(key, str_cat("an integer in ", least, "..", greatest));
  return *found;
}

std::optional<double> JsonReader::number(const char* key) const {
  const json* found = value(key, "a number");
  if (found == nullptr) return std::nullopt;
  if (!found->is_number()) fail(key, "a number");
  return found->get<double>();
}

std::optional<bool> JsonReader::boolean(const char* key) const {
  const json* found = value(key, "true or false");
  if (found == nullptr) return std::nullopt;
  if (!found->is_boolean()) fail(key, "true or false");
  return found->get<bool>();
}

std::optional<std::string> JsonReader::string(const char* key) const {
  const json* found = value(key, "a string");
  if (found == nullptr) return std::nullopt;
  if (!found->is_string()) fail(key, "a string");
  return found->get<std::string>();
}

}  // namespace rillkv::io
