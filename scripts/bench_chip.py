#!/usr/bin/env python3
"""The table of scripts/bench_chip.sh: target against measured, from the JSON of its parts.

usage: bench_chip.py RESULTS_DIR
"""

import json
import pathlib
import statistics
import sys


class Missing(Exception):
    """A measurement that is not there: the file's name or what it lacks."""


def load(folder, name):
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Missing(f"no {name}") from None
    except ValueError:
        raise Missing(f"{name} is not JSON") from None


def only(items, what, /, **wanted):
    found = [item for item in items if all(item.get(key) == value for key, value in wanted.items())]
    if not found:
        raise Missing(f"no {what}")
    return found[0]


def attention(shape, queries, whole, key):
    def measure(folder):
        results = load(folder, "attention.json")["results"]
        return only(results, f"{shape}", shape=shape, queries=queries, whole=whole, mix="balanced",
                    depth=4096)[key]
    return measure


def beside_transformers(name, depth, what):
    return lambda folder: only(load(folder, name)["results"], what, depth=depth, what=what)["ratio"]


def of_model(cache, depth, key):
    """The median of the runs."""
    def measure(folder):
        reports = [load(folder, path.name) for path in sorted(folder.glob("model-*.json"))]
        if not reports:
            raise Missing("no model-1.json")
        values = [only(report["results"], cache, cache=cache, depth=depth)[key] for report in reports]
        if None in values:  # Torch was not asked for.
            raise Missing(f"no {key}")
        return statistics.median(values)
    return measure


def over_llama_cpp(what):
    """Over the f16 cache with the weights it is fastest with, of those as wide as ours."""
    def measure(folder):
        rows = [row for row in load(folder, "llama_cpp.json")["results"]
                if row["program"] == "llama.cpp" and row["cache"] == "f16"
                and row["weights"] in ("bf16", "f16")]
        if not rows:
            raise Missing("no llama.cpp row")
        return min(row[f"ours_over_{what}"] for row in rows)
    return measure


def busy(prompt, what):
    """Beside two loops, over the run without any: of time or of speed."""
    key = f"ttft_{prompt}_s_ratio" if what == "ttft" else f"decode_{prompt}_tokens_per_s_ratio"
    return lambda folder: only(load(folder, "busy.json")["runs"], "run beside two loops",
                               program="ours", loops=2)[key]


AT_LEAST, AT_MOST = ">=", "<="
# (what, how it is measured, unit, AT_LEAST or AT_MOST, target with a tile unit, target with AVX-512
# alone; None: no target). With a tile unit they are the project's for that family; the others were
# reached before it and may not be lost.
ROWS = [
    ("attention 256 x 4096, 32/8/128, whole, over Torch's best",
     attention("32/8/128", 256, True, "over_torch_best"), "x", AT_LEAST, 2.0, None),
    ("attention 256 x 4096, 9/3/64, whole, over Torch's best",
     attention("9/3/64", 256, True, "over_torch_best"), "x", AT_LEAST, 2.0, None),
    ("attention 256 x 4096, 32/8/128, sealed blocks, over Torch's bf16",
     attention("32/8/128", 256, False, "over_torch_bf16"), "x", AT_LEAST, None, 2.4),
    ("attention 256 x 4096, 9/3/64, sealed blocks, over Torch's bf16",
     attention("9/3/64", 256, False, "over_torch_bf16"), "x", AT_LEAST, None, 2.4),
    ("attention 1 x 4096, 32/32/128, sealed blocks, over Torch's best",
     attention("32/32/128", 1, False, "over_torch_best"), "x", AT_LEAST, None, 10),
    ("SmolLM2, first 512 tokens, over Hugging Face",
     beside_transformers("smollm2.json", 0, "prefill"), "x", AT_LEAST, 1.3, None),
    ("SmolLM2, 512 tokens after 4096, over Hugging Face",
     beside_transformers("smollm2.json", 4096, "prefill"), "x", AT_LEAST, 2.0, None),
    ("SmolLM2, decode after 4096, over Hugging Face",
     beside_transformers("smollm2.json", 4096, "decode"), "x", AT_LEAST, 5, None),
    ("SmolLM2, 512 tokens after 4096, over llama.cpp's f16 cache",
     over_llama_cpp("prefill"), "x", AT_LEAST, None, 3),
    ("SmolLM2, decode after 4096, over llama.cpp's f16 cache",
     over_llama_cpp("decode"), "x", AT_LEAST, 1.5, 1.5),
    ("SmolLM2, 512 tokens after 4096",
     of_model("compressed", 4096, "prefill_tokens_per_s"), " tok/s", AT_LEAST, None, 500),
    ("SmolLM2, decode after 4096",
     of_model("compressed", 4096, "decode_tokens_per_s"), " tok/s", AT_LEAST, None, 80),
    ("Qwen2.5-Coder-1.5B, 3118 tokens, over Hugging Face",
     beside_transformers("qwen.json", 0, "prefill"), "x", AT_LEAST, 1.5, None),
    ("Qwen2.5-Coder-1.5B, decode, over Hugging Face",
     beside_transformers("qwen.json", 0, "decode"), "x", AT_LEAST, 2.5, None),
    ("a layer of LLaMA-2-7B, 512 tokens after 4096, over Hugging Face",
     beside_transformers("layer.json", 4096, "prefill"), "x", AT_LEAST, 1.3, None),
    ("beside two busy loops: time to first token, 36 tokens", busy("short", "ttft"), "x", AT_MOST, 3, 3),
    ("beside two busy loops: time to first token, 512 tokens", busy("long", "ttft"), "x", AT_MOST, 3, 3),
    ("beside two busy loops: decode after 36", busy("short", "decode"), "x", AT_LEAST, 0.35, 0.35),
    ("beside two busy loops: decode after 512", busy("long", "decode"), "x", AT_LEAST, 0.35, 0.35),
    ("dense cache, first 512 tokens, over Torch's SDPA",
     of_model("dense", 0, "prefill_vs_torch"), "x", AT_LEAST, 0.95, 0.95),
    ("dense cache, 512 tokens after 4096, over Torch's SDPA",
     of_model("dense", 4096, "prefill_vs_torch"), "x", AT_LEAST, 0.95, 0.95),
    ("dense cache, decode after 4096, over Torch's SDPA",
     of_model("dense", 4096, "decode_vs_torch"), "x", AT_LEAST, 0.95, 0.95),
]


def verdict(value, direction, target):
    if target is None:
        return "-"
    # A NaN reaches nothing.
    reached = value >= target if direction == AT_LEAST else value <= target
    return "yes" if reached else "NO"


def rows(folder, amx):
    """[(what, target, measured, reached)], all texts."""
    result = []
    for what, measure, unit, direction, with_tiles, without in ROWS:
        target = with_tiles if amx else without
        goal = "-" if target is None else f"{direction} {target:g}{unit}"
        try:
            value = measure(folder)
            shown = f"{value:.0f}{unit}" if unit == " tok/s" else f"{value:.2f}{unit}"
            result.append((what, goal, shown, verdict(value, direction, target)))
        except Missing as missing:
            result.append((what, goal, f"not measured: {missing}", "-"))
        except KeyError as error:
            result.append((what, goal, f"not measured: no {error}", "-"))
    return result


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.exit("usage: bench_chip.py RESULTS_DIR")
    folder = pathlib.Path(arguments[0])
    try:
        machine = load(folder, "machine.json")
        contexts = [load(folder, path.name).get("context", {}) for path in sorted(folder.glob("*.json"))]
    except Missing as missing:
        sys.exit(f"bench_chip.py: {folder}: {missing}; scripts/bench_chip.sh writes it")
    def said(key):  # By all parts, which may have been run at different times.
        return " and ".join(sorted({context[key] for context in contexts if key in context})) or "unknown"

    print(f"\n{machine['cpu']}, {machine['cores']} cores, "
          f"{'a tile unit (AMX)' if machine['amx'] else 'no tile unit'}, isa {said('isa')}, "
          f"commit {said('commit')}\n")
    print("| what | target | measured | reached |\n|---|---|---|---|")
    for row in rows(folder, machine["amx"]):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
