#!/usr/bin/env python3
"""Hugging Face's side of scripts/bench_transformers.sh, run by the Python of .venv-reference.

  ids      token ids of a text by the model's own tokenizer, for both sides
  measure  prefill and decode by transformers' own model, the way bench_model does it: the cache is
           filled to its depth by prefill that is not timed, grows by prompt after prompt around it,
           and decode follows. A variant is attention/cache/dtype: sdpa or eager, dynamic or static,
           bf16 or fp32. Only the last position's logits are computed, as on our side.

usage: bench_transformers_side.py ids --model DIR --text FILE --count N --out FILE
       bench_transformers_side.py measure --model DIR --token-ids FILE --json FILE [--logits-out FILE]
           [--depths N,N] [--prompt N] [--generate N] [--repetitions N] [--threads N]
           [--variants A,B]
"""

import argparse
import json
import pathlib
import sys
import time

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
VARIANTS = ["sdpa/dynamic/bf16", "eager/dynamic/bf16", "sdpa/static/bf16", "sdpa/dynamic/fp32"]
# Of the last logits, between variants: rounding in bf16 makes about 1e-3 of it, a wrong mask or
# position is beyond 1. bench_model has the same bound.
MOST_DIVERGENCE = 0.2
FILL_PIECE = 512


class ScriptError(Exception):
    """One line that says what was expected and what was found."""


def encode(model, text):
    if not (model / "tokenizer.json").exists() and (model / "tokenizer.model").exists():
        import sentencepiece  # transformers wants protobuf, too, to read it

        return sentencepiece.SentencePieceProcessor(str(model / "tokenizer.model")).encode(text)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model).encode(text, add_special_tokens=False)
    except (OSError, ValueError):
        raise ScriptError(f"expected a tokenizer that transformers can load in {model}") from None


def write_ids(arguments):
    ids = encode(arguments.model, arguments.text.read_text(encoding="utf-8"))
    if not ids:
        raise ScriptError(f"expected a text of at least one token in {arguments.text}")
    ids = (ids * (1 + arguments.count // len(ids)))[:arguments.count]
    arguments.out.write_text(" ".join(map(str, ids)) + "\n")


def divergence(first, second):
    p, q = (logits.float().log_softmax(-1) for logits in (first, second))
    return float((p.exp() * (p - q)).sum())


class Side:
    """A model and a cache of one variant."""

    def __init__(self, torch, model, kind):
        self.torch, self.model, self.kind, self.cache = torch, model, kind, None

    def reset(self, capacity):
        from transformers import DynamicCache, StaticCache

        self.cache = (DynamicCache(config=self.model.config) if self.kind == "dynamic" else
                      StaticCache(config=self.model.config, max_cache_len=capacity))

    def forward(self, ids):
        """ids: list; the last position's logits, [vocab]."""
        out = self.model(input_ids=self.torch.tensor([ids]), past_key_values=self.cache,
                         use_cache=True, logits_to_keep=1)
        return out.logits[0, -1]


def measure_depth(side, ids, depth, options):
    prompt = [ids[i % len(ids)] for i in range(options.prompt)]
    reps = options.repetitions
    begin = max(0, depth - (reps - 1) * options.prompt // 2)
    capacity = begin + reps * (options.prompt + options.generate)
    side.reset(capacity)
    for done in range(0, begin, FILL_PIECE):
        side.forward([ids[i % len(ids)] for i in range(done, min(begin, done + FILL_PIECE))])
    prefill, decode = [], []
    for _ in range(reps):
        if depth == 0:
            side.reset(capacity)
        before = time.perf_counter()
        side.forward(prompt)
        prefill.append(time.perf_counter() - before)
    for token in range(options.generate * reps):
        next_id = [prompt[token % options.prompt]]
        before = time.perf_counter()
        side.forward(next_id)
        decode.append(time.perf_counter() - before)
    return {"depth": depth, "prefill_s": prefill, "decode_s": decode}


def measure(arguments):
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    ids = [int(word) for word in arguments.token_ids.read_text().split()]
    report = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "prompt": arguments.prompt,
        "generate": arguments.generate,
        "repetitions": arguments.repetitions,
        "cold": None,
        "results": [],
        "skipped": [],
    }
    model, loaded, reference = None, None, None
    for variant in arguments.variants:
        attention, kind, dtype = variant.split("/")
        if dtype != loaded:
            model = None  # Not two of them at a time.
            model = AutoModelForCausalLM.from_pretrained(
                arguments.model, dtype=getattr(torch, DTYPES[dtype]), attn_implementation=attention)
            model.eval()
            loaded = dtype
        with torch.inference_mode():
            model.set_attn_implementation(attention)
            # What cannot be run, or computes something else, is said and left out.
            try:
                side = Side(torch, model, kind)
                # Warms up, too; the first one of the process is the cold one.
                side.reset(arguments.prompt)
                prompt = [ids[i % len(ids)] for i in range(arguments.prompt)]
                before = time.perf_counter()
                logits = side.forward(prompt)
                seconds = time.perf_counter() - before
                if reference is None:
                    reference = logits
                    report["cold"] = {"variant": variant, "prefill_s": seconds}
                    if arguments.logits_out:
                        save_file({"logits": logits.float().contiguous()}, arguments.logits_out)
                kl = divergence(reference, logits)
                if not kl <= MOST_DIVERGENCE:
                    raise ScriptError(f"KL of the logits {kl:.3g} to {arguments.variants[0]}")
                report["results"] += [
                    {"variant": variant, "kl_to_first": kl,
                     **measure_depth(side, ids, depth, arguments)} for depth in arguments.depths]
            except (RuntimeError, ValueError, TypeError, ScriptError) as error:
                report["skipped"].append({"variant": variant, "why": str(error).splitlines()[0]})
    if not report["results"]:
        raise ScriptError(f"no variant ran: {report['skipped'][0]['why']}")
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return value


def variant_list(text):
    for name in text.split(","):
        parts = name.split("/")
        if (len(parts) != 3 or parts[0] not in ("sdpa", "eager") or parts[1] not in ("dynamic", "static")
                or parts[2] not in DTYPES):
            raise argparse.ArgumentTypeError(f"expected variants such as {VARIANTS[0]}, got {name}")
    return text.split(",")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("ids")
    command.add_argument("--model", type=pathlib.Path, required=True)
    command.add_argument("--text", type=pathlib.Path, required=True)
    command.add_argument("--count", type=positive, required=True)
    command.add_argument("--out", type=pathlib.Path, required=True)
    command.set_defaults(run=write_ids)
    command = commands.add_parser("measure")
    command.add_argument("--model", type=pathlib.Path, required=True)
    command.add_argument("--token-ids", type=pathlib.Path, required=True)
    command.add_argument("--json", type=pathlib.Path, required=True)
    command.add_argument("--logits-out", type=pathlib.Path)
    command.add_argument("--depths", default=[0, 4096],
                         type=lambda text: [int(depth) for depth in text.split(",")])
    command.add_argument("--prompt", type=positive, default=512)
    command.add_argument("--generate", type=positive, default=16)
    command.add_argument("--repetitions", type=positive, default=3)
    command.add_argument("--threads", type=positive)
    command.add_argument("--variants", type=variant_list, default=VARIANTS)
    command.set_defaults(run=measure)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (ScriptError, OSError, ImportError) as error:
        sys.exit(f"bench_transformers_side.py: {error}")


if __name__ == "__main__":
    main()
