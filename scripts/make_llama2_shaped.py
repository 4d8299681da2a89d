#!/usr/bin/env python3
"""Writes a small random checkpoint with the shape of LLaMA-2: multi-head attention with head_dim
128, untied embeddings, float16 shards with an index, and a sentencepiece tokenizer.model of its own
(BPE with byte fallback and LLaMA-2's normalisation settings). It exercises the whole path from a
LLaMA-2 folder to generated tokens without the gated weights; what it generates is gibberish.

The same arguments give the same bytes. Needs the Python packages numpy, safetensors and
sentencepiece.

usage: make_llama2_shaped.py --out DIR [--text FILE] [--vocab N] [--hidden N] [--layers N]
                             [--shards N] [--positions N] [--seed N]
"""

import argparse
import io
import json
import os
import pathlib
import shutil
import sys

import numpy as np

# On every Debian machine (package base-files).
DEFAULT_TEXT = "/usr/share/common-licenses/GPL-3"
HEAD_DIM = 128


class ScriptError(Exception):
    """One line that says what was expected and what was found."""


def train_tokenizer(text_path, vocab_size, model_path):
    """Trains a sentencepiece model with the settings of LLaMA's own tokenizer."""
    import sentencepiece

    # Iterator and writer rather than file names, which would be recorded in the model.
    lines = pathlib.Path(text_path).read_text(encoding="utf-8").splitlines()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    pathlib.Path(model_path).write_bytes(model.getvalue())


def weight_shapes(config):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    width = config["num_attention_heads"] * HEAD_DIM
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        for name in ("q_proj", "k_proj", "v_proj"):
            shapes[prefix + f"self_attn.{name}.weight"] = (width, hidden)
        shapes[prefix + "self_attn.o_proj.weight"] = (hidden, width)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        shapes[prefix + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_weights(config, seed):
    """float16 weights: norms near 1, everything else normal with variance 1 / fan-in."""
    generator = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for name, shape in weight_shapes(config).items():
        values = generator.standard_normal(shape)
        if len(shape) == 1:
            values = 1 + 0.1 * values
        elif name != "model.embed_tokens.weight":
            values /= np.sqrt(shape[1])
        weights[name] = values.astype(np.float16)
    return weights


def write_shards(weights, count, folder):
    """Consecutive tensors go to one shard until it holds its share of the bytes."""
    from safetensors.numpy import save_file

    total = sum(array.nbytes for array in weights.values())
    shards = [{} for _ in range(count)]
    written = 0
    for name, array in weights.items():
        shards[min(count - 1, written * count // total)][name] = array
        written += array.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{count:05d}.safetensors"
        save_file(shard, str(folder / file), metadata={"format": "pt"})
        os.chmod(folder / file, 0o644)
        weight_map.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def make_checkpoint(arguments, folder):
    train_tokenizer(arguments.text, arguments.vocab, folder / "tokenizer.model")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": arguments.vocab,
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.hidden * 11008 // 4096,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.hidden // HEAD_DIM,
        "num_key_value_heads": arguments.hidden // HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": arguments.positions,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float16",
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    write_json(
        folder / "tokenizer_config.json",
        {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>",
         "legacy": True, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>"},
    )
    write_shards(random_weights(config, arguments.seed), arguments.shards, folder)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write")
    parser.add_argument("--text", default=DEFAULT_TEXT, help="text that trains the tokenizer")
    parser.add_argument("--vocab", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=256, help=f"a multiple of {HEAD_DIM}")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--positions", type=int, default=4096, help="the longest context")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.hidden < HEAD_DIM or arguments.hidden % HEAD_DIM != 0:
        parser.error(f"--hidden must be a multiple of {HEAD_DIM}, found {arguments.hidden}")
    if min(arguments.layers, arguments.shards, arguments.positions) < 1:
        parser.error("--layers, --shards and --positions must be at least 1")
    return arguments


def main():
    arguments = parse_arguments()
    if not os.path.isfile(arguments.text):
        raise ScriptError(f"no such text: {arguments.text}")
    out = arguments.out.resolve()
    if out.exists() and not (out / "config.json").exists() and any(out.iterdir()):
        raise ScriptError(f"{out} holds something else than a checkpoint; not replaced")
    # Whole or absent: written beside its final place, then renamed.
    temporary = out.with_name(out.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        make_checkpoint(arguments, temporary)
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir())} bytes")


if __name__ == "__main__":
    try:
        main()
    except (ScriptError, OSError) as error:
        sys.exit(f"make_llama2_shaped.py: {error}")
