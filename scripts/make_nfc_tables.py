#!/usr/bin/env python3
"""Writes src/io/tokenizer/nfc_tables.cpp from Python's unicodedata: what Unicode normalisation form C needs.
Run it again to move to a newer Unicode version. usage: make_nfc_tables.py"""

import pathlib
import sys
import unicodedata

TARGET = pathlib.Path(__file__).resolve().parent.parent / "src" / "io" / "nfc_tables.cpp"
HANGUL = range(0xAC00, 0xAC00 + 11172)  # decomposed by arithmetic


def classes():
    """[(first, last, class)] of code points with a combining class."""
    ranges = []
    for code in range(sys.maxunicode + 1):
        value = unicodedata.combining(chr(code))
        if value and ranges and ranges[-1][1] == code - 1 and ranges[-1][2] == value:
            ranges[-1][1] = code
        elif value:
            ranges.append([code, code, value])
    return ranges


def decompositions():
    """[(code, first, second, composes)]: one canonical step; second is 0 for a singleton. `composes`
    is false where NFC never puts the pair together again (composition exclusions)."""
    entries = []
    for code in range(sys.maxunicode + 1):
        mapping = unicodedata.decomposition(chr(code))
        if not mapping or mapping.startswith("<") or code in HANGUL:
            continue
        parts = [int(part, 16) for part in mapping.split()]
        whole = unicodedata.normalize("NFC", chr(code))
        entries.append((code, parts[0], parts[1] if len(parts) > 1 else 0, whole == chr(code)))
    return entries


def rows(items, per_line):
    lines = []
    for start in range(0, len(items), per_line):
        lines.append("    " + " ".join(items[start:start + per_line]))
    return "\n".join(lines)


def main():
    ranges, entries = classes(), decompositions()
    text = f"""// Made by scripts/make_nfc_tables.py from Unicode {unicodedata.unidata_version}.
#include "src/io/tokenizer/nfc_tables.h"

namespace rillkv::io {{

// clang-format off
const CombiningRange kCombiningRanges[] = {{
{rows([f"{{{a:#x}, {b:#x}, {c}}}," for a, b, c in ranges], 6)}
}};
const size_t kCombiningRangeCount = {len(ranges)};

const Decomposition kDecompositions[] = {{
{rows([f"{{{a:#x}, {b:#x}, {c:#x}, {int(d)}}}," for a, b, c, d in entries], 4)}
}};
const size_t kDecompositionCount = {len(entries)};
// clang-format on

}}  // namespace rillkv::io
"""
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET}: {len(ranges)} ranges, {len(entries)} decompositions")


if __name__ == "__main__":
    main()
