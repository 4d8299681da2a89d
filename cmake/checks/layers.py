#!/usr/bin/env python3
"""Fails if a file includes what its layer may not: one line a violation, with file, line and rule.

usage: layers.py [SOURCE_DIR]

LAYERS is the table of who may include whom. A layer is a folder (the deepest that matches); what it
may include are layers of ours and groups of other headers. Public headers belong to the layer whose
src/ folder holds their .cpp, so that a header of the model cannot be used by the core.
"""
import pathlib
import re
import subprocess
import sys

# Headers that are not ours, by group. The first pattern that matches counts.
OTHERS = {
    "torch": r"(torch|ATen|c10|caffe2)/.*",
    "json": r"nlohmann/.*",
    "tokenizers": r"sentencepiece_processor\.h|pcre2\.h",
    "cli": r"CLI/.*",
    "gtest": r"g(test|mock)/.*",
    "benchmark": r"benchmark/.*",
    "cuda": r"cuda.*\.h",
    "simd": r"immintrin\.h",
    # Inline code of these, compiled with an instruction set's flags, would leak into the portable
    # path: the linker keeps one copy of an inline function, whoever compiled it.
    "containers": r"vector|string|string_view|map|set|unordered_\w+|deque|list|memory|functional|optional"
                  r"|variant|iostream|sstream|regex|thread|mutex|algorithm|numeric|span",
    "std": r"[a-z_0-9]+",
    "posix": r"(sys/)?[a-z]+\.h",
}
STD = {"std", "containers"}

# CMake writes these.
GENERATED = {"rillkv_commit.h"}

# Public headers that everyone may include: these know nothing of the rest.
COMMON_HEADERS = {"error", "log", "quotes", "version"}

PUBLIC = {"public:common", "public:io", "public:core", "public:model"}
KERNEL_INTERFACES = {"kernels", "kernels/cpu", "kernels/cuda"}
WIDER_ISAS = ("avx2", "avx512")

# layer: what it may include besides itself.
LAYERS = {
    # Installed: these include one another, Torch and the standard library; evaluation's JSON too.
    "public:common": STD,
    "public:io": STD | {"torch", "public:common"},
    "public:core": STD | {"torch", "public:common"},
    "public:model": STD | {"torch", "public:common", "public:io", "public:core"},
    "public:eval": STD | {"torch", "json"} | PUBLIC,
    # Kernels see pointers, strides and sizes: no Torch, and nothing of the layers above.
    "kernels": {"std"},
    "kernels/cpu": STD | {"posix", "kernels", "kernels/cpu/generic"},
    # Intrinsics: what several instruction sets of one family share.
    "kernels/cpu/generic": {"std", "simd", "kernels", "kernels/cpu"},
    "kernels/cpu/scalar": STD | {"kernels", "kernels/cpu", "kernels/cpu/generic"},
    **{f"kernels/cpu/{isa}": {"std", "simd", "kernels", "kernels/cpu", "kernels/cpu/generic"}
       for isa in WIDER_ISAS},
    # The tile unit beside AVX-512's registers.
    "kernels/cpu/amx": {"std", "simd", "kernels", "kernels/cpu", "kernels/cpu/generic",
                        "kernels/cpu/avx512"},
    "kernels/cuda": STD | {"cuda", "kernels", "kernels/cpu/generic"},
    # io reads files; core owns all state and stands on the kernels' interfaces.
    "src/io": STD | {"posix", "torch", "json", "tokenizers", "public:common", "public:io"},
    "src/core": STD | {"posix", "torch", "json", "public:common", "public:core"} | KERNEL_INTERFACES,
    "src/model": STD | {"torch", "src/core", "kernels", "kernels/cpu"} | PUBLIC,
    # Evaluation and programs are users of the library: its public headers are all they need.
    "src/eval": STD | {"posix", "torch", "json", "public:eval"} | PUBLIC,
    "src": STD | {"torch", "json"} | PUBLIC,
    "examples": STD | {"posix", "torch", "json", "cli", "public:eval", "generated"} | PUBLIC,
    "examples/tutorial": STD | {"torch"} | PUBLIC,
    # Benchmarks measure the parts too.
    "benchmarks": STD | {"posix", "torch", "json", "cli", "benchmark", "simd", "src/core", "src/model",
                         "examples", "public:eval", "generated"} | PUBLIC | KERNEL_INTERFACES,
    # Oracles are independent; the kernels' tests and the PTX executor know no Torch.
    "tests/reference": STD,
    "tests/kernels": STD | {"posix", "gtest", "tests/reference", "kernels/cpu/generic",
                            "kernels/cpu/scalar", "kernels/cpu/amx"} | KERNEL_INTERFACES,
    "tests/support/ptx": STD | {"posix"},
    "tests": None,  # anything
}


def layer_of_folder(path):
    """The layer of a file, by its folder; None outside of all."""
    for folder in pathlib.PurePosixPath(path).parents:
        if str(folder) in LAYERS:
            return str(folder)
    return None


class Layers:
    """Layers of the files under `root`."""

    def __init__(self, root):
        self.root = pathlib.Path(root)

    def layer(self, path):
        match = re.fullmatch(r"include/rillkv/(eval/)?(\w+)\.h", path)
        if match is None:
            return layer_of_folder(path)
        if match[1]:
            return "public:eval"
        for name in ("io", "core", "model"):
            own = (self.root / "src" / name).rglob(f"{match[2]}.cpp")
            if match[2] not in COMMON_HEADERS and any(own):
                return f"public:{name}"
        # Without a .cpp of its own: with those that own the state, and checked as such.
        return "public:common" if match[2] in COMMON_HEADERS else "public:core"

    def target(self, path, quoted, name):
        """The layer or group of the header `name` that the file `path` includes; None if unknown."""
        if not quoted:
            if name.startswith("rillkv/"):
                return self.layer(f"include/{name}")
            return next((g for g, pattern in OTHERS.items() if re.fullmatch(pattern, name)), None)
        for folder in (".", "include", "src", "examples", str(pathlib.PurePosixPath(path).parent)):
            file = pathlib.PurePosixPath(folder) / name
            if (self.root / file).is_file():
                return self.layer(str(file))
        return "generated" if name in GENERATED else None

    def violation(self, path, quoted, name):
        """What is wrong with the file `path` including `name`; None if nothing."""
        layer = self.layer(path)
        if layer is None or LAYERS[layer] is None:
            return None
        target = self.target(path, quoted, name)
        if target == layer or target in LAYERS[layer]:
            return None
        allowed = ", ".join(sorted(LAYERS[layer]))
        return (f"{layer} may not include {target or 'an unknown header'} ({name}); "
                f"besides itself it may: {allowed}")

    def check(self, path):
        """[(line, violation)] of a file."""
        found = []
        lines = (self.root / path).read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            match = re.match(r'\s*#\s*include\s*([<"])([^">]+)[">]', line)
            problem = match and self.violation(path, match[1] == '"', match[2])
            if problem:
                found.append((number, problem))
        return found


def sources(root):
    """Files of ours, tracked or new; every source where there is no git."""
    patterns = ["*.h", "*.cpp", "*.cu", "*.cuh", "*.inc", "*.in"]
    git = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "--", *patterns],
                         capture_output=True, text=True)
    if git.returncode == 0:
        names = git.stdout.split("\n")
    else:
        names = [str(file.relative_to(root)) for top in ("include", "kernels", "src", "examples",
                                                         "benchmarks", "tests")
                 for pattern in patterns for file in (root / top).rglob(pattern)]
    return sorted(name for name in names if name and (root / name).is_file())


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    layers = Layers(root)
    files = [file for file in sources(root) if layers.layer(file)]
    if not any(file.startswith("kernels/") for file in files):
        sys.exit(f"layers.py: no kernels under {root}")
    problems = [f"{file}:{line}: {problem}" for file in files for line, problem in layers.check(file)]
    print("\n".join(problems) if problems else f"{len(files)} files keep to their layers")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
