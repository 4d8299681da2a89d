#!/usr/bin/env python3
"""scripts/tune.py with a stand-in for `evaluate`: studies resume, bad trials do not end them."""
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from needs import needs

ROOT = pathlib.Path(__file__).resolve().parents[3]
TUNE = ROOT / "scripts/tune.py"

# Bits and KL follow the two parameters; value_bits 3 crashes, 5 writes nonsense.
FAKE = """#!{python}
import json, sys, time
args = sys.argv[1:]
assert args[0] == "perplexity", args
if any(a.startswith("sinks=") for a in args): sys.exit("evaluate: error: unknown key 'sinks'")
config = dict(a.split("=", 1) for a, b in zip(args[1:], args) if b == "--set")
out = args[args.index("--json") + 1]
v, k = int(config["value_bits"]), float(config["key_bits_mean"])
if config["policy"] != '"adaptive"': sys.exit("policy " + config["policy"])
if v == 3:
    print("detail", file=sys.stderr); print("no such width", file=sys.stderr); sys.exit(1)
if v == 5:
    json.dump({{"kv_bits_sealed": {{"total": 5}}, "kl_mean": float("nan")}}, open(out, "w")); sys.exit(0)
time.sleep({sleep})
json.dump({{"commit": "abc", "kv_bits_sealed": {{"total": (v + k) / 2}}, "kl_mean": 4 ** -(v + k) }}, open(out, "w"))
"""

SPACE = {"fixed": {"policy": "adaptive"},
         "parameters": {"key_bits_mean": {"type": "float", "low": 3, "high": 5, "step": 0.5},
                        "value_bits": {"type": "int", "low": 2, "high": 5},
                        "bit_classes": {"type": "categorical", "choices": [[2, 4], [4, 8]]}}}


def load_tune():
    spec = importlib.util.spec_from_file_location("tune", TUNE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class SpaceTest(unittest.TestCase):
    def setUp(self):
        self.tune = load_tune()
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def message(self, text):
        path = pathlib.Path(self.folder.name) / "space.json"
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        with self.assertRaises(self.tune.TuneError) as caught:
            self.tune.read_space(path)
        return str(caught.exception)

    def test_wrong_spaces_are_named(self):
        def of(spec):
            return self.message({"parameters": {"ema_decay": spec}})
        self.assertIn("space.json:2: not JSON", self.message('{"parameters":\n ]'))
        self.assertIn("at least one entry", self.message({"parameters": {}}))
        self.assertIn("'parametres'", self.message({"parametres": {}}))
        self.assertIn("ema_decay", of({"type": "real"}))
        self.assertIn("low <= high", of({"type": "float", "low": 2, "high": 1}))
        self.assertIn("number high", of({"type": "float", "low": 2}))
        self.assertIn("whole number", of({"type": "int", "low": 2.5, "high": 3}))
        self.assertIn("choices", of({"type": "categorical", "choices": []}))
        self.assertIn("number step", of({"type": "int", "low": 1, "high": 2, "step": "1"}))
        self.assertIn("log true", of({"type": "float", "low": 1, "high": 2, "log": 1}))
        self.assertIn("finite", of({"type": "float", "low": 1, "high": float("inf")}))
        self.assertIn("differ", of({"type": "categorical", "choices": [4, 4]}))
        self.assertIn("'steps'", of({"type": "int", "low": 1, "high": 2, "steps": 1}))
        self.assertIn("low > 0", of({"type": "float", "low": 0, "high": 1, "log": True}))
        self.assertIn("both fixed", self.message(
            {"fixed": {"a": 1}, "parameters": {"a": {"type": "int", "low": 1, "high": 2}}}))

    def test_committed_spaces_are_valid(self):
        for path in sorted((ROOT / "configs/experiments").glob("tune_*.json")):
            self.assertTrue(self.tune.read_space(path)["parameters"], path)

    def test_choice(self):
        class Args:
            max_bits = max_kl = None
        front = [{"bits": 2, "kl": 1.0}, {"bits": 3, "kl": 0.01}, {"bits": 6, "kl": 0.001}]
        self.assertEqual(self.tune.choose(front, Args)["bits"], 3)
        Args.max_bits = 2.5
        self.assertEqual(self.tune.choose(front, Args)["bits"], 2)
        Args.max_bits, Args.max_kl = None, 0.005
        self.assertEqual(self.tune.choose(front, Args)["bits"], 6)
        Args.max_kl = 1e-9
        self.assertIsNone(self.tune.choose(front, Args))


@needs("optuna")
class StudyTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "space.json").write_text(json.dumps(SPACE))
        (self.folder / "m").mkdir()
        (self.folder / "t").write_text("text")
        self.fake(0)

    def fake(self, sleep):
        program = self.folder / "evaluate"
        program.write_text(FAKE.format(python=sys.executable, sleep=sleep))
        program.chmod(0o755)

    def command(self, *more):
        return [sys.executable, str(TUNE), "--space", "space.json", "--evaluate", "./evaluate",
                "--model", "m", "--text", "t", "--storage", "out/s.db", "--preset", "out/p.json",
                *more]

    def run_tune(self, *more):
        return subprocess.run(self.command(*more), cwd=self.folder, capture_output=True, text=True,
                              check=False)

    def report(self):
        return json.loads((self.folder / "out/s.json").read_text())

    def test_crashed_trials_are_reported_and_the_study_goes_on_and_resumes(self):
        first = self.run_tune("--trials", "12", "--workers", "2", "--max-bits", "4.5")
        self.assertEqual(first.returncode, 0, first.stderr)
        trials = self.report()["trials"]
        self.assertEqual(len(trials), 12)
        failed = [t for t in trials if t["state"] == "fail"]
        self.assertTrue(failed and len(failed) < 12, trials)
        for trial in failed:
            self.assertIn("exit code 1: no such width" if trial["config"]["value_bits"] == 3
                          else "KL nan", trial["error"])
        self.assertIn("failed: ", first.stderr)
        self.assertNotIn("Traceback", first.stderr)
        preset = json.loads((self.folder / "out/p.json").read_text())
        self.assertEqual(set(preset), {"policy", "key_bits_mean", "value_bits", "bit_classes"})
        self.assertIsInstance(preset["bit_classes"], list)
        self.assertLessEqual((preset["key_bits_mean"] + preset["value_bits"]) / 2, 4.5)

        again = self.run_tune("--trials", "14", "--workers", "2", "--max-bits", "4.5")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(len(self.report()["trials"]), 14)
        self.assertIn("[14/14", again.stdout + again.stderr)
        self.assertNotIn("[12/14", again.stdout + again.stderr)

        other = self.run_tune("--trials", "14", "--windows", "3")
        self.assertEqual(other.returncode, 2)
        self.assertIn("another windows", other.stderr)

    def test_the_report_says_how_the_study_was_made(self):
        self.assertEqual(self.run_tune("--trials", "2", "--seed", "7").returncode, 0)
        report = self.report()
        for key, value in (("model", "m"), ("text", "t"), ("windows", 2), ("protocol", "stress"),
                           ("context", 1024), ("seed", 7), ("commit", "abc")):
            self.assertEqual(report[key], value, key)

    def test_a_resumed_study_does_not_propose_the_same_again(self):
        (self.folder / "space.json").write_text(json.dumps(
            {"fixed": {"policy": "adaptive", "value_bits": 4},
             "parameters": {"key_bits_mean": {"type": "float", "low": 3, "high": 5}}}))
        self.run_tune("--trials", "4")
        self.run_tune("--trials", "8")
        tried = [t["config"]["key_bits_mean"] for t in self.report()["trials"]]
        self.assertEqual(len(tried), 8)
        self.assertEqual(len(set(tried)), 8, tried)

    def test_what_is_wrong_is_found_before_the_study(self):
        def message(*more):
            result = self.run_tune(*more)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertFalse((self.folder / "out/s.json").exists())
            return result.stderr
        self.assertIn("no such model folder: nm", message("--model", "nm"))
        self.assertIn("no such file: nt", message("--text", "nt"))
        (self.folder / "corrupt.db").write_bytes(b"no database" * 1000)
        self.assertIn("corrupt.db: not a usable", message("--storage", "corrupt.db"))
        (self.folder / "space.json").write_text(json.dumps(
            {"parameters": {"sinks": {"type": "int", "low": 0, "high": 8}}}))
        self.assertIn("unknown key 'sinks'", message())

    def test_interruption_keeps_finished_trials(self):
        self.fake(0.3)
        process = subprocess.Popen(self.command("--trials", "500", "--workers", "2"),
                                   cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        line = process.stdout.readline()  # The first finished trial.
        self.assertIn("bits, KL", line)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, errors)
        self.assertIn("interrupted", errors)
        self.assertNotIn("Traceback", errors)
        states = [t["state"] for t in self.report()["trials"]]
        self.assertGreaterEqual(states.count("complete"), 1)
        self.assertTrue((self.folder / "out/p.json").exists())  # The best so far.
        self.assertNotIn("running", states)

    def test_all_trials_failing_is_an_error(self):
        (self.folder / "space.json").write_text(json.dumps(
            {"fixed": {"policy": "adaptive", "value_bits": 3},
             "parameters": {"key_bits_mean": {"type": "float", "low": 3, "high": 4}}}))
        result = self.run_tune("--trials", "3")
        self.assertEqual(result.returncode, 1)
        self.assertIn("no trial succeeded", result.stderr)
        self.assertFalse((self.folder / "out/p.json").exists())

    def test_missing_program_and_bad_space_exit_2(self):
        os.remove(self.folder / "evaluate")
        self.assertEqual(self.run_tune().returncode, 2)
        (self.folder / "space.json").write_text("{")
        self.assertEqual(self.run_tune().returncode, 2)


if __name__ == "__main__":
    unittest.main()
