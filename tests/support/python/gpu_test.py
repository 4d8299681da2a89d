#!/usr/bin/env python3
"""scripts/gpu_check.sh without a GPU: every step's command gets as far as asking for one, so that on the
first GPU only what a step measures can fail. RILLKV_GPU_BIN: the folder of the programs."""
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

from needs import needs

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "scripts"
BIN = os.environ.get("RILLKV_GPU_BIN", "")
STEPS = ["machine", "environment", "queue_tests", "kernel_tests", "core_tests", "bench_attention", "sdpa",
         "checkpoint", "prefill", "prefill_device", "bench_cuda", "bench_slices", "memcheck", "racecheck", "ncu"]


def run(*command, **environment):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=ROOT,
                          env={**os.environ, "RILLKV_GPU_PYTHON": sys.executable, **environment})


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def assert_one_line(self, result, expected):
        self.assertNotEqual(result.returncode, 0)
        self.assertIn(expected, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)


@unittest.skipUnless(BIN, "RILLKV_GPU_BIN names no programs")
@needs("numpy")
class DryRun(Folder):
    def test_every_step_gets_as_far_as_asking_for_a_gpu(self):
        out = self.folder / "out"
        result = run(SCRIPTS / "gpu_check.sh", "--dry-run", "--bin", BIN, "--out", out)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        report = json.loads((out / "steps.json").read_text())
        self.assertTrue(report["dry_run"])
        self.assertEqual([step["name"] for step in report["steps"]], STEPS)
        self.assertEqual({step["status"] for step in report["steps"]}, {0})
        self.assertLessEqual(report["seconds"], 540)
        notes = {step["name"]: step["note"] for step in report["steps"]}
        for name in ("prefill_device", "bench_cuda", "bench_attention", "bench_slices", "ncu"):
            self.assertEqual(notes[name], "asked for a GPU")
        for name in ("kernel_tests", "core_tests", "memcheck", "racecheck"):
            self.assertRegex(notes[name], r"^[1-9]\d* tests, [1-9]\d* skipped, 0 failed$")
        self.assertRegex(notes["queue_tests"], r"^[1-9]\d* tests, 0 skipped, 0 failed$")  # needs no GPU
        files = [file for file in out.rglob("*") if file.is_file()]
        self.assertLessEqual(len(files), 8)
        for file in files:
            self.assertEqual(file.parent, out)
            self.assertLess(file.stat().st_size, 16 << 20)
        log = (out / "log.txt").read_text()
        for name in STEPS:
            self.assertIn(f"======== {name}: ", log)
        self.assertIn("bench_attention", (out / "summary.txt").read_text())
        self.assertGreater(json.loads((out / "prefill.json").read_text())["prompt_tokens"], 0)

    def programs(self, **replaced):
        """A folder of the programs, of which some are scripts."""
        folder = self.folder / "bin"
        folder.mkdir()
        for program in ("rillkv_cuda_tests", "rillkv_cuda_core_tests", "rillkv_cuda_queue_tests", "bench_attention",
                        "bench_cuda", "prefill"):
            if program in replaced:
                (folder / program).write_text("#!/bin/sh\n" + replaced[program] + "\n")
                (folder / program).chmod(0o755)
            else:
                (folder / program).symlink_to(pathlib.Path(BIN) / program)
        return folder

    def steps_of(self, programs, only):
        out = self.folder / "out"
        result = run(SCRIPTS / "gpu_check.sh", "--dry-run", "--bin", programs, "--out", out, "--only", only)
        report = json.loads((out / "steps.json").read_text())
        return result, {step["name"]: step for step in report["steps"]}

    def test_a_failed_step_is_said_and_stops_no_other(self):
        programs = self.programs(bench_cuda="echo unknown option >&2; exit 2",
                                 rillkv_cuda_tests="echo nothing ran")
        result, steps = self.steps_of(programs, "kernel_tests,bench_cuda,bench_attention")
        self.assertEqual(result.returncode, 1)
        self.assertIn("unknown option", result.stdout)
        self.assertIn("2 of 4 steps failed", result.stdout)  # and the checkpoint that bench_cuda reads
        self.assertEqual(steps["checkpoint"]["status"], 0)
        self.assertEqual(steps["bench_cuda"]["status"], 2)
        self.assertEqual(steps["kernel_tests"]["status"], 1)  # no test is not success
        self.assertEqual(steps["bench_attention"]["status"], 0)

    def test_a_test_that_needs_no_gpu_may_not_skip(self):
        said = "[==========] 3 tests from 1 test suite ran. (1 ms total)"
        programs = self.programs(rillkv_cuda_queue_tests=f"echo '{said}'; echo '[  SKIPPED ] 1 test, listed below:'")
        result, steps = self.steps_of(programs, "queue_tests")
        self.assertEqual(result.returncode, 1)
        self.assertEqual((steps["queue_tests"]["status"], steps["queue_tests"]["note"]),
                         (1, "3 tests, 1 skipped, 0 failed"))

    def test_a_program_that_asks_for_no_gpu_has_not_understood(self):
        _, steps = self.steps_of(self.programs(bench_cuda="exit 0"), "bench_cuda")
        self.assertEqual(steps["bench_cuda"]["status"], 1)

    def test_every_test_that_the_sanitizer_gets_exists(self):
        text = (SCRIPTS / "gpu_check.sh").read_text()
        patterns = re.search(r"^few='(.+)'$", text, re.M).group(1).split(":")
        self.assertGreater(len(patterns), 3)
        for pattern in patterns:
            listed = subprocess.run([pathlib.Path(BIN) / "rillkv_cuda_tests", "--gtest_list_tests",
                                     f"--gtest_filter={pattern}"], capture_output=True, text=True, check=True).stdout
            self.assertRegex(listed, r"(?m)^  \S", pattern)  # gtest itself says nothing

    def test_what_has_ended_is_there_when_the_script_is_killed(self):
        # The parent of this program is timeout, whose parent is the script.
        programs = self.programs(bench_attention="script=$(cut -d ' ' -f 4 /proc/$PPID/stat)\n"
                                                 "grep -q gpu_check.sh /proc/$script/cmdline && kill -KILL $script")
        out = self.folder / "out"
        result = run(SCRIPTS / "gpu_check.sh", "--dry-run", "--bin", programs, "--out", out, "--only",
                     "machine,bench_attention", TMPDIR=self.folder)
        self.assertEqual(result.returncode, -signal.SIGKILL)
        report = json.loads((out / "steps.json").read_text())
        self.assertEqual([step["name"] for step in report["steps"]], ["machine"])

    def test_what_a_step_prints_is_bounded(self):
        programs = self.programs(bench_cuda="yes long | head -c 40000000; echo no CUDA device; exit 1")
        _, steps = self.steps_of(programs, "bench_cuda")
        self.assertEqual(steps["bench_cuda"]["status"], 0)
        self.assertLess((self.folder / "out" / "log.txt").stat().st_size, 2 << 20)


class Arguments(Folder):
    def test_bad_arguments_end_in_one_line(self):
        made = self.folder / "made"
        made.mkdir()
        (made / "bench_cuda").touch(mode=0o755)
        for arguments, expected in ((["--nonsense"], "unknown argument"), (["--out"], "expected a value"),
                                    (["--bin", self.folder], "gpu_prepare.sh"),
                                    (["--bin", self.folder / "made", "--only", "ncu,nuc"], "no step nuc")):
            result = run(SCRIPTS / "gpu_check.sh", *arguments)
            self.assertEqual(result.returncode, 2)
            self.assert_one_line(result, expected)
        self.assert_one_line(run(SCRIPTS / "gpu_prepare.sh", "--out"), "expected a folder")


class Checkpoint(Folder):
    def make(self, *arguments):
        return run(sys.executable, SCRIPTS / "gpu_checkpoint.py", "--out", self.folder / "m", "--ids",
                   self.folder / "ids", *arguments)

    @needs("numpy")
    def test_is_whole_and_the_same_again(self):
        contents = []
        for _ in range(2):
            result = self.make("--layers", "1", "--vocab", "64", "--tokens", "9")
            self.assertEqual(result.returncode, 0, result.stderr)
            contents.append((self.folder / "m" / "model.safetensors").read_bytes())
        self.assertEqual(contents[0], contents[1])
        size, = struct.unpack("<Q", contents[0][:8])
        header = json.loads(contents[0][8:8 + size])
        self.assertEqual(header["model.layers.0.self_attn.k_proj.weight"]["shape"], [192, 576])
        ends = [entry["data_offsets"] for entry in header.values()]
        self.assertEqual(ends[-1][1] + 8 + size, len(contents[0]))
        for before, after in zip(ends, ends[1:]):
            self.assertEqual(before[1], after[0])
        ids = [int(word) for word in (self.folder / "ids").read_text().split()]
        self.assertEqual(len(ids), 9)
        self.assertTrue(all(3 <= i < 64 for i in ids))

    @needs("numpy")
    def test_complains_of_sizes(self):
        self.assertIn("at least 1", self.make("--layers", "0").stderr)


class Summary(Folder):
    def summary(self):
        result = run(sys.executable, SCRIPTS / "gpu_summary.py", self.folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_compares_with_the_faster_of_torchs(self):
        ours = {"kind": "decode", "shape": "32/8/128", "depth": 4096, "seconds": 10e-6, "expected_s": 8e-6,
                "bound_s": 5e-6, "right": True}
        theirs = [{"kind": "decode", "shape": "32/8/128", "depth": 4096, "variant": name, "seconds": t}
                  for name, t in (("flash", 40e-6), ("flash, expanded", 30e-6), ("cudnn", 25e-6))]
        slices = {**ours, "depth": 16384, "path": "slices", "bound_s": 0}  # the model has no bound there
        (self.folder / "attention.json").write_text(json.dumps(
            {"results": [ours, {**ours, "depth": 8192, "right": False}, slices]}))
        (self.folder / "sdpa.json").write_text(json.dumps({"results": theirs, "ceilings": {"copy": 3e12}}))
        (self.folder / "kernels.json").write_text('{"results": [{"na')  # a program that was stopped
        text = self.summary()
        self.assertRegex(text, r"decode 32/8/128 after 4096 +10\.0 +8\.0 +5\.0 +30\.0 +25\.0  2\.50x\n")
        self.assertRegex(text, r"after 8192 .* - +-  -  WRONG\n")
        self.assertRegex(text, r"after 16384, slices +10\.0 +8\.0 +- +- +-  -\n")
        self.assertIn("copy: 3e+12", text)

    def test_an_empty_folder_says_nothing(self):
        self.assertEqual(self.summary().strip(), "")


if __name__ == "__main__":
    unittest.main()
