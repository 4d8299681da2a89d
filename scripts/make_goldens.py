#!/usr/bin/env python3
"""Writes the expected values under tests/data that come from other people's implementations:

  tokenizers  ids and texts from the Python packages `tokenizers` and `sentencepiece`, with the small
              tokenizers they belong to
  logits      logits of small random models from `transformers`, in double, with the errors that
              transformers' own float32, bfloat16 and float16 make; the weights are not stored but recomputed from their
              names (random_weight here, tests/support/random_llama.h there)
  smollm2     last-token logits of the default model, likewise

Needs torch, transformers, tokenizers, sentencepiece, safetensors; `tokenizers` and `smollm2` read
the default model's folder (scripts/make_default_model.sh). Run from anywhere:

usage: make_goldens.py [--model DIR] {tokenizers,logits,smollm2,all}
"""

import argparse
import copy
import json
import pathlib
import random
import sys

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
DATA = REPOSITORY / "tests" / "data"
DEFAULT_MODEL = REPOSITORY / "models" / "smollm2-135m-instruct"


def write_json(path, value, indent=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent, sort_keys=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------- tokenizers


def nasty_corpus():
    """[(name, bytes)]: what breaks tokenizers. Bytes, because some are not UTF-8."""
    cases = {
        "empty": "",
        "one space": " ",
        "plain": "The quick brown fox jumps over the lazy dog.",
        "leading space": " leading and trailing ",
        "double leading": "  two  spaces   three",
        "newlines": "a\nb\n\nc\n\n\n\nd\r\ne\r\rf",
        "space newline": "line  \n   next\n \n \t\n  end",
        "tabs": "\tif (x) {\n\t\treturn\t1;\n\t}",
        "only newlines": "\n\n\n",
        "contractions": "I'm you're he'll they've we'd it's can't I'M YOU'RE IT'S o'clock 'tis",
        "digits": "0 12 345 6789 1234567890 3.14159 1,000,000 2026-11-24 0x1F",
        "other digits": "\u0663\u0664\u0665 \u0967\u0968 \u2167 \u00bd \u00b2 \u2460 \uff11\uff12",
        "punctuation": "!?... --- ***___*** <<>> [](){} ;:'\"`~@#$%^&*|\\/",
        "code": "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # done\n",
        "url": "https://example.org/a_b-c?d=e&f=%20#g user@example.org",
        "cjk": "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8 \ud55c\uad6d\uc5b4",
        "cyrillic": "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0451\u044a",
        "arabic": "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645",
        "hindi": "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
        "thai": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
        "accents": "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m \u00df \u017f \u0130\u0131 \ufb01",
        "combining": "e\u0301 a\u0308\u0323 \u0301alone o\u0302\u0300",
        "compositions": "A\u030a \u212b \u1100\u1161\u11a8 \u0958 q\u0307\u0323 \u2126 \uf900"
                        "\u0928\u093c \u0344 \U0001d15e \uac00\u11a8 e\u0323\u0301",
        "emoji": "\U0001f642 \U0001f44d\U0001f3fd \u2764\ufe0f \U0001f1e9\U0001f1ea",
        "zwj": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \u0915\u094d\u200d\u0937",
        "invisible": "a\u200bb\u200cc\u2060d\ufeffe\u00adf",
        "spaces": "a\u00a0b\u1680c\u2003d\u2028e\u2029f\u202fg\u205fh\u3000i\u0085j\u180ek",
        "space runs": "x \u00a0\u2003 y\u3000\u3000 z \u00a0",
        "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
        "nul": "before\0after\0\0",
        "noncharacters": "\ufffe\uffff\U0010ffff\ue000",
        "math": "\u2200x\u2208\u211d: \u221ax\u00b2 = |x| \U0001d54f\U0001d7d9",
        "boxes": "\u250c\u2500\u2510\u2588\u2591 \u2581\u2581lower \u2581",
        "stand-ins": "\u0120hello \u010a \u0100\u0142",
        "repeated letter": "a" * 300,
        "repeated word": "word " * 40,
        "300 spaces": " " * 300 + "x",
        "300 spaces alone": " " * 300,
        "100 newlines": "\n" * 100 + "x",
        "mixed white": " \n" * 30 + "\t \t" * 10 + "x",
        "long digits": "1234567890" * 12,
        "dashes": "-" * 130 + "=" * 70,
        "unknown script": "\U00016800\U0001e900 \U00010330",
        "special": "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
        "special inside": "x<|im_end|>y <|im_end|> z<|im_start|><|im_start|>",
        "special cut": "<|im_end| ><|im_ end|><|im_start",
        "llama special": "<s>a</s> <unk> [INST] b [/INST] <0x41> <<SYS>>",
        "llama3 special": "<|begin_of_text|>a<|eot_id|><|start_header_id|>b<|end_header_id|>",
        "added": "x<tool>y <tool> <tool",
        "repo": "<repo_name>a/b<file_sep>c",
    }
    result = [(name, text.encode("utf-8")) for name, text in cases.items()]
    result += [
        ("bad: lone continuation", b"a\x80b\xbf"),
        ("bad: truncated", b"ok \xe4\xbd"),
        ("bad: truncated then text", b"\xf0\x9f\x99x\xe4\xbd y"),
        ("bad: overlong", b"\xc0\xaf \xe0\x80\xaf \xf0\x80\x80\xaf"),
        ("bad: surrogate", b"\xed\xa0\x80\xed\xb0\x80"),
        ("bad: beyond", b"\xf4\x90\x80\x80\xf5\xff\xfe"),
        ("bad: latin1", "na\u00efve caf\u00e9".encode("latin-1")),
    ]
    result += random_texts()
    return result


def random_texts():
    """Seeded mixtures of the classes that pre-tokenisers tell apart."""
    generator = random.Random(20261124)
    alphabets = [
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "etaoinshrdlu",
        "0123456789",
        "   \n\t\r",
        ".,;:!?'\"-_()[]{}<>|/\\",
        "\u00e9\u00e8\u00fc\u00f1\u0439\u03b1\u05d0\u4e2d\u6587\u306e",
        "\u00a0\u2003\u3000\u200d\u0301\ufe0f\u0664\u00bd",
        "\U0001f642\U0001f468\U0001f3fd\U0001d54f",
    ]
    words = ["the", " and", "'s", "'LL", " of", "Section", " License", "ing", "  ", "\n\n"]
    texts = []
    for number in range(150):
        parts = []
        for _ in range(generator.randint(1, 14)):
            if generator.random() < 0.4:
                parts.append(generator.choice(words))
            else:
                alphabet = generator.choice(alphabets)
                parts.append("".join(generator.choices(alphabet, k=generator.randint(1, 4))))
        texts.append((f"random {number}", "".join(parts).encode("utf-8")))
    return texts


def write_bpe_tokenizer(folder, text, llama3):
    """A small byte-level BPE in the style of LLaMA 3, or of SmolLM2 with bytes without a token."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers import processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=llama3))
    tokenizer.decoder = decoders.ByteLevel()
    if llama3:
        pattern = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                    "<|end_header_id|>", "<|eot_id|>"]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated", False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])
    else:
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, show_progress=False,
        special_tokens=[] if llama3 else specials,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    if llama3:
        tokenizer.add_special_tokens(specials)
        bos = specials[0]
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]),
        ])
    else:
        tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    root = json.loads(tokenizer.to_str())
    if not llama3:
        # Older files spell merges as strings; SmolLM2 lacks tokens for bytes that UTF-8 never has.
        root["model"]["merges"] = [" ".join(pair) for pair in root["model"]["merges"]]
        for byte in ("\u0122", "\u00c0"):  # the stand-ins of bytes 0x80 and 0xc0
            root["model"]["vocab"].pop(byte, None)
        root["model"]["merges"] = [
            merge for merge in root["model"]["merges"]
            if all(part in root["model"]["vocab"] for part in merge.split(" "))
            and merge.replace(" ", "") in root["model"]["vocab"]
        ]
        # The package numbers added tokens from the vocabulary's size on: close the gaps.
        order = sorted(root["model"]["vocab"], key=root["model"]["vocab"].get)
        root["model"]["vocab"] = {token: number for number, token in enumerate(order)}
        for token in root["added_tokens"]:
            token["id"] = root["model"]["vocab"].get(token["content"], len(order))
    write_json(folder / "tokenizer.json", root)
    write_json(folder / "tokenizer_config.json",
               {"bos_token": specials[0] if llama3 else "<|im_start|>",
                "eos_token": specials[4] if llama3 else "<|im_end|>"})


def make_tokenizers(model_folder):
    import sentencepiece
    import tokenizers

    sys.path.insert(0, str(REPOSITORY / "scripts"))
    import make_llama2_shaped

    folder = DATA / "tokenizers"
    text = pathlib.Path(make_llama2_shaped.DEFAULT_TEXT).read_text(encoding="utf-8")
    write_bpe_tokenizer(folder / "llama3", text, llama3=True)
    write_bpe_tokenizer(folder / "smollm", text, llama3=False)
    qwen2 = json.loads((folder / "llama3" / "tokenizer.json").read_text(encoding="utf-8"))
    qwen2.update(normalizer={"type": "NFC"}, post_processor={"type": "ByteLevel",
                 "add_prefix_space": False, "trim_offsets": False, "use_regex": False})
    write_json(folder / "qwen2" / "tokenizer.json", qwen2)
    (folder / "llama2").mkdir(parents=True, exist_ok=True)
    make_llama2_shaped.train_tokenizer(
        make_llama2_shaped.DEFAULT_TEXT, 1000, folder / "llama2" / "tokenizer.model")

    fast = {
        "llama3": tokenizers.Tokenizer.from_file(str(folder / "llama3" / "tokenizer.json")),
        "smollm": tokenizers.Tokenizer.from_file(str(folder / "smollm" / "tokenizer.json")),
        "qwen2": tokenizers.Tokenizer.from_file(str(folder / "qwen2" / "tokenizer.json")),
        "smollm2": tokenizers.Tokenizer.from_file(str(model_folder / "tokenizer.json")),
    }
    piece = sentencepiece.SentencePieceProcessor(str(folder / "llama2" / "tokenizer.model"))
    cases = []
    for name, data in nasty_corpus():
        text = data.decode("utf-8", errors="replace")
        case = {"name": name, "hex": data.hex()}
        for key, tokenizer in fast.items():
            # Special tokens recognised, as by default, then not.
            tokenizer.encode_special_tokens = False
            ids = tokenizer.encode(text, add_special_tokens=True).ids
            tokenizer.encode_special_tokens = True
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            case[key] = {"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True)}
            if plain != ids:
                case[key]["plain"] = plain
        ids = piece.encode(text)
        case["llama2"] = {"ids": [piece.bos_id()] + ids, "plain": ids, "text": piece.decode(ids)}
        cases.append(case)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path = folder / "goldens.json"
    path.write_text('{"cases": [\n' + lines + "\n]}\n", encoding="utf-8")
    print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes")


# -------------------------------------------------------------------------------------- logits

MASK = (1 << 64) - 1


def name_hash(name):
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in name.encode("utf-8"):
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def random_integers(name, count):
    """Element i: the top 24 bits of SplitMix64's i-th output from the seed name_hash(name)."""
    with np.errstate(over="ignore"):
        z = np.uint64(name_hash(name)) + np.uint64(0x9E3779B97F4A7C15) * np.arange(
            1, count + 1, dtype=np.uint64)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return (z ^ z >> np.uint64(31)) >> np.uint64(40)


def random_weight(name, shape):
    """Uniform in [-scale, scale) around an offset that depends on what the name says: norms are
    1 +- 1/4, biases +- 1/4, embeddings +- 1, matrices +- the power of two at or above
    sqrt(3 / fan-in), doubled for queries and keys so that attention has preferences. Everything is
    exact in double but the final rounding to float32."""
    offset, scale = 0.0, 1.0
    if "norm" in name:
        offset, scale = 1.0, 0.25
    elif name.endswith(".bias"):
        scale = 0.25
    elif "embed_tokens" not in name:
        while scale / 2 * scale / 2 * shape[-1] >= 3:
            scale /= 2
        if "q_proj" in name or "k_proj" in name:
            scale *= 2
    integers = random_integers(name, int(np.prod(shape))).astype(np.float64)
    values = offset + (integers - 2.0**23) * 2.0**-23 * scale
    return values.astype(np.float32).reshape(shape)


def random_tokens(name, count, vocab_size):
    return [int(v) % vocab_size for v in random_integers(f"{name} tokens", count)]


def random_configs():
    def llama(heads, kv_heads, width, **more):
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 61,
            "hidden_size": heads * width, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 256, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, **more,
        }

    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    qwen2 = llama(4, 2, 16, architectures=["Qwen2ForCausalLM"], model_type="qwen2",
                  use_sliding_window=False, rope_theta=1e6)
    mistral = llama(4, 2, 16, architectures=["MistralForCausalLM"], model_type="mistral",
                    sliding_window=None, head_dim=24)
    return {
        "mha_d8_tied": llama(4, 4, 8, tie_word_embeddings=True),
        "gqa_d64": llama(6, 2, 64),
        "gqa_d80": llama(4, 1, 80),
        "mha_d128": llama(2, 2, 128),
        "linear_rope": llama(4, 2, 16, rope_scaling={"type": "linear", "factor": 4.0}),
        "llama3_rope": llama(4, 2, 64, rope_theta=500000.0, rope_scaling=llama3),
        "biases": llama(4, 2, 16, attention_bias=True, mlp_bias=True),
        "explicit_head_dim": llama(3, 3, 20, head_dim=32, hidden_size=60),
        "qwen2": qwen2,
        "mistral": mistral,
    }


def inverse_frequencies(config):
    """RoPE's frequencies in double, from the published formulas (float64 throughout)."""
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequencies = config["rope_theta"] ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind == "default":
        return frequencies
    wavelength = 2 * np.pi / frequencies
    old = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = (old / wavelength - low) / (high - low)
    between = (1 - smooth) * frequencies / scaling["factor"] + smooth * frequencies
    result = np.where(wavelength > old / low, frequencies / scaling["factor"], between)
    return np.where(wavelength < old / high, frequencies, result)


def make_double(model, config):
    """transformers computes norms and RoPE in float32 even in a float64 model: replaces both."""
    import torch

    frequencies = torch.from_numpy(inverse_frequencies(config))

    class DoubleRotary(torch.nn.Module):
        def forward(self, x, position_ids=None, **_):
            angles = position_ids[..., None].double() * frequencies
            angles = torch.cat([angles, angles], dim=-1)
            return angles.cos(), angles.sin()

    class DoubleNorm(torch.nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.weight, self.eps = norm.weight, norm.variance_epsilon

        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))

    model = model.double()
    model.model.rotary_emb = DoubleRotary()
    model.model.norm = DoubleNorm(model.model.norm)
    for layer in model.model.layers:
        layer.input_layernorm = DoubleNorm(layer.input_layernorm)
        layer.post_attention_layernorm = DoubleNorm(layer.post_attention_layernorm)
    return model


def split_double(values):
    """float64 as the sum of two float32, which the library's own reader can read."""
    high = values.astype(np.float32)
    return high, (values - high.astype(np.float64)).astype(np.float32)


def logits_of(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].to(
            torch.float64 if model.dtype == torch.float64 else torch.float32).numpy()


def make_logits():
    import torch
    from safetensors.numpy import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    folder = DATA / "random_llama"
    expectations, tensors = {}, {}
    for name, config in random_configs().items():
        write_json(folder / f"{name}.json", config, indent=2)
        with_dropout = AutoConfig.for_model(**config)
        model = AutoModelForCausalLM.from_config(with_dropout, attn_implementation="sdpa").eval()
        state = model.state_dict()
        for key in state:
            if key == "lm_head.weight" and config["tie_word_embeddings"]:
                continue
            weight = random_weight(f"{name}/{key}", tuple(state[key].shape))
            state[key].copy_(torch.from_numpy(weight))
        tokens = random_tokens(name, 80, config["vocab_size"])
        positions = [p for p in range(80) if p % 7 == 0] + [79]
        single = logits_of(model.float(), tokens).astype(np.float64)
        low = {dtype: logits_of(copy.deepcopy(model).to(getattr(torch, dtype)), tokens)[positions]
               for dtype in ("bfloat16", "float16")}
        exact = logits_of(make_double(model, config), tokens)
        error = single - exact
        assert np.abs(error).max() < 1e-3, f"{name}: float32 and float64 are different models"
        tensors[f"{name}.high"], tensors[f"{name}.low"] = split_double(exact[positions])
        expectations[name] = {
            "tokens": tokens, "positions": positions,
            "transformers_rms_error": float(np.sqrt((error[positions] ** 2).mean())),
            "transformers_max_error": float(np.abs(error[positions]).max()),
        }
        for dtype, logits in low.items():
            error = logits.astype(np.float64) - exact[positions]
            expectations[name][dtype] = {
                "transformers_rms_error": float(np.sqrt((error**2).mean())),
                "transformers_max_error": float(np.abs(error).max()),
            }
        print(name, {k: v for k, v in expectations[name].items() if "error" in k},
              "logits rms", float(np.sqrt((exact**2).mean())))
    save_file(tensors, str(folder / "goldens.safetensors"))
    (folder / "goldens.safetensors").chmod(0o644)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in expectations.items())
    (folder / "goldens.json").write_text("{" + lines + "}\n", encoding="utf-8")


# ------------------------------------------------------------------------------------- smollm2

PROMPT = (
    "The memory of a computer keeps what its processor will need again. A cache is a small, fast "
    "copy of a part of it, and the art of caching is to guess which part. In 1968 the first machine "
    "with a cache had 16 KB of it; by 2024 the caches of a single chip had passed 1 GB. What has "
    "not changed is"
)


def make_smollm2(model_folder):
    import tokenizers
    import torch
    from safetensors.numpy import save_file
    from transformers import AutoModelForCausalLM

    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = tokenizers.Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    tokens = tokenizer.encode(PROMPT).ids
    model = AutoModelForCausalLM.from_pretrained(
        str(model_folder), dtype=torch.float32, attn_implementation="sdpa").eval()
    single = logits_of(model, tokens)[-1].astype(np.float64)
    exact = logits_of(make_double(model, config), tokens)[-1]
    error = single - exact
    top = np.argsort(-exact)[:20]
    sampled = random.Random(0).sample(range(len(exact)), 480)
    ids = np.array(sorted(set(top.tolist()) | set(sampled)), dtype=np.int64)
    high, low = split_double(exact[ids])
    folder = DATA / "smollm2"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"high": high, "low": low}, str(folder / "goldens.safetensors"))
    (folder / "goldens.safetensors").chmod(0o644)
    write_json(folder / "goldens.json", {
        "prompt": PROMPT, "tokens": tokens, "top_ids": top.tolist(), "ids": ids.tolist(),
        "transformers_rms_error": float(np.sqrt((error**2).mean())),
        "transformers_max_error": float(np.abs(error).max()),
    })
    print(f"smollm2: {len(tokens)} tokens, top {tokenizer.decode(top[:5].tolist())!r}, "
          f"errors of transformers: max {np.abs(error).max():.2e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=pathlib.Path, default=DEFAULT_MODEL)
    parser.add_argument("what", choices=["tokenizers", "logits", "smollm2", "all"])
    arguments = parser.parse_args()
    if arguments.what in ("tokenizers", "all"):
        make_tokenizers(arguments.model)
    if arguments.what in ("logits", "all"):
        make_logits()
    if arguments.what in ("smollm2", "all"):
        make_smollm2(arguments.model)


if __name__ == "__main__":
    main()
