#!/usr/bin/env python3
"""Writes tests/data/sentencepiece: what transformers makes of folders with a tokenizer.model.

Each folder has one of two small models (LLaMA 2's shape, from tests/data/tokenizers, and one with
symbols of the user's and without a dummy prefix) and a tokenizer_config.json; the files say the ids
of every text and the texts of some ids. transformers reads a tokenizer.model with the package
protobuf. Run with .venv-reference/bin/python; usage: sentencepiece.py
"""
import json
import os
import pathlib
import sys
import tempfile

sys.path.pop(0)  # this file is called as a package it needs
os.environ["HF_HUB_OFFLINE"] = "1"
import sentencepiece  # noqa: E402
import transformers  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
TARGET = DATA / "sentencepiece"
LLAMA2 = DATA / "tokenizers" / "llama2" / "tokenizer.model"

TEXTS = ["", " ", "a", " a", "  a", "a ", "\u2581a", "a\nb", "a</s>b", "a</s> b", "a </s>b", "</s>b", "<s>a",
         "a\n<s> b", "<unk>", "x<unk>y", "<unk> a<unk>", "a<tool>b", " a<tool> b", "a[INST]b[/INST]",
         "a <L> b", "a  <L>b", "a <R>  b", "<R> <L>", "word words a word.", "sword word", "nor a nor b",
         "\u2581nor", "a<gap>b<pad>c<ex>d", "<ex><ex> x", "été 你好 🙂", "e\u0301", "\u00a0a",
         "The licence is 12,345 lines\n\n  long.", "[INST] hi [/INST] ok </s><s>[INST] more [/INST]"]
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}


def token(content, **flags):
    return {"content": content, **FLAGS, **flags}


ADDED = {"0": token("<unk>"), "1": token("<s>"), "2": token("</s>"), "1000": token("<L>", lstrip=True),
         "1001": token("<R>", rstrip=True), "1002": token("word", single_word=True, special=False),
         "1003": token("\u2581nor", normalized=True, special=False),
         "1004": token("<gap>", special=True)}
CASES = {
    "legacy": ("llama2", {"legacy": True, "add_bos_token": True}),
    "first": ("llama2", {"legacy": False, "add_bos_token": True}),
    "null": ("llama2", {"legacy": None, "add_bos_token": True}),
    "unsaid": ("llama2", {"add_bos_token": True}),
    "no_space": ("llama2", {"add_prefix_space": False, "add_bos_token": True}),
    "no_space_legacy": ("llama2", {"add_prefix_space": False, "legacy": True, "add_bos_token": True}),
    "no_bos": ("llama2", {"legacy": False, "add_bos_token": False}),
    "flags": ("llama2", {"legacy": False, "add_bos_token": True, "added_tokens_decoder": ADDED,
                         "pad_token": "<pad>", "additional_special_tokens": ["<ex>"]}),
    "flags_legacy": ("llama2", {"legacy": True, "add_bos_token": True, "added_tokens_decoder": ADDED,
                                "pad_token": "<pad>", "additional_special_tokens": ["<ex>"]}),
    "split_special": ("llama2", {"legacy": False, "add_bos_token": True, "split_special_tokens": True}),
    "symbols": ("symbols", {"legacy": False, "add_bos_token": True}),
    "symbols_legacy": ("symbols", {"legacy": True, "add_bos_token": True}),
}


def train_symbols(target):
    """A model of 420 pieces that marks no beginning of a text and has two symbols of its user's."""
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder, "text")
        text.write_text((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(pathlib.Path(folder, "model")), vocab_size=420,
            model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, add_dummy_prefix=False, character_coverage=0.99,
            user_defined_symbols=["<tool>", "[INST]"], split_digits=True, num_threads=1,
            minloglevel=2)
        target.write_bytes(pathlib.Path(folder, "model.model").read_bytes())


def load(model, config):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "tokenizer.model").write_bytes(model.read_bytes())
        pathlib.Path(folder, "config.json").write_text('{"model_type": "llama"}')
        pathlib.Path(folder, "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "LlamaTokenizer", **config}))
        return transformers.AutoTokenizer.from_pretrained(folder)


def continued(tokenizer, prompt, ids):
    """What a text-generation pipeline returns: the whole less the prompt."""
    whole = tokenizer.decode(prompt + ids, skip_special_tokens=True)
    return whole[len(tokenizer.decode(prompt, skip_special_tokens=True)):]


def main():
    TARGET.mkdir(parents=True, exist_ok=True)
    symbols = TARGET / "symbols.model"
    if not symbols.exists():
        train_symbols(symbols)
    models = {"llama2": LLAMA2, "symbols": symbols}
    cases = []
    for name, (model, config) in CASES.items():
        tokenizer = load(models[model], config)
        ids = [tokenizer.encode(text) for text in TEXTS]
        prompt = tokenizer.encode("The capital of France is")
        answers = [tokenizer.encode(text, add_special_tokens=False) for text in
                   ("Paris.", "a </s> b", "\n b")] + [[tokenizer.bos_token_id, 300, 2, 301], [0, 300]]
        cases.append({
            "name": name, "model": model, "config": {"tokenizer_class": "LlamaTokenizer", **config},
            "ids": ids, "texts": [tokenizer.decode(x, skip_special_tokens=True) for x in ids],
            "all": [tokenizer.decode(x) for x in ids], "prompt": prompt, "answers": answers,
            "continued": [continued(tokenizer, prompt, x) for x in answers],
            # Behind nothing but a BOS a text begins.
            "begun": [continued(tokenizer, [tokenizer.bos_token_id], x) for x in answers]})
    root = {"made_by": f"scripts/goldens/sentencepiece.py, transformers {transformers.__version__}, "
                       f"sentencepiece {sentencepiece.__version__}", "texts": TEXTS}
    head = json.dumps(root, ensure_ascii=False, separators=(",", ":"))
    rows = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases)
    path = TARGET / "goldens.json"
    path.write_text(f'{head[:-1]},"cases":[\n{rows}\n]}}\n', encoding="utf-8")
    print(f"{path}: {len(cases)} folders, {len(TEXTS)} texts, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
