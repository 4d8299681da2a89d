#!/usr/bin/env python3
"""Writes benchmarks/performance_model.md: what the CUDA kernels should take on an A100 and an H100.

usage: scripts/performance_model.py [--check] [--programs DIR]

The numbers are those of `bench_attention --predictions` and `bench_cuda --predictions` (the formulas are
in benchmarks/*_model.h, and both programs compare a real GPU with them). Neither needs CUDA for that.
--check only says whether the page is up to date, and its first line that is not.
"""
import argparse
import csv
import io
import itertools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "benchmarks" / "performance_model.md"

HEAD = """# What the CUDA kernels should take

Written by `scripts/performance_model.py`; do not edit. **No GPU has run these kernels: nothing here is a
measurement of ours, and no figure here is a claim.** `scripts/gpu_check.sh` measures on a GPU;
`bench_attention --device cuda` and `bench_cuda` print each time beside its prediction.

## The model of attention

`benchmarks/attention_model.h` holds the formulas. Shapes, splits and CTAs are those of the launch plan
itself, instructions those the PTX executor counts (a test compares them), registers and shared memory
those of `tests/cuda/resource_budget.txt`.

- **memory**: bytes of the packed cache (preset `balanced`: 4.53 bits an element at head_dim 64, 4.52 at
  128) over the bandwidth. Every byte is counted once: the row tiles of a kv head run side by side and
  meet in the L2 cache.
- **mma**: the products over whole tiles (128 query rows by 128 tokens in prefill, 8 by 128 in decode, where
  scores are three products: with cosines, with sines, with both for the keys' offsets) at the rate of `mma.sync` (fp16 and bf16 have the same), on the busiest SM.
- **issue**: warp instructions over 4 an SM and clock, on the busiest SM: unpacking, rotation and softmax.
- **merge**: the second launch that puts the parts of split attention together: the gap between launches,
  latency and its parts from the L2 cache (`kernels/cuda/attention_costs.h`, which chooses the splits, too).
- **bound** = the largest of memory, mma and issue, with every issue slot filled, and the merge. No kernel
  gets there.
- **expected** = memory, or mma + issue at {rate} % of its slots where that is more ({alone} % where a CTA has an SM
  to itself, as in prefill), and the merge: a CTA fills a tile and then multiplies it, with a barrier between.

Why {rate} % and {alone} %: assumptions. What is known: about 40 % of the main loops' instructions (shifts, logic,
integer sums, comparisons, permutations, selections) go to a pipe that takes one every second clock, so at a full
rate that pipe alone would be 80 % busy; 7 to 10 % read or write shared memory; a scheduler has two warps to choose
from in prefill and four in decode, and results can be used after four clocks or more. The share that a GPU really
reaches is what `scripts/gpu_check.sh` asks ncu for.

Instructions are counted in PTX, without what ptxas makes part of others (copies of registers and of their halves,
signs); it adds some.

Not counted: the L2 cache. Besides its block a CTA reads R(j) for every tile, 32 KB at head_dim 128 and 16 KB
at 64, the same table each time, so it stays in L1 where that has room. It has, but for decode at head_dim
128 on an A100, where the shared memory of four CTAs leaves 28 KB of L1. There a tile takes up to 50 KB from
L2, the block's 18 KB included: at 5120 bytes a clock for all SMs (7.2 TB/s) 1081 clocks, beside {issue} of
`issue`, which hide them. Shared memory serves a tile of decode in {wavefronts} clocks at head_dim 128, bank conflicts
included: fewer than `issue` takes.

Occupancy: the prefill kernels take up to 248 registers a thread and 256 threads: one CTA an SM (12.5 % of
the warps of an A100). Decode has 128 registers, 128 threads and 40 KB of shared memory at head_dim 128 (23 KB at
64): four CTAs an SM with 164 KB and more, two at head_dim 128 on the 100 KB of sm_86, sm_89 and sm_120.

| | SMs | clock | bandwidth | `mma.sync`, bf16 | tensor cores' peak, bf16 |
|---|---|---|---|---|---|
| A100 80 GB SXM | 108 | 1.41 GHz | 2.04 TB/s | 312 TFLOP/s | 312 TFLOP/s |
| H100 80 GB SXM | 132 | 1.83 GHz | 3.35 TB/s | 613 TFLOP/s (assumed: 62 %) | 989 TFLOP/s (`wgmma`) |

The gap: on Hopper only `wgmma` reaches the peak; `mma.sync` is assumed at 62 % of it (Luo et al., arXiv
2402.13499, benchmark the two). On data-centre Blackwell the peak belongs to `tcgen05`, and `mma.sync` is
assumed to be no faster than on Ampere, an SM and clock. The fused kernels use neither `wgmma` nor
`tcgen05`, so a dense FlashAttention-3 is out of their reach in prefill.
"""

CHUNKS = """
## Ingest and packing, a layer and chunk of 256 tokens

One launch each; `benchmarks/ingest_model.h`. What holds these kernels up is latency (a query channel's squares are
added token by token, a key block's widths are searched for): the longest CTA's chain of loads, barriers and
dependent steps, counted by hand, or all CTAs' instructions where that is more; and the gap before a launch. The aim is at
most 10 us for both at 32/8/128 on an H100, which is 3 % of a layer of prefill from 4k cached tokens on.
With error feedback a key block's channels wait for one another, and with trellis codes each of them walks along its
tokens besides (`kernels/cuda/trellis_coder.cuh`, about 3700 cycles a channel, two thirds of them the walk): a chain in
one CTA a kv head and block, as long for 256 tokens as for as many as fill the SMs, one CTA each.

{table}
"""

SLICES = """
## Prefill by slices, microseconds a layer, H100

Off by default, and not run on a GPU either: blocks become dense once a chunk, in scratch that stays in the L2
cache, and a library attends to them. `benchmarks/slice_model.h`: expanding and folding by the executor's instructions at
{rate:.0f} % of the issue slots, the library at {flash:.0f} TFLOP/s (flash attention) or {cudnn:.0f} (cuDNN), both
assumed, where its CTAs fill the SMs; nothing overlaps.

{table}
"""

LAUNCHES = """
## Launches, and a whole token

`benchmarks/launch_model.h` and `benchmarks/token_model.h`. Assumed, each with its source there: {LaunchHost:g} us of
host time a launch (3 to 6 are reported), {KernelGap:g} us from the end of a kernel to the start of the one that needs
its result (1.5 to 2.5 us, in a graph or not), {Synchronisation:g} us for each time the host waits. Launched one by
one, host and device work side by side and the slower counts; a graph leaves the host nothing to do. SmolLM2-135M,
bf16, one sequence: kernels alone are its weights over the bandwidth, and attention with its merge.

{table}
"""

TAIL = """
## Beside published numbers

Of others, on their machines and shapes; none was run here.

| | what it says | source |
|---|---|---|
| FlashInfer, decode, 16-bit cache | close to 100 % of the bandwidth for long sequences | FlashInfer's introduction, 2 February 2024, figure 5 (flashinfer.ai/2024/02/02/introduce-flashinfer.html) |
| BitDecoding, decode, 4-bit and 2-bit cache | up to 4.8x (A100) and 8.9x (H100) FP16 FlashDecoding-v2 | Du et al., arXiv 2503.18773v2, abstract |
| FlashAttention-2, prefill | 35 % of an H100's peak | Shah et al., arXiv 2407.08608, abstract |
| FlashAttention-3, prefill, FP16 | up to 740 TFLOP/s on an H100 (75 %) | the same |

The column "dense, memory" is a dense 16-bit cache read at the whole bandwidth, which FlashInfer reports to come
close to. How our decode compares with a dense one is for a GPU to say: packed bytes are 3.5 times fewer, and
{tile} warp instructions a CTA and tile of 128 tokens at head_dim 128 make `issue` larger than `memory`.
"""


def predictions(program: pathlib.Path) -> list[dict]:
    result = subprocess.run([program, "--predictions"], capture_output=True, text=True, check=True)
    return list(csv.DictReader(io.StringIO(result.stdout)))


def microseconds(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:.1f}" if us < 100 else f"{us:.0f}"


def table(rows: list[dict], bandwidth: float) -> str:
    lines = [
        "| cached | CTAs (splits, an SM) | memory | mma | issue | merge | bound | **expected** | TFLOP/s"
        " | share of tensor peak | dense, memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    peaks = {"A100": 312e12, "H100": 989e12}
    for r in rows:
        heads, dim, cached = int(r["kv_heads"]), int(r["head_dim"]), int(r["cached"])
        dense = 2 * 2 * heads * dim * cached / bandwidth
        expected = float(r["expected_s"])
        rate = float(r["flops"]) / expected
        lines.append(
            f"| {cached // 1024}k | {r['ctas']} ({r['splits']}, {r['ctas_an_sm']})"
            + "".join(f" | {microseconds(float(r[k]))}" for k in ("memory_s", "mma_s", "issue_s", "merge_s", "bound_s"))
            + f" | **{microseconds(expected)}** | {rate / 1e12:.1f} | {100 * rate / peaks[r['gpu']]:.0f} %"
            f" | {microseconds(dense)} |")
    return "\n".join(lines)


def constant(header: str, name: str) -> float:
    text = (ROOT / "benchmarks" / header).read_text()
    return float(re.search(rf"constexpr double {name}\s*=\s*([0-9.e-]+);", text).group(1))


def rate(name: str) -> int:
    """Percent of the issue slots."""
    text = (ROOT / "kernels" / "cuda" / "attention_costs.h").read_text()
    return round(100 * float(re.search(rf"\b{name} = 4 \* ([0-9.]+)[,;]", text).group(1)))


def chunk_table(rows: list[dict]) -> str:
    """Ingest and packing side by side."""
    lines = ["| GPU | heads | ingest | packing | both, with their launches | packing with error feedback"
             " | packing of policy \"trellis\" |", "|---|---|---|---|---|---|---|"]
    for ingest in (r for r in rows if r["what"] == "ingest"):
        pack, feedback, trellis = (
            next(r for r in rows if (r["what"], r["gpu"], r["name"]) == (what, ingest["gpu"], ingest["name"]))
            for what in ("pack", "pack-feedback", "pack-trellis"))
        both = sum(float(r["total_s"]) for r in (ingest, pack))
        lines.append(f"| {ingest['gpu']} | {ingest['name']} | {microseconds(float(ingest['device_s']))}"
                     f" | {microseconds(float(pack['device_s']))} | {microseconds(both)}"
                     f" | {microseconds(float(feedback['device_s']))} | {microseconds(float(trellis['device_s']))} |")
    return "\n".join(lines)


def slice_table(rows: list[dict]) -> str:
    lines = ["| heads | cached | launches | the fused kernel | by slices, flash | by slices, cuDNN |",
             "|---|---|---|---|---|---|"]
    for flash in (r for r in rows if r["what"] == "slices-flash"):
        cudnn = next(r for r in rows if r["what"] == "slices-cudnn"
                     and (r["name"], r["depth"]) == (flash["name"], flash["depth"]))
        lines.append(f"| {flash['name']} | {int(flash['depth']) // 1024}k | {flash['launches']}"
                     f" | {microseconds(float(flash['device_s']))} | {microseconds(float(flash['total_s']))}"
                     f" | {microseconds(float(cudnn['total_s']))} |")
    return "\n".join(lines)


def token_table(rows: list[dict]) -> str:
    """Of a decoded token of SmolLM2, by the way it reaches the device."""
    names = {"before": "28 launches of ATen's a layer and 10 of the cache, one blocking copy a layer",
             "launched": "own kernels, launched one by one", "graph": "the same as one captured graph"}
    lines = ["| | GPU | cached | launches | synchronisations | kernels alone | a token | tok/s |",
             "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        total = float(r["total_s"])
        lines.append(f"| {names[r['name']]} | {r['gpu']} | {int(r['depth']) // 1024}k | {r['launches']}"
                     f" | {r['synchronisations']} | {microseconds(float(r['device_s']))}"
                     f" | {microseconds(total)} | {1 / total:.0f} |")
    return "\n".join(lines)


def of_decode(name: str) -> str:
    """Of a tile at head_dim 128."""
    model = (ROOT / "kernels" / "cuda" / "attention_costs.h").read_text()
    return re.search(rf"int {name}_a_tile\(.*?\n  return head_dim == 64 \? \d+ : (\d+);\n}}", model,
                     re.DOTALL).group(1)


def page(programs: pathlib.Path) -> str:
    rows = predictions(programs / "bench_attention")
    others = predictions(programs / "bench_cuda")
    bandwidth = {"A100": 2.039e12, "H100": 3.35e12}
    issue = round(int(of_decode("instructions")) / 4)  # clocks a tile
    parts = [HEAD.format(issue=issue, rate=rate("kIssueRate"),
                         alone=8 * rate("kIssueRateAWarp"), wavefronts=of_decode("wavefronts")),
             "\n## Attention, microseconds a layer\n\n"
             "bf16, preset `balanced`, one sequence, H/Hk/D heads, kv heads and head_dim.\n"]
    for gpu in ("A100", "H100"):
        for queries, what in (("256", "Prefill, 256 queries"), ("1", "Decode, 1 query")):
            for heads, kv_heads, dim in (("32", "8", "128"), ("9", "3", "64")):
                mine = [r for r in rows if (r["gpu"], r["queries"], r["heads"]) == (gpu, queries, heads)]
                parts.append(f"\n**{gpu}, {what}, {heads}/{kv_heads}/{dim}**\n\n"
                             + table(mine, bandwidth[gpu]) + "\n")
    launches = {name: 1e6 * constant("launch_model.h", f"k{name}Seconds")
                for name in ("LaunchHost", "KernelGap", "Synchronisation")}
    parts.append(SLICES.format(
        rate=100 * constant("slice_model.h", "kSliceIssueRate"),
        flash=constant("slice_model.h", "kFlashFlops") / 1e12,
        cudnn=constant("slice_model.h", "kCudnnFlops") / 1e12, table=slice_table(others)))
    parts.append(CHUNKS.format(table=chunk_table(others)))
    parts.append(LAUNCHES.format(**launches, table=token_table([r for r in others if r["what"] == "token"])))
    return "".join(parts) + TAIL.format(tile=of_decode("instructions"))


def first_difference(text: str) -> str:
    """Where the page is not `text`: one line; empty if it is."""
    there = PAGE.read_text().split("\n") if PAGE.exists() else []
    for number, (found, expected) in enumerate(itertools.zip_longest(there, text.split("\n")), 1):
        if found != expected:
            return (f"{PAGE.relative_to(ROOT)}:{number}: expected {expected!r}, found {found!r}: "
                    "run scripts/performance_model.py")
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare with the page")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build" / "release" / "bin",
                        help="folder of the benchmarks (default: build/release/bin)")
    arguments = parser.parse_args()
    for program in ("bench_attention", "bench_cuda"):
        if not (arguments.programs / program).exists():
            print(f"performance_model.py: {arguments.programs / program} is missing: build with "
                  "-DRILLKV_BUILD_BENCHMARKS=ON", file=sys.stderr)
            return 1
    text = page(arguments.programs)
    if not arguments.check:
        PAGE.write_text(text)
        return 0
    difference = first_difference(text)
    if difference:
        print(f"performance_model.py: {difference}", file=sys.stderr)
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
