#!/usr/bin/env python3
"""What compressing the KV cache costs, from an implementation that shares nothing with the library:
slow NumPy over whole histories, no packed bits. Perplexity, and KL and top-1 agreement with the
uncompressed cache, for the presets of configs/presets under both protocols:

  prefill   a query reads sealed blocks quantised, the open tail and its own chunk as they are
  stress    everything it reads has been through the quantiser; what is not sealed yet is read as one
            short block of its own, which leaves no trace in the statistics

It follows the method as the library documents it (include/rillkv: streaming_stats.h,
query_energy.h, query_moment.h, quantizer.h), scales in fp16 or eight bits included
(trellis_reference.py has the codes of policy "trellis"). Bits are those of codes and metadata,
without padding.

Needs torch, numpy, safetensors, tokenizers (.venv-reference). Without arguments it writes what
tests/eval/quality_test.cpp expects, tests/data/quality/goldens.json.

usage: quality_reference.py [--model DIR] [--text FILE] [--context N] [--windows N] [--chunk N]
                            [--presets NAME...] [--set KEY=VALUE...] [--without PART...]
                            [--out FILE | --print]
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

import trellis_reference

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
QUALITY = REPOSITORY / "tests" / "data" / "quality"
DEFAULT_MODEL = REPOSITORY / "models" / "smollm2-135m-instruct"
PRESETS = ["balanced", "quality", "compact", "extreme", "seed", "balanced,error_feedback=true",
           "balanced-trellis", "extreme-trellis"]
DEFAULTS = {  # the keys a preset may leave out
    "attention_sink_size": 8, "block_size": 128, "ema_decay": 0.99, "outlier_threshold_abs": 6.0,
    "outlier_threshold_relative": 5.0, "key_bits_normal": 4, "value_bits_normal": 4,
    "key_bits_sink_outlier": 16, "value_bits_sink_outlier": 16, "value_quant_groups": -1,
    "key_bits_mean": 4.25, "value_bits": 4, "bit_classes": list(range(1, 9)),
    "query_energy_decay": 0.9, "value_group_size": 64, "value_rotation": True,
    "error_feedback": False, "value_bits_mean": 4.625,
}
MAX_MAGNITUDE = 32752.0  # of what is quantised, keys with what was fed back to them among it


# ------------------------------------------------------------------------------- quantisation
# Arrays are float32; the last axis but one is tokens, the last one channels.


def half(x, toward=None):
    """float32 -> the fp16 neighbour (nearest, or not beyond x on the side of `toward`), as float32."""
    near = x.astype(np.float16)
    if toward is None:
        return near.astype(np.float32)
    wrong = near.astype(np.float32) > x if toward < 0 else near.astype(np.float32) < x
    return np.where(wrong, np.nextafter(near, np.float16(toward)), near).astype(np.float32)


def affine(x, lo, hi, width):
    """x between lo and hi in 2^width steps; width may be an array."""
    top = (2.0**width - 1).astype(np.float32) if isinstance(width, np.ndarray) else 2.0**width - 1
    lo = half(lo, -np.inf)
    step = half(((hi - lo) / top).astype(np.float32), np.inf)
    codes = np.rint((x - lo) / np.where(step > 0, step, 1))
    return (lo + step * np.clip(codes, 0, top)).astype(np.float32)


def symmetric(x, absmax, width):
    top = 2.0 ** (width - 1)
    step = half((absmax / (top - 1)).astype(np.float32))
    codes = np.rint(x / np.where(step > 0, step, 1))
    return (step * np.clip(codes, -top, top - 1)).astype(np.float32)


def sinks_as_read(x, width):
    """fp16 as they are at 16 bits; below, one symmetric scale a token and head."""
    return half(x) if width == 16 else symmetric(x, np.abs(x).max(-1, keepdims=True), width)


def value_groups(x, width, size):
    """Affine a token and group of channels; at 2 bits the range is shrunk about its middle by the
    factor of least squared error."""
    parts = []
    for part in np.array_split(x, max(1, x.shape[-1] // size), axis=-1):
        lo, hi = part.min(-1, keepdims=True), part.max(-1, keepdims=True)
        best = affine(part, lo, hi, width)
        if width == 2:
            error = ((best - part) ** 2).sum(-1, keepdims=True)
            for factor in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7):
                middle, reach = (lo + hi) / 2, (hi - lo) / 2 * np.float32(factor)
                other = affine(part, middle - reach, middle + reach, width)
                other_error = ((other - part) ** 2).sum(-1, keepdims=True)
                best = np.where(other_error < error, other, best)
                error = np.minimum(error, other_error)
        parts.append(best)
    return np.concatenate(parts, -1)


def water_filling(score, mean, classes, left=None):
    """Widths of one head's channel pairs: one step at a time to the pair whose error, score times
    what is left of it at a width, falls most; ties to the lower class, then to the lower pair.
    left: of every class; without, 1 / (2^w - 1)^2."""
    level = np.zeros(len(score), dtype=int)
    left = left or [1 / (2.0**width - 1) ** 2 for width in classes]
    gains = [a - b for a, b in zip(left, left[1:])] + [-1.0]
    steps = int((mean - classes[0]) * len(score) / (classes[1] - classes[0]) + 1e-6)
    for _ in range(min(steps, len(score) * (len(classes) - 1))):
        gain = np.where(level < len(classes) - 1, score * np.take(gains, level), -np.inf)
        candidates = np.flatnonzero(gain == gain.max())
        level[min(candidates, key=lambda pair: (level[pair], pair))] += 1
    return np.take(classes, level).astype(np.float32)


def distance_factors(frequencies, span=1024):
    """E[exp(i d (f_a - f_b))] and E[exp(i d (f_a + f_b))], [pairs, pairs] each, over the distances
    d = 0 .. span - 1 between a query and a key, with probabilities as 1 / (d + 1)."""
    d = np.arange(span)
    likely = 1 / (d + 1) / (1 / (d + 1)).sum()
    apart, together = (f[..., None] * d for f in (frequencies[:, None] - frequencies,
                                                  frequencies[:, None] + frequencies))
    return np.exp(1j * apart) @ likely, np.exp(1j * together) @ likely


def hessian(moment, factors):
    """By how much logits differ (squared, on average) when keys before RoPE do: the queries' second
    moment turned by RoPE at all distances. [..., head_dim, head_dim]; channel c turns with
    c + head_dim / 2, so a pair of rows or columns is one complex number."""
    half = moment.shape[-1] // 2
    a, b, c, e = (moment[..., rows, columns] for rows in (slice(half), slice(half, None))
                  for columns in (slice(half), slice(half, None)))
    u = (a + e + 1j * (c - b)) * factors[0]  # E[conj(q_a) q_b] turned
    v = (a - e + 1j * (c + b)) * factors[1]  # E[q_a q_b] turned
    return np.block([[u.real + v.real, v.imag - u.imag], [u.imag + v.imag, u.real - v.real]]) / 2


def feedback_plan(moment, factors):
    """In which order the channels of a head are rounded, how much of whose error goes to whom, and
    how much an error weighs that nobody makes good any more: [head_dim], [from, to], [head_dim], of
    positions in the order."""
    h = hessian(moment, factors)
    half = len(h) // 2
    energy = (np.diag(h)[:half] + np.diag(h)[half:]) / 2
    if energy.mean() <= 0:
        h, energy = np.eye(2 * half), np.zeros(half)
    h = h + np.diag(np.tile(0.02 * energy + 2e-5 * energy.mean(), 2))
    order = np.argsort(-energy, kind="stable")
    order = np.stack([order, order + half], -1).reshape(-1)
    # H = U diag(w) U^T with ones on the diagonal of U, upper triangular: Cholesky from the end.
    root = np.linalg.cholesky(h[order][:, order][::-1, ::-1])[::-1, ::-1]
    return order, root / np.diag(root), np.diag(root) ** 2


def hadamard(size):
    signs = [[(-1) ** bin(i & j).count("1") for j in range(size)] for i in range(size)]
    return np.array(signs, dtype=np.float32) / np.float32(math.sqrt(size))


# -------------------------------------------------------------------------------------- a layer


class Layer:
    """One layer's history of one sequence. raw_*: [heads, positions, head_dim], every token as it
    came; seen_*: sinks and sealed blocks as queries read them."""

    def __init__(self, config, chunk, protocol, factors):
        self.config, self.chunk, self.protocol = config, chunk, protocol
        self.factors = factors  # distance_factors of the model's RoPE
        self.feedback = config["policy"] == "trellis" or config.get("error_feedback", False)
        self.raw = None
        self.seen = None
        self.energy = None  # adaptive: [kv_heads, head_dim]
        self.moment = 0.0  # with feedback: [kv_heads, head_dim, head_dim]
        self.ema = [None, None]  # ema: of keys, of values
        self.flags = [[], []]  # (first position, end, outliers) of every chunk
        self.bits = 0.0
        self.elements = 0

    def length(self):
        return 0 if self.raw is None else self.raw[0].shape[1]

    def sealed(self):
        return 0 if self.seen is None else self.seen[0].shape[1]

    def see(self, keys, values):
        new = (keys, values)
        self.seen = new if self.seen is None else tuple(
            np.concatenate(pair, 1) for pair in zip(self.seen, new))

    def step(self, q, k, v):
        """Takes a chunk in; returns the keys and values that its queries read."""
        c, first = self.config, self.length()
        if c["policy"] == "dense":
            self.raw = (k, v) if first == 0 else tuple(
                np.concatenate(pair, 1) for pair in zip(self.raw, (k, v)))
            return self.raw
        sinks = c["attention_sink_size"]
        dim = k.shape[-1]
        rotate = c["policy"] != "ema" and c["value_rotation"] and dim & (dim - 1) == 0
        turn = hadamard(dim) if rotate else np.eye(dim, dtype=np.float32)
        new = (k, v @ turn, q)
        self.raw = new if first == 0 else tuple(
            np.concatenate(pair, 1) for pair in zip(self.raw, new))
        known, sealed_before = self.seen, self.sealed()

        fresh = slice(first, min(self.length(), sinks))
        if fresh.start < fresh.stop:
            self.see(*(sinks_as_read(x[:, fresh], width)
                       for x, width in zip(self.raw, (c["key_bits_sink_outlier"],
                                                      c["value_bits_sink_outlier"]))))
        if c["policy"] == "ema":
            self.update_ema(max(first, sinks), self.length())
        blocks = (self.length() - self.sealed()) // c["block_size"]
        if blocks > 0 and self.sealed() >= sinks:
            begin = self.sealed()
            self.see(*self.quantise(begin, begin + blocks * c["block_size"], keep=True))

        if self.protocol == "stress":
            read = self.seen
            if self.length() > self.sealed():
                rest = self.quantise(self.sealed(), self.length(), keep=False)
                read = rest if read is None else tuple(
                    np.concatenate(pair, 1) for pair in zip(read, rest))
        else:
            rest = tuple(x[:, sealed_before:] for x in self.raw[:2])
            read = rest if known is None else tuple(
                np.concatenate(pair, 1) for pair in zip(known, rest))
        return read[0], read[1] @ turn.T

    def update_ema(self, begin, end):
        c = self.config
        if begin >= end:
            return
        decay = np.float32(c["ema_decay"] ** ((end - begin) / self.chunk))
        for side in range(2):
            now, before = np.abs(self.raw[side][:, begin:end]).max(1), self.ema[side]
            outliers = np.zeros(now.shape, dtype=bool)
            if c["outlier_threshold_abs"] is not None:
                outliers |= now > c["outlier_threshold_abs"]
            if before is not None and c["outlier_threshold_relative"] is not None:
                outliers |= now > c["outlier_threshold_relative"] * before
            self.ema[side] = now if before is None else decay * before + (1 - decay) * now
            self.flags[side].append((begin, end, outliers))

    def quantise(self, begin, end, keep):
        """Positions begin..end-1 as whole blocks or a short one."""
        size = min(self.config["block_size"], end - begin)
        blocks = [[x[:, first: first + size] for x in self.raw]
                  for first in range(begin, end, size)]
        keys, values, queries = zip(*blocks)
        if self.config["policy"] == "ema":
            parts = [[self.by_ema(side, part, first, first + size)
                      for first, part in zip(range(begin, end, size), sides)]
                     for side, sides in enumerate((keys, values))]
        else:
            by_block = lambda code, *sides: [code(*part) for part in zip(*sides)]
            parts = [self.feedback_keys(keys, queries, keep) if self.feedback else
                     by_block(lambda k, q: self.adaptive_keys(k, q, keep), keys, queries),
                     self.trellis_values(values) if self.config["policy"] == "trellis" else
                     by_block(self.adaptive_values, values)]
        if keep:
            self.bits += sum(bits * keys[0].size for side in parts for _, bits in side)
            self.elements += 2 * keys[0].size * len(keys)
        return tuple(np.concatenate([y for y, _ in side], 1) for side in parts)

    def adaptive_keys(self, keys, queries, keep):
        c, (heads, tokens, dim) = self.config, keys.shape
        now = (queries.reshape(heads, -1, tokens, dim) ** 2).mean((1, 2))
        decay = np.float32(c["query_energy_decay"])
        energy = now if self.energy is None else decay * self.energy + (1 - decay) * now
        if keep:
            self.energy = energy
        lo, hi = keys.min(1), keys.max(1)
        pair = lambda x: x[:, : dim // 2] + x[:, dim // 2:]  # channels that RoPE mixes
        scores = pair((hi - lo) ** 2) * pair(energy)
        widths = np.stack([water_filling(s, c["key_bits_mean"], c["bit_classes"]) for s in scores])
        widths = np.concatenate([widths, widths], -1)
        # A range in fp16 and half a byte for the width, each channel.
        bits = float(widths.mean()) + (16 + 16 + 4) / c["block_size"]
        return affine(keys, lo[:, None], hi[:, None], widths[:, None]), bits

    def feedback_keys(self, keys, queries, keep):
        """Channels are rounded one after the other, and each one's error is pushed onto those still
        to come so that logits move least. All blocks together: a row is a head of a block."""
        c, (heads, tokens, dim) = self.config, keys[0].shape
        trellis = c["policy"] == "trellis"
        plans, moment = [], self.moment
        for k, q in zip(keys, queries):
            q = q.astype(np.float64).reshape(heads, -1, dim)
            seen = moment + q.transpose(0, 2, 1) @ q
            plans += [feedback_plan(m, self.factors) for m in seen]
            moment = c["query_energy_decay"] * seen
        if keep:
            self.moment = moment
        x = np.concatenate(keys).transpose(0, 2, 1)
        x = np.stack([row[order] for row, (order, _, _) in zip(x, plans)])  # [rows, dim, tokens]
        pair = lambda each: each.reshape(-1, dim // 2, 2).sum(-1)
        scores = pair(x.var(-1)) * pair(np.stack([weight for _, _, weight in plans]))
        widths = np.stack([
            water_filling(s, c["key_bits_mean"], range(1, 8), trellis_reference.LEFT[1:]) if trellis
            else water_filling(s, c["key_bits_mean"], c["bit_classes"]) for s in scores])
        push = np.stack([factor for _, factor, _ in plans])
        if "feedback" in trellis_reference.left_out:
            push[:] = 0
        y, error = np.empty_like(x), np.zeros(x.shape)
        for i in range(dim):
            fed = x[:, i] + np.einsum("rj,rjt->rt", push[:, :i, i], error[:, :i])
            fed = np.clip(fed, -MAX_MAGNITUDE, MAX_MAGNITUDE).astype(np.float32)
            width = widths[:, i // 2]
            if trellis:
                y[:, i] = trellis_reference.key_rows(fed, width.astype(int))
            else:
                lo, hi = fed.min(1, keepdims=True), fed.max(1, keepdims=True)
                y[:, i] = affine(fed, lo, hi, width[:, None])
            error[:, i] = x[:, i].astype(np.float64) - y[:, i]
        back = np.stack([row[np.argsort(order)] for row, (order, _, _) in zip(y, plans)])
        # Half a byte for the width, each channel, and zero and step.
        bits = float(widths.mean()) + ((16 + 8 if trellis else 16 + 16) + 4) / c["block_size"]
        return [(part, bits) for part in np.split(back.transpose(0, 2, 1), len(keys))]

    def trellis_values(self, values):
        mean, dim = self.config["value_bits_mean"], values[0].shape[-1]
        width = int(mean)
        wide_pairs = int((mean - width) * dim / 2 + 1e-6)
        y = trellis_reference.value_blocks(np.concatenate(values), width, wide_pairs)
        bits = width + wide_pairs / (dim / 2) + 8 / dim  # a scale a token
        return [(part, bits) for part in np.split(y, len(values))]

    def adaptive_values(self, values):
        c = self.config
        groups = max(1, values.shape[-1] // c["value_group_size"])
        bits = c["value_bits"] + groups * (16 + 16) / values.shape[-1]
        return value_groups(values, c["value_bits"], c["value_group_size"]), bits

    def by_ema(self, side, x, begin, end):
        c = self.config
        assert c["value_quant_groups"] == -1, "per channel only"
        name = ("key", "value")[side]
        normal, wide = c[f"{name}_bits_normal"], min(c[f"{name}_bits_sink_outlier"], 8)
        absmax = np.maximum(self.ema[side], np.float32(1e-5))[:, None]
        fed = [f for first, last, f in self.flags[side] if first < end and last > begin]
        outlier = np.logical_or.reduce(fed)[:, None]
        y = np.where(outlier, symmetric(x, absmax, wide), symmetric(x, absmax, normal))
        widths = np.where(outlier, wide, normal)
        return y, float(widths.mean()) + (16 + 4) / c["block_size"]


# -------------------------------------------------------------------------------------- a model


class Llama:
    """LLaMA, or Qwen2 with its biases, in float32 with default RoPE."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert not self.config.get("rope_scaling"), "default RoPE only"
        self.weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config["num_key_value_heads"]
        self.dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim
        self.frequencies = self.config["rope_theta"] ** -exponents
        self.factors = distance_factors(self.frequencies.numpy())

    def norm(self, x, name):
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return scaled * self.weights[name + ".weight"]

    def linear(self, x, name):
        y, bias = x @ self.weights[name + ".weight"].T, self.weights.get(name + ".bias")
        return y if bias is None else y + bias

    def rope(self, x, first):
        """x: [heads, positions first.., head_dim]; channel c turns with c + head_dim / 2."""
        angles = torch.outer(torch.arange(first, first + x.shape[1]).double(), self.frequencies)
        cos, sin = angles.cos().float(), angles.sin().float()
        a, b = x[..., : self.dim // 2], x[..., self.dim // 2:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def log_probabilities(self, ids, layers, first):
        """[tokens, vocabulary] of a chunk at positions first.. ."""
        count, group = len(ids), self.heads // self.kv_heads
        x = self.weights["model.embed_tokens.weight"][ids]
        for index, layer in enumerate(layers):
            prefix = f"model.layers.{index}."
            h = self.norm(x, prefix + "input_layernorm")
            q, k, v = (self.linear(h, f"{prefix}self_attn.{name}_proj")
                       .view(count, -1, self.dim).transpose(0, 1) for name in "qkv")
            keys, values = map(torch.from_numpy, layer.step(q.numpy(), k.numpy(), v.numpy()))
            queries = self.rope(q, first).reshape(self.kv_heads, group * count, self.dim)
            scores = queries @ self.rope(keys, 0).transpose(1, 2) / math.sqrt(self.dim)
            visible = torch.ones(count, keys.shape[1], dtype=torch.bool).tril(first)
            scores = scores.masked_fill(~visible.repeat(group, 1), -math.inf)
            out = (scores.softmax(-1) @ values).view(self.heads, count, self.dim)
            x = x + self.linear(out.transpose(0, 1).reshape(count, -1), prefix + "self_attn.o_proj")
            h = self.norm(x, prefix + "post_attention_layernorm")
            gate = torch.nn.functional.silu(self.linear(h, prefix + "mlp.gate_proj"))
            x = x + self.linear(gate * self.linear(h, prefix + "mlp.up_proj"), prefix + "mlp.down_proj")
        x = self.norm(x, "model.norm")
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return (x @ head.T).log_softmax(-1)


def run(model, ids, config, chunk, protocol, cache=Layer):
    """The log-probabilities of one window and the bits an element of its sealed blocks."""
    layers = [cache(config, chunk, protocol, model.factors)
              for _ in range(model.config["num_hidden_layers"])]
    rows = [model.log_probabilities(ids[begin: begin + chunk], layers, begin)
            for begin in range(0, len(ids), chunk)]
    elements = sum(layer.elements for layer in layers)
    bits = sum(layer.bits for layer in layers) / elements if elements else 0.0
    return torch.cat(rows), bits


def measure(model, windows, references, config, chunk, protocol, cache=Layer):
    nll = kl = top1 = bits = 0.0
    for ids, dense in zip(windows, references):
        seen, bits = run(model, ids, config, chunk, protocol, cache)
        nll -= seen[:-1].gather(1, ids[1:, None]).double().mean().item()
        kl += (dense.exp() * (dense - seen)).double().sum(-1).mean().item()
        top1 += (dense.argmax(-1) == seen.argmax(-1)).double().mean().item()
    count = len(windows)
    return {"kl": kl / count, "top1": top1 / count, "perplexity": math.exp(nll / count)}, bits


def read_windows(folder, text, context, windows):
    """The first tokens of a text in the model's own ids, as `windows` tensors of `context` ids."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # Four bytes a token and more: a window needs no more of a long text than this.
    text = text.read_text(encoding="utf-8")[: 16 * context * windows]
    ids = tokenizer.encode(text, add_special_tokens=False).ids[: context * windows]
    assert len(ids) == context * windows, f"the text has {len(ids)} tokens only"
    return torch.tensor(ids).split(context)


def load_preset(name, settings):
    """name: a preset's, or with settings of its own, NAME,KEY=VALUE."""
    name, *own = name.split(",")
    config = dict(DEFAULTS)
    config.update(json.loads((REPOSITORY / "configs" / "presets" / f"{name}.json").read_text()))
    for setting in own + settings:
        key, _, value = setting.partition("=")
        assert key in config, f"unknown key {key}"
        config[key] = json.loads(value)
    return config


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=pathlib.Path, default=DEFAULT_MODEL)
    parser.add_argument("--text", type=pathlib.Path, default=QUALITY / "text.txt")
    parser.add_argument("--context", type=int, default=640)
    parser.add_argument("--windows", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--without", nargs="+", default=[], choices=trellis_reference.PARTS,
                        help="leave a part of policy trellis out")
    parser.add_argument("--out", type=pathlib.Path, default=QUALITY / "goldens.json")
    parser.add_argument("--print", action="store_true", help="write no file")
    a = parser.parse_args()
    torch.set_grad_enabled(False)
    trellis_reference.leave_out(a.without)

    windows = read_windows(a.model, a.text, a.context, a.windows)
    model = Llama(a.model)
    dense = {"policy": "dense"}
    references = [run(model, window, dense, a.chunk, "prefill")[0] for window in windows]
    baseline, _ = measure(model, windows, references, dense, a.chunk, "prefill")
    golden = {"context": a.context, "windows": a.windows, "chunk": a.chunk,
              "perplexity": baseline["perplexity"], "tokens": torch.cat(windows).tolist(), "presets": {}}
    print(f"dense: perplexity {baseline['perplexity']:.4f}")
    for name in a.presets:
        config = load_preset(name, a.set)
        row = {}
        for protocol in ("stress", "prefill"):
            row[protocol], row["bits"] = measure(model, windows, references, config, a.chunk, protocol)
            cost = row[protocol]
            print(f"{name:28s} {protocol:8s} {row['bits']:.3f} bits, KL {cost['kl']:.6f}, top-1 "
                  f"{100 * cost['top1']:.1f} %, perplexity {cost['perplexity']:.4f}", flush=True)
        golden["presets"][name] = row
    if not a.print:
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
        a.out.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
