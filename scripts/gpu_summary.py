#!/usr/bin/env python3
"""Prints what a folder of scripts/gpu_check.sh says, shortly: our times beside Torch's and beside what
benchmarks/performance_model.md expects. Files that are missing are left out.

usage: gpu_summary.py DIR
"""
import json
import pathlib
import sys


def load(folder, name):
    """A report; {} where there is none, or half of one."""
    try:
        return json.loads((folder / name).read_text())
    except (OSError, ValueError):
        return {}


def microseconds(seconds):
    """Nothing, where the model has nothing to say."""
    return f"{seconds * 1e6:10.1f}" if seconds else f"{'-':>10}"


def attention_lines(ours, torch):
    best = {}
    for result in torch.get("results", []):
        if "seconds" in result:
            key = (result["kind"], result["shape"], result["depth"])
            family = result["variant"].split(",")[0]
            best.setdefault(key, {}).setdefault(family, []).append(result["seconds"])
    rows = ours.get("results", [])
    if not rows:
        return []
    lines = [f"{'attention, us':48} {'ours':>10} {'expected':>10} {'bound':>10} {'flash':>10} {'cudnn':>10}"
             "  faster than the best"]
    for r in rows:
        times = {family: min(all_times) for family, all_times
                 in best.get((r["kind"], r["shape"], r["depth"]), {}).items()}
        cells = [microseconds(times.get(f)) for f in ("flash", "cudnn")]
        ratio = f"{min(times.values()) / r['seconds']:.2f}x" if times else "-"
        name = f"{r['kind']} {r['shape']} after {r['depth']}"
        if r.get("path", "fused") != "fused":
            name += f", {r['path']}"
        lines.append(f"{name:48} {microseconds(r['seconds'])} {microseconds(r['expected_s'])} "
                     f"{microseconds(r['bound_s'])} {cells[0]} {cells[1]}  {ratio}"
                     f"{'' if r.get('right', True) else '  WRONG'}")
    return lines


def kernel_lines(report):
    rows = report.get("results", [])
    if not rows:
        return []
    lines = [f"{'entries, us':52} {'warm':>10} {'cold':>10} {'expected':>10}"]
    for r in rows:
        lines.append(f"{r['name'][:52]:52} {microseconds(r['warm_s'])} {microseconds(r['cold_s'])} "
                     f"{microseconds(r.get('expected_s'))}"
                     f"{'' if r.get('right', True) else '  WRONG'}")
    return lines + [f"model: {json.dumps(m)}" for m in report.get("model", [])]


def main():
    if len(sys.argv) != 2:
        print("gpu_summary.py: expected a folder", file=sys.stderr)
        return 2
    folder = pathlib.Path(sys.argv[1])
    torch = load(folder, "sdpa.json")
    lines = attention_lines(load(folder, "attention.json"), torch)
    lines += [f"{name}: {value:.4g}" for name, value in torch.get("ceilings", {}).items()]
    lines += kernel_lines(load(folder, "kernels.json"))
    prefill = load(folder, "prefill.json")
    for name in ("ttft_s", "prefill_tokens_per_s", "decode_tokens_per_s", "device_peak_bytes"):
        if name in prefill:
            lines.append(f"prefill, {name}: {prefill[name]}")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
