#!/usr/bin/env python3
"""Fails if a document names a file or folder of the project that does not exist.

usage: named_paths.py SOURCE_DIR DOCUMENT...

Looked at: links to files, and code spans that are a path from the project's root (`kernels/cpu/plan.h`,
`src/<layer>/*.cpp`, `plan.{h,cpp}`) or the bare name of a source file, which must exist somewhere. In
a picture (.svg): every name of a source file or folder, which may leave out where it begins.
"""
import fnmatch
import itertools
import pathlib
import re
import sys

SUFFIXES = "h|cpp|cu|cuh|cmake|py|sh|md|svg|env"  # a bare config.json is a checkpoint's


def expand(path):
    """a/{b,c}.h -> a/b.h, a/c.h; <layer> -> *."""
    path = re.sub(r"<\w+>", "*", path)
    parts = [part[1:-1].split(",") if part.startswith("{") else [part]
             for part in re.split(r"(\{[^{}]*\})", path)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def exists(root, pattern):
    return (root / pattern).exists() or any(root.glob(pattern))


def missing_in_picture(root, document):
    """The same as `missing` for an .svg file."""
    there = [str(path.relative_to(root)) + ("/" if path.is_dir() else "")
             for top in ("include", "src", "kernels", "examples", "tests") if (root / top).exists()
             for path in [root / top, *(root / top).rglob("*")]]
    found = []
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        for text in re.findall(r">([^<>]+)</text>", line):
            for name in re.findall(r"[\w/*]+\.(?:h|cpp|cuh?)\b|\b[a-z_0-9]+/(?:[a-z_0-9]+/)*(?!\w)", text):
                if not any(fnmatch.fnmatchcase("/" + path, "*/" + name) for path in there):
                    found.append((number, name))
    return found


def missing(root, document):
    """[(line, name)] of what a document names and nobody has."""
    if document.suffix == ".svg":
        return missing_in_picture(root, document)
    top = {entry.name for entry in root.iterdir() if entry.is_dir()} - {"build", "models", "results"}
    files = {file.name for folder in top if not folder.startswith(".")
             for file in (root / folder).rglob("*.*")}
    files |= {entry.name for entry in root.iterdir() if entry.is_file()}
    found = []
    fenced = False
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= line.startswith("```")
        if fenced:
            continue
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", line):
            if "://" not in link and not (document.parent / link).exists():
                found.append((number, link))
        for span in re.findall(r"`([^`]+)`", line):
            if not re.fullmatch(r"[\w./*<>{},-]+", span):
                continue
            for path in expand(span):
                if path.startswith("rillkv/"):
                    path = f"include/{path}"
                if path.split("/")[0] in top and "/" in path:
                    if not exists(root, path.rstrip("/")):
                        found.append((number, span))
                elif re.fullmatch(rf"[\w-]+\.({SUFFIXES})", path) and path not in files:
                    found.append((number, span))
    return found


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    documents = [root / name for name in sys.argv[2:]]
    problems = [f"{document.relative_to(root)}:{line}: no {name}"
                for document in documents for line, name in missing(root, document)]
    print("\n".join(problems) if problems else f"{len(documents)} documents name what exists")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
