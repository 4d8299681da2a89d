#!/usr/bin/env python3
"""Writes tests/data/metric_goldens.json: seeded text pairs and the scores Python gives them.

ROUGE-L comes from the package `rouge`, edit similarity from `fuzzywuzzy` (without
python-Levenshtein, so difflib) and `rapidfuzz`, Chinese words from `jieba`; the remaining scores
are LongBench's definitions on Python's own re, str and Counter.
Needs: pip install rouge fuzzywuzzy rapidfuzz jieba

usage: make_metric_goldens.py [--output FILE] [--seed N]
"""
import argparse
import collections
import json
import logging
import pathlib
import random
import re
import string
import warnings

warnings.filterwarnings("ignore")
import jieba  # noqa: E402
import rapidfuzz  # noqa: E402
from fuzzywuzzy import fuzz  # noqa: E402
from rouge import Rouge  # noqa: E402

jieba.setLogLevel(logging.ERROR)

CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜"
    "〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏")


# --- the scores -------------------------------------------------------------------------------

def english(text):
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", kept).split())


def chinese(word):
    drop = set(string.punctuation + CHINESE_PUNCTUATION)
    return "".join("".join(c for c in word.lower() if c not in drop).split())


def bag_f1(prediction, truth):
    shared = sum((collections.Counter(prediction) & collections.Counter(truth)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(truth)
    return 2 * precision * recall / (precision + recall)


def rouge_l(prediction, truth):
    try:
        return Rouge().get_scores([prediction], [truth], avg=True)["rouge-l"]["f"]
    except ValueError:  # Nothing to compare.
        return 0.0


def share_of_numbers(prediction, wanted):
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(wanted) / len(numbers) if numbers else 0.0


def classification(prediction, truth, classes):
    found = [name for name in classes if name in prediction]
    for name in found:  # Removes while iterating, as the benchmark's scorer does.
        if name in truth and name != truth:
            found.remove(name)
    return 1.0 / len(found) if truth in found else 0.0


def code_line(prediction):
    for line in prediction.lstrip("\n").split("\n"):
        if not any(mark in line for mark in ("`", "#", "//")):
            return line
    return ""


# --- the texts --------------------------------------------------------------------------------

WORDS = ("the a an The river bank stone harbour lamp keeper's ledger 1847 forty-two ships' crew "
         "Ångström naïve ÉCLAIR Straße ΑΘΗΝΑ Москва don't U.S. e.g. $3.50 rock'n'roll x_1 “quoted” "
         "thé an-other 3rd theory a. AN! under_score Ⅷ ١٢ ½ İstanbul co-operate ...").split()
GAPS = [" "] * 12 + ["  ", "\n", "\t", " \u00a0", "\u3000", "\r\n", "\u2028", "\x1c"]
STOPS = ["", "", ".", ". ", "?", "!", "...", " . ", ".\n"]
HANZI = ("今天天气很好，我们去公园散步。会议讨论了预算问题；王小明（负责人）表示：项目将于2023年完成！"
         "北京大学的研究人员发现了新的方法、结果优于以前。GPT模型 在长文本上 表现良好…“引用”——完毕")
CODE = ["return self.cache[key]", "for (int i = 0; i < n; ++i) {", "import numpy as np",
        "    x = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.head_dim)", "}", "",
        "# a comment", "// another", "```python", "if value is None:", "public static void main() {",
        "const auto it = table.find(name);", "print('naïve €')", "\treturn;"]
CLASSES = ["Food", "Date", "Number of something", "Number", "Other number", "Individual", "City",
           "Other location", "Other", "Description of a person", "Description of something",
           "Description", "Organization", "体育", "体育新闻", "农业", "Abbreviation", "Date"]


def sentence(rng, length):
    text = ""
    for _ in range(length):
        text += rng.choice(WORDS) + rng.choice(GAPS)
        if rng.random() < 0.15:
            text = text.rstrip(" ") + rng.choice(STOPS)
    return text


def mutated(rng, text, pieces, joiner, rate):
    """The text with some pieces dropped, doubled, swapped or replaced."""
    parts = text.split(joiner) if joiner else list(text)
    out = []
    for part in parts:
        r = rng.random()
        if r < rate / 4:
            continue
        if r < rate / 2:
            out += [part, part]
        elif r < 3 * rate / 4:
            out.append(rng.choice(pieces))
        elif r < rate and out:
            out.insert(rng.randrange(len(out)), part)
        else:
            out.append(part)
    return joiner.join(out)


def english_pair(rng):
    truth = sentence(rng, rng.choice([0, 1, 2, 5, 12, 30]))
    kind = rng.random()
    if kind < 0.1:
        return rng.choice(["", " ", ".", "\n", "the", "..", " . . "]), truth
    if kind < 0.3:
        return sentence(rng, rng.choice([1, 4, 20])), truth
    return mutated(rng, truth, WORDS, " ", rng.choice([0.05, 0.3, 0.7])), truth


def chinese_pair(rng):
    start = rng.randrange(len(HANZI) - 20)
    truth = HANZI[start:start + rng.choice([3, 10, 40])]
    return mutated(rng, truth, HANZI, "", rng.choice([0.1, 0.4])), truth


def code_pair(rng):
    truth = rng.choice(CODE) + rng.choice(["", " ", rng.choice(CODE)])
    lines = ["\n"] * rng.randrange(2) + [rng.choice(CODE) for _ in range(rng.randrange(3))]
    lines.append(mutated(rng, truth, "abcxyz()_ ", "", rng.choice([0.0, 0.1, 0.4])))
    return "\n".join(lines), truth


def long_pair(rng):
    """Beyond 200 characters difflib ignores frequent characters."""
    alphabet = rng.choice(["ab", "abcdefgh ", string.ascii_letters + " é漢"])
    truth = "".join(rng.choice(alphabet) for _ in range(rng.choice([150, 199, 200, 201, 320])))
    return mutated(rng, truth, alphabet, "", rng.choice([0.05, 0.3])), truth


def number_text(rng):
    return rng.choice(["", "The answer is {}", "{}", "Paragraph {}", "{} or {}", "段落{}。", "no. {}, {} and {}",
                       "０{}", "v{}.{}"]).format(*[rng.choice(["1", "2", "12", "30", "07", "３"])
                                                  for _ in range(3)])


def make(rng):
    cases = []

    def add(metric, prediction, truth, expected, **extra):
        cases.append({"metric": metric, "prediction": prediction, "truth": truth, **extra,
                      "expected": expected})

    for _ in range(90):
        p, t = english_pair(rng)
        add("f1", p, t, bag_f1(english(p).split(), english(t).split()))
        add("exact_match", p, t, float(english(p) == english(t)))
        add("rouge_l", p, t, rouge_l(p, t))
    for _ in range(40):
        p, t = chinese_pair(rng)
        words = [list(jieba.cut(x, cut_all=False)) for x in (p, t)]
        normal = [[n for n in map(chinese, w) if n] for w in words]
        extra = {"prediction_words": words[0], "truth_words": words[1]}
        add("f1_words", p, t, bag_f1(*normal), **extra)
        add("rouge_l_words", p, t, rouge_l(*map(" ".join, words)), **extra)
    for _ in range(60):
        p, t = code_pair(rng)
        add("code", p, t, fuzz.ratio(code_line(p), t) / 100)
        add("ratio_indel", p, t, round(rapidfuzz.fuzz.ratio(p, t)) if p and t else 100.0 * (p == t))
    for _ in range(30):
        p, t = long_pair(rng)
        add("ratio_difflib", p, t, fuzz.ratio(p, t))
    for _ in range(40):
        p = rng.choice(["", "Type: ", "It is "]) + rng.choice([" ", ", "]).join(
            rng.sample(CLASSES, rng.randrange(4)))
        t = rng.choice([c for c in CLASSES if c in p] or CLASSES)
        add("classification", p, t, classification(p, t, CLASSES), classes=CLASSES)
    for _ in range(40):
        p, n = number_text(rng), rng.choice(["1", "2", "12", "30", "３"])
        add("count", p, n, share_of_numbers(p, n))
        add("retrieval", p, f"It is Paragraph {n}.", share_of_numbers(p, n))
        add("retrieval_zh", p, f"段落{n}", share_of_numbers(p, n))
    return cases


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path,
                        default=root / "tests/data/metric_goldens.json")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    cases = make(random.Random(args.seed))
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("[\n" + lines + "\n]\n", encoding="utf-8")
    print(f"{len(cases)} pairs in {args.output}")


if __name__ == "__main__":
    main()
