#!/usr/bin/env python3
"""Cuts the Chinese texts of LongBench prediction files into words, for `evaluate longbench`.

LongBench scores its Chinese question answering and summaries on words found by `jieba`. This adds
"pred_words" (a list) and "answers_words" (a list of lists) to each record of a predictions file;
`evaluate longbench-score` then scores it. Records that have them already are left alone.
Needs jieba (.venv-tools/bin/python has it).

usage: segment_chinese.py FILE.jsonl [FILE.jsonl ...]
"""
import argparse
import json
import logging
import os
import pathlib
import sys


def fail(message):
    print(f"segment_chinese: {message}", file=sys.stderr)
    sys.exit(1)


def segment_file(path, cut):
    """Rewrites one file through a temporary one; returns how many records were cut."""
    out, count = [], 0
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                fail(f"{path}:{number}: not JSON: {error}")
            if isinstance(record, dict) and "pred" in record and "pred_words" not in record:
                record["pred_words"] = cut(record["pred"])
                record["answers_words"] = [cut(answer) for answer in record.get("answers", [])]
                count += 1
            out.append(json.dumps(record, ensure_ascii=False) + "\n")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(out), encoding="utf-8")
    os.replace(temporary, path)
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    try:
        import jieba
    except ImportError:
        fail("needs the package jieba: scripts/setup.sh installs it, .venv-tools/bin/python has it")
    jieba.setLogLevel(logging.ERROR)
    for path in args.files:
        if not path.is_file():
            fail(f"no such file: {path}")
        count = segment_file(path, lambda text: list(jieba.cut(text, cut_all=False)))
        print(f"{path}: {count} records cut")


if __name__ == "__main__":
    main()
