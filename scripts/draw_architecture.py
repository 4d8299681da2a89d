#!/usr/bin/env python3
"""Draws docs/architecture.svg: the path of a chunk through the layers, and what a cache holds.

usage: draw_architecture.py [--check]
  --check   draw nothing, fail if the picture is not what this script draws
"""
import html
import pathlib
import sys

FILE = pathlib.Path(__file__).resolve().parents[1] / "docs/architecture.svg"
WIDTH, HEIGHT = 1000, 882
INK, PALE, LINE = "#1f2933", "#52606d", "#9aa5b1"
FILLS = {"tools": "#f5f0e6", "model": "#e3f0ea", "core": "#e1ecf7",
         "io": "#f0eef7", "kernels": "#fbe9e4", "state": "#fffbea"}


class Picture:
    def __init__(self):
        self.parts = []

    def add(self, text):
        self.parts.append(text)

    def text(self, x, y, words, size=14, weight="normal", anchor="start", fill=INK, mono=False):
        family = "DejaVu Sans Mono, Menlo, Consolas, monospace" if mono else \
                 "DejaVu Sans, Helvetica, Arial, sans-serif"
        self.add(f'<text x="{x}" y="{y}" font-family="{family}" font-size="{size}" '
                 f'font-weight="{weight}" text-anchor="{anchor}" fill="{fill}">'
                 f"{html.escape(words)}</text>")

    def box(self, x, y, width, height, fill, stroke=LINE):
        self.add(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" '
                 f'stroke="{stroke}" stroke-width="1.2"/>')

    def note(self, x, y, width, title, lines, mono=True):
        """A box with a title and lines below it; returns where it ends."""
        height = 32 + 16 * len(lines)
        self.box(x, y, width, height, "#ffffff")
        self.text(x + 12, y + 21, title, 13, "bold")
        for i, line in enumerate(lines):
            self.text(x + 12, y + 39 + 16 * i, line, 11 if mono else 11.5, mono=mono, fill=PALE)
        return y + height

    def step(self, x, y, width, number, title, files):
        """A numbered step: what happens, and the files where it does."""
        self.box(x, y, width, 36 + 17 * len(files), "#ffffff")
        self.add(f'<circle cx="{x + 18}" cy="{y + 18}" r="10.5" fill="{INK}"/>')
        self.text(x + 18, y + 22.5, str(number), 12, "bold", "middle", "#ffffff")
        self.text(x + 36, y + 23, title, 13, "bold")
        for i, name in enumerate(files):
            self.text(x + 12, y + 43 + 17 * i, name, 11.5, mono=True, fill=PALE)

    def arrow(self, points):
        path = " ".join(f"{'M' if i == 0 else 'L'}{x},{y}" for i, (x, y) in enumerate(points))
        self.add(f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.6" '
                 'marker-end="url(#head)"/>')

    def layer(self, y, height, width, name, folders, fill, x=10):
        self.box(x, y, width, height, fill, "none")
        self.text(x + 14, y + 24, name, 15, "bold")
        for i, folder in enumerate(folders):
            self.text(x + 14, y + 43 + 15 * i, folder, 11, mono=True, fill=PALE)

    def svg(self):
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
                f'viewBox="0 0 {WIDTH} {HEIGHT}">\n'
                '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
                f'markerHeight="7" orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="{INK}"/>'
                "</marker></defs>\n"
                f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n')
        return head + "\n".join(self.parts) + "\n</svg>\n"


def draw():
    p = Picture()
    p.text(24, 30, "A chunk of T tokens through one layer (T = 1: decode)", 18, "bold")
    p.text(24, 50, "Numbers are the order of work. A layer uses those below it, never those above.", 12,
           fill=PALE)
    first, second, right = 180, 450, 700  # columns: the way down, the way on, what the cache holds
    wide, narrow = 244, 226

    p.layer(64, 74, 980, "Tools, evaluation", ["examples/", "src/eval/"], FILLS["tools"])
    p.note(first, 78, 300, "Programs, rillkv::eval, your program", ["public headers: include/rillkv/"])

    p.layer(148, 186, 980, "Model", ["src/model/"], FILLS["model"])
    p.step(first, 160, wide, 1, "Tokens to chunks", ["generation.cpp", "llama.cpp"])
    p.step(first, 246, wide, 2, "Norm; q, k, v projections", ["llama_layer.cpp", "chunked_attention.cpp"])
    p.step(second, 246, narrow, 8, "Output projection, MLP", ["chunked_attention.cpp", "llama_layer.cpp"])

    p.layer(344, 296, 980, "Core", ["src/core/"], FILLS["core"])
    p.step(first, 362, wide, 3, "Check; choose the layer", ["kv_cache.cpp"])
    p.step(first, 436, wide, 4, "Divide: sinks, blocks, tail", ["packed_layer.cpp"])
    p.step(first, 510, wide, 5, "Measure; rotate values", ["cpu_block_device.cpp", "cuda_layer_cache.cpp"])
    p.step(second, 400, narrow, 6, "Attend", ["attention_runner.cpp", "rotation_table.cpp"])
    p.step(second, 510, narrow, 7, "Append; seal full blocks",
           ["packed_layer_cache.cpp", "query_energy.cpp", "streaming_stats.cpp", "cpu_sealing.cpp"])

    p.layer(650, 220, 680, "Kernels", ["kernels/", "no Torch"], FILLS["kernels"])
    p.note(first, 666, wide, "Statistics, packing, widths",
           ["cpu/generic/pack.h", "cpu/generic/statistics.h", "cpu/allocate_widths.cpp", "cuda/pack_*.cu"])
    p.note(second, 666, narrow, "Attention on packed bytes",
           ["cpu/generic/attention.h", "cpu/avx512/decode/", "cpu/merge_partials.cpp",
            "cuda/attention_*.cu"])
    p.note(first, 772, wide, "Which kernels, which tasks", ["cpu/dispatch.cpp, cpu/plan.cpp"])
    p.note(second, 772, narrow, "The same for CUDA", ["cuda/plan.cpp, cuda/launch.h"])
    p.note(first, 827, second + narrow - first, "packed_format.h, planes.h: nothing else computes an offset", [])

    p.layer(650, 220, 280, "io", ["src/io/"], FILLS["io"], x=710)
    p.note(724, 708, 252, "Files, checked as they are read",
           ["config.json: model_config.cpp", "weights: safetensors.cpp", "tokens: tokenizer.cpp",
            "chat templates: chat.cpp", "whole files or none: files.cpp"])

    # Down to the cache, on to the kernels, and back up.
    middle = first + 120
    for begin, end in ((124, 160), (230, 246), (316, 362), (415, 436), (489, 510)):
        p.arrow([(middle, begin), (middle, end)])
    p.text(middle + 8, 342, "q, k, v before RoPE", 11.5, fill=PALE)
    p.arrow([(first + wide, 546), (437, 546), (437, 436), (second, 436)])
    p.arrow([(second + 113, 470), (second + 113, 510)])
    p.arrow([(second + 150, 400), (second + 150, 316)])
    p.text(second + 158, 342, "output", 11.5, fill=PALE)
    p.arrow([(middle, 580), (middle, 666)])
    p.arrow([(second + 30, 614), (second + 30, 632), (middle + 80, 632), (middle + 80, 666)])
    p.arrow([(second + narrow, 436), (688, 436), (688, 632), (second + 180, 632), (second + 180, 666)])

    p.box(right, 148, 280, 446, FILLS["state"], LINE)
    p.text(right + 14, 172, "What a layer's cache holds", 15, "bold")
    x, width, y = right + 14, 252, 186
    for name, lines in (
            ("Sinks", ["the first S tokens, 16 bits in the presets", "written once each"]),
            ("Sealed blocks", ["B tokens each, keys before RoPE", "frozen when full, shared by reference"]),
            ("Open tail", ["up to B - 1 tokens, model's dtype", "emptied when a block is sealed"]),
            ("Statistics", ["query energy, or EMA of absmax", "grow with every chunk, count at a seal"])):
        y = p.note(x, y, width, name, lines, mono=False) + 10
    p.text(x, y + 16, "Along the context", 13, "bold")
    y += 26
    for start, size, name, fill in ((0, 26, "S", "#f7d9c4"), (26, 52, "B", "#c9def4"),
                                    (78, 52, "B", "#c9def4"), (130, 52, "B", "#c9def4"),
                                    (182, 34, "tail", "#e3f0ea"), (216, 36, "T", "#ffffff")):
        p.box(x + start, y, size, 34, fill)
        p.text(x + start + size / 2, y + 22, name, 12, anchor="middle")
    p.text(x, y + 52, "packed", 11.5, fill=PALE)
    p.text(x + width, y + 52, "full precision", 11.5, anchor="end", fill=PALE)
    return p.svg()


def main():
    svg = draw()
    if sys.argv[1:] == ["--check"]:
        if not FILE.exists() or FILE.read_text(encoding="utf-8") != svg:
            sys.exit(f"{FILE}: run scripts/draw_architecture.py")
        return
    if sys.argv[1:]:
        sys.exit(__doc__.strip())
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
