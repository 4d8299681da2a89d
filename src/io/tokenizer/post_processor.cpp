#include "src/io/tokenizer/post_processor.h"

#include <algorithm>

#include "rillkv/error.h"
#include "rillkv/quotes.h"
#include "src/io/json_reader.h"

namespace rillkv::io {
namespace {

using nlohmann::json;

// The ids that a template's SpecialToken stands for, from its table "special_tokens".
std::vector<int64_t> template_ids(const JsonReader& processor, const std::string& where,
                                  const std::string& name, int64_t vocab_size) {
  const json* table = processor.find("special_tokens");
  if (table == nullptr || !table->is_object() || !table->contains(name)) {
    throw Error(str_cat(where, ": key \"special_tokens\": expected an entry for ", in_quotes(name),
                        ", found none"));
  }
  const JsonReader entry((*table)[name], processor.name("special_tokens"));
  const json* ids = entry.find("ids");
  const auto valid = [&](const json& id) { return id.is_number_unsigned() && id < vocab_size; };
  if (ids == nullptr || !ids->is_array() || !std::all_of(ids->begin(), ids->end(), valid)) {
    entry.fail("ids", str_cat("an array of ids in 0..", vocab_size - 1, " for ", in_quotes(name)));
  }
  return ids->get<std::vector<int64_t>>();
}

std::vector<int64_t> template_prefix(const JsonReader& processor, const std::string& where,
                                     int64_t vocab_size) {
  const json* single = processor.find("single");
  if (single == nullptr || !single->is_array()) processor.fail("single", "an array");
  std::vector<int64_t> prefix;
  for (const json& item : *single) {
    RILLKV_CHECK(item.is_object() && item.size() == 1, where,
                 ": \"single\" must hold SpecialToken and Sequence objects");
    const std::string kind = item.begin().key();
    RILLKV_CHECK(kind == "SpecialToken" || kind == "Sequence", where,
                 ": key \"single\": ", "expected SpecialToken or Sequence, found ",
                 in_quotes(kind));
    const JsonReader reader(*item.begin(), str_cat(where, ": ", kind));
    const std::string name = reader.string("id").value_or("");
    if (kind == "Sequence") {
      if (name != "A") reader.fail("id", "\"A\"");
      return prefix;
    }
    for (const int64_t id : template_ids(processor, where, name, vocab_size)) prefix.push_back(id);
  }
  processor.fail("single", "a place for the text, {\"Sequence\": {\"id\": \"A\"}}");
}

// [token, id]
std::vector<int64_t> first_token(const JsonReader& processor, int64_t vocab_size) {
  for (const char* key : {"cls", "sep"}) {
    const json* pair = processor.find(key);
    const bool valid = pair != nullptr && pair->is_array() && pair->size() == 2 &&
                       (*pair)[0].is_string() && (*pair)[1].is_number_unsigned() &&
                       (*pair)[1] < vocab_size;
    if (!valid) processor.fail(key, str_cat("[token, id] with an id in 0..", vocab_size - 1));
  }
  return {(*processor.find("cls"))[1].get<int64_t>()};
}

struct Found {
  std::vector<int64_t> ids;
  bool adds_tokens = false;
};

void read(const json& section, const std::string& where, int64_t vocab_size, Found& found) {
  const JsonReader reader(section, where);
  const std::string type = reader.string("type").value_or("");
  if (type == "ByteLevel") return;
  if (type == "Sequence") {
    const json* list = reader.find("processors");
    if (list == nullptr || !list->is_array()) reader.fail("processors", "an array");
    for (const json& item : *list) read(item, where, vocab_size, found);
    return;
  }
  // The second would treat the first one's BOS and text as two texts.
  RILLKV_CHECK(!found.adds_tokens, where, ": only one step may add tokens, found another ", type);
  found.adds_tokens = true;
  if (type == "TemplateProcessing") {
    found.ids = template_prefix(reader, where, vocab_size);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    found.ids = first_token(reader, vocab_size);
  } else {
    reader.fail("type",
                "ByteLevel, TemplateProcessing, RobertaProcessing, BertProcessing or Sequence");
  }
}

}  // namespace

std::vector<int64_t> read_prefix(const json& section, const std::string& where,
                                 int64_t vocab_size) {
  Found found;
  if (!section.is_null()) read(section, where, vocab_size, found);
  return found.ids;
}

}  // namespace rillkv::io
