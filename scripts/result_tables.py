#!/usr/bin/env python3
"""Markdown tables of the reports that RillKV's programs write, for the README.

usage: result_tables.py REPORT.json...   perplexity, ablate, needle or prefill; each kind its table
"""
import json
import pathlib
import sys


def figure(value, form):
    return "-" if value is None else format(value, form)


def table(head, rows):
    if rows:
        print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for row in rows:
            print("| " + " | ".join(row) + " |")


def quality_row(name, protocol, r):
    return [name, protocol, figure(r["kv_bits_sealed"]["total"], ".3f"),
            figure(r["kl_mean"], ".5f"), figure(100 * r["top1_agreement"], ".1f") + " %",
            figure(r["perplexity"], ".3f"), figure(r["baseline"]["perplexity"], ".3f")]


def prefill_row(r):
    dense = r.get("baseline") or {}
    mib = 2 ** 20
    row = [str(r["prompt_tokens"])]
    for side in (r, dense):
        row += [figure(side.get("prefill_tokens_per_s"), ".0f"),
                figure(side.get("decode_tokens_per_s"), ".1f"),
                figure(side.get("kv_bytes", 0) / mib, ".2f"),
                figure((side.get("peak_rss_bytes") or 0) / mib, ".0f")]
    return row


def main(paths):
    quality, grid, prefills = [], [], []
    for path in map(pathlib.Path, paths):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            if "cells" in report:
                for cell in report["cells"]:
                    dense = cell.get("baseline") or {}
                    grid.append([str(cell["length"]), f"{cell['depth']:g} %",
                                 figure(cell["score"], ".2f"), figure(dense.get("score"), ".2f"),
                                 figure(cell["margin"], "+.2f"),
                                 figure(dense.get("margin"), "+.2f"),
                                 {False: "no", True: "yes"}.get(cell["solvable"], "-")])
            elif "rows" in report:
                quality += [quality_row(row["label"], report["protocol"], row["result"])
                            for row in report["rows"] if "result" in row]
            elif "kl_mean" in report:
                name = path.stem.removesuffix("-" + report["protocol"])
                quality.append(quality_row(name, report["protocol"], report))
            else:
                prefills.append(prefill_row(report))
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"result_tables: {path}: not a usable report: {error!r}", file=sys.stderr)
            return 1
    table(["", "protocol", "bits", "KL, nats", "top-1", "perplexity", "dense"], quality)
    table(["tokens", "depth", "score", "dense", "margin", "dense", "solvable"], grid)
    table(["tokens", "prefill tok/s", "decode tok/s", "cache MiB", "peak MiB", "dense: prefill",
           "decode", "cache", "peak"], sorted(prefills, key=lambda row: int(row[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
