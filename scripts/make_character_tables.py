#!/usr/bin/env python3
"""Writes src/io/chat_template/character_tables.cpp: what Python's str methods know of characters.
Run it again to move to a newer Unicode version. usage: make_character_tables.py"""

import pathlib
import sys
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "src" / "io" / "chat_template" / "character_tables.cpp"
CODES = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]


def case_tables(change):
    """(ranges of single characters [first, last, step, delta], specials {code: text})."""
    ranges, specials = [], {}
    for code in CODES:
        text = change(chr(code))
        if text == chr(code):
            continue
        if len(text) > 1:
            specials[code] = text
            continue
        delta = ord(text) - code
        last = ranges[-1] if ranges else None
        if last and last[3] == delta and (code - last[1] in (1, 2)) and (
                last[0] == last[1] or code - last[1] == last[2]):
            last[2] = code - last[1]
            last[1] = code
        else:
            ranges.append([code, code, 1, delta])
    return ranges, specials


def ranges_of(test):
    ranges = []
    for code in range(sys.maxunicode + 1):
        if not test(chr(code)):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return ranges


def literal(text):
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def table(kind, name, entries, per_line):
    lines = [f"const {kind} {name}s[] = {{"]
    for start in range(0, len(entries), per_line):
        lines.append("    " + " ".join(entries[start:start + per_line]))
    return "\n".join(lines + ["};", f"const size_t {name}Count = {len(entries)};", ""])


def main():
    upper, upper_specials = case_tables(str.upper)
    lower, lower_specials = case_tables(str.lower)
    titles = {code: chr(code).title() for code in CODES if chr(code).title() != chr(code).upper()}
    cased = ranges_of(lambda c: c.isupper() or c.islower() or c.istitle())
    parts = []
    for name, ranges in (("kUpperRange", upper), ("kLowerRange", lower)):
        parts.append(table("CaseRange", name, [f"{{{a:#x}, {b:#x}, {s}, {d}}}," for a, b, s, d in ranges], 4))
    for name, specials in (("kUpperSpecial", upper_specials), ("kLowerSpecial", lower_specials),
                           ("kTitleSpecial", titles)):
        parts.append(table("CaseSpecial", name,
                           [f"{{{code:#x}, {literal(text)}}}," for code, text in specials.items()], 3))
    for name, ranges in (("kCasedRange", cased), ("kAlphaRange", ranges_of(str.isalpha)),
                         ("kDecimalRange", ranges_of(str.isdecimal)),
                         ("kUnprintableRange", ranges_of(lambda c: not c.isprintable()))):
        parts.append(table("CharacterRange", name, [f"{{{a:#x}, {b:#x}}}," for a, b in ranges], 6))
    body = "\n".join(parts)
    TARGET.write_text(f"""// Made by scripts/make_character_tables.py from Unicode {unicodedata.unidata_version}.
#include "src/io/chat_template/characters.h"

namespace rillkv::io::jinja {{

// clang-format off
{body}// clang-format on

}}  // namespace rillkv::io::jinja
""")
    print(f"{TARGET}: {len(body.splitlines())} lines")


if __name__ == "__main__":
    main()
