#!/usr/bin/env python3
"""Writes tests/data/config/goldens.json: what transformers make of a table of config.json texts.

Each is read by AutoConfig and given to the model class that AutoModelForCausalLM takes. Recorded
are the rotary embedding's inverse frequencies and attention scaling, heads, token ids and tying, or
that transformers raise. RillKV must read the same and refuse what raises; where it decides
otherwise, OURS says so and why.

usage: .venv-reference/bin/python scripts/goldens/config.py
"""

import json
import math
import pathlib
import tempfile
import warnings

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "config" / "goldens.json"

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32,
    "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}
QWEN = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral"}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
FULL = ["full_attention"] * 2
NESTED = {"full_attention": {"rope_type": "default", "rope_theta": 500000.0}}
FIVE = {"rope_type": "default", "rope_theta": 500000.0}
NAN, INFINITY = float("nan"), float("inf")

# name: reason. "refused": transformers read it, RillKV does not; "read": the other way round.
OURS = {
    "yarn": ("refused", "its scaling is not computed"),
    "yarn in rope_parameters": ("refused", "its scaling is not computed"),
    "yarn beside default parameters": ("refused", "its scaling is not computed"),
    "longrope": ("refused", "its scaling is not computed"),
    "proportional": ("refused", "its scaling is not computed"),
    "nested": ("refused", "transformers read theta 10000 and not what the file says"),
    "nested, layer types": ("refused", "transformers read theta 10000 and not what the file says"),
    "nested, mistral": ("refused", "transformers read theta 10000 and not what the file says"),
    "llama3, original 32.5": ("refused", "not a number of positions"),
    "llama3, factor 0.5": ("refused", "transformers warn that it must be at least 1"),
    "llama3, borders swapped": ("refused", "transformers warn that high must exceed low"),
    "linear, factor 0.5": ("refused", "transformers warn that it must be at least 1"),
    "linear, factor -2": ("refused", "transformers warn that it must be at least 1"),
    "linear, factor infinite": ("refused", "every frequency would be 0"),
    "dynamic, factor 0.5": ("refused", "transformers warn that it must be at least 1"),
    "rope_scaling false": ("refused", "a setting of the wrong type"),
    "rope_scaling empty text": ("refused", "a setting of the wrong type"),
    "theta NaN": ("refused", "frequencies would be NaN"),
    "theta -1": ("refused", "frequencies would be NaN"),
    "eps NaN": ("refused", "every activation would be NaN"),
    "eps infinite": ("refused", "every activation would be 0"),
    "partial rotation, outside": ("refused", "rotating a part is not computed"),
    "partial rotation, inside": ("refused", "rotating a part is not computed"),
    "eos -2": ("refused", "only -1 is known to mean none"),
    "bos -2": ("refused", "only -1 is known to mean none"),
    "two architectures": ("refused", "which of them is meant is a guess"),
    "architecture a text": ("refused", "a setting of the wrong type"),
    "another architecture": ("refused", "transformers go by model_type alone"),
    "sliding window, llama": ("refused", "transformers' LLaMA ignores it, other programs do not"),
    "sliding window, qwen": ("refused", "sliding windows are not computed"),
    "sliding window, mistral": ("refused", "sliding windows are not computed"),
    "sliding layers, llama": ("refused", "transformers' LLaMA ignores them, other programs do not"),
    "no model type": ("read", "the architecture says which it is"),
}


def cases():
    def llama(**changes):
        return {**LLAMA, **changes}

    def qwen(**changes):
        return {**QWEN, **changes}

    def mistral(**changes):
        return {**MISTRAL, **changes}

    def without(config, key):
        return {name: value for name, value in config.items() if name != key}

    def scaling(kind, **more):
        return llama(rope_scaling={"rope_type": kind, **more})

    yield "plain", llama()
    yield "theta", llama(rope_theta=500000)
    # RoPE's settings in two places.
    yield "parameters", llama(rope_parameters=FIVE)
    yield "scaling beside parameters", llama(
        rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters=FIVE)
    yield "scaling beside parameters, theta outside", llama(
        rope_theta=1000.0, rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters=FIVE)
    yield "scaling with theta beside both", llama(
        rope_theta=1000.0, rope_scaling={"type": "linear", "factor": 2.0, "rope_theta": 777.0},
        rope_parameters=FIVE)
    yield "llama3 beside parameters", llama(rope_scaling=LLAMA3, rope_parameters=FIVE)
    yield "null scaling beside parameters", llama(rope_scaling=None, rope_parameters=FIVE)
    yield "empty scaling beside parameters", llama(rope_scaling={}, rope_parameters=FIVE)
    yield "scaling beside null parameters", llama(
        rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters=None)
    yield "empty parameters", llama(rope_parameters={})
    yield "scaling beside a text", llama(
        rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters="x")
    yield "yarn beside default parameters", llama(
        rope_scaling={"type": "yarn", "factor": 2.0}, rope_parameters=FIVE)
    yield "default beside yarn parameters", llama(
        rope_scaling={"type": "default"}, rope_parameters={"rope_type": "yarn", "factor": 2.0})
    yield "theta inside before outside", llama(rope_theta=1000.0, rope_parameters=FIVE)
    yield "theta outside", llama(rope_theta=1000.0, rope_parameters={"rope_type": "default"})
    yield "theta null", llama(rope_theta=None)
    yield "theta null beside one inside", llama(rope_theta=None, rope_parameters=FIVE)
    yield "theta null inside", llama(
        rope_theta=1000.0, rope_parameters={"rope_type": "default", "rope_theta": None})
    yield "theta a text", llama(rope_theta="10000")
    yield "theta NaN", llama(rope_theta=NAN)
    yield "theta -1", llama(rope_theta=-1.0)
    # Kinds of scaling.
    yield "linear, old spelling", llama(rope_scaling={"type": "linear", "factor": 4})
    yield "linear, rope_type before type", llama(
        rope_scaling={"rope_type": "linear", "type": "yarn", "factor": 2.0})
    yield "rope_type null", llama(rope_scaling={"rope_type": None, "type": "linear", "factor": 2.0})
    yield "rope_type in capitals", scaling("Linear", factor=2.0)
    yield "rope_type a number", scaling(3, factor=2.0)
    yield "no type", llama(rope_scaling={"factor": 4.0})
    yield "linear, no factor", scaling("linear")
    yield "linear, factor a text", scaling("linear", factor="2")
    yield "linear, factor 0.5", scaling("linear", factor=0.5)
    yield "linear, factor -2", scaling("linear", factor=-2.0)
    yield "linear, factor infinite", scaling("linear", factor=INFINITY)
    yield "llama3", llama(rope_scaling=LLAMA3, rope_theta=500000.0)
    yield "llama3, original 32.0", llama(
        rope_scaling={**LLAMA3, "original_max_position_embeddings": 32.0})
    yield "llama3, original 32.5", llama(
        rope_scaling={**LLAMA3, "original_max_position_embeddings": 32.5})
    yield "llama3, original null", llama(
        rope_scaling={**LLAMA3, "original_max_position_embeddings": None})
    yield "llama3, no original", llama(
        rope_scaling=without(LLAMA3, "original_max_position_embeddings"))
    yield "llama3, original outside", llama(
        rope_scaling=LLAMA3, original_max_position_embeddings=16)
    yield "llama3, original null outside", llama(
        rope_scaling=LLAMA3, original_max_position_embeddings=None)
    yield "llama3, no high", llama(rope_scaling=without(LLAMA3, "high_freq_factor"))
    yield "llama3, factor 0.5", llama(rope_scaling={**LLAMA3, "factor": 0.5})
    yield "llama3, borders swapped", llama(
        rope_scaling={**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 1.0})
    yield "dynamic", scaling("dynamic", factor=2.0)
    yield "dynamic, qwen", qwen(rope_scaling={"type": "dynamic", "factor": 4.0}, rope_theta=1e6)
    yield "dynamic, original ignored", scaling(
        "dynamic", factor=2.1, original_max_position_embeddings=32)
    yield "dynamic, no factor", scaling("dynamic")
    yield "dynamic, factor a text", scaling("dynamic", factor="2")
    yield "dynamic, factor 0.5", scaling("dynamic", factor=0.5)
    yield "dynamic, head_dim 2", llama(
        hidden_size=8, rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    yield "yarn", scaling("yarn", factor=2.0)
    yield "yarn in rope_parameters", llama(rope_parameters={"rope_type": "yarn", "factor": 2.0})
    yield "longrope", scaling("longrope", factor=2.0, short_factor=[1.0] * 4, long_factor=[2.0] * 4)
    yield "proportional", scaling("proportional", factor=2.0)
    yield "su", scaling("su", factor=2.0)
    yield "mrope", scaling("mrope", mrope_section=[1, 1, 2])
    yield "default, keys without effect", scaling("default", mrope_section=[1, 1, 2])
    yield "axial", scaling("axial")
    # Settings by layer type.
    yield "nested", llama(rope_parameters=NESTED)
    yield "nested, layer types", llama(rope_parameters=NESTED, layer_types=FULL)
    yield "nested, qwen", qwen(rope_parameters=NESTED)
    yield "nested, mistral", mistral(rope_parameters=NESTED)
    yield "layer types, mistral", mistral(layer_types=FULL, rope_theta=1000.0)
    yield "layer types", llama(layer_types=FULL)
    yield "layer types, qwen", qwen(layer_types=FULL)
    yield "layer types, former name", qwen(layer_types=["attention"] * 2)
    yield "layer types, too many", llama(layer_types=FULL * 2)
    yield "sliding layers, llama", llama(layer_types=["sliding_attention"] * 2)
    # Settings of the wrong type.
    yield "rope_scaling a list", llama(rope_scaling=[1])
    yield "rope_scaling a text", llama(rope_scaling="linear")
    yield "rope_scaling false", llama(rope_scaling=False)
    yield "rope_scaling empty text", llama(rope_scaling="")
    yield "rope_parameters a list", llama(rope_parameters=[])
    yield "partial rotation, outside", llama(partial_rotary_factor=0.5)
    yield "partial rotation, inside", llama(
        rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5})
    yield "partial rotation null", llama(partial_rotary_factor=None)
    # Heads.
    yield "kv heads null", llama(num_key_value_heads=None)
    yield "kv heads null, qwen", qwen(num_key_value_heads=None)
    yield "kv heads null, mistral", mistral(num_key_value_heads=None)
    yield "kv heads absent", without(llama(), "num_key_value_heads")
    yield "kv heads 0", llama(num_key_value_heads=0)
    yield "kv heads 2.0", llama(num_key_value_heads=2.0)
    yield "head_dim null", llama(head_dim=None)
    yield "head_dim null, qwen", qwen(head_dim=None)
    yield "head_dim null, mistral", mistral(head_dim=None)
    yield "head_dim 16", llama(head_dim=16)
    yield "head_dim 16, hidden size 34", llama(head_dim=16, hidden_size=34)
    yield "head_dim 16, hidden size 34, qwen", qwen(head_dim=16, hidden_size=34)
    # Token ids.
    for name, value in (("-1", -1), ("-2", -2), ("null", None), ("2.0", 2.0), ("a list", [2, 3]),
                        ("a list with -1", [2, -1]), ("an empty list", []), ("true", True),
                        ("a text", "2")):
        yield f"bos {name}", llama(bos_token_id=value)
        yield f"eos {name}", llama(eos_token_id=value)
    yield "bos -1, qwen", qwen(bos_token_id=-1)
    # Names.
    yield "swish", llama(hidden_act="swish")
    yield "SiLU", llama(hidden_act="SiLU")
    yield "gelu_nothing", llama(hidden_act="gelu_nothing")
    yield "activation null", llama(hidden_act=None)
    yield "LLaMAForCausalLM", llama(architectures=["LLaMAForCausalLM"])
    yield "base model", llama(architectures=["LlamaModel"])
    yield "base model, qwen", qwen(architectures=["Qwen2Model"])
    yield "base model, mistral", mistral(architectures=["MistralModel"])
    yield "another architecture", llama(architectures=["LlamaForSequenceClassification"])
    yield "two architectures", llama(architectures=["LlamaForCausalLM", "LlamaModel"])
    yield "architecture a text", llama(architectures="LlamaForCausalLM")
    yield "no architecture", without(llama(), "architectures")
    yield "no model type", without(llama(), "model_type")
    # Windows.
    yield "sliding window 0", llama(sliding_window=0)
    yield "sliding window 0, mistral", mistral(sliding_window=0)
    yield "sliding window, llama", llama(sliding_window=10)
    yield "sliding window, mistral", mistral(sliding_window=63)
    yield "sliding window as long as the context, mistral", mistral(sliding_window=64)
    yield "sliding window a text, mistral", mistral(sliding_window="64")
    yield "sliding window off, qwen", qwen(use_sliding_window=False, sliding_window=10)
    yield "sliding window, qwen", qwen(
        use_sliding_window=True, sliding_window=10, max_window_layers=1)
    yield "sliding window in no layer, qwen", qwen(
        use_sliding_window=True, sliding_window=10, max_window_layers=2)
    yield "sliding window null, qwen", qwen(use_sliding_window=True, sliding_window=None)
    yield "sliding window, qwen with full layers", qwen(
        use_sliding_window=True, sliding_window=10, max_window_layers=0, layer_types=FULL)
    # Numbers that JSON does not have.
    yield "eps NaN", llama(rms_norm_eps=NAN)
    yield "eps infinite", llama(rms_norm_eps=INFINITY)
    yield "a NaN nobody reads", llama(router_aux_loss_coef=NAN, some_limits=[INFINITY, -INFINITY])
    yield "a surrogate nobody reads", llama(note="half \ud83d of it")
    yield "positions 64.0", llama(max_position_embeddings=64.0)
    yield "tie null", llama(tie_word_embeddings=None)
    yield "tie", llama(tie_word_embeddings=True)


def frequencies(tensor):
    """As many digits as float32 holds; None for what JSON cannot say."""
    return [float(f"{x:.9g}") if math.isfinite(x) else None for x in tensor.tolist()]


def reads(text):
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(text, encoding="utf-8")
        config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config)
    rotary = model.model.rotary_emb
    result = {
        "inverse_frequencies": frequencies(rotary.inv_freq),
        "attention_scaling": rotary.attention_scaling,
        "kv_heads": config.num_key_value_heads,
        "head_dim": model.model.layers[0].self_attn.head_dim,
        "bos": config.bos_token_id, "eos": config.eos_token_id,
        "tie": config.tie_word_embeddings,
    }
    if rotary.rope_type == "dynamic":
        limit = config.max_position_embeddings
        compute = ROPE_INIT_FUNCTIONS["dynamic"]
        result["limit"] = limit
        result["at_limit"] = frequencies(compute(config, seq_len=limit)[0])
        result["beyond"] = frequencies(compute(config, seq_len=limit + 1)[0])
    return result


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    result, left = [], set(OURS)
    for name, config in cases():
        text = json.dumps(config, separators=(",", ":"))
        case = {"name": name, "config": text}
        try:
            case.update(reads(text))
        except Exception as error:  # whatever it is: transformers do not run this
            case["raises"] = type(error).__name__
        if name in OURS:
            left.discard(name)
            verdict, reason = OURS[name]
            if (verdict == "read") != ("raises" in case):
                raise SystemExit(f"{name}: OURS says {verdict}, which is what transformers do")
            case["ours"], case["reason"] = verdict, reason
        result.append(case)
    if left:
        raise SystemExit(f"no such cases: {left}")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    with OUTPUT.open("w", encoding="utf-8") as out:
        head = {"transformers": transformers.__version__}
        out.write(json.dumps(head)[:-1] + ', "cases": [\n')
        out.write(",\n".join(json.dumps(case, allow_nan=False) for case in result) + "\n]}\n")
    print(f"{OUTPUT}: {len(result)} cases, {sum('raises' in case for case in result)} raise")


if __name__ == "__main__":
    main()
