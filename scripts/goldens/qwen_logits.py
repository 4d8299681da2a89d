#!/usr/bin/env python3
"""Writes tests/data/qwen2.5-coder-0.5b/goldens.json: logits of the real Qwen2.5-Coder-0.5B-Instruct
from `transformers`, for tests/model/qwen_golden_test.cpp.

Ids of a text that PROMPT spells; for some positions the 32 largest logits, and over the whole row
its mean, root mean square and log-sum-exp; all in float64. Beside them the errors of transformers'
own float32 and bfloat16 runs on those numbers, which say how wrong ours may be. Weights are not
stored: the model's folder has them.

Needs .venv-reference (scripts/setup.sh --reference) and 5 GB of memory; minutes on two cores.

usage: qwen_logits.py [--model DIR] [--out FILE]
"""

import argparse
import gc
import json
import pathlib
import sys

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))
from make_goldens import make_double  # noqa: E402

TOP = 32
POSITIONS = (0, 1, 7, 40, 90, 140, 199)
TOKENS = 200

# What the model is for, and digits, which its tokenizer writes one by one.
PROMPT = '''# A ring buffer of fixed capacity: push overwrites the oldest element once it is full.
class RingBuffer:
    def __init__(self, capacity):
        if capacity < 1:
            raise ValueError(f"expected a capacity of at least 1, got {capacity}")
        self.items = [None] * capacity
        self.start = 0
        self.count = 0

    def push(self, item):
        end = (self.start + self.count) % len(self.items)
        self.items[end] = item
        if self.count < len(self.items):
            self.count += 1
        else:
            self.start = (self.start + 1) % len(self.items)

    def __len__(self):
        return self.count


buffer = RingBuffer(3)
for number in (1968, 355, 113, 2024):
    buffer.push(number)
print(len(buffer), list(buffer.items))  # prints 3 [2024, 355, 113]
'''


def numbers_of(logits, top_ids):
    """What is compared of a row, in float64."""
    row = logits.astype(np.float64)
    largest = row.max()
    return {
        "top": row[top_ids],
        "mean": row.mean(),
        "rms": np.sqrt((row**2).mean()),
        "log_sum_exp": largest + np.log(np.exp(row - largest).sum()),
    }


def run(folder, dtype, tokens, config=None):
    """Logits at POSITIONS, [positions, vocab]; in float64 throughout where `config` is given."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, attn_implementation="sdpa").eval()
    if config is not None:
        model = make_double(model, config)
    with torch.no_grad():
        hidden = model.model(torch.tensor([tokens])).last_hidden_state[0, list(POSITIONS)]
        logits = model.lm_head(hidden)
    result = logits.to(torch.float64).numpy()
    del model
    gc.collect()
    return result


def errors(rows, expected, top_ids):
    """Of the top logits: rms and largest; of the rows' statistics: largest."""
    found = [numbers_of(row, ids) for row, ids in zip(rows, top_ids)]
    top = np.array([f["top"] - e["top"] for f, e in zip(found, expected)])
    result = {"top_rms": float(np.sqrt((top**2).mean())), "top_max": float(np.abs(top).max())}
    for key in ("mean", "rms", "log_sum_exp"):
        result[key] = float(max(abs(f[key] - e[key]) for f, e in zip(found, expected)))
    return result


def main():
    import tokenizers
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=pathlib.Path,
                        default=REPOSITORY / "models" / "qwen2.5-coder-0.5b")
    parser.add_argument("--out", type=pathlib.Path,
                        default=REPOSITORY / "tests/data/qwen2.5-coder-0.5b/goldens.json")
    arguments = parser.parse_args()
    config = json.loads((arguments.model / "config.json").read_text(encoding="utf-8"))
    tokenizer = tokenizers.Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    tokens = tokenizer.encode(PROMPT).ids[:TOKENS]
    assert len(tokens) == TOKENS, f"the prompt has {len(tokens)} tokens, expected {TOKENS}"

    exact = run(arguments.model, torch.float32, tokens, config)
    top_ids = np.argsort(-exact, axis=1)[:, :TOP]
    expected = [numbers_of(row, ids) for row, ids in zip(exact, top_ids)]
    golden = {
        "made_by": "scripts/goldens/qwen_logits.py",
        "tokens": tokens,
        "transformers_errors": {
            name: errors(run(arguments.model, getattr(torch, name), tokens), expected, top_ids)
            for name in ("float32", "bfloat16")
        },
        "rows": [
            {"position": position, "top_ids": ids.tolist(),
             "top": [round(float(x), 9) for x in numbers["top"]],
             **{key: round(float(numbers[key]), 9) for key in ("mean", "rms", "log_sum_exp")}}
            for position, ids, numbers in zip(POSITIONS, top_ids, expected)
        ],
    }
    assert golden["transformers_errors"]["float32"]["top_max"] < 0.01, \
        "float32 and float64 are different models"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n  ".join(json.dumps(row) for row in golden.pop("rows"))
    head = json.dumps(golden)[1:-1]
    arguments.out.write_text("{" + head + ', "rows": [\n  ' + lines + "\n]}\n", encoding="utf-8")
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")
    print(json.dumps(golden["transformers_errors"], indent=2))
    print("after the last token:",
          repr(tokenizer.decode(top_ids[-1, :5].tolist())), expected[-1]["top"][:5])


if __name__ == "__main__":
    main()
