#!/usr/bin/env python3
"""Writes src/eval/unicode_tables.inc: the character classes that Python's str and re use.

The metrics are compared with Python packages, so "lower case", "white space", "digit" and "word
character" must mean what they mean there. Run again only to follow a newer Unicode version.

usage: make_unicode_tables.py [OUTPUT]
"""
import pathlib
import sys
import unicodedata


def ranges(predicate):
    """Maximal [first, last] runs of code points for which predicate holds."""
    runs, start = [], None
    for point in range(0x110000 + 1):
        inside = point < 0x110000 and predicate(chr(point))
        if inside and start is None:
            start = point
        elif not inside and start is not None:
            runs.append((start, point - 1))
            start = None
    return runs


def lower_runs():
    """[first, last, stride, delta]: every stride-th code point of the range moves by delta."""
    moves = []
    for point in range(0x110000):
        low = chr(point).lower()
        if len(low) == 1 and ord(low) != point:
            moves.append((point, ord(low) - point))
    runs = []
    for point, delta in moves:
        if runs and runs[-1][3] == delta:
            first, last, stride, _ = runs[-1]
            step = point - last
            if step <= 2 and (first == last or step == stride):
                runs[-1] = (first, point, step, delta)
                continue
        runs.append((point, point, 1, delta))
    return runs


def emit(out, name, rows, row_type):
    out.append(f"constexpr {row_type} {name}[] = {{")
    line = "   "
    for row in rows:
        cell = " {" + ", ".join(f"0x{v:X}" if i < 2 else str(v) for i, v in enumerate(row)) + "},"
        if len(line) + len(cell) > 100:
            out.append(line)
            line = "   "
        line += cell
    out.append(line)
    out.append("};")


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "src/eval/unicode_tables.inc"
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    out = ["// Made by scripts/make_unicode_tables.py from Unicode "
           f"{unicodedata.unidata_version}; do not edit.", "// clang-format off"]
    emit(out, "kSpaceRanges", ranges(str.isspace), "CodePointRange")
    emit(out, "kDigitRanges", ranges(str.isdecimal), "CodePointRange")
    emit(out, "kAlnumRanges", ranges(str.isalnum), "CodePointRange")
    emit(out, "kLowerRanges", lower_runs(), "LowerRange")
    out.append("// clang-format on")
    target.write_text("\n".join(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
