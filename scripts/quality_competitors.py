#!/usr/bin/env python3
"""What other systems' KV-cache schemes cost, on the models and by the protocols of
quality_reference.py: mean KL of the next token against the dense cache, all metadata counted.

Each scheme is re-implemented here, slowly and exactly, from its paper and its authors' code: no
kernels, no packed bits. competitors.json holds the figures; its `source` says what a scheme is and
what was assumed where neither paper nor code was at hand: then what is better for the scheme.
Common to all:

  - Nothing is calibrated, and no recent token stays in full precision (fp16 residuals and pools
    would come on top; a part of published gains is such a tail). A chunk is a multiple of every
    scheme's group, so all of it is quantised as it comes. "stress": a query reads all of it so;
    "prefill": its own chunk as it is, as in quality_reference.py.
  - Metadata are rounded to the precision that they are counted with (but NSNQuant's).

Needs torch, numpy, safetensors, tokenizers (.venv-reference).

usage: quality_competitors.py --model DIR --text FILE [--set NAME --write] [--only REGEX...]
                              [--context N] [--windows N] [--chunk N]
  --set NAME   the name of this model and text in competitors.json: wikitext2, gpl3, ...
  --write      put the rows into scripts/competitors.json
  --only REGEX schemes in whose name one of these is found
"""

import argparse
import functools
import json
import math
import pathlib
import re
import time

import numpy as np
import torch

import quality_reference as reference

COMPETITORS = pathlib.Path(__file__).resolve().parent / "competitors.json"


# ----------------------------------------------------------------------------------- helpers
# Tensors are float32 [heads, tokens, channels] unless said; every quantiser returns what is read
# back and the bits an element it takes.


def half(x):
    return x.half().float()


def grid(x, lo, step, top):
    """The whole number of steps from lo to the nearest of top + 1 levels."""
    return ((x - lo) / step.clamp(min=1e-10)).round().clamp(0, top)


def min_max(x, bits, dim):
    """Asymmetric round to nearest along dim: codes, scale, zero (its minimum)."""
    lo, hi = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    step = (hi - lo) / (2**bits - 1)
    return grid(x, lo, step, 2**bits - 1), step, lo


def rotate(x):
    """A Hadamard rotation of the channels; its own inverse."""
    return x @ torch.from_numpy(reference.hadamard(x.shape[-1]))


def token_groups(x, size):
    """[heads x groups, size, channels]"""
    heads, tokens, dim = x.shape
    assert tokens % size == 0, f"{tokens} tokens are no whole groups of {size}"
    return x.reshape(heads * tokens // size, size, dim)


# ----------------------------------------------------------------------------------- schemes


class Q4_0:
    """llama.cpp's 32-element blocks: the element of largest magnitude is code -8 (of -8..7)."""

    def __init__(self, hadamard):
        self.turn = rotate if hadamard else lambda x: x

    def both(self, x):
        y = self.turn(x).reshape(-1, 32)
        largest = y.gather(1, y.abs().argmax(1, keepdim=True))
        step = half(largest / -8)
        codes = torch.where(step == 0, torch.zeros(()), (y / step + 8.5).floor().clamp(0, 15) - 8)
        return self.turn((codes * step).view(x.shape)), 4 + 16 / 32

    keys = values = both


class Kivi:
    """A scale and a zero for: keys, a channel and 32 tokens; values, a token and 32 channels."""

    def __init__(self, bits):
        self.bits = bits

    def groups(self, x, dim):
        codes, step, zero = min_max(x, self.bits, dim)
        return codes * half(step) + half(zero)

    def keys(self, x):
        return self.groups(token_groups(x, 32), 1).view(x.shape), self.bits + 32 / 32

    def values(self, x):
        y = x.reshape(*x.shape[:-1], -1, 32)
        return self.groups(y, -1).view(x.shape), self.bits + 32 / 32


class KVarN:
    """Hadamard, then the tile's rows and columns are scaled to equal spread, alternating, then
    asymmetric rounding: keys a channel, values a token, over all of a tile of 128 tokens."""

    tile = 128

    def __init__(self, key_bits, value_bits, floor=-math.inf):
        self.key_bits, self.value_bits, self.floor = key_bits, value_bits, floor

    def balance(self, x, passes=16):
        """x [tiles, rows, columns] / (row scale x column scale), and the scales, of the pass with
        the least imbalance: largest over smallest spread, rows' and columns' together."""
        row, column = torch.zeros_like(x[:, :, :1]), torch.zeros_like(x[:, :1])  # Logarithms.

        def spread(y, dim):
            return y.std(dim, keepdim=True)

        def imbalance(y):
            ratio = lambda s: s.amax((1, 2)) / s.amin((1, 2)).clamp(min=1e-8)
            return ratio(spread(y, 1)) + ratio(spread(y, 2))

        least, best = imbalance(x), (row.exp(), column.exp())
        y = x
        for _ in range(passes):
            column = (column + spread(y, 1).clamp(1e-3, 1e3).log()).clamp(self.floor, 10)
            y = x / row.exp() / column.exp()
            row = (row + spread(y, 2).clamp(1e-3, 1e3).log()).clamp(self.floor, 10)
            y = x / row.exp() / column.exp()
            now = imbalance(y)
            better = (now <= least)[:, None, None]
            best = tuple(torch.where(better, new.exp(), old)
                         for new, old in zip((row, column), best))
            least = torch.minimum(now, least)
        return x / best[0] / best[1], *best

    def tiles(self, x, bits):
        """Rows are what is rounded together; scale and zero take the row's scale in."""
        y, row, column = self.balance(x)
        codes, step, zero = min_max(y, bits, 2)
        return (codes * half(step * row) + half(zero * row)) * half(column)

    def keys(self, x):
        y = self.tiles(token_groups(rotate(x), self.tile).transpose(1, 2), self.key_bits)
        metadata = 16 * (2 * x.shape[-1] + self.tile) / (self.tile * x.shape[-1])
        return rotate(y.transpose(1, 2).reshape(x.shape)), self.key_bits + metadata

    def values(self, x):
        y = self.tiles(token_groups(rotate(x), self.tile), self.value_bits)
        metadata = 16 * (x.shape[-1] + 2 * self.tile) / (self.tile * x.shape[-1])
        return rotate(y.reshape(x.shape)), self.value_bits + metadata


@functools.cache
def sphere_levels(dim, bits):
    """The levels of least squared error (Lloyd-Max) for a coordinate of a random unit vector,
    whose density is proportional to (1 - x^2)^((dim - 3) / 2)."""
    x = np.linspace(-1, 1, 400001)
    mass = (1 - x * x).clip(0) ** ((dim - 3) / 2)
    total, moment = np.cumsum(mass), np.cumsum(mass * x)
    levels = x[np.searchsorted(total, total[-1] * (np.arange(2**bits) + 0.5) / 2**bits)]
    for _ in range(10000):
        edges = np.searchsorted(x, (levels[1:] + levels[:-1]) / 2) - 1
        parts = [np.diff(np.concatenate(([0], c[edges], [c[-1]]))) for c in (moment, total)]
        previous, levels = levels, parts[0] / parts[1]
        if np.abs(levels - previous).max() < 1e-9:
            break
    return torch.from_numpy(levels.astype(np.float32))


@functools.cache
def random_matrix(dim, rotation):
    """One matrix of independent Gaussians a size, or the rotation that QR makes of it."""
    generator = torch.Generator().manual_seed(dim)
    x = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return (torch.linalg.qr(x)[0] if rotation else x).float()


class TurboQuant:
    """Two groups of channels, the larger ones with a bit more; each: norm of the token, random
    rotation, the codebook of a random direction's coordinates."""

    def __init__(self, bits, prod_keys=False, outliers=0.25):
        self.bits, self.prod_keys, self.outliers = bits, prod_keys, outliers

    def group(self, x, bits, prod):
        dim = x.shape[-1]
        norm = half(x.norm(dim=-1, keepdim=True))
        turn = random_matrix(dim, True)
        levels = sphere_levels(dim, bits - prod)
        y = (x / norm.clamp(min=1e-10)) @ turn
        y = levels[torch.bucketize(y, (levels[1:] + levels[:-1]) / 2)] @ turn.T
        stored = dim * bits + 16
        if prod:  # The signs of the residual's projections (QJL) make inner products unbiased.
            rest = x / norm.clamp(min=1e-10) - y
            project, length = random_matrix(dim, False), half(rest.norm(dim=-1, keepdim=True))
            y = y + math.sqrt(math.pi / 2) / dim * length * ((rest @ project.T).sign() @ project)
            stored += 16
        return y * norm, stored

    def quantise(self, x, prod):
        """The larger channels of a head and chunk, by mean square: a bit a channel names them."""
        heads, tokens, dim = x.shape
        order = x.pow(2).mean(1).argsort(-1, descending=True)
        large = order[:, : int(dim * self.outliers)], self.bits + 1
        small = order[:, int(dim * self.outliers):], self.bits
        y, stored = torch.empty_like(x), 0
        for index, bits in (large, small):
            index = index[:, None].expand(heads, tokens, -1)
            part, size = self.group(x.gather(2, index), bits, prod)
            y.scatter_(2, index, part)
            stored += size
        return y, stored / dim + 1 / tokens

    def keys(self, x):
        return self.quantise(x, self.prod_keys)

    def values(self, x):
        return self.quantise(x, False)


@functools.cache
def orthant_codebook(size=256, dim=8, samples=1 << 17, passes=30):
    """k-means of the magnitudes of Gaussian vectors."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, dim, generator=generator).abs()
    book = x[torch.randperm(samples, generator=generator)[:size]]
    for _ in range(passes):
        nearest = nearest_of(x, book)
        counts = torch.bincount(nearest, minlength=size)
        sums = torch.zeros_like(book).index_add_(0, nearest, x)
        book = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), book)
    return half(book)


def nearest_of(x, book):
    shift = book.pow(2).sum(1) / 2
    return torch.cat([(part @ book.T - shift).argmax(1) for part in x.split(1 << 15)])


class NSNQuant:
    """Normalise the token, shift the mean of 64 tokens' channels away, normalise again, Hadamard;
    then eight channels are a byte of signs and a byte for their magnitudes in one codebook."""

    window = 64

    def both(self, x):
        dim = x.shape[-1]
        y = token_groups(x, self.window)
        first = half(y.norm(dim=2, keepdim=True) / math.sqrt(dim))  # [windows, 64, 1]
        y = y / first.clamp(min=1e-10)
        mean = half(y.mean(1, keepdim=True))  # [windows, 1, dim]
        y = rotate(y - mean)
        second = y.norm(dim=2, keepdim=True) / math.sqrt(dim)
        y = y / second.clamp(min=1e-10)
        parts, book = y.reshape(-1, 8), orthant_codebook()
        signs = torch.where(parts < 0, -1.0, 1.0)
        coded = (book[nearest_of(parts.abs(), book)] * signs).view(y.shape)
        # The token's second scale is fitted to what is read back.
        fit = (y * coded).sum(2, keepdim=True) / coded.pow(2).sum(2, keepdim=True)
        second = half(second * fit)
        read = (rotate(coded * second) + mean) * first
        # Counted as published: first norm and mean of 4 bits, a scale and a zero a window each.
        metadata = 16 / dim + (4 + 32 / self.window) / dim + (4 + 32 / dim) / self.window
        return read.view(x.shape), 2 + metadata

    keys = values = both


def schemes():
    """(name, scheme, whether it stores keys after RoPE, leading tokens in fp16)"""
    return [
        ("llama.cpp q4_0", Q4_0(False), True, 0),
        ("llama.cpp q4_0 + Hadamard", Q4_0(True), True, 0),
        ("KIVI-4", Kivi(4), True, 0),
        ("KIVI-2", Kivi(2), True, 0),
        ("KVarN K4V2", KVarN(4, 2), True, 0),
        ("KVarN K3V3", KVarN(3, 3), True, 0),
        ("KVarN K2V2", KVarN(2, 2), True, 0),
        ("KVarN K4V2, its 128 fp16 sinks", KVarN(4, 2), True, 128),
        ("TurboQuant 3.5", TurboQuant(3), True, 0),
        ("TurboQuant 2.5", TurboQuant(2), True, 0),
        ("TurboQuant 3.5, keys -prod", TurboQuant(3, prod_keys=True), True, 0),
        ("TurboQuant 2.5, keys -prod", TurboQuant(2, prod_keys=True), True, 0),
        ("NSNQuant 2 bits", NSNQuant(), False, 0),
    ]


# -------------------------------------------------------------------------------------- a layer


class Layer:
    """One layer's cache of one sequence, as quality_reference.Llama uses one: keys go in and come
    out as they are before RoPE, whatever the scheme stores."""

    def __init__(self, model, scheme, after_rope, sinks, protocol):
        self.model, self.scheme, self.after_rope = model, scheme, after_rope
        self.sinks, self.protocol = sinks, protocol
        self.seen = None
        self.bits = 0.0
        self.elements = 0

    def code_keys(self, keys, first):
        """What is read of keys at positions first.., before RoPE, and the bits an element."""
        if not self.after_rope:
            return self.scheme.keys(keys)
        read, bits = self.scheme.keys(self.model.rope(keys, first))
        # Turning back is turning the mirror image: RoPE's pairs are channels c and c + dim / 2.
        mirror = torch.ones(keys.shape[-1])
        mirror[keys.shape[-1] // 2:] = -1
        return self.model.rope(read * mirror, first) * mirror, bits

    def step(self, q, k, v):
        """Takes a chunk in; returns the keys and values that its queries read."""
        k, v = torch.from_numpy(k), torch.from_numpy(v)
        first = 0 if self.seen is None else self.seen[0].shape[1]
        keys, key_bits = self.code_keys(k, first)
        values, value_bits = self.scheme.values(v)
        plain = min(max(self.sinks - first, 0), k.shape[1])
        keys[:, :plain], values[:, :plain] = half(k[:, :plain]), half(v[:, :plain])
        tokens = k.shape[1]
        self.bits += k.numel() * (key_bits + value_bits) * (tokens - plain) / tokens
        self.bits += k.numel() * 2 * 16 * plain / tokens
        self.elements += 2 * k.numel()
        known, new = self.seen, (keys, values)
        join = lambda old, more: more if old is None else tuple(
            torch.cat(pair, 1) for pair in zip(old, more))
        self.seen = join(known, new)
        read = self.seen if self.protocol == "stress" else join(known, (k, v))
        return tuple(x.numpy() for x in read)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=pathlib.Path, default=reference.DEFAULT_MODEL)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--only", nargs="+", default=[""], metavar="REGEX")
    parser.add_argument("--set", help="this model and text's name in competitors.json")
    parser.add_argument("--write", action="store_true", help="update competitors.json")
    a = parser.parse_args()
    torch.set_grad_enabled(False)
    sets = json.loads(COMPETITORS.read_text(encoding="utf-8"))["sets"]
    if a.write and a.set not in sets:
        parser.error(f"--write: expected --set {' or '.join(sets)}")

    model = reference.Llama(a.model)
    windows = reference.read_windows(a.model, a.text, a.context, a.windows)
    dense = {"policy": "dense"}
    references = [reference.run(model, ids, dense, a.chunk, "prefill")[0] for ids in windows]
    print(f"{'':32s} bits   KL stress, top-1     KL prefill, top-1", flush=True)
    for name, scheme, after_rope, sinks in schemes():
        if not any(re.search(pattern, name) for pattern in a.only):
            continue
        start, rows = time.time(), {}
        for protocol in ("stress", "prefill"):
            cache = lambda config, chunk, protocol, factors: Layer(
                model, scheme, after_rope, sinks, protocol)
            rows[protocol], bits = reference.measure(
                model, windows, references, dense, a.chunk, protocol, cache)
        print(f"{name:32s} {bits:.3f}  " + "    ".join(
            f"{rows[p]['kl']:.6f}, {100 * rows[p]['top1']:.1f} %" for p in rows)
            + f"    ({time.time() - start:.0f} s)", flush=True)
        if a.write:
            put(a.set, name, {"bits": round(bits, 4), **{
                f"kl_{p}": float(f"{row['kl']:.3g}") for p, row in rows.items()}})


def put(set_name, name, row):
    """Into competitors.json, a line a scheme and set, so that changes read well."""
    known = json.loads(COMPETITORS.read_text(encoding="utf-8"))
    entry = next(s for s in known["schemes"] if s["name"] == name)
    entry["measured"][set_name] = row
    order = list(known["sets"])
    entry["measured"] = dict(sorted(entry["measured"].items(), key=lambda m: order.index(m[0])))

    def lines(mapping, indent):
        return (",\n" + " " * indent).join(
            f"{json.dumps(key)}: {json.dumps(value)}" for key, value in mapping.items())

    def text_of(scheme):
        head = {key: value for key, value in scheme.items() if key != "measured"}
        return (f"    {{{lines(head, 5)},\n     \"measured\": {{\n"
                f"       {lines(scheme['measured'], 7)}}}}}")

    COMPETITORS.write_text(
        f"{{\n  \"about\": {json.dumps(known['about'])},\n"
        f"  \"sets\": {{\n    {lines(known['sets'], 4)}\n  }},\n"
        "  \"schemes\": [\n" + ",\n".join(map(text_of, known["schemes"])) + "\n  ]\n}\n",
        encoding="utf-8")


if __name__ == "__main__":
    main()
