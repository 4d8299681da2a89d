#!/usr/bin/env python3
"""Writes tests/data/regex/goldens.json: what the `tokenizers` package's regular expressions match.

Each expression is tried on every text of its list; an expression that this project refuses is
in a list of its own. Run with .venv-reference/bin/python; usage: regex.py
"""
import json
import pathlib
import random

import tokenizers
from tokenizers import Regex, pre_tokenizers

TARGET = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "regex" / "goldens.json"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The shapes that byte-level tokenizers use, by the models known for them.
FAMILIES = [
    GPT2,
    # LLaMA 3, then Qwen2 with one digit a piece
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Qwen3.5's kind: marks belong to words
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # GPT-4o
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Han by itself, as an intersection
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+",
    # cl100k as it is found in files with possessive repeats
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    # DeepSeek's steps
    r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}{1,3}",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # digits: StarCoder, thousands from the right
    r"\p{N}", r"\p{N}+", r"\d", r"(?=(\d{3})+(?!\d))", r"(?<=\d)(?=(?:\d{3})+(?:\D|$))",
    # BLOOM, and Falcon's punctuation
    r" ?[^(\s|[.,!?…。，、।۔،])]+", r"[0-9][0-9][0-9]", r"[[:punct:]]+",
]
SYNTAX = [
    # lines and ends
    "^", "$", "^.", ".$", r"\A.", r".\Z", r".\z", r"\n$", "^$", r"$\n", r"\G.", r"\G\d",
    r"(?m).+", r"(?-m:.+)", r"(?m:a.b)", r"a.b", r"\N+", r"\O", r"\R", r"[^\n]+",
    # classes
    r"\w+", r"\W+", r"[\w]+", r"[^\w]+", r"\d+", r"\D+", r"\s+", r"\S+", r"[^\S]", r"[\S\d]+",
    r"\h+", r"\H+", r"[\h]+", r"\b", r"\B", r"\b\w", r"\w\b", r"\v", r"\p{Word}+", r"[\p{Word}]+",
    *[f"[[:{name}:]]+" for name in
      "alnum alpha ascii blank cntrl digit graph lower print punct space upper xdigit word".split()],
    r"[[:^alpha:]]+", r"[^[:alpha:]]+", r"[[:alpha:]_]+", r"[:alpha:]+",
    *[f"\\p{{{name}}}+" for name in
      "L Lu Ll Lt Lm Lo M Mn Mc N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs C Cc Cf Cn "
      "Letter uppercase_letter Alpha Alnum Lower Upper Punct Space Print Graph Any Assigned LC "
      "Han Hiragana Katakana Hangul Latin Cyrillic Greek Arabic Thai Common".split()],
    r"\P{L}+", r"\p{^L}+", r"\P{^L}+", r"[^\p{L}]+", r"[\P{L}]+", r"[\p{L}\P{Lu}]+", r"\pL",
    r"[a-c[x-z]]+", r"[a-z&&[^b-y]]+", r"[\w&&[^\d]]+", r"[^a-c&&b-d]+", r"[a&&]", r"[]a]+",
    r"[^]a]+", r"[a-]+", r"[-a]+", r"[a-c-e]+", r"[a\]b]+", r"[\x{41}-C]+", r"[é-ü]+", r"[!--]+",
    r"[\n-\r]", r"[\b]", r"[\101\x42\u0043]+", r"[\[\]]+", r"[a&b]+", r"[\s\S]", r"[^[a-c]d]+",
    # repeats
    r"a{1,3}+", r"a{2}?b", r"a{1,2}?", r"a{,2}", r"a{2}{3}", r"a{2}*", r"a{1,2}{2}", r"a{",
    r"a{2", r"a{,}", r"a{ 2}", r"a{x}", r"a**", r"a+?*", r"a*?+", r"a?*", r"a*+*", r"a++b", r"a?+a",
    r"(?:ab){1,2}+", r"a{1,}+b", r"\p{L}{2}", r"x*", r"a*?", "", "a|", "()", "(?:)", "a|b|",
    # groups
    r"(?>a+)a", r"(a)(b)", r"(?<name>a)b", r"(?'name'a)b", r"(?#note)a", r"(?=b)", r"(?!b)",
    r"(?<=a)b", r"(?<!a)b", r"(?<=a|bc)b", r"a(?=b)", r"(?x) a b # note", r"(?x:a b)\ c",
    "(?x:a #c\n b)", "a #b", r"(?:a|b)+",
    # case
    r"(?i)a|B", r"a(?i)b|c", r"x(?i)a|b(?-i)c|d", r"(?:(?i)a)b", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"(?i:k)+", r"(?i:[a-z]+)", r"(?i:[^k]+)", r"(?i:[\p{Greek}&&[Α-Ω]]+)", r"(?i:\p{Lu}+)", r"(?i:å)",
    r"(?i:ω)", r"(?i:[µ]+)", r"(?i:ǆ)", r"(?i:ſ)", r"(?i:э)", r"(?i-i:a)", r"(?i:\x41)",
    r"(?i:s+s)", r"(?i:[^\p{L}]+)", r"(?i:\w+)", r"(?im:a.B)",
    # escapes
    r"\t", r"\x41", r"\x{1F642}", r"\u0061", r"\e", r"\a", r"\f", r"\0", r"\07", r"\j", r"\-",
    r"\Qa.b\E", r"\.", r"\é", "]", "}", "a-z",
]
# What this project refuses though the package takes it, or what the package refuses as well.
REFUSED = [
    r"\X", r"a\Kb", r"(?~b)", r"(a)\1", r"(?<x>a)\k<x>", r"(?<x>a)\g<x>", r"\y", r"(?y{g})\X",
    r"(?W)\w", r"(?D:\d)", r"(?S:\s)", r"(?P:\w)", r"(?s).", r"(?P<x>a)", r"(?|a)", r"(?^i)a",
    r"(?(1)a)", r"(?{x})", r"(*FAIL)", r"(?i:ss)", r"(?i:ß)", r"(?i:[ß])", r"(?i:[\p{Lu}])", r"(?i:(?:s)s)", r"(?i:fi)",
    r"\p{Script=Han}", r"\p{gc=L}", r"\p{L&}", r"\p{In_Basic_Latin}", r"\p{Emoji}", r"\p{Nope}",
    r"[[:foo:]]", r"[\d-x]", r"[a-\d]", r"[z-a]", r"a{3,1}", r"a{100001}", r"\xe9", r"\x{61 62}",
    r"\cA", r"\C-a", r"\M-a", r"^*", r"(?=a)*", r"\b+", "*a", "a|*", "{2}", "(a", "a)", "[a", "[]",
    r"\p{L", r"(?<=a+)b", "(?i", r"\x{110000}", r"\x{d800}", "\\", r"\u00",
]
PARTS = ["a", "b", "ab", "abc", "xAbBc", "aaaa", "aaaaab", "s", "'s", "'S", "'ſ", "'LL", "Kk\u212a",
         "ſt", "é", "e\u0301", "ü", "Å\u212b", "Ωω\u2126", "µμ", "Ǆǅǆ", "ß", "Э", "1", "12", "1234567",
         "٣٤", "²", "½", "ⅷ", "Ⓐ", "_", "‿", "-", "!", "$+<=>^`|~", "«»", "…", "。", "{", "{2}", "[:]",
         "&", "#b", " ", "  ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\u0085",
         "\u180e", "\u200b", "\u200d", "\0", "\x1b", "\x07", "\x0b", "\x7f", "中文", "ひらカタ", "한국", "ไทย",
         "हिन्दी", "עִ", "😀", "👩\u200d💻",
         # Unicode 15.0, 15.1, 16.0 and what 16.0 does not have yet
         "\U00011f04", "\U00011f50", "\U0001e4d0", "\U0002ebf0", "\U00010d50\U00010d70", "\u1c89\u1c8a",
         "\ua7cb", "\U00010d40", "\U0001fae8", "\U00010940", "\U000323b0"]
TEXTS = ["", "a", "a\nb\n", "a\nb\n\nc", "\n", "a\r\nb", "aaaaa b aab ab", "It's 12345 o'clock, we'LL see\n\n  x  ",
         "1234567 12,345", "ab AB aB Ab xBc XA xd", "a{ a{2 a{,} a{x} a{ 2}", "[a]-b:&^é", "aa.b Qa.bE pL j",
         "²³¹ ¼½¾ a²b _x", "".join(PARTS)]


def spans(pattern, text, *behaviour):
    split = pre_tokenizers.Split(Regex(pattern), *behaviour)
    return [bounds for _, bounds in split.pre_tokenize_str(text)]


def pieces(pattern, text):
    """The pieces' lengths in bytes, those that matched as negative numbers; "2x3" is 2 2 2."""
    matched = set(spans(pattern, text, "removed", True))
    words = []
    for begin, end in spans(pattern, text, "isolated"):
        size = len(text[begin:end].encode())
        word = str(-size if (begin, end) in matched else size)
        if words and words[-1][0] == word:
            words[-1][1] += 1
        else:
            words.append([word, 1])
    return " ".join(word if count == 1 else f"{word}x{count}" for word, count in words)


def main():
    rng = random.Random(15)
    texts = TEXTS + ["".join(rng.choice(PARTS) for _ in range(30)) for _ in range(3)]
    cases = []
    for pattern in FAMILIES + SYNTAX:
        cases.append({"pattern": pattern, "pieces": [
            pieces(pattern, text) for text in texts]})
    root = {"made_by": "scripts/goldens/regex.py", "tokenizers": tokenizers.__version__,
            "texts": texts, "cases": cases, "refused": REFUSED}
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = json.dumps({k: v for k, v in root.items() if k != "cases"}, separators=(",", ":"))
    TARGET.write_text(f'{head[:-1]},"cases":[\n{rows}\n]}}\n', encoding="utf-8")
    print(f"{TARGET}: {len(cases)} expressions, {len(texts)} texts, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
