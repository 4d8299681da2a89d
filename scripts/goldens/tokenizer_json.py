#!/usr/bin/env python3
"""Reference values for tests/io/tokenizer_json_test.cpp: what transformers 5 and tokenizers make of
small tokenizer.json files, from which the test builds the same folders.

    .venv-reference/bin/python scripts/goldens/tokenizer_json.py

Writes tests/data/tokenizer_json/: `characters.json`, a BPE over characters with byte fallback
trained here on the text below, and `goldens.json`, its variants: a merge patch (RFC 7386) of that
file, of a small one in the same file ("few") or of tests/data/tokenizers/llama3/tokenizer.json, the
files beside it, and for each text the ids with special tokens recognised ("ids") and without
("plain"), and the text of the ids without special tokens ("kept") and with them ("full"); what is
missing is the same as "ids" without BOS, or as the text."""

import json
import os
import pathlib
import random
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "tests" / "data"
SPACE = "\u2581"

TEXT = """The kettle sings before the water boils, and the window clouds over.
A river is older than the bridge that crosses it; the bridge is older than the road.
Nobody counted the swallows this year, but there were more than last year.
He wrote 1024 letters in 36 months and posted 7 of them.
When the lamp goes out, the room does not become empty.
Über den Dächern hängt der Nebel, und die Straße führt zum Fluß.
Le garçon a mangé trois pêches à l'ombre du vieux chêne.
Привет, мир: снег идёт третий день.
窓の外で雨が降っている。今日は静かだ。
She said: "there is nothing to say", and said it again, and then again.
The theory of the thing is that the other theories are worse.
Bread, butter, better batter: the baker bakes what the butcher brings.
def add(left, right): return left + right  # the sum of the two
"""


def added(identity, content, **flags):
    token = {"id": identity, "content": content, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True}
    return {**token, **flags}


def train_characters():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)])
    text = "".join(c for c in TEXT if c not in "窓外雨降今日静だ\n") + SPACE * 9
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(text.split(". "), trainer)
    root = json.loads(tokenizer.to_str())
    root["added_tokens"] = [added(i, name) for i, name in enumerate(names[:3])]
    # What sentencepiece models were converted to before transformers 5.
    root["pre_tokenizer"] = None
    root["normalizer"] = prepend_and_replace()
    root["post_processor"] = bos(1)
    return root


def few_tokens(characters):
    """Most bytes and characters are missing."""
    few = ["<unk>", "<0xE4>", "<0xBD>", "<0xA0>", "<0xC3>", "<0xA9>", SPACE, "a", "b", "t", "h",
           "e", "th", "the", SPACE + "the"]
    model = {**characters["model"], "vocab": {token: i for i, token in enumerate(few)},
             "merges": [["t", "h"], ["th", "e"], [SPACE, "the"]]}
    return {**characters, "added_tokens": [], "post_processor": None, "model": model}


def prepend_and_replace():
    return {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]}


def bos(identity, name="<s>"):
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": name, "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {name: {"id": name, "ids": [identity], "tokens": [name]}}}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def split(pattern, behavior, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": False}


def bytes_after(*steps):
    return {"type": "Sequence", "pretokenizers": [*steps, BYTE_LEVEL]}


def variants(characters, few, llama3):
    """name, base, patch, files beside, texts of its own."""
    size = len(characters["model"]["vocab"])
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"}
               for t in characters["added_tokens"]}
    llama = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
             "unk_token": "<unk>", "added_tokens_decoder": decoder}

    def config(**more):
        return {"tokenizer_config.json": {**llama, **more}}

    def model_type(name):
        return {"config.json": {"model_type": name}}

    specials = ["a</s>b", "</s> b", "<unk> x<unk>", "<s>", " <s> "]
    yield "as the file says", "characters", {}, {}, specials
    yield "LlamaTokenizer", "characters", {}, config(legacy=False), specials
    yield "LlamaTokenizer, legacy", "characters", {}, config(legacy=True), specials
    yield ("LlamaTokenizer, null for legacy, no BOS", "characters", {"post_processor": None},
           config(legacy=None, add_bos_token=True), specials)
    yield ("LlamaTokenizer without a prefix space", "characters", {},
           config(add_prefix_space=False), specials)
    yield ("Mistral does not rebuild", "characters", {},
           {**config(legacy=False), **model_type("mistral")}, specials)
    yield ("tokens without an id", "characters", {},
           config(pad_token="[PAD]", additional_special_tokens=["<|im_start|>", "<|im_end|>"],
                  image_token="<img>"),
           ["a[PAD]b", "<|im_start|>user\nthe <|im_end|>", "<img><img>"])
    yield ("the older files", "characters", {},
           {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "pad_token": "<pad>"},
            "special_tokens_map.json": {
                "bos_token": {"content": "<s>", "lstrip": True, "normalized": False,
                              "rstrip": False, "single_word": False},
                "additional_special_tokens": ["<tool>", "<q>"]},
            "added_tokens.json": {"<tool>": size + 1, "<pad>": size}},
           ["a <s>b", "the<tool>the <tool> <pad>x", "<q>"])
    yield ("a rebuilt tokenizer forgets what the settings do not list", "characters",
           {"added_tokens": characters["added_tokens"] + [added(size, "<more>")]}, config(),
           ["a<more>b"])
    yield ("a token with a role is special, its other flags stay", "characters",
           {"added_tokens": characters["added_tokens"]
            + [added(size, "<pad>", special=False, lstrip=True)]},
           {"tokenizer_config.json": {"image_token": "<img>", "pad_token": "<pad>"},
            "added_tokens.json": {"<img>": size + 1}}, ["a<img>b", "<img>", "a  <pad>b"])
    yield ("extra tokens as a map", "characters", {},
           {"tokenizer_config.json": {"extra_special_tokens": {"eoi_token": "<eoi>"},
                                      "bos_token": "<s>"}}, ["a <eoi> b"])
    yield ("CodeLlamaTokenizer", "characters", {"added_tokens": characters["added_tokens"]},
           {"tokenizer_config.json": {"tokenizer_class": "CodeLlamaTokenizer", "legacy": True}},
           [SPACE + "<PRE> a " + SPACE + "<SUF>b", "a<FILL_ME>b", "a</s>b"])
    for scheme in ("first", "always", "never"):
        for cut in (True, False):
            yield (f"Metaspace {scheme} {cut}", "characters",
                   {"normalizer": None, "pre_tokenizer": metaspace(scheme, cut)}, {},
                   specials[:3] + [SPACE + "a" + SPACE * 2 + "b"])
    yield ("Metaspace's own decoder", "characters",
           {"normalizer": None, "pre_tokenizer": metaspace("always", True),
            "decoder": metaspace("always", True)}, {}, ["the water boils"])
    yield ("words that are tokens", "characters",
           {"normalizer": None, "pre_tokenizer": metaspace("first", True),
            "model": {"ignore_merges": True, "merges": []}}, {}, ["the bridge is older"])
    for fuse, unknown in ((True, "<unk>"), (False, "<unk>"), (True, None)):
        yield (f"few bytes, fuse_unk {fuse}, {unknown}", "few",
               {"model": {"unk_token": unknown, "fuse_unk": fuse}},
               {}, ["xx\u4f60y\u00e9 zz the", "x\u00e9", "the \u4f60", "x\u4f60", "\u00e9xx\u00e9"])

    flags = [added(size, "<norm>", normalized=True, special=False),
             added(size + 1, "<lone>", single_word=True, special=False),
             added(size + 2, "<left>", lstrip=True),
             added(size + 3, "<right>", rstrip=True, special=False),
             added(size + 4, "<both>", lstrip=True, rstrip=True, normalized=True, special=False),
             added(size + 5, "brid", normalized=True, single_word=True, special=False)]
    texts = ["a<norm>b", "<norm> a <norm>", "<lone>", "a<lone>", " <lone>.", "_<lone>", "é<lone>",
             "a \n\u3000<left> b", "<left>  <left>", "<right> \t x", "<right> <left> x",
             "a  <both>  <both> b", "the brid is", "brid the bridge", "<lone><norm><right>"]
    yield ("flags", "characters", {"added_tokens": characters["added_tokens"] + flags}, {}, texts)
    yield ("flags on stripped text", "characters",
           {"added_tokens": characters["added_tokens"] + flags,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Strip", "strip_left": True, "strip_right": False},
                {"type": "Replace", "pattern": {"Regex": "e+"}, "content": "e"},
                {"type": "Replace", "pattern": {"String": "of"}, "content": ""}]},
            "pre_tokenizer": metaspace("first", True)}, {},
           texts + ["  thee  streets of  ", "of the", "the"])

    number = len(llama3["model"]["vocab"]) + len(llama3["added_tokens"])
    number = max(t["id"] for t in llama3["added_tokens"]) + 1
    deepseek = [added(number, "<\uff5cUser\uff5c>", normalized=True, special=False),
                added(number + 1, f"<\uff5cend{SPACE}of\uff5c>", normalized=True),
                added(number + 2, "<|EOT|>", normalized=True),
                added(number + 3, "e\u0301a", normalized=True, special=False),
                added(number + 4, "\t\t", normalized=True, special=False)]
    texts = ["<\uff5cUser\uff5c>the<|EOT|>", f"the<\uff5cend{SPACE}of\uff5c> of",
             "\u00e9a e\u0301a", "a\t\t\tb", "<\uff5cUser\uff5c><\uff5cUser\uff5c>",
             "n\u0303 \u1e69 \u0338>",
             "<|EOT|>\u0338 <pad>"]
    for name, normalizers in (("nothing", []), ("NFC", [{"type": "NFC"}])):
        yield (f"Sequence of {name}", "llama3",
               {"normalizer": {"type": "Sequence", "normalizers": normalizers},
                "added_tokens": llama3["added_tokens"] + deepseek,
                "pre_tokenizer": bytes_after(
                    split({"Regex": "[\r\n]"}, "Isolated"),
                    split({"Regex": r"\s?\p{L}+"}, "Isolated"),
                    split({"Regex": r"\s?\p{P}+"}, "Isolated"),
                    {"type": "Digits", "individual_digits": True})},
               {"tokenizer_config.json": {
                   "tokenizer_class": "LlamaTokenizerFast", "pad_token": "<pad>",
                   "bos_token": {"__type": "AddedToken", "content": "<|begin_of_text|>"},
                   "added_tokens_decoder": {
                       str(number + 5): {"content": "<late>", "lstrip": False, "rstrip": False,
                                         "normalized": True, "single_word": False,
                                         "special": False}}}},
               texts + ["the <late> of"])
    patterns = [{"String": "-"}, {"Regex": r"\p{N}{1,2}"}, {"Regex": r"(?=\p{Lu})"},
                {"Regex": r"(?=(\d{3})+(?!\d))"}, {"Regex": "x*"}, {"String": ""}]
    texts = ["-the-final--countdown-", "ab1234567c12345", "TheKettleSINGS", "axxbx", "  a-- b"]
    for i, behavior in enumerate(["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                  "Contiguous"]):
        for invert in (False, True):
            for pattern in (patterns[0], patterns[1 + (2 * i + invert) % 5]):
                yield (f"Split {json.dumps(pattern)} {behavior} {invert}", "llama3",
                       {"pre_tokenizer": bytes_after(split(pattern, behavior, invert))}, {}, texts)
    steps = {"Punctuation": {"type": "Punctuation", "behavior": "MergedWithPrevious"},
             "Punctuation alone": {"type": "Punctuation"}, "Whitespace": {"type": "Whitespace"},
             "WhitespaceSplit": {"type": "WhitespaceSplit"},
             "CharDelimiterSplit": {"type": "CharDelimiterSplit", "delimiter": "e"},
             "FixedLength": {"type": "FixedLength", "length": 3}}
    for name, step in steps.items():
        yield (name, "llama3", {"pre_tokenizer": bytes_after(step)}, {},
               ["a$b`c\u00abd\u3002e", "l'a\u0301me  12\u00bd", "x_y z\u200dw", "three trees"])
    for kind in ("RobertaProcessing", "BertProcessing"):
        more = {"trim_offsets": True, "add_prefix_space": False} if kind[0] == "R" else {}
        yield (kind, "llama3", {"post_processor": {
            "type": "Sequence", "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
                 "use_regex": True},
                {"type": kind, "cls": ["!", 0], "sep": ["\"", 1], **more}],
            "single": None, "pair": None, "special_tokens": None}}, {}, [])


TEXTS = ["Hi", "\n", "", " ", "   ", "the water", " the", "the  bridge ",
         "\u00fcber 1024 \u4f60\u597d \U0001f642", "line\r\n\r\nend\t", "\x00\x01\x7f", SPACE,
         "a\u0301e\u0301 \u1100\u1161\u11a8", "\ufeff\ufffd", "l'ombre du vieux ch\u00eane",
         "\U0001f469\u200d\U0001f469", "\u00a0\u3000\u2028x", "aaaaaaaaaaaaaaaaaaaaa"]


def merge_patch(target, patch):
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def spliced(texts, spellings, random_source):
    pieces = texts + spellings + [" ", "  ", "\n", "x", "."]
    return ["".join(random_source.choices(pieces, k=6)) for _ in range(2)]


def main():
    from transformers import AutoTokenizer

    folder = DATA / "tokenizer_json"
    folder.mkdir(exist_ok=True)
    bases = {"characters": train_characters(), "llama3": json.loads(
        (DATA / "tokenizers" / "llama3" / "tokenizer.json").read_text(encoding="utf-8"))}
    (folder / "characters.json").write_text(
        json.dumps(bases["characters"], ensure_ascii=False, separators=(",", ":")) + "\n",
        encoding="utf-8")
    bases["few"] = few_tokens(bases["characters"])
    random_source = random.Random(15)
    lines = []
    for name, base, patch, files, texts in variants(**bases):
        root = merge_patch(bases[base], patch)
        # The library insists on keys that a merge patch cannot set to null.
        for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            root.setdefault(key, None)
        root.setdefault("added_tokens", [])
        files = {"config.json": {"model_type": "llama"}, **files}
        with tempfile.TemporaryDirectory() as path:
            for file, content in {"tokenizer.json": root, **files}.items():
                (pathlib.Path(path) / file).write_text(json.dumps(content), encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(path).backend_tokenizer
        spellings = [t.content for t in tokenizer.get_added_tokens_decoder().values()][-8:]
        cases = []
        some = random_source.sample(TEXTS, 5 if base == "characters" else 3)
        for text in dict.fromkeys(some + texts + spliced(texts + some, spellings, random_source)):
            tokenizer.encode_special_tokens = False
            ids = tokenizer.encode(text, add_special_tokens=True).ids
            without = tokenizer.encode(text, add_special_tokens=False).ids
            # Only what comes before the text is for prompts.
            ids = ids[:len(ids) - 1] if "Processing" in name else ids
            case = {"text": text, "ids": ids}
            decoded = {"kept": tokenizer.decode(ids, True), "full": tokenizer.decode(ids, False)}
            if base == "llama3":  # the same decoder for all
                del decoded["full"]
            case.update({key: value for key, value in decoded.items() if value != text})
            # The package forgets that a special token is one where its normalised spelling differs,
            # and leaves it in the text; RillKV does not.
            table = tokenizer.get_added_tokens_decoder()
            if any(i in table and table[i].special and tokenizer.id_to_token(i) != table[i].content
                   for i in ids):
                case["kept"] = None
            tokenizer.encode_special_tokens = True
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            if plain != without:
                case["plain"] = plain
            cases.append(case)
        lines.append(json.dumps({"name": name, "base": base, "patch": patch, "files": files,
                                 "cases": cases}, ensure_ascii=False, separators=(",", ":")))
    path = folder / "goldens.json"
    few = json.dumps(bases["few"], ensure_ascii=False, separators=(",", ":"))
    path.write_text('{"few": ' + few + ',\n"variants": [\n' + ",\n".join(lines) + "\n]}\n",
                    encoding="utf-8")
    print(f"{path}: {len(lines)} variants, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
