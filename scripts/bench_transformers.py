#!/usr/bin/env python3
"""What scripts/bench_transformers.sh measured: RillKV beside Hugging Face's own model, medians over
the rounds. Hugging Face's figure is that of its best variant (attention/cache/dtype), chosen for
each measure.

usage: bench_transformers.py table RESULTS_DIR [--json FILE]
       bench_transformers.py best RESULTS_DIR      the variants that lead in something, with commas
       bench_transformers.py agree RESULTS_DIR     the sides' last logits; needs safetensors and torch
"""

import argparse
import json
import pathlib
import statistics
import sys

# The bound of bench_model and of bench_transformers_side.py; compression at 4 bits adds about 1e-3.
MOST_DIVERGENCE = 0.2


class ScriptError(Exception):
    """One line that says what was expected and what was found."""


def read(folder, pattern):
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]
    if not reports:
        raise ScriptError(f"a measurement is missing in {folder}: no {pattern}")
    return reports


def medians(reports, key):
    """{(name, depth, what): [median seconds of each round]}."""
    rounds = {}
    for report in reports:
        for result in report["results"]:
            for what in ("prefill", "decode"):
                rounds.setdefault((result[key], result["depth"], what), []).append(
                    statistics.median(result[f"{what}_s"]))
    return rounds


def best_variants(reports):
    """{(depth, what): the variant whose median over the rounds is least}. Variants that later
    rounds left out are not compared."""
    rounds = medians(reports, "variant")
    best = {}
    for (variant, depth, what), times in rounds.items():
        if len(times) == len(reports):
            best.setdefault((depth, what), []).append((statistics.median(times), variant))
    return {measure: min(candidates)[1] for measure, candidates in best.items()}


def name_of(depth, what, report):
    """Decode goes on where the prompts around the depth have ended."""
    prompt, reps = report["prompt"], report["repetitions"]
    if what == "prefill":
        return f"first {prompt} tokens" if depth == 0 else f"{prompt} tokens after {depth}"
    begin = max(0, depth - (reps - 1) * prompt // 2)
    return f"decode after {prompt if depth == 0 else begin + reps * prompt}"


def make_rows(ours, theirs):
    """One for each measure; "ratio" is the median over the rounds of theirs / ours, in time."""
    rows = []
    ours_times, their_times = medians(ours, "cache"), medians(theirs, "variant")
    for (depth, what), variant in best_variants(theirs).items():
        count = ours[0]["prompt"] if what == "prefill" else 1
        mine, hf = ours_times[("compressed", depth, what)], their_times[(variant, depth, what)]
        ratios = [b / a for a, b in zip(mine, hf)]
        row = {"measure": name_of(depth, what, ours[0]), "depth": depth, "what": what,
               "ours_tokens_per_s": count / statistics.median(mine),
               "hf_tokens_per_s": count / statistics.median(hf), "hf_variant": variant,
               "ratio": statistics.median(ratios), "ratios": ratios,
               "dense_tokens_per_s": None, "torch_sdpa_tokens_per_s": None}
        for cache, key in (("dense", "dense_tokens_per_s"), ("torch sdpa", "torch_sdpa_tokens_per_s")):
            if (cache, depth, what) in ours_times:
                row[key] = count / statistics.median(ours_times[(cache, depth, what)])
        rows.append(row)
    rows.sort(key=lambda row: (row["depth"], row["what"] == "decode"))
    return rows


def cold_row(folder, theirs):
    """The first prompt of a process: prefill's and transformers' own, loading not counted."""
    prompt = theirs[0]["prompt"]
    mine = [report["ttft_s"] for report in read(folder, "prefill-*.json")]
    hf = [report["cold"]["prefill_s"] for report in theirs]
    return {"measure": f"first {prompt} tokens of a process", "depth": 0, "what": "cold",
            "ours_tokens_per_s": prompt / statistics.median(mine),
            "hf_tokens_per_s": prompt / statistics.median(hf),
            "hf_variant": theirs[0]["cold"]["variant"],
            "ratio": statistics.median([b / a for a, b in zip(mine, hf)]),
            "ratios": [b / a for a, b in zip(mine, hf)],
            "dense_tokens_per_s": None, "torch_sdpa_tokens_per_s": None}


def print_table(report):
    context, hf = report["context"], report["hf"]
    said = [f"commit {context['commit']}", context["cpu"], f"{context['threads']} threads",
            context["isa"]]
    if report["profile"] is not None:
        said.append(report["profile"] if isinstance(report["profile"], str) else
                    json.dumps(report["profile"]))
    print(", ".join(said) + f"; transformers {hf['transformers']}, torch {hf['torch']} "
          f"({hf['cpu_capability']}), {hf['threads']} threads")
    print(f"{report['model']}, weights {report['dtype']}, {report['rounds']} rounds, medians, tok/s")
    for name, value in report["agreement"].items():
        print(f"KL of the logits, Hugging Face to {name}: {value['kl']:.2g}; "
              f"the same most likely token: {'yes' if value['same_top1'] else 'no'}")
    head = ("", "RillKV", "its dense", "Torch copy", "Hugging Face", "its best", "ours is", "rounds")
    print(f"{head[0]:32} {head[1]:>8} {head[2]:>10} {head[3]:>10} {head[4]:>13}  {head[5]:20} "
          f"{head[6]:>8}  {head[7]}")

    def number(value, width):
        return f"{'-' if value is None else format(value, '.1f'):>{width}}"

    for row in report["results"]:
        print(f"{row['measure']:32} {number(row['ours_tokens_per_s'], 8)} "
              f"{number(row['dense_tokens_per_s'], 10)} {number(row['torch_sdpa_tokens_per_s'], 10)} "
              f"{number(row['hf_tokens_per_s'], 13)}  {row['hf_variant']:20} {row['ratio']:7.2f}x  "
              + " ".join(f"{ratio:.2f}" for ratio in row["ratios"]))
    for skipped in report["skipped"]:
        print(f"left out: {skipped['variant']}: {skipped['why']}")


def write_json(path, value):
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)


def table(folder, json_path):
    ours, theirs = read(folder, "rillkv-*.json"), read(folder, "hf-*.json")
    if len(ours) != len(theirs):
        raise ScriptError(f"expected as many rounds of both sides in {folder}, "
                          f"found {len(ours)} and {len(theirs)}")
    context = ours[0]["context"]
    report = {
        "context": context,
        "profile": context.get("profile", ours[0].get("profile")),
        "hf": {key: theirs[0][key] for key in ("transformers", "torch", "cpu_capability", "threads")},
        "model": ours[0]["model"], "config": ours[0]["config"], "dtype": ours[0]["dtype"],
        "prompt": ours[0]["prompt"], "rounds": len(ours),
        "agreement": read(folder, "agreement.json")[0],
        "results": make_rows(ours, theirs) + [cold_row(folder, theirs)],
        "skipped": theirs[0]["skipped"],
    }
    print_table(report)
    if json_path:
        write_json(json_path, report)


def agree(folder):
    """Of the last position of one prompt: equal work is what is timed."""
    from safetensors.torch import load_file

    reference = load_file(folder / "hf-logits.safetensors")["logits"].flatten().float()
    result = {}
    for config in ("dense", "balanced"):
        logits = load_file(folder / f"{config}-logits.safetensors")["logits"].flatten().float()
        p, q = reference.log_softmax(-1), logits.log_softmax(-1)
        kl = float((p.exp() * (p - q)).sum())
        if not kl <= MOST_DIVERGENCE:
            raise ScriptError(f"the sides compute different things: KL of the logits, Hugging Face to "
                              f"our {config}, is {kl:.3g}, expected at most {MOST_DIVERGENCE}")
        result[config] = {"kl": kl, "same_top1": int(p.argmax()) == int(q.argmax())}
    write_json(folder / "agreement.json", result)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("table", "best", "agree"))
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "table":
            table(arguments.results, arguments.json)
        elif arguments.command == "best":
            best = best_variants(read(arguments.results, "hf-*.json"))
            print(",".join(sorted(set(best.values()))))
        else:
            agree(arguments.results)
    except (ScriptError, OSError, ValueError, KeyError) as error:
        sys.exit(f"bench_transformers.py: {error}")


if __name__ == "__main__":
    main()
