#!/usr/bin/env python3
"""Writes a checkpoint of random bfloat16 weights with SmolLM2-135M's shapes, and token ids to read:
no tokenizer, nothing to download. For speed and for whether the whole way runs; what it generates is
gibberish. The same arguments give the same bytes. Needs numpy.

usage: gpu_checkpoint.py --out DIR --ids FILE [--tokens N] [--layers N] [--vocab N] [--seed N]
"""
import argparse
import json
import pathlib
import sys

import numpy as np

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM = 576, 1536, 9, 3, 64


def weight_shapes(layers, vocab):
    shapes = {"model.embed_tokens.weight": (vocab, HIDDEN)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (HIDDEN,)
        shapes[prefix + "self_attn.q_proj.weight"] = (HEADS * HEAD_DIM, HIDDEN)
        for name in ("k_proj", "v_proj"):
            shapes[prefix + f"self_attn.{name}.weight"] = (KV_HEADS * HEAD_DIM, HIDDEN)
        shapes[prefix + "self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        shapes[prefix + "post_attention_layernorm.weight"] = (HIDDEN,)
        for name in ("gate_proj", "up_proj"):
            shapes[prefix + f"mlp.{name}.weight"] = (INNER, HIDDEN)
        shapes[prefix + "mlp.down_proj.weight"] = (HIDDEN, INNER)
    shapes["model.norm.weight"] = (HIDDEN,)
    return shapes


def bfloat16_bytes(values):
    """Of fp32 numbers that are finite, rounded to nearest."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_safetensors(path, shapes, generator):
    """Norms near 1, everything else normal with variance 1 / fan-in."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            values = generator.standard_normal(shape, dtype=np.float32)
            values = 1 + np.float32(0.1) * values if len(shape) == 1 else values / np.float32(shape[1] ** 0.5)
            file.write(bfloat16_bytes(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write")
    parser.add_argument("--ids", required=True, type=pathlib.Path, help="file of token ids to write")
    parser.add_argument("--tokens", type=int, default=4096, help="how many ids")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if min(arguments.tokens, arguments.layers) < 1 or arguments.vocab < 4:
        parser.error("expected --tokens and --layers of at least 1 and --vocab of at least 4")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": arguments.vocab, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": arguments.layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 100000, "rope_scaling": None, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generator = np.random.Generator(np.random.PCG64(arguments.seed))
    write_safetensors(arguments.out / "model.safetensors", weight_shapes(arguments.layers, arguments.vocab),
                      generator)
    # From 3 on: neither begin nor end of a text.
    ids = generator.integers(3, arguments.vocab, arguments.tokens)
    arguments.ids.write_text(" ".join(map(str, ids)) + "\n")
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(f"{arguments.out}: {size} bytes; {arguments.tokens} token ids in {arguments.ids}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"gpu_checkpoint.py: {error}")
