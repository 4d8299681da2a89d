#include "src/io/json_reader.h"

#include <cmath>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "rillkv/quotes.h"
#include "src/io/python_json.h"

namespace rillkv::io {

using nlohmann::json;

namespace {

// Strings that stand for Python's literals between rewriting and parsing. A file would have to hold
// one of them and a literal to be misread, and then gets a number of the wrong kind: an error.
constexpr char kNan[] = "\x7fNaN", kInfinity[] = "\x7fInfinity", kMinusInfinity[] = "\x7f-Infinity";
constexpr NonFiniteLiterals kMarkers = {"\"\x7fNaN\"", "\"\x7fInfinity\"", "\"\x7f-Infinity\""};

std::optional<double> marked_number(const json& value) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  if (!value.is_string()) return std::nullopt;
  const auto& text = value.get_ref<const std::string&>();
  if (text == kNan) return std::numeric_limits<double>::quiet_NaN();
  if (text == kInfinity) return kInf;
  if (text == kMinusInfinity) return -kInf;
  return std::nullopt;
}

/// Throws json::exception for bad syntax. `marked`: markers are numbers.
json parse_checked(std::string_view text, const std::string& where, int deepest, bool marked) {
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
        RILLKV_CHECK(!marked || !marked_number(value), where,
                     ": bad JSON: expected a key, found a number");
        RILLKV_CHECK(keys.back().insert(key).second, where, ": duplicate key ", in_quotes(key));
        break;
      }
      case json::parse_event_t::value:
        if (const auto number = marked ? marked_number(value) : std::nullopt) value = *number;
        break;
      default:
        break;
    }
    return true;
  };
  return json::parse(text.begin(), text.end(), watch);
}

/// NaN and infinities as Python spells them; nlohmann writes null.
std::string non_finite(double value) {
  return std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
}

void name_non_finite(json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    value = non_finite(value.get<double>());
  }
  if (!value.is_structured()) return;  // a range over a scalar is the scalar itself
  for (json& item : value) name_non_finite(item);
}

}  // namespace

void fail_json(const std::string& where, const std::exception& error) {
  // "[json.exception.parse_error.101] parse error at line ...": drop the internal identifier.
  std::string_view what = error.what();
  if (const size_t end = what.find("] "); end != what.npos) what.remove_prefix(end + 2);
  const std::string clean = in_quotes(what);
  throw Error(str_cat(where, ": bad JSON: ", clean.substr(1, clean.size() - 2)));
}

json parse_json(std::string_view text, const std::string& where, int deepest) {
  try {
    try {
      return parse_checked(text, where, deepest, false);
    } catch (const json::exception&) {
      // Rarely needed, so that it costs nothing otherwise.
      const std::string rewritten = rewrite_python_json(text, kMarkers);
      if (rewritten == text) throw;
      return parse_checked(rewritten, where, deepest, true);
    }
  } catch (const json::exception& error) {
    fail_json(where, error);
  }
}

std::string spell(const json& value) {
  std::string text;
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    text = non_finite(value.get<double>());
  } else if (value.is_structured()) {
    json copy = value;
    name_non_finite(copy);
    text = copy.dump(-1, ' ', true, json::error_handler_t::replace);
  } else {
    text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  }
  constexpr size_t kLongest = 120;
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
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
  if (const json* value = find(key)) actual = spell(*value);
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
  const char* const expectation = "a finite number";
  const json* found = value(key, expectation);
  if (found == nullptr) return std::nullopt;
  if (!found->is_number() || !std::isfinite(found->get<double>())) fail(key, expectation);
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
