#!/usr/bin/env python3
"""scripts/plot.py: every kind draws from JSON as the programs write it; bad input is one line."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

from needs import needs

ROOT = pathlib.Path(__file__).resolve().parents[3]


@needs("matplotlib")
class PlotTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, name, value):
        (self.folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
        return name

    def plot(self, *args):
        return subprocess.run([sys.executable, str(ROOT / "scripts/plot.py"), *args],
                              cwd=self.folder, capture_output=True, text=True, check=False)

    def assert_draws(self, *args):
        result = self.plot(*args, "-o", "out/picture.png")
        self.assertEqual(result.returncode, 0, result.stderr)
        picture = (self.folder / "out/picture.png").read_bytes()
        self.assertTrue(picture.startswith(b"\x89PNG"))
        self.assertGreater(len(picture), 10000)

    def test_needle(self):
        cells = [{"length": n, "depth": d, "score": 1, "margin": 2.5, "solvable": n < 1000,
                  "baseline": {"score": n < 1000, "margin": None}}
                 for n in (512, 1024) for d in (0, 50)][:-1]  # An unfinished grid.
        self.assert_draws("needle", self.write("n.json", {
            "lengths": [512, 1024], "depths": [0, 50], "cells": cells,
            "unsolvable_lengths": [1024]}))

    def test_pareto_of_reports_studies_and_ablations(self):
        result = {"kv_bits_sealed": {"total": 4.5}, "kl_mean": 0.01}
        self.assert_draws(
            "pareto", self.write("balanced.json", result),
            self.write("study.json", {"trials": [
                {"number": 0, "state": "complete", "bits": 4.0, "kl": 0.02},
                {"number": 1, "state": "fail"}]}),
            self.write("ablation.json", {"rows": [
                {"label": "a", "result": result}, {"label": "b", "error": "it crashed"}]}))

    def test_pareto_mixes_no_protocols_and_leaves_the_dense_cache_out(self):
        result = {"kv_bits_sealed": {"total": 4.5}, "kl_mean": 0.01, "protocol": "prefill"}
        report = self.write("p.json", result)
        wrong = self.plot("pareto", report)
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("p.json: made by the prefill protocol", wrong.stderr)
        self.assert_draws("pareto", "--protocol", "prefill", report)
        dense = self.plot("pareto", "--protocol", "prefill", self.write(
            "d.json", {**result, "kl_mean": 0, "config": {"policy": "dense"}}))
        self.assertEqual(dense.returncode, 1)
        self.assertIn("not dense", dense.stderr)

    def test_pareto_draws_the_schemes_measured_on_the_same_model_and_text(self):
        report = self.write("balanced.json", {"kv_bits_sealed": {"total": 4.5}, "kl_mean": 0.01})
        for name in json.loads((ROOT / "scripts/competitors.json").read_text())["sets"]:
            for protocol in ("stress", "prefill"):
                self.assert_draws("pareto", "--set", name, "--protocol", protocol, report)
        unknown = self.plot("pareto", "--set", "ptb", report)
        self.assertEqual(unknown.returncode, 1)
        self.assertIn("no set ptb: expected wikitext2 or gpl3", unknown.stderr)

    def test_competitors_are_measured_on_known_sets_and_say_what_they_are(self):
        known = json.loads((ROOT / "scripts/competitors.json").read_text())
        self.assertEqual(len({s["name"] for s in known["schemes"]}), len(known["schemes"]))
        for scheme in known["schemes"]:
            self.assertGreater(len(scheme["source"]), 20, scheme["name"])
            self.assertTrue(scheme["measured"], scheme["name"])
            for name, row in scheme["measured"].items():
                self.assertIn(name, known["sets"])
                self.assertTrue(1 < row["bits"] < 16, scheme["name"])
                self.assertTrue(0 < row["kl_stress"] < 50, scheme["name"])
                if row["kl_prefill"] is not None:  # What is read exactly cannot make it worse.
                    self.assertTrue(0 < row["kl_prefill"] < row["kl_stress"], scheme["name"])

    def test_results_of_an_experiment(self):
        layer = {"key_widths": [0, 1, 2, 3, 4, 3, 2, 1, 0], "value_widths": [1] * 9}
        needle = {"lengths": [512], "depths": [0], "cells": [
            {"length": 512, "depth": 0, "score": 1, "margin": 2.5}]}
        path = self.write("e.json", {"tasks": {"needle": {
            **needle, "performance": {"compressed": {"layers": [layer] * 2}}}}})
        self.assert_draws("needle", path)
        self.assert_draws("layers", path)
        result = self.plot("pareto", path)
        self.assertEqual(result.returncode, 1)
        self.assertIn("task perplexity", result.stderr)

    def test_memory_and_speed(self):
        files = [self.write(f"{n}.json", {
            "prompt_tokens": n, "kv_bytes": 100 * n, "kv_bytes_bf16": 350 * n,
            "peak_rss_bytes": 10 ** 9 + n, "prefill_tokens_per_s": 500.0,
            "decode_tokens_per_s": 50.0, "baseline": {"prefill_tokens_per_s": 400.0}})
            for n in (2048, 512)]
        self.assert_draws("memory", *files)
        self.assert_draws("speed", *files)

    def test_layers(self):
        layer = {"key_widths": [0, 1, 2, 3, 4, 3, 2, 1, 0], "value_widths": [0] * 9,
                 "key_outlier_rate": 0.1, "value_outlier_rate": 0.0}
        self.assert_draws("layers", self.write("r.json", {"layers": [layer] * 4}))

    def test_bad_input_is_one_line_and_exit_1(self):
        for args, expected in (
                (("needle", "none.json"), "cannot read none.json"),
                (("needle", self.write("bad.json", "{\n,")), "bad.json:2: not JSON"),
                (("pareto", self.write("empty.json", {})), "kv_bits_sealed.total"),
                (("layers", self.write("old.json", {"layers": []})), "at least one layer"),
                (("needle", "a.json", "b.json"), "expected one file")):
            result = self.plot(*args)
            self.assertEqual(result.returncode, 1)
            self.assertIn(expected, result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertFalse((self.folder / f"{args[0]}.png").exists())


if __name__ == "__main__":
    unittest.main()
