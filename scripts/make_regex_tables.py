#!/usr/bin/env python3
"""Writes src/io/regex/regex_tables.cpp and regex_case_tables.cpp: the characters that a tokenizer.json's regular expressions mean.

They are asked of the `tokenizers` package itself (its Oniguruma knows a Unicode of its own), one
class at a time over all code points, so the tables say what that package does and nothing else.
Run it with .venv-reference/bin/python to follow a newer version. usage: make_regex_tables.py
"""
import pathlib
import sys

import tokenizers
from tokenizers import Regex, pre_tokenizers

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "src" / "io"
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf "
              "Co").split()
SCRIPTS = ("Arabic Armenian Bengali Bopomofo Common Cyrillic Devanagari Ethiopic Georgian Greek "
           "Gujarati Gurmukhi Han Hangul Hebrew Hiragana Inherited Kannada Katakana Khmer Lao "
           "Latin Malayalam Mongolian Myanmar Oriya Sinhala Tamil Telugu Thai Tibetan").split()
POINTS = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
CHUNK = 4096  # a match's offsets cost time in proportion to the text before it


def matches(pattern, text):
    """[(begin, end)] in characters."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    return [bounds for _, bounds in split.pre_tokenize_str(text)]


def ranges(pattern):
    """Maximal [first, last] runs of code points that `pattern`, one character's, matches."""
    runs = []
    for start in range(0, len(POINTS), CHUNK):
        points = POINTS[start:start + CHUNK]
        for begin, end in matches(f"(?:{pattern})+", "".join(map(chr, points))):
            first, last = points[begin], points[end - 1]
            if runs and runs[-1][1] + 1 == first:
                runs[-1][1] = last
            else:
                runs.append([first, last])
    # A chunk may hold the surrogates' gap inside of a run; nothing lies on both its sides.
    assert not any(first < 0xD800 and last >= 0xE000 for first, last in runs)
    return runs


def without(runs, others):
    """The code points of `runs` that none of the lists in `others` has, as runs."""
    taken = {c for other in others for first, last in other for c in range(first, last + 1)}
    result = []
    for first, last in runs:
        for c in range(first, last + 1):
            if c in taken:
                continue
            if result and result[-1][1] + 1 == c:
                result[-1][1] = c
            else:
                result.append([c, c])
    return result


def folds(categories):
    """Sets of characters that equal one another where case is ignored, of two members or more."""
    cased = [c for name in ("Lu", "Ll", "Lt") for first, last in categories[name]
             for c in range(first, last + 1)]
    # Roman numerals, circled letters and a combining iota have case without being letters.
    cased += [c for c in POINTS if chr(c).lower() != chr(c).upper() and c not in set(cased)]
    text = " ".join(map(chr, sorted(cased)))
    groups = set()
    for c in cased:
        found = {text[begin:end] for begin, end in matches(f"(?i:\\x{{{c:x}}})", text)}
        group = tuple(sorted(ord(x) for x in found if len(x) == 1))
        assert c in group
        if len(group) > 1:
            groups.add(group)
    assert sum(map(len, groups)) == len({c for group in groups for c in group})
    return sorted(groups)


def expansions():
    """Characters that equal several where case is ignored: [(character, spelling)]."""
    result = []
    for c in POINTS:
        whole = chr(c).casefold()
        if len(whole) > 1 and matches(f"(?i:\\x{{{c:x}}})", whole) == [(0, len(whole))]:
            result.append((c, whole))
    return result


def rows(items):
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 1 > 100:
            lines.append(line)
            line = "   "
        line += " " + item
    return "\n".join([*lines, line])


def points(runs):
    return rows([f"{{{first:#x},{last:#x}}}," for first, last in runs])


def write(name, tables):
    text = f"""// Made by scripts/make_regex_tables.py from tokenizers {tokenizers.__version__}; do not edit.
#include "src/io/regex/regex_tables.h"

namespace rillkv::io {{

// clang-format off
{tables}// clang-format on

}}  // namespace rillkv::io
"""
    (FOLDER / name).write_text(text, encoding="utf-8")


def main():
    categories = {name: ranges(f"\\p{{{name}}}") for name in CATEGORIES}
    flat = sorted((first, last, number) for number, name in enumerate(CATEGORIES)
                  for first, last in categories[name])
    letters = [categories[name] for name in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nl")]
    scripts = {name: ranges(f"\\p{{{name}}}") for name in SCRIPTS}
    script_runs = [(first, last) for name in SCRIPTS for first, last in scripts[name]]
    starts, start = [], 0
    for name in SCRIPTS:
        starts.append(f'{{"{name.lower()}",{start},{len(scripts[name])}}},')
        start += len(scripts[name])
    groups = folds(categories)
    wide = [group + (0,) * (4 - len(group)) for group in groups]
    assert all(len(group) == 4 for group in wide)
    several = [(c, [ord(x) for x in whole]) for c, whole in expansions()]
    write("regex_tables.cpp", f"""const char* const kCategoryNames[] = {{{", ".join(f'"{name}"' for name in CATEGORIES)}}};
const size_t kCategoryCount = {len(CATEGORIES)};

const CategoryRange kCategoryRanges[] = {{
{rows([f"{{{first:#x},{last - first + 1},{number}}}," for first, last, number in flat])}
}};
const size_t kCategoryRangeCount = {len(flat)};

const Script kScripts[] = {{
{rows(starts)}
}};
const size_t kScriptCount = {len(SCRIPTS)};

const CodePointRange kScriptRanges[] = {{
{points(script_runs)}
}};
""")
    write("regex_case_tables.cpp", f"""const CodePointRange kOtherAlphabetic[] = {{
{points(without(ranges(chr(92) + "p{Alpha}"), letters))}
}};
const size_t kOtherAlphabeticCount = std::size(kOtherAlphabetic);

const CodePointRange kOtherLower[] = {{
{points(without(ranges(chr(92) + "p{Lower}"), [categories["Ll"]]))}
}};
const size_t kOtherLowerCount = std::size(kOtherLower);

const CodePointRange kOtherUpper[] = {{
{points(without(ranges(chr(92) + "p{Upper}"), [categories["Lu"]]))}
}};
const size_t kOtherUpperCount = std::size(kOtherUpper);

const CaseGroup kCaseGroups[] = {{
{rows(["{" + ",".join(f"{c:#x}" if c else "0" for c in group) + "}," for group in wide])}
}};
const size_t kCaseGroupCount = {len(groups)};

const CaseExpansion kCaseExpansions[] = {{
{rows([f"{{{c:#x},{{" + ",".join(f"{x:#x}" for x in (whole + [0, 0])[:3]) + "}}," for c, whole in several])}
}};
const size_t kCaseExpansionCount = {len(several)};
""")
    print(f"{len(flat)} ranges, {len(script_runs)} of scripts, {len(groups)} groups of "
          f"case, {len(several)} expansions")


if __name__ == "__main__":
    main()
