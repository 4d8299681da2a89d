#!/usr/bin/env python3
"""One table of what scripts/bench_llama_cpp.sh measured: medians over all rounds, and how many times
as fast RillKV's compressed cache is.

usage: bench_llama_cpp.py RESULTS_DIR [--json FILE]
"""

import argparse
import json
import pathlib
import statistics
import sys


def collect(folder):
    """{(program, weights, cache): {"prefill": [tok/s], "decode": [tok/s]}} and a run's context."""
    rows, context = {}, None

    def add(key, what, values):
        rows.setdefault(key, {"prefill": [], "decode": []})[what] += values

    for path in sorted(folder.glob("rillkv-*.json")):
        report = json.loads(path.read_text())
        context = report["context"]
        for result in report["results"]:
            key = ("RillKV", report["dtype"], result["cache"])
            if result["cache"] == "compressed":
                key = ("RillKV", report["dtype"], report["config"])
            add(key, "prefill", [report["prompt"] / s for s in result["prefill_s"]])
            add(key, "decode", [1 / s for s in result["decode_s"]])
    for path in sorted(folder.glob("llama-*-*-*.json")):
        _, weights, _, _ = path.stem.split("-")
        for test in json.loads(path.read_text()):
            key = ("llama.cpp", test["model_type"] if weights == "native" else weights, test["type_k"])
            add(key, "prefill" if test["n_prompt"] else "decode", test["samples_ts"])
    return rows, context


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    rows, context = collect(arguments.results)
    ours = next((key for key in rows if key[0] == "RillKV"), None)
    if ours is None or not all(row["prefill"] and row["decode"] for row in rows.values()):
        sys.exit("bench_llama_cpp.py: a measurement is missing in " + str(arguments.results))

    medians = {key: {what: statistics.median(values) for what, values in row.items()}
               for key, row in rows.items()}
    print(f"commit {context['commit']}, {context['cpu']}, {context['threads']} threads; "
          "512 tokens and decode after 4096, median tok/s")
    print(f"{'program':10} {'weights':22} {'cache':11} {'prefill':>8} {'ours is':>8} {'decode':>8} {'ours is':>8}")
    table = []
    for key, row in medians.items():
        ratio = {what: medians[ours][what] / row[what] for what in row}
        print(f"{key[0]:10} {key[1]:22} {key[2]:11} {row['prefill']:8.0f} {ratio['prefill']:7.2f}x "
              f"{row['decode']:8.1f} {ratio['decode']:7.2f}x")
        table.append({"program": key[0], "weights": key[1], "cache": key[2],
                      "prefill_tokens_per_s": row["prefill"], "decode_tokens_per_s": row["decode"],
                      "ours_over_prefill": ratio["prefill"], "ours_over_decode": ratio["decode"]})
    if arguments.json:
        text = json.dumps({"context": context, "depth": 4096, "prompt": 512, "results": table}, indent=2)
        temporary = arguments.json.with_suffix(arguments.json.suffix + ".tmp")
        temporary.write_text(text + "\n")
        temporary.replace(arguments.json)


if __name__ == "__main__":
    main()
