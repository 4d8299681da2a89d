#!/usr/bin/env python3
"""The gates of cmake/checks see what they are there for: each is given a tree with mistakes."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECKS = pathlib.Path(__file__).resolve().parents[3] / "cmake/checks"


class CheckTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, name, text=""):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def check(self, script, *args):
        result = subprocess.run([sys.executable, str(CHECKS / script), str(self.root), *args],
                                capture_output=True, text=True, check=False)
        self.assertEqual(result.stderr, "")
        return result.returncode, result.stdout


class LayersTest(CheckTest):
    def setUp(self):
        super().setUp()
        for header in ("include/rillkv/llama.h", "include/rillkv/files.h", "include/rillkv/error.h",
                       "include/rillkv/kv_cache.h", "include/rillkv/eval/needle.h", "kernels/params.h",
                       "kernels/cpu/kernels.h", "kernels/cpu/avx2/simd.h", "src/core/layer_cache.h",
                       "kernels/cpu/generic/tiles.h", "src/io/json_reader.h", "src/model/llama.cpp",
                       "src/io/files.cpp", "src/core/kv_cache.cpp", "tests/reference/half.h",
                       "examples/support/cli.h", "tests/support/program.h"):
            self.write(header)

    def includes(self, file, *names):
        self.write(file, "// Why.\n" + "".join(f"#include {name}\n" for name in names))
        return self.check("layers.py")

    def assert_refused(self, file, name, rule):
        status, output = self.includes(file, name)
        self.assertEqual(status, 1, f"{file} includes {name}")
        self.assertIn(f"{file}:2: {rule}", output)
        (self.root / file).write_text("")

    def test_what_each_layer_needs_is_allowed(self):
        for file, *names in (
                ("kernels/cpu/avx2/a.cpp", "<immintrin.h>", '"kernels/cpu/avx2/simd.h"',
                 '"kernels/cpu/generic/tiles.h"', '"kernels/params.h"', "<cstdint>"),
                ("src/core/a.cpp", "<ATen/ATen.h>", '"core/layer_cache.h"', '"rillkv/kv_cache.h"',
                 '"kernels/cpu/kernels.h"', "<vector>"),
                ("src/model/a.cpp", '"core/layer_cache.h"', '"rillkv/llama.h"', "<torch/torch.h>"),
                ("src/eval/a.cpp", '"rillkv/eval/needle.h"', '"rillkv/llama.h"'),
                ("examples/a.cpp", '"support/cli.h"', "<CLI/App.hpp>", '"rillkv/eval/needle.h"'),
                ("examples/tutorial/a.cpp", "<rillkv/llama.h>", "<iostream>"),
                ("tests/core/a.cpp", '"tests/support/program.h"', '"core/layer_cache.h"')):
            self.assertEqual(self.includes(file, *names)[0], 0, self.includes(file, *names)[1])

    def test_what_points_upwards_is_not(self):
        for file, name, target in (
                ("kernels/cpu/a.cpp", "<ATen/ATen.h>", "torch"),
                ("kernels/cpu/a.cpp", '"rillkv/error.h"', "public:common"),
                ("kernels/cpu/a.cpp", "<immintrin.h>", "simd"),
                ("kernels/cpu/avx512/a.cpp", '"kernels/cpu/avx2/simd.h"', "kernels/cpu/avx2"),
                ("kernels/cpu/generic/a.h", '"kernels/cpu/avx2/simd.h"', "kernels/cpu/avx2"),
                ("kernels/cpu/avx2/a.cpp", "<vector>", "containers"),
                ("src/core/a.cpp", '"rillkv/llama.h"', "public:model"),
                ("src/core/a.cpp", '"rillkv/files.h"', "public:io"),
                ("src/core/a.cpp", '"src/io/json_reader.h"', "src/io"),
                ("src/io/a.cpp", '"rillkv/kv_cache.h"', "public:core"),
                ("src/model/a.cpp", '"rillkv/eval/needle.h"', "public:eval"),
                ("src/eval/a.cpp", '"core/layer_cache.h"', "src/core"),
                ("include/rillkv/b.h", '"core/layer_cache.h"', "src/core"),
                ("include/rillkv/kv_cache.h", "<nlohmann/json.hpp>", "json"),
                ("include/rillkv/kv_cache.h", '"rillkv/llama.h"', "public:model"),
                ("examples/a.cpp", '"core/layer_cache.h"', "src/core"),
                ("examples/tutorial/a.cpp", '"support/cli.h"', "examples"),
                ("src/core/a.cpp", '"tests/support/program.h"', "tests"),
                ("tests/reference/a.cpp", '"kernels/params.h"', "kernels"),
                ("tests/reference/a.cpp", '"rillkv/error.h"', "public:common"),
                ("tests/kernels/a.cpp", "<ATen/ATen.h>", "torch")):
            layer = ("public:core" if file.startswith("include") else str(pathlib.Path(file).parent))
            self.assert_refused(file, name, f"{layer} may not include {target} (")

    def test_unknown_headers_are_refused(self):
        self.assert_refused("src/core/a.cpp", '"core/nothing.h"', "src/core may not include an unknown")
        self.assert_refused("src/core/a.cpp", "<boost/any.hpp>", "src/core may not include an unknown")


class NamedPathsTest(CheckTest):
    def test_names_what_is_missing(self):
        self.write("src/core/a.h")
        self.write("src/core/a.cpp")
        self.write("README.md", "`src/core/a.{h,cpp}` `src/<layer>/*.cpp` `a.cpp` `build/x.cpp`\n"
                                "[a](src/core/a.h) [web](https://x/y.h) `--flag` `torch/torch.h`\n")
        self.assertEqual(self.check("named_paths.py", "README.md")[0], 0)
        self.write("README.md", "`src/core/a.{h,cu}`\n\n`b.cpp` [b](b.md)\n`src/none/*.cpp`\n")
        status, output = self.check("named_paths.py", "README.md")
        self.assertEqual(status, 1)
        self.assertEqual(output.splitlines(), [
            "README.md:1: no src/core/a.{h,cu}", "README.md:3: no b.md", "README.md:3: no b.cpp",
            "README.md:4: no src/none/*.cpp"])

    def test_reads_pictures(self):
        self.write("src/core/a.cpp")
        self.write("a.svg", "<text>core/a.cpp, src/core/ or a*.cpp</text>\n<text>a/b.cpp c/ a b</text>")
        self.assertEqual(self.check("named_paths.py", "a.svg"),
                         (1, "a.svg:2: no a/b.cpp\na.svg:2: no c/\n"))


if __name__ == "__main__":
    unittest.main()
