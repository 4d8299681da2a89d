#!/usr/bin/env python3
"""What transformers renders for the chat templates in tests/data/chat, and Jinja's value of each
expression in tests/data/chat/expressions.txt: the reference of tests/io/chat_template_golden_test.cpp.

usage: .venv-reference/bin/python scripts/goldens/chat_templates.py
       .venv-reference/bin/python scripts/goldens/chat_templates.py --templates DIR --out FILE

The second form does the same for any folder of *.jinja files, for instance those of another project
that are not committed here; `RILLKV_CHAT_GOLDENS=FILE build/release/bin/rillkv_io_tests
--gtest_filter='*ChatTemplateFolder*'` then compares.
"""

import argparse
import datetime
import json
import pathlib

import jinja2
from transformers.utils import chat_template_utils as utils

DATA = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "chat"
DATE = (2026, 3, 5)

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "The weather \"now\" & here",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "A town, e.g. Zürich"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "days": {"type": "array", "items": {"type": "integer"}}}},
        "return": {"type": "string"}}},
    {"type": "function", "function": {
        "name": "now", "description": "The time",
        "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"type": "function", "id": "call_1ab",
        "function": {"name": "weather", "arguments": {"city": "Köln", "days": [1, 2], "x": 1.5, "y": None}}}
SHORT_CALL = {"type": "function", "id": "abcdefghi",
              "function": {"name": "now", "arguments": {}}}


def says(*turns):
    return [{"role": role, "content": content} for role, content in turns]


CONVERSATIONS = {
    "user": {"messages": says(("user", "Hi there"))},
    "open": {"messages": says(("user", "Hi"), ("assistant", "Hello.")), "add_generation_prompt": False},
    "system": {"messages": says(("system", "Be \"brief\". "), ("user", "\n\u3000Why is it blue?\u00a0\n"))},
    "turns": {"messages": says(("system", "S"), ("user", " One "), ("assistant", " Two \n"),
                               ("user", "Grüße 🙂 {{ 1 }} <|im_end|>"))},
    "think": {"messages": says(("user", "2+2?"), ("assistant", "<think>\nIt is\nfour\n</think>\n\n4"),
                               ("user", "3+3?"))},
    "reasoning": {"messages": says(("user", "2+2?")) + [
        {"role": "assistant", "reasoning_content": " four ", "content": "4"}] + says(("user", "ok"))},
    "no_thinking": {"messages": says(("user", "2+2?")), "enable_thinking": False, "thinking": False},
    "tools": {"messages": says(("system", "S"), ("user", "Weather?")), "tools": TOOLS},
    "called": {"messages": says(("user", "Weather?")) + [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "weather", "tool_call_id": "call_1ab", "content": "{\"t\": 21}"}],
        "tools": TOOLS},
    "called_twice": {"messages": says(("system", "S"), ("user", "Time?")) + [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [SHORT_CALL, SHORT_CALL]},
        {"role": "tool", "name": "now", "tool_call_id": "abcdefghi", "content": "noon"},
        {"role": "tool", "name": "now", "tool_call_id": "abcdefghi", "content": "12"},
        {"role": "assistant", "content": "Noon."}] + says(("user", "Thanks")), "tools": TOOLS},
    "parts": {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is"}, {"type": "image"}, {"type": "text", "text": " this?"}]}]},
    "documents": {"messages": says(("user", "Which?")),
                  "documents": [{"title": "One", "text": "A b"}, {"title": "Two", "text": "C"}]},
    "assistant_first": {"messages": says(("assistant", "Me first"), ("user", "No"))},
    "two_users": {"messages": says(("user", "a"), ("user", "b"))},
    "odd_role": {"messages": says(("narrator", "once"), ("user", "b"))},
}


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*DATE)


def render(template, conversation):
    """(text, None) or (None, the error's text)."""
    variables = dict(conversation)
    # As apply_chat_template normalises.
    messages = [{k: v for k, v in m.items() if v is not None} for m in variables.pop("messages")]
    arguments = {"add_generation_prompt": True, **variables, **TOKENS}
    tools, documents = arguments.pop("tools", None), arguments.pop("documents", None)
    try:
        rendered, _ = utils.render_jinja_template(
            conversations=[messages], tools=tools, documents=documents, chat_template=template, **arguments)
        return rendered[0], None
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, KeyError, IndexError, OverflowError,
            ZeroDivisionError) as error:
        return None, str(error).split("\n")[0]


def templates_goldens(folder, with_source):
    templates, cases = {}, []
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        templates[path.stem] = source if with_source else None
        for name, conversation in CONVERSATIONS.items():
            text, error = render(source, conversation)
            cases.append({"template": path.stem, "conversation": name, "text": text, "error": error})
    return {"tokens": TOKENS, "date": "%04d-%02d-%02d" % DATE, "conversations": CONVERSATIONS,
            "templates": templates, "cases": cases}


def expression_goldens():
    """One template a line, over a few variables."""
    variables = {
        "messages": [], "s": " Héllo wörld ", "n": 7, "f": 2.5, "l": [3, 1, 2], "e": [], "b": True, "none_value": None,
        "d": {"b": 1, "a": [1, "x", None, True, 2.0], "items": "shadowed"},
        "people": [{"n": "Bo", "age": 3, "tags": ["x"]}, {"n": "al", "age": 1}, {"n": "Cy", "age": 2, "tags": []}],
        "names": ["b", "A", "c", "B"], "text": "one\ntwo\n\nthree", "html": "<a & 'b'>",
    }
    cases = []
    for line in (DATA / "expressions.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("## "):
            continue
        source = line.replace("␤", "\n")
        rendered, error = None, None
        try:
            rendered = utils._compile_jinja_template(source).render(**variables)
        except Exception as failure:  # noqa: BLE001  whatever it is, ours must fail too
            error = f"{type(failure).__name__}: {failure}".split("\n")[0]
        cases.append({"source": source, "text": rendered, "error": error})
    return {"variables": variables, "cases": cases}


def write(path, goldens):
    path.write_text(json.dumps(goldens, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size} bytes, {len(goldens['cases'])} cases, "
          f"{sum(case['text'] is None for case in goldens['cases'])} of them errors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=pathlib.Path, help="a folder of *.jinja files")
    parser.add_argument("--out", type=pathlib.Path, help="where its reference values go")
    options = parser.parse_args()
    utils.datetime = FixedDate
    if options.templates:
        if not options.out:
            parser.error("--templates needs --out")
        write(options.out, templates_goldens(options.templates, with_source=True))
        return
    write(DATA / "goldens.json", templates_goldens(DATA, with_source=False))
    write(DATA / "expression_goldens.json", expression_goldens())


if __name__ == "__main__":
    main()
