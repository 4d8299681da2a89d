#include "src/io/chat_template/json_values.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "rillkv/error.h"
#include "rillkv/quotes.h"
#include "src/io/json_reader.h"

namespace rillkv::io::jinja {
namespace {

/// Builds values from nlohmann's events, which come in the file's order.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(std::string where) : where_(std::move(where)) {}

  bool null() override { return add(Value()); }
  bool boolean(bool value) override { return add(Value(value)); }
  bool number_integer(number_integer_t value) override { return add(Value(int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override {
    RILLKV_CHECK(value <= uint64_t{INT64_MAX}, where_, ": expected integers of 64 bits, found ",
                 value);
    return add(Value(static_cast<int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    // An integer too long for 64 bits comes as a float.
    RILLKV_CHECK(text.find_first_of(".eE") != text.npos, where_,
                 ": expected integers of 64 bits, found ", text.substr(0, 40));
    return add(Value(value));
  }
  bool string(string_t& value) override { return add(Value(Text(value, false))); }
  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(size_t /*elements*/) override { return open(true); }
  bool end_object() override {
    Dict dict = std::move(open_.back().dict);
    open_.pop_back();
    return add(Value::dict(std::move(dict)));
  }
  bool start_array(size_t /*elements*/) override { return open(false); }
  bool end_array() override {
    std::vector<Value> items = std::move(open_.back().items);
    open_.pop_back();
    return add(Value::list(std::move(items)));
  }
  bool key(string_t& name) override {
    RILLKV_CHECK(open_.back().dict.find(name) == nullptr, where_, ": duplicate key ",
                 in_quotes(name));
    open_.back().key = Value(Text(name, false));
    return true;
  }
  bool parse_error(size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    fail_json(where_, error);
  }

  Value root;

 private:
  struct Open {
    bool is_object;
    Dict dict;
    Value key;
    std::vector<Value> items;
  };

  bool open(bool is_object) {
    constexpr size_t kDeepest = 64;
    RILLKV_CHECK(open_.size() < kDeepest, where_, ": JSON is nested deeper than ", kDeepest,
                 " levels");
    open_.push_back({is_object, {}, {}, {}});
    return true;
  }

  bool add(Value value) {
    if (open_.empty()) {
      root = std::move(value);
    } else if (open_.back().is_object) {
      Budget unbounded;  // a key costs nothing here
      open_.back().dict.set(unbounded, std::move(open_.back().key), std::move(value));
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }

  std::string where_;
  std::vector<Open> open_;
};

}  // namespace

Value parse_json_value(std::string_view text, const std::string& where) {
  Builder builder(where);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder.root);
}

}  // namespace rillkv::io::jinja
