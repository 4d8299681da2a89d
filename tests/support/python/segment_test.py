#!/usr/bin/env python3
"""scripts/segment_chinese.py on prediction files."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

from needs import needs

ROOT = pathlib.Path(__file__).resolve().parents[3]


class SegmentTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "p.jsonl"

    def run_script(self):
        return subprocess.run([sys.executable, str(ROOT / "scripts/segment_chinese.py"),
                               str(self.path)], capture_output=True, text=True, check=False)

    @needs("jieba")
    def test_adds_words_once(self):
        self.path.write_text(json.dumps({"key": "0", "pred": "我来到北京大学", "answers": ["北京", "大学"]},
                                        ensure_ascii=False) + "\n", encoding="utf-8")
        first = self.run_script()
        self.assertEqual(first.returncode, 0, first.stderr)
        record = json.loads(self.path.read_text(encoding="utf-8"))
        self.assertEqual(record["pred_words"], ["我", "来到", "北京大学"])
        self.assertEqual(record["answers_words"], [["北京"], ["大学"]])
        self.assertEqual(record["key"], "0")
        self.assertIn("0 records", self.run_script().stdout)

    @needs("jieba")
    def test_malformed_line_is_named_and_the_file_kept(self):
        self.path.write_text('{"pred": "x"}\noops\n')
        result = self.run_script()
        self.assertEqual(result.returncode, 1)
        self.assertIn("p.jsonl:2:", result.stderr)
        self.assertEqual(self.path.read_text(), '{"pred": "x"}\noops\n')


if __name__ == "__main__":
    unittest.main()
