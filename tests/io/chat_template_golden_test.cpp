// Chat templates against transformers: scripts/goldens/chat_templates.py.
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "src/io/chat_template/json_values.h"
#include "src/io/chat_template/template.h"

namespace rillkv::io::jinja {
namespace {

using Json = nlohmann::ordered_json;

const std::string kData = RILLKV_TEST_DATA_DIR "/chat/";

std::tm golden_date() {
  std::tm date{};
  date.tm_year = 2026 - 1900;
  date.tm_mon = 2;
  date.tm_mday = 5;
  date.tm_wday = 4;
  date.tm_yday = 63;
  return date;
}

Dict dict_of(const Json& json) { return parse_json_value(json.dump(), "a conversation").dict(); }

/// The variables that transformers gives a template.
Dict variables_of(Json conversation, const Json& tokens) {
  for (auto& message : conversation["messages"]) {
    Json kept = Json::object();
    for (const auto& [key, value] : message.items()) {
      if (!value.is_null()) kept[key] = value;
    }
    message = kept;
    if (message.contains("reasoning_content")) {
      Json aliased{{"thinking", message["reasoning_content"]}};
      aliased.update(message);
      message = aliased;
    }
  }
  Json variables{{"tools", nullptr}, {"documents", nullptr}, {"add_generation_prompt", true}};
  variables.update(conversation);
  variables.update(tokens);
  return dict_of(variables);
}

struct Result {
  std::string text, error;
};

Result render(const std::string& source, const std::string& name, const Dict& variables) {
  try {
    return {Template(source, name).render(variables, golden_date()).bytes(), ""};
  } catch (const Error& error) {
    return {"", error.what()};
  }
}

void check_goldens(const Json& goldens) {
  size_t equal = 0;
  for (const Json& golden : goldens.at("cases")) {
    const auto name = golden.at("template").get<std::string>();
    const Json& source = goldens.at("templates").at(name);
    const auto conversation = golden.at("conversation").get<std::string>();
    const Result ours =
        render(source.is_string() ? source.get<std::string>() : read_file(kData + name + ".jinja"),
               name + ".jinja",
               variables_of(goldens.at("conversations").at(conversation), goldens.at("tokens")));
    if (golden.at("text").is_null()) {
      EXPECT_NE(ours.error, "") << name << " over " << conversation << ": expected an error like "
                                << golden.at("error") << ", got the text " << ours.text;
      EXPECT_EQ(ours.error.find('\n'), std::string::npos);
      equal += !ours.error.empty();
    } else {
      EXPECT_EQ(ours.error, "") << name << " over " << conversation;
      EXPECT_EQ(ours.text, golden.at("text").get<std::string>())
          << name << " over " << conversation;
      equal += ours.error.empty() && ours.text == golden.at("text").get<std::string>();
    }
  }
  std::printf("%zu of %zu renderings equal\n", equal, goldens.at("cases").size());
}

TEST(ChatTemplateGolden, RendersAsTransformers) {
  check_goldens(Json::parse(read_file(kData + "goldens.json")));
}

// Any folder of templates: see the script.
TEST(ChatTemplateFolder, RendersAsTransformers) {
  const char* file = std::getenv("RILLKV_CHAT_GOLDENS");
  if (file == nullptr) GTEST_SKIP() << "RILLKV_CHAT_GOLDENS names no file";
  check_goldens(Json::parse(read_file(file)));
}

TEST(ChatTemplateGolden, ExpressionsAreJinjas) {
  const Json goldens = Json::parse(read_file(kData + "expression_goldens.json"));
  const Dict variables = dict_of(goldens.at("variables"));
  for (const Json& golden : goldens.at("cases")) {
    const auto source = golden.at("source").get<std::string>();
    const Result ours = render(source, "expression", variables);
    if (golden.at("text").is_null()) {
      EXPECT_NE(ours.error, "") << source << ": expected an error like " << golden.at("error")
                                << ", got the text " << ours.text;
    } else {
      EXPECT_EQ(ours.error, "") << source;
      EXPECT_EQ(ours.text, golden.at("text").get<std::string>()) << source;
    }
  }
}

}  // namespace
}  // namespace rillkv::io::jinja
