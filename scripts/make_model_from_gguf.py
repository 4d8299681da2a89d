#!/usr/bin/env python3
"""Turns a GGUF model (architecture llama with SmolLM's tokenizer, or qwen2) into a Hugging Face style
folder: config.json, generation_config.json, model.safetensors, tokenizer.json,
tokenizer_config.json, special_tokens_map.json.

Weights are dequantised by the `gguf` package and stored as bfloat16, the dtype of the original
checkpoint: that rounding (relative 2^-9) is far below the 4-bit quantisation they have been through,
and the file is half the size of float32.
The folder is written beside its final place and renamed, so it is whole or absent.

usage: make_model_from_gguf.py (--out DIR | --print-gguf) (--gguf FILE | --package NAME)
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import sys

# gguf's token types: <|im_start|> and its like; words added by the user, such as <tool_call>; rows of
# the embedding that no token has.
CONTROL_TOKEN, USER_TOKEN, UNUSED_TOKEN = 3, 4, 5

# How Qwen2 cuts a text before BPE; the expression is part of its published tokenizer.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class ConversionError(Exception):
    """One line that says what was expected and what was found."""


def gguf_of_package(name):
    """The one .gguf file of an installed Python package."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConversionError(f"the Python package {name} is not installed; run scripts/setup.sh")
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


def make_config(meta, tied):
    """The config.json keys of transformers' LlamaConfig or Qwen2Config."""
    architecture = meta.need("general.architecture")
    if architecture not in ("llama", "qwen2"):
        raise ConversionError(f"expected architecture llama or qwen2, found {architecture}")
    hidden = meta.need(f"{architecture}.embedding_length")
    heads = meta.need(f"{architecture}.attention.head_count")
    layers = meta.need(f"{architecture}.block_count")
    head_dim = meta.get(f"{architecture}.attention.key_length", hidden // heads)
    if meta.get(f"{architecture}.rope.dimension_count", head_dim) != head_dim:
        raise ConversionError("partial rotary embeddings are not supported")
    if meta.get(f"{architecture}.rope.scaling.type", "none") != "none":
        raise ConversionError("scaled rotary embeddings are not supported")
    epsilon = meta.need(f"{architecture}.attention.layer_norm_rms_epsilon")
    config = {
        "attention_dropout": 0.0,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta.need(f"{architecture}.feed_forward_length"),
        "max_position_embeddings": meta.need(f"{architecture}.context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": meta.get(f"{architecture}.attention.head_count_kv", heads),
        "pad_token_id": meta.get("tokenizer.ggml.padding_token_id"),
        # The file holds fp32(1e-5); the shortest decimal that rounds to it is what was meant.
        "rms_norm_eps": shortest_float32(epsilon),
        "rope_theta": shortest_float32(meta.get(f"{architecture}.rope.freq_base", 10000.0)),
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": len(meta.need("tokenizer.ggml.tokens")),
    }
    if architecture == "llama":
        config |= {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "initializer_range": 0.041666666666666664,
            "mlp_bias": False,
            "model_type": "llama",
            "pretraining_tp": 1,
            "rope_scaling": None,
        }
    else:
        config |= {
            "architectures": ["Qwen2ForCausalLM"],
            "initializer_range": 0.02,
            "max_window_layers": layers,
            "model_type": "qwen2",
            "sliding_window": None,
            "use_sliding_window": False,
        }
    return dict(sorted(config.items()))


def shortest_float32(value):
    import numpy

    return float(str(numpy.float32(value)))


def undo_rope_permutation(weight, heads):
    """ggml interleaves the rows of each head for its RoPE: row 2i + j of a head is row
    j * D/2 + i of the original, j in {0, 1}."""
    rows, columns = weight.shape
    pairs = rows // heads // 2
    return weight.reshape(heads, pairs, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def dequantized(tensor, rows=None):
    """float32 in the shape of the original; the first `rows` rows, or all."""
    import gguf
    import numpy

    values = gguf.quants.dequantize(tensor.data[:rows], tensor.tensor_type)
    # GGUF lists dimensions fastest first.
    shape = [int(n) for n in reversed(tensor.shape)]
    return values.reshape([-1, *shape[1:]]).astype(numpy.float32, copy=False)


def tie_embeddings(tensors):
    """Whether the output layer is the embedding. A file may hold such a matrix twice, quantised to
    different widths: then the finer one stays, as the embedding."""
    import numpy

    if "output.weight" not in tensors:
        return True
    pair = [tensors[name] for name in ("token_embd.weight", "output.weight")]
    first, second = (dequantized(tensor, rows=4096) for tensor in pair)
    # Two roundings of one matrix differ by a few per cent, different matrices by 140 %.
    if first.shape != second.shape or numpy.linalg.norm(first - second) > 0.2 * numpy.linalg.norm(first):
        return False
    tensors["token_embd.weight"] = max(pair, key=lambda tensor: tensor.n_bytes)
    del tensors["output.weight"]
    return True


def make_state_dict(config, tensors):
    """{name: bfloat16 as uint16}; takes what it understands out of `tensors`."""

    def take(name):
        if name not in tensors:
            raise ConversionError(f"the GGUF file has no tensor {name}")
        return to_bfloat16(dequantized(tensors.pop(name)))

    state = {
        "model.embed_tokens.weight": take("token_embd.weight"),
        "model.norm.weight": take("output_norm.weight"),
    }
    if not config["tie_word_embeddings"]:
        state["lm_head.weight"] = take("output.weight")
    plain = {
        "input_layernorm.weight": "attn_norm.weight",
        "post_attention_layernorm.weight": "ffn_norm.weight",
        "self_attn.v_proj.weight": "attn_v.weight",
        "self_attn.o_proj.weight": "attn_output.weight",
        "mlp.gate_proj.weight": "ffn_gate.weight",
        "mlp.up_proj.weight": "ffn_up.weight",
        "mlp.down_proj.weight": "ffn_down.weight",
    }
    permuted = {}
    if config["model_type"] == "llama":
        permuted = {
            "self_attn.q_proj.weight": ("attn_q.weight", config["num_attention_heads"]),
            "self_attn.k_proj.weight": ("attn_k.weight", config["num_key_value_heads"]),
        }
    else:
        for ours in "qkv":
            plain[f"self_attn.{ours}_proj.weight"] = f"attn_{ours}.weight"
            plain[f"self_attn.{ours}_proj.bias"] = f"attn_{ours}.bias"
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        for name, source in plain.items():
            state[ours + name] = take(theirs + source)
        for name, (source, heads) in permuted.items():
            state[ours + name] = undo_rope_permutation(take(theirs + source), heads)
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
            file.write(values.tobytes())


def byte_level(**changes):
    settings = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"type": "ByteLevel", **settings, **changes}


def pre_tokenizer(name):
    """(normalizer, pre_tokenizer, decoder) of gguf's tokenizer.ggml.pre."""
    if name == "smollm":  # GPT-2's splitting regex after single digits
        steps = [{"type": "Digits", "individual_digits": True}, byte_level()]
        normalizer, decoder = None, byte_level(add_prefix_space=True)
    elif name == "qwen2":
        plain = byte_level(trim_offsets=False, use_regex=False)
        split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated",
                 "invert": False}
        steps, normalizer, decoder = [split, plain], {"type": "NFC"}, plain
    else:
        raise ConversionError(f"expected the pre-tokenizer smollm or qwen2, found {name}")
    return normalizer, {"type": "Sequence", "pretokenizers": steps}, decoder


def make_tokenizer(meta):
    """tokenizer.json of a byte-level BPE."""
    model = meta.need("tokenizer.ggml.model")
    if model != "gpt2":
        raise ConversionError(f"expected a tokenizer of the kind gpt2, found {model}")
    normalizer, pre, decoder = pre_tokenizer(meta.need("tokenizer.ggml.pre"))
    tokens = meta.need("tokenizer.ggml.tokens")
    types = meta.need("tokenizer.ggml.token_type")
    used = [index for index, kind in enumerate(types) if kind != UNUSED_TOKEN]
    vocab = {tokens[index]: index for index in used}
    if len(vocab) != len(used):
        raise ConversionError(f"expected {len(used)} different tokens, found {len(vocab)}")
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL_TOKEN,
        }
        for index, (token, kind) in enumerate(zip(tokens, types))
        if kind in (CONTROL_TOKEN, USER_TOKEN)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": None,
        "decoder": decoder,
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
    config = make_config(meta, tie_embeddings(tensors))
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--out", type=pathlib.Path, help="folder to write")
    goal.add_argument("--print-gguf", action="store_true", help="only say where the file is")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=pathlib.Path, help="the file")
    source.add_argument("--package", help="the one .gguf file of this installed Python package")
    arguments = parser.parse_args()
    try:
        source = arguments.gguf or gguf_of_package(arguments.package)
        if arguments.print_gguf:
            print(source)
        else:
            convert(source, arguments.out.resolve())
    except (ConversionError, ImportError, OSError, ValueError) as error:
        print(f"make_model_from_gguf: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
