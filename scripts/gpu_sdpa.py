#!/usr/bin/env python3
"""Times Torch's dense attention on a GPU for the shapes that bench_attention --device cuda times: flash
and cuDNN, bf16, keys and values shared by a group of query heads, 256 queries after a past with causal
masking among themselves, and one query. Beside them what the card reaches at most: a copy and a
product of matrices.

Medians of CUDA events around replays of a captured graph (around the call itself where it cannot be
captured), a flushed L2 cache before each. Each result is compared with attention in fp32 once.

usage: gpu_sdpa.py [--json FILE] [--depths N,...] [--dry-run]
  --dry-run   tiny shapes on the CPU, one round; without torch only the arguments are looked at
"""
import argparse
import json
import pathlib
import statistics
import sys

SHAPES = ((32, 8, 128), (9, 3, 64))  # heads, kv heads, head_dim
CHUNK = 256
# bf16 rounds queries, keys, weights and the output to 2^-9 relative each; a wrong mask or head costs
# tens of percent.
ALLOWED_ERROR = 2e-2


def reference(torch, q, k, v, causal):
    """Attention in fp32 over a past and the queries' own chunk; [1, heads, queries, D]."""
    group = q.size(1) // k.size(1)
    out = torch.empty(q.shape, dtype=torch.float32, device=q.device)
    for head in range(q.size(1)):  # one at a time: scores of 128k tokens are large
        scores = q[0, head].float() @ k[0, head // group].float().T / q.size(3) ** 0.5
        if causal:
            own = torch.ones(scores.shape, dtype=torch.bool, device=q.device)
            scores.masked_fill_(own.triu(k.size(2) - q.size(2) + 1), -torch.inf)
        out[0, head] = scores.softmax(-1) @ v[0, head // group].float()
    return out


def variants(torch, q, k, v, causal):
    """{name: (backend, call, exact)} of the ways to ask Torch for it. Where no mask is possible, all
    queries see all tokens: nearly the same work, and not the same result."""
    from torch.nn.attention import SDPBackend
    from torch.nn.attention.bias import causal_lower_right
    attention = torch.nn.functional.scaled_dot_product_attention
    flash, cudnn = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION
    group = q.size(1) // k.size(1)
    k_all, v_all = (x.repeat_interleave(group, 1) for x in (k, v))
    bias = causal_lower_right(q.size(2), k.size(2)) if causal else None
    ways = {"flash": (flash, lambda: attention(q, k, v, bias, enable_gqa=True), True),
            "flash, expanded": (flash, lambda: attention(q, k_all, v_all, bias), True)}
    if causal:
        mask = torch.zeros((q.size(2), k.size(2)), dtype=q.dtype, device=q.device)
        mask.masked_fill_(torch.ones_like(mask, dtype=torch.bool).triu(k.size(2) - q.size(2) + 1), -torch.inf)
        ways["cudnn, mask"] = (cudnn, lambda: attention(q, k, v, mask, enable_gqa=True), True)
        ways["cudnn, mask, expanded"] = (cudnn, lambda: attention(q, k_all, v_all, mask), True)
        ways["cudnn, no mask"] = (cudnn, lambda: attention(q, k, v, enable_gqa=True), False)
    else:
        ways["cudnn"] = (cudnn, lambda: attention(q, k, v, enable_gqa=True), True)
        ways["cudnn, expanded"] = (cudnn, lambda: attention(q, k_all, v_all), True)
    return ways


class Clock:
    """Times calls on a device: medians, cold caches."""

    def __init__(self, torch, device, rounds):
        self.torch, self.device, self.rounds = torch, device, rounds
        self.flush = torch.empty(256 << 20 if device.type == "cuda" else 1024, dtype=torch.uint8, device=device)

    def captured(self, call):
        """(replay of the call, True), or (the call, False) where it cannot be captured."""
        torch = self.torch
        if self.device.type != "cuda":
            return call, False
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    call()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            return graph.replay, True
        except RuntimeError:
            torch.cuda.synchronize()
            return call, False

    def seconds(self, call):
        """(median seconds, whether a graph was replayed)."""
        torch = self.torch
        run, graph = self.captured(call)
        times = []
        for number in range(self.rounds + 3):
            self.flush.fill_(number % 200)  # the host gets ahead meanwhile
            if self.device.type == "cuda":
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                run()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) * 1e-3)
            else:
                import time
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
        return statistics.median(times[3:]), graph


def ceilings(torch, device, clock):
    """What the card does at most, measured: bytes read and written a second, bf16 flops a second."""
    big = device.type == "cuda"
    source = torch.empty((1 << 30) if big else 4096, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy, _ = clock.seconds(lambda: target.copy_(source))
    size = 8192 if big else 64
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    product, _ = clock.seconds(lambda: a @ b)
    return {"copy_bytes_per_s": 2 * source.numel() / copy, "matmul_flops_per_s": 2 * size ** 3 / product}


def measure(torch, device, depths, rounds, report, save):
    clock = Clock(torch, device, rounds)
    report["ceilings"] = ceilings(torch, device, clock)
    print("at most: " + ", ".join(f"{name} {value:.4g}" for name, value in report["ceilings"].items()))
    wrong = 0
    for depth in depths:
        for heads, kv_heads, dim in SHAPES:
            for queries in (CHUNK if device.type == "cuda" else 8, 1):
                causal = queries > 1
                torch.manual_seed(1)
                tokens = depth + queries
                q = torch.randn(1, heads, queries, dim, device=device, dtype=torch.bfloat16)
                k, v = (torch.randn(1, kv_heads, tokens, dim, device=device, dtype=torch.bfloat16)
                        for _ in range(2))
                expected = reference(torch, q, k, v, causal)
                for name, (backend, call, exact) in variants(torch, q, k, v, causal).items():
                    result = {"kind": "prefill" if causal else "decode", "shape": f"{heads}/{kv_heads}/{dim}",
                              "queries": queries, "depth": depth, "variant": name, "exact": exact}
                    report["results"].append(result)
                    line = f"{result['kind']:7} {result['shape']:9} {depth:6} {name:22}"
                    try:
                        with torch.nn.attention.sdpa_kernel(backend if device.type == "cuda"
                                                            else torch.nn.attention.SDPBackend.MATH):
                            error = ((call().float() - expected).norm() / expected.norm()).item()
                            seconds, graph = clock.seconds(call)
                    except RuntimeError as refused:  # a backend that does not take it is an answer
                        result["refused"] = str(refused).splitlines()[0][:200]
                        print(f"{line} refused: {result['refused']}")
                        continue
                    result.update(relative_error=error, seconds=seconds, graph=graph)
                    good = not exact or error <= ALLOWED_ERROR  # NaN is wrong
                    wrong += not good
                    print(f"{line} {seconds * 1e3:9.4f} ms, error {error:.1e}"
                          f"{'' if exact else ' (no mask)'}{'' if good else ' WRONG'}", flush=True)
                    save()
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--depths", default="4096,16384,32768,131072")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    try:
        depths = [int(depth) for depth in arguments.depths.split(",")]
    except ValueError:
        depths = []
    if not depths or min(depths) < 1:
        parser.error(f"--depths: expected numbers of tokens, got {arguments.depths}")
    report = {"results": []}

    def save():
        if arguments.json is not None:
            partial = arguments.json.with_name(arguments.json.name + ".partial")
            partial.write_text(json.dumps(report, indent=1) + "\n")
            partial.replace(arguments.json)

    save()
    try:
        import torch
    except ImportError:
        print("gpu_sdpa.py: torch cannot be imported", file=sys.stdout if arguments.dry_run else sys.stderr)
        return 0 if arguments.dry_run else 1
    device = torch.device("cpu" if arguments.dry_run else "cuda")
    report["torch"] = torch.__version__
    if device.type == "cuda":
        if not torch.cuda.is_available():
            print("gpu_sdpa.py: torch sees no CUDA device", file=sys.stderr)
            return 1
        torch.backends.cuda.matmul.allow_tf32 = False  # the reference is fp32
        report["device"] = torch.cuda.get_device_name()
        report["cudnn"] = torch.backends.cudnn.version()
    with torch.inference_mode():
        wrong = (measure(torch, device, [40, 70], 1, report, save) if arguments.dry_run
                 else measure(torch, device, depths, 20, report, save))
    save()
    if wrong:
        print(f"gpu_sdpa.py: {wrong} results are wrong", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
