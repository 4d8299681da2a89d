#include "support/experiment_file.h"

#include <algorithm>

#include "rillkv/compression_config.h"
#include "rillkv/error.h"
#include "rillkv/eval/result_log.h"

namespace rillkv::cli {
namespace {

using nlohmann::json;

std::string option_name(const std::string& argument) {
  return argument.substr(0, argument.find('='));
}

std::string text_of(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void append_option(const std::string& path, const std::string& key, const json& value,
                   std::vector<std::string>& out) {
  std::string name = "--" + key;
  std::replace(name.begin(), name.end(), '_', '-');
  if (value.is_null() || value == false) return;
  if (value == true) {
    out.push_back(name);
    return;
  }
  if (value.is_object()) {
    throw UsageError(str_cat(path, ": ", key, ": expected a value or a list, got an object"));
  }
  std::string text;
  if (value.is_array()) {
    for (const json& item : value) text += (text.empty() ? "" : ",") + text_of(item);
  } else {
    text = text_of(value);
  }
  out.push_back(name + "=" + text);
}

}  // namespace

std::vector<std::string> normalize_arguments(int argc, const char* const* argv) {
  std::vector<std::string> out;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument.rfind("--", 0) == 0) {
      const size_t end = std::min(argument.find('='), argument.size());
      std::replace(argument.begin(), argument.begin() + static_cast<int64_t>(end), '_', '-');
      if (option_name(argument) == "--model-name") argument.replace(0, 12, "--model");
    }
    out.push_back(std::move(argument));
  }
  return out;
}

std::vector<std::string> expand_experiment_file(const std::vector<std::string>& arguments) {
  std::string path;
  std::vector<std::string> rest;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (option_name(arguments[i]) != "--experiment") {
      rest.push_back(arguments[i]);
    } else if (arguments[i].size() > 13) {
      path = arguments[i].substr(13);
    } else if (i + 1 < arguments.size()) {
      path = arguments[++i];
    } else {
      throw UsageError("--experiment: expected a file");
    }
  }
  if (path.empty()) return rest;
  const json file = eval::read_json(path);
  if (!file.is_object()) throw UsageError(path + ": expected an object of options");
  const auto given = [&](const std::string& option) {
    return std::any_of(rest.begin(), rest.end(),
                       [&](const std::string& a) { return option_name(a) == option; });
  };
  const json keys = json::parse(CompressionConfig().to_json());
  const auto as_setting = [](const std::string& key, const json& value) {
    return "--set=" + key + "=" + value.dump();
  };
  std::vector<std::string> expanded;
  for (const auto& item : file.items()) {
    if (item.key() == "about") continue;
    if (item.key() == "set") {
      if (!item.value().is_object()) {
        throw UsageError(path + ": set: expected an object of configuration keys");
      }
      for (const auto& setting : item.value().items()) {
        expanded.push_back(as_setting(setting.key(), setting.value()));
      }
      continue;
    }
    std::string key = item.key();
    std::replace(key.begin(), key.end(), '-', '_');
    if (keys.contains(key)) {
      expanded.push_back(as_setting(key, item.value()));
      continue;
    }
    std::vector<std::string> option;
    append_option(path, item.key(), item.value(), option);
    if (!option.empty() && !given(option_name(option.front()))) expanded.push_back(option.front());
  }
  // The file's settings come first, so that later ones override them.
  expanded.insert(expanded.end(), rest.begin(), rest.end());
  return expanded;
}

}  // namespace rillkv::cli
