#!/usr/bin/env python3
"""The benchmark scripts' tables from made-up reports, and their complaints. Nothing is measured."""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
CONTEXT = {"commit": "abc", "cpu": "A CPU", "threads": 2, "isa": "avx512"}


class BenchTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, name, value):
        (self.folder / name).write_text(json.dumps(value))

    def run_script(self, *args, **environment):
        command = [str(ROOT / "scripts" / args[0]), *args[1:]]
        if args[0].endswith(".py"):
            command = [sys.executable, *command]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False,
                              env={**os.environ, **environment})

    def assert_fails_in_one_line(self, result, expected):
        self.assertNotEqual(result.returncode, 0)
        self.assertIn(expected, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)


class TransformersTest(BenchTest):
    def rounds(self, ours, theirs):
        """ours: [seconds of a prompt after 4096 a round]; theirs: [{variant: seconds}]. A token takes
        a hundredth of a prompt."""
        def results(key, times):
            return [{key: name, "depth": 4096, "prefill_s": [s, s, 9 * s], "decode_s": [s / 100] * 3}
                    for name, s in times.items()]
        for number, (mine, hf) in enumerate(zip(ours, theirs), 1):
            self.write(f"rillkv-{number}.json", {
                "context": CONTEXT, "model": "m", "config": "balanced", "dtype": "BFloat16", "prompt": 512,
                "repetitions": 3,
                "results": results("cache", {"compressed": mine, "dense": 2 * mine})})
            self.write(f"prefill-{number}.json", {"ttft_s": 2.0})
            self.write(f"hf-{number}.json", {
                "transformers": "5", "torch": "2", "cpu_capability": "AVX512", "threads": 2, "prompt": 512,
                "cold": {"variant": "a", "prefill_s": 5.0}, "skipped": [{"variant": "c", "why": "oh"}],
                "results": results("variant", hf)})
        self.write("agreement.json", {"dense": {"kl": 1e-4, "same_top1": True}})

    def table(self):
        result = self.run_script("bench_transformers.py", "table", ".", "--json", "out.json")
        self.assertEqual(result.returncode, 0, result.stderr)
        report = json.loads((self.folder / "out.json").read_text())
        return {row["measure"]: row for row in report["results"]}, report, result.stdout

    def test_medians_and_the_best_variant(self):
        self.rounds([1, 2, 4], [{"a": 3, "b": 2}, {"a": 3, "b": 4}, {"a": 3, "b": 4}])
        rows, report, text = self.table()
        self.assertEqual(set(rows), {"512 tokens after 4096", "decode after 5120",
                                     "first 512 tokens of a process"})
        row = rows["512 tokens after 4096"]
        self.assertEqual(row["hf_variant"], "a")  # 3 against a median of 4, though b was once 2.
        self.assertEqual(row["ratios"], [3, 1.5, 0.75])
        self.assertEqual(row["ratio"], 1.5)
        self.assertEqual(row["ours_tokens_per_s"], 256)
        self.assertEqual(row["dense_tokens_per_s"], 128)
        self.assertIsNone(row["torch_sdpa_tokens_per_s"])
        self.assertEqual(rows["decode after 5120"]["ours_tokens_per_s"], 50)
        self.assertEqual(rows["first 512 tokens of a process"]["ratio"], 2.5)
        self.assertEqual(report["context"], CONTEXT)
        self.assertIsNone(report["profile"])
        self.assertIn("A CPU, 2 threads, avx512", text)
        self.assertIn("left out: c: oh", text)

    def test_a_variant_that_was_dropped_does_not_win(self):
        self.rounds([1, 1], [{"a": 3, "b": 2}, {"a": 3}])
        self.assertEqual(self.table()[0]["512 tokens after 4096"]["hf_variant"], "a")

    def test_best_names_what_leads(self):
        self.rounds([1], [{"a": 3, "b": 2}])
        self.assertEqual(self.run_script("bench_transformers.py", "best", ".").stdout, "b\n")

    def test_a_side_that_is_missing_is_named(self):
        self.assert_fails_in_one_line(self.run_script("bench_transformers.py", "table", "."),
                                      "no rillkv-*.json")
        self.rounds([1, 1], [{"a": 3}, {"a": 3}])
        (self.folder / "hf-2.json").unlink()
        self.assert_fails_in_one_line(self.run_script("bench_transformers.py", "table", "."),
                                      "found 2 and 1")

    def test_bad_arguments_end_in_one_line(self):
        for args, expected in ((("--rounds", "0"), "--rounds: expected a number"),
                               (("--depths", "a"), "--depths: expected numbers"),
                               (("--sides", "dense"), "--sides: expected compressed"),
                               (("--model",), "--model: expected a value"),
                               (("--nonsense",), "unknown argument --nonsense"),
                               (("--model", "/nonexistent"), "no model in /nonexistent")):
            self.assert_fails_in_one_line(self.run_script("bench_transformers.sh", *args), expected)

    def test_what_is_not_installed_is_named(self):
        (self.folder / "config.json").write_text("{}")
        args = ("bench_transformers.sh", "--model", str(self.folder))
        self.assert_fails_in_one_line(self.run_script(*args, RILLKV_BENCH_BIN="/nonexistent"),
                                      "run scripts/build.sh release")
        for program in ("bench_model", "prefill"):
            (self.folder / program).write_text("#!/bin/sh\n")
            (self.folder / program).chmod(0o755)
        if not (ROOT / ".venv-reference").exists():
            self.assert_fails_in_one_line(self.run_script(*args, RILLKV_BENCH_BIN=str(self.folder)),
                                          "run scripts/setup.sh --reference")


class ChipTest(BenchTest):
    def table(self):
        result = self.run_script("bench_chip.py", ".")
        self.assertEqual(result.returncode, 0, result.stderr)
        lines = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()
                 if line.startswith("| ")]
        return {line[0]: line[1:] for line in lines}, result.stdout

    def attention(self, over):
        self.write("attention.json", {"context": CONTEXT, "results": [
            {"shape": "32/8/128", "queries": 256, "depth": 4096, "mix": "balanced", "whole": whole,
             "over_torch_best": over, "over_torch_bf16": over} for whole in (False, True)]})

    def test_each_family_has_its_targets(self):
        self.attention(2.1)
        whole = "attention 256 x 4096, 32/8/128, whole, over Torch's best"
        sealed = "attention 256 x 4096, 32/8/128, sealed blocks, over Torch's bf16"
        self.write("machine.json", {"cpu": "A CPU", "amx": True, "cores": 2})
        rows, text = self.table()
        self.assertIn("A CPU, 2 cores, a tile unit (AMX), isa avx512, commit abc", text)
        self.assertEqual(rows[whole], [">= 2x", "2.10x", "yes"])
        self.assertEqual(rows[sealed], ["-", "2.10x", "-"])
        self.write("machine.json", {"cpu": "A CPU", "amx": False, "cores": 2})
        rows, text = self.table()
        self.assertIn("no tile unit", text)
        self.assertEqual(rows[whole], ["-", "2.10x", "-"])
        self.assertEqual(rows[sealed], [">= 2.4x", "2.10x", "NO"])

    def test_every_part_is_read(self):
        self.write("machine.json", {"cpu": "A CPU", "amx": True, "cores": 2})
        self.write("smollm2.json", {"results": [
            {"depth": 4096, "what": "prefill", "ratio": 2.5}, {"depth": 0, "what": "prefill", "ratio": 1.2}]})
        self.write("llama_cpp.json", {"results": [
            {"program": "llama.cpp", "weights": weights, "cache": cache, "ours_over_decode": over}
            for weights, cache, over in (("f16", "f16", 2), ("bf16", "f16", 1.6), ("bf16", "q8_0", 1),
                                         ("Q4_1", "f16", 1))]})
        self.write("busy.json", {"runs": [{
            "program": "ours", "loops": 2, "ttft_short_s_ratio": 2.9, "ttft_long_s_ratio": 3.1,
            "decode_short_tokens_per_s_ratio": 0.34, "decode_long_tokens_per_s_ratio": 0.36}]})
        for run, over in enumerate((0.9, 1.0, 0.96), 1):
            self.write(f"model-{run}.json", {"results": [
                {"cache": "dense", "depth": 4096, "prefill_vs_torch": over, "decode_vs_torch": None}]})
        rows, _ = self.table()
        for what, measured, reached in (
                ("SmolLM2, 512 tokens after 4096, over Hugging Face", "2.50x", "yes"),
                ("SmolLM2, first 512 tokens, over Hugging Face", "1.20x", "NO"),
                ("SmolLM2, decode after 4096, over Hugging Face", "not measured: no decode", "-"),
                ("SmolLM2, decode after 4096, over llama.cpp's f16 cache", "1.60x", "yes"),
                ("Qwen2.5-Coder-1.5B, decode, over Hugging Face", "not measured: no qwen.json", "-"),
                ("beside two busy loops: time to first token, 36 tokens", "2.90x", "yes"),
                ("beside two busy loops: time to first token, 512 tokens", "3.10x", "NO"),
                ("beside two busy loops: decode after 36", "0.34x", "NO"),
                ("beside two busy loops: decode after 512", "0.36x", "yes"),
                ("dense cache, 512 tokens after 4096, over Torch's SDPA", "0.96x", "yes"),
                ("dense cache, decode after 4096, over Torch's SDPA", "not measured: no", "-")):
            self.assertTrue(rows[what][1].startswith(measured), (what, rows[what]))
            self.assertEqual(rows[what][2], reached, what)

    def test_a_nan_reaches_nothing(self):
        self.write("machine.json", {"cpu": "A CPU", "amx": True, "cores": 2})
        self.attention(math.nan)
        self.assertEqual(self.table()[0]["attention 256 x 4096, 32/8/128, whole, over Torch's best"][2], "NO")

    def test_an_empty_folder_is_one_line(self):
        self.assert_fails_in_one_line(self.run_script("bench_chip.py", "."), "no machine.json")


if __name__ == "__main__":
    unittest.main()
