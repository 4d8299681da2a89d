// What goldens of whole templates do not show: bounds, trust, errors and broken templates.
#include "src/io/chat_template/template.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "rillkv/error.h"
#include "rillkv/files.h"
#include "src/io/chat_template/json_values.h"
#include "tests/support/expect_error.h"

namespace rillkv::io::jinja {
namespace {

using rillkv::testing::expect_error;

Text render(const std::string& source, const std::string& json = "{}") {
  return Template(source, "t.jinja").render(parse_json_value(json, "json").dict(), std::tm{});
}

/// The text with what is not trusted in angle brackets.
std::string marked(const std::string& source, const std::string& json) {
  std::string result;
  for (const TextPart& part : render(source, json).parts()) {
    result += part.trusted ? part.text : "<" + part.text + ">";
  }
  return result;
}

// No operation turns a message's bytes into the template's own, nor the other way.
TEST(ChatTemplateTrust, EveryByteKeepsItsOrigin) {
  const std::string json = R"({"u": "ab", "l": ["x", "y"], "d": {"k": "v"}, "n": 7})";
  const auto is = [&](const char* source, const char* expected) {
    EXPECT_EQ(marked(source, json), expected) << source;
  };
  is("[{{ u }}]", "[<ab>]");
  is("{{ '(' + u ~ ')' }}", "(<ab>)");
  is("{{ u | upper }}{{ 'q' | upper }}{{ u.title() }}{{ u | capitalize }}", "<AB>Q<AbAb>");
  is("{{ u[0] ~ '-' ~ u[1:] ~ u[::-1] }}", "<a>-<bba>");
  is("{{ u.replace('a', 'T') }}{{ 'TaT'.replace('a', u) }}{{ u | replace('b', u) }}",
     "T<b>T<ab>T<aab>");
  is("{{ 'a,b'.split(',')[0] }}{{ (u ~ ',' ~ u).split(',') | join('+') }}", "a<ab>+<ab>");
  is("{{ l | join('; ') }}{{ ', '.join(l) }}", "<x>; <yx>, <y>");
  is("{{ d | tojson }}", "{\"<k>\": \"<v>\"}");
  is("{{ d }}", "{'<k>': '<v>'}");
  is("{{ '%s/%s' % (u, 'o') }}{{ '{}.{x}'.format(u, x='o') }}{{ '%s' | format(u) }}",
     "<ab>/o<ab>.o<ab>");
  is("{% set x %}<{{ u }}>{% endset %}{{ x }}{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m(u) }}",
     "<<ab>>[<ab>]");
  is("{{ (' ' ~ u ~ ' ') | trim }}{{ u * 2 }}{{ u | indent(2, true) }}{{ u.center(4) }}",
     "<ababab>  <ab> <ab> ");  // what pads is the template's
  is("{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}{% for c in u %}{{ c }}.{% endfor %}",
     "<kva>.<b>.");
  is("{{ n }}{{ u | length }}{{ u | e }}{{ {'a': u}.a }}{{ u | first }}{{ u | list | last }}",
     "72<ababab>");
  is("{% macro m() %}{{ kwargs }}{% endmacro %}{{ m(**d) }}{{ dict(**d) }}",
     "{'<k>': '<v>'}{'<k>': '<v>'}");
}

TEST(ChatTemplateBounds, StepsDepthAndTextAreLimited) {
  const auto fails = [](const std::string& source, const std::vector<std::string>& parts) {
    expect_error([&] { render(source); }, parts);
  };
  const std::string loops =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
  fails(loops, {"t.jinja:1: ", "steps"});
  fails("{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}", {"t.jinja:", "nested deeper"});
  fails("{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('ab') }}", {"t.jinja:1: "});
  fails("{{ 'ab' * 999999999999 }}", {"bytes"});
  fails("{{ 'ab' * 9223372036854775807 }}", {"bytes"});
  fails("{{ [1] * 999999999999 }}", {"elements"});
  fails("{{ '%999999999d' % 1 }}", {"bytes"});
  fails("{{ 'a'.center(999999999999) }}", {"bytes"});
  fails("{{ 'a'.ljust(9223372036854775807) }}", {"bytes"});
  fails("{{ '{:999999999}'.format(1) }}", {"bytes"});
  fails("{{ ('a' * 1000000).replace('a', 'b' * 100) }}", {"bytes"});
  fails("{{ ('a' * 1000000).replace('', 'b' * 100) }}", {"bytes"});
  fails("{{ 'a' | indent(999999999999) }}", {"bytes"});
  fails("{{ 'a' | map(*(['map'] * 5000)) | list }}", {"nested deeper"});
  // Doubling: by text, by list, and by values that only printing unfolds.
  fails(
      "{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
      {"t.jinja:1: "});
  fails(
      "{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = n.l + n.l %}{% endfor %}",
      {"elements"});
  const std::string unfolding =
      "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor "
      "%}";
  fails(unfolding + "{{ n.l }}", {"t.jinja:1: "});
  fails(unfolding + "{{ n.l | tojson }}", {"t.jinja:1: "});
  fails(
      "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
      "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
      {"steps"});
  fails("{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = [n.l] %}{% endfor %}",
        {"nested deeper"});
  fails(
      "{% set n = namespace(f='a'.upper) %}{% for i in range(9999) %}{% set n.f = [n.f].index %}"
      "{% endfor %}",
      {"nested deeper"});
  const auto nested = [](const std::string& open, const std::string& middle,
                         const std::string& close, int levels) {
    std::string source;
    for (int i = 0; i < levels; ++i) source += open;
    source += middle;
    for (int i = 0; i < levels; ++i) source += close;
    return source;
  };
  struct Nested {
    const char *open, *middle, *close;
  };
  for (const auto& [open, middle, close] : std::vector<Nested>{{"(", "1", ")"},
                                                               {"[", "1", "]"},
                                                               {"-", "1", ""},
                                                               {"not ", "1", ""},
                                                               {"1+", "1", ""},
                                                               {"", "a", ".b"},
                                                               {"", "a", "|upper"},
                                                               {"", "a", "()"},
                                                               {"", "a", "[0]"},
                                                               {"f(", "1", ")"},
                                                               {"{1:", "1", "}"},
                                                               {"1 if 1 else ", "1", ""}}) {
    fails("{{ " + nested(open, middle, close, 30000) + " }}", {"t.jinja:1: ", "nested deeper"});
    EXPECT_NO_THROW(Template("{{ " + nested(open, middle, close, 60) + " }}", "t"));
  }
  fails(nested("{% if 1 %}", "x", "{% endif %}", 5000), {"nested deeper"});
  fails(nested("{% for i in [1] %}", "x", "{% endfor %}", 5000), {"nested deeper"});
  fails(std::string(kMaxTemplateBytes + 1, 'x'), {"t.jinja:1: ", "bytes"});
  EXPECT_EQ(render(std::string(100000, 'x')).size(), 100000u);
}

TEST(ChatTemplateErrors, OneLineWithNameAndLine) {
  const auto fails = [](const std::string& source, const std::vector<std::string>& parts) {
    expect_error([&] { render(source); }, parts);
  };
  fails("a\n\n{{ raise_exception('two\nlines\x1b') }}", {"t.jinja:3: two lines"});
  fails("a\n{% if 1 %}\n{{ x.y }}{% endif %}", {"t.jinja:3: 'x' is undefined"});
  fails("a\n{% if 1 %}\n", {"t.jinja:2: ", "endif"});
  fails("{{ l.append(1) }}", {"'l' is undefined"});
  fails("{{ [].append(1) }}", {"append", "unsafe"});
  fails("{{ 1 | nosuch }}", {"nosuch", "not supported"});
  fails("{% include 'x' %}", {"'include'", "not supported"});
  fails("{{ ''.__class__.__mro__ }}", {"__class__"});
  fails("{{ 'x'\n  ~ }}", {"t.jinja:2: "});
  fails("\xff", {"UTF-8"});
  fails("{{ 9223372036854775808 }}", {"64-bit"});
  fails("{{ 9223372036854775807 + 1 }}", {"out of range"});
}

TEST(ChatTemplateJson, ValuesKeepOrderAndBadOnesAreRefused) {
  EXPECT_EQ(
      render("{{ d }}", R"({"d": {"z": 1, "a": [null, true, 1.0, -5, "\ud83d\ude42"]}})").bytes(),
      "{'z': 1, 'a': [None, True, 1.0, -5, '\U0001f642']}");
  const auto fails = [](const std::string& json, const std::vector<std::string>& parts) {
    expect_error([&] { parse_json_value(json, "m.json"); }, parts);
  };
  fails("[1,", {"m.json: bad JSON"});
  fails("{\"a\": 1, \"a\": 2}", {"m.json", "duplicate key \"a\""});
  fails("[9223372036854775808]", {"m.json", "64 bits"});
  fails("[123456789012345678901234567890]", {"m.json", "64 bits"});
  fails("[\"\\ud800\"]", {"m.json"});
  fails(std::string(100, '['), {"m.json", "nested deeper"});
  fails("", {"m.json"});
}

// Random damage: a template renders or fails with one line, in bounded time.
TEST(ChatTemplateFuzz, DamagedTemplatesNeverCrash) {
  std::vector<std::string> sources;
  for (const auto& file : std::filesystem::directory_iterator(RILLKV_TEST_DATA_DIR "/chat")) {
    const std::string path = file.path().string();
    if (file.path().extension() == ".jinja") sources.push_back(read_file(path));
    if (file.path().filename() != "expressions.txt") continue;
    const std::string text = read_file(path);
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      sources.push_back(text.substr(at, end - at));
      at = end + 1;
    }
  }
  ASSERT_GT(sources.size(), 100u);
  std::sort(sources.begin(), sources.end());  // a folder has no order
  const Dict variables =
      parse_json_value(
          R"({"messages": [{"role": "user", "content": "Hi <b>"}, {"role": "assistant", "content": [1],
          "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}],
          "tools": [{"function": {"name": "f", "parameters": {"properties": {"p": {"type": "string"}}}}}],
          "l": [3, 1, 2], "d": {"b": 1, "a": [1, "x"]}, "s": " x ", "n": 7,
          "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true})",
          "variables")
          .dict();
  const std::vector<std::string> pieces = {"{{",
                                           "}}",
                                           "{%",
                                           "%}",
                                           "-",
                                           "(",
                                           ")",
                                           "[",
                                           "]",
                                           "{",
                                           "}",
                                           "'",
                                           "\"",
                                           "|",
                                           ".",
                                           ",",
                                           ":",
                                           "~",
                                           "**",
                                           "//",
                                           " if ",
                                           " else ",
                                           " in ",
                                           " is ",
                                           " not ",
                                           "{% for x in ",
                                           "{% endfor %}",
                                           "{% endif %}",
                                           "{% set a = ",
                                           "namespace()",
                                           "range(9)",
                                           "messages",
                                           "loop",
                                           "tojson",
                                           "map(",
                                           "9223372036854775807",
                                           "-1",
                                           "\\",
                                           "\xc3\xa9",
                                           "{#",
                                           "#}",
                                           "caller",
                                           "*",
                                           "%",
                                           "0",
                                           "1.5"};
  std::mt19937 random(20260305);
  const auto below = [&](size_t limit) { return random() % std::max<size_t>(limit, 1); };
  size_t rendered = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string source = sources[below(sources.size())];
    for (size_t edits = 1 + below(6); edits > 0; --edits) {
      const size_t at = below(source.size() + 1);
      switch (below(4)) {
        case 0:
          source.insert(at, pieces[below(pieces.size())]);
          break;
        case 1:
          source.erase(at, below(8));
          break;
        case 2: {
          const std::string& other = sources[below(sources.size())];
          source.insert(at, other.substr(below(other.size()), below(40)));
          break;
        }
        default:
          if (at < source.size()) source[at] = static_cast<char>(below(256));
      }
    }
    try {
      Template(source, "fuzzed").render(variables, std::tm{});
      ++rendered;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(rendered, 100u);  // not everything is broken
}

}  // namespace
}  // namespace rillkv::io::jinja
