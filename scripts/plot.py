#!/usr/bin/env python3
"""Pictures from the JSON that RillKV's programs write.

  plot.py needle  NEEDLE.json              retrieval by depth and length, dense beside compressed
  plot.py pareto  RESULT.json...           bits against KL, with other systems' schemes
  plot.py memory  PREFILL.json...          cache bytes and process memory against the context
  plot.py speed   PREFILL.json...          prefill and decode speed against the context
  plot.py layers  RESULT.json              widths and outliers of every layer

RESULT is what `evaluate perplexity`, `ablate`, `tune.py` or `experiment` wrote, NEEDLE what
`evaluate needle` or `experiment` wrote, PREFILL what `prefill --json` wrote. Needs matplotlib (.venv-tools/bin/python has it)
"""
import argparse
import json
import math
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent
OURS, DENSE, OTHERS, INK = "#1f5fa8", "#c2571a", "#7a7a7a", "#222222"
WIDTH_COLOURS = "cividis"


class PlotError(Exception):
    """Input that cannot be drawn; the message says why in one line."""


# --- reading ----------------------------------------------------------------------------------

def read(path):
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PlotError(f"cannot read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise PlotError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None


def need(mapping, keys, path):
    """The value behind a chain of keys."""
    value = mapping
    for key in keys.split("."):
        if not isinstance(value, dict) or value.get(key) is None:
            raise PlotError(f"{path}: expected the key {keys}")
        value = value[key]
    return value


def task_of(report, path, *names):
    """The report itself, or the first of these tasks in the results of an experiment."""
    if not isinstance(report, dict) or not isinstance(report.get("tasks"), dict):
        return report
    for name in names:
        if name in report["tasks"]:
            return report["tasks"][name]
    raise PlotError(f"{path}: expected the task {' or '.join(names)} in this experiment")


def check_protocol(report, protocol, path):
    made = report.get("protocol") if isinstance(report, dict) else None
    if made not in (None, protocol):
        raise PlotError(f"{path}: made by the {made} protocol: --protocol {made} draws it")


def is_dense(row):
    return (row.get("config") or {}).get("policy") == "dense"


def label_of(report, path):
    stem = pathlib.Path(path).stem.removesuffix(f"-{report.get('protocol')}")
    return str(report.get("label") or report.get("preset") or stem)


def pareto_points(path, protocol):
    """[(label, bits, kl)] of a perplexity report, an ablation or a tuning study; the dense cache is
    no point, its bits are no scheme's."""
    report = read(path)
    if isinstance(report, dict) and "tasks" in report:
        report = {**task_of(report, path, "perplexity"), "config": report.get("config")}
    check_protocol(report, protocol, path)
    if isinstance(report, dict) and "trials" in report:
        return [(f"trial {t['number']}", t["bits"], t["kl"]) for t in report["trials"]
                if t.get("state") == "complete"]
    rows = report.get("rows", [report]) if isinstance(report, dict) else report
    points = []
    for row in rows:
        if row.get("error") or is_dense(row):  # An ablation keeps rows that failed.
            continue
        result = row.get("result", row)
        points.append((label_of(row, path), need(result, "kv_bits_sealed.total", path),
                       need(result, "kl_mean", path)))
    return points


def front_of(points):
    """The points no other beats in both bits and KL, by bits."""
    front, best = [], math.inf
    for point in sorted(points, key=lambda p: (p[1], p[2])):
        if point[2] < best:
            front.append(point)
            best = point[2]
    return front


def other_schemes(path, name, protocol):
    """The title of a model and text in competitors.json, and [(scheme, bits, kl)] measured on it."""
    known = read(path)
    title = need(known, "sets", path).get(name, {}).get("title")
    if title is None:
        raise PlotError(f"{path}: no set {name}: expected {' or '.join(known['sets'])}")
    points = []
    for scheme in need(known, "schemes", path):
        measured = scheme.get("measured", {}).get(name, {})
        if scheme.get("drawn", True) and measured.get(f"kl_{protocol}") is not None:
            points.append((scheme["name"], measured["bits"], measured[f"kl_{protocol}"]))
    return title, points


# --- drawing ----------------------------------------------------------------------------------

def styled_axes(plt, columns=1, rows=1, size=(6.4, 4.2)):
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False,
                                constrained_layout=True)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=9)
    return figure, axes


def spread_labels(axis, labels, markers, gap=11):
    """Labels beside their points, where they cover neither a marker nor another label; a thin line
    leads to one that stands further off."""
    axis.figure.canvas.draw()
    scale = 72.0 / axis.figure.dpi  # Pixels to points.
    window = axis.get_window_extent()
    left_edge, right_edge = window.x0 * scale, window.x1 * scale

    def place(x, y):
        return axis.transData.transform((x, y)) * scale

    taken = [(py, px - 4, px + 4) for px, py in (place(x, y) for x, y in markers)]
    for text, x, y, colour in sorted(labels, key=lambda item: -item[2]):
        px, py = place(x, y)
        width = 5.2 * len(text)
        spots = [(side, shift) for shift in (0, -4, 4, -8, 8, -12, 12, -16, 16, -22, 22, -28, 28,
                                              -34, 34)
                 for side in ("left", "right")]
        for side, shift in spots:  # "left" aligned text stands right of the point.
            begin = px + 6 if side == "left" else px - 6 - width
            if begin < left_edge or begin + width > right_edge:
                continue
            if all(abs(py + shift - other) >= gap or begin >= end or start >= begin + width
                   for other, start, end in taken):
                break
        taken.append((py + shift, begin, begin + width))
        leader = {"arrowstyle": "-", "linewidth": 0.5, "color": OTHERS, "shrinkA": 0, "shrinkB": 2}
        axis.annotate(text, (x, y), xytext=(7 if side == "left" else -7, shift - 3),
                      textcoords="offset points", fontsize=8, color=colour, ha=side,
                      arrowprops=leader if abs(shift) > 8 else None)


def draw_needle(plt, args):
    path = args.files[0]
    report = task_of(read(path), path, "needle")
    lengths, depths = need(report, "lengths", path), need(report, "depths", path)
    cells = {(c["length"], c["depth"]): c for c in need(report, "cells", path)}
    has_baseline = any(c.get("baseline") for c in cells.values())
    sides = [("compressed", lambda c: c)]
    if has_baseline:
        sides.append(("dense baseline", lambda c: c.get("baseline") or {}))
    figure, axes = styled_axes(plt, len(sides), 1, (1.2 + 0.85 * len(lengths) * len(sides) + 1.2,
                                                    1.4 + 0.5 * len(depths)))
    unsolvable = report.get("unsolvable_lengths") or []
    for axis, (name, side) in zip(axes.flat, sides):
        grid = [[side(cells.get((length, depth), {})).get("score") for length in lengths]
                for depth in depths]
        numbers = [[math.nan if v is None else v for v in row] for row in grid]
        image = axis.imshow(numbers, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for y, depth in enumerate(depths):
            for x, length in enumerate(lengths):
                cell = side(cells.get((length, depth), {}))
                score, margin = cell.get("score"), cell.get("margin")
                if score is None:
                    axis.text(x, y, "–", ha="center", va="center", color=OTHERS)
                    continue
                text = f"{score:.2f}" + ("" if margin is None else f"\n{margin:+.1f}")
                axis.text(x, y, text, ha="center", va="center", fontsize=7.5,
                          color="white" if score < 0.6 else "black")
        for x, length in enumerate(lengths):
            if length in unsolvable:
                axis.add_patch(plt.Rectangle((x - 0.5, -0.5), 1, len(depths), fill=False,
                                             hatch="////", edgecolor=(1, 1, 1, 0.35),
                                             linewidth=0))
        axis.set_xticks(range(len(lengths)), [f"{n:,}" + ("*" if n in unsolvable else "")
                                             for n in lengths])
        axis.set_yticks(range(len(depths)), [f"{d:g} %" for d in depths])
        axis.set_title(name, fontsize=10, loc="left", color=INK)
        axis.set_xlabel("prompt tokens", fontsize=9)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    axes.flat[0].set_ylabel("depth of the needle", fontsize=9)
    figure.colorbar(image, ax=axes.ravel().tolist(), label="retrieval score", shrink=0.9)
    note = "Below the score: margin of the right answer, nats."
    if unsolvable:
        note += "  * the dense cache itself fails at this length."
    figure.supxlabel(note, fontsize=8, color=OTHERS, ha="left", x=0.01)
    return figure


def draw_pareto(plt, args):
    figure, axes = styled_axes(plt, size=(8.0, 5.6))
    axis = axes.flat[0]
    labels, every = [], []
    for path in args.files:
        points = pareto_points(path, args.protocol)
        every += points
        if not points:
            raise PlotError(f"{path}: expected at least one finished result that is not dense")
        many = len(points) > 12
        axis.scatter([p[1] for p in points], [p[2] for p in points], s=16 if many else 36,
                     color=OURS, alpha=0.35 if many else 1.0, zorder=3, linewidth=0)
        if not many:
            labels += [(name, bits, kl, OURS) for name, bits, kl in points]
    ours = front_of(every)
    axis.plot([p[1] for p in ours], [p[2] for p in ours], color=OURS, linewidth=1.2, zorder=2,
              label="RillKV")
    title, others = other_schemes(args.competitors, args.set, args.protocol)
    axis.scatter([p[1] for p in others], [p[2] for p in others], s=36, marker="D",
                 color=OTHERS, zorder=3, linewidth=0, label="other schemes")
    labels += [(*p, INK) for p in others]
    markers = [p[1:] for p in every + others]
    axis.set_yscale("log")
    axis.margins(x=0.12, y=0.08)
    axis.grid(True, which="major", color="#e4e4e4", linewidth=0.7)
    axis.set_xlabel("bits an element, sealed blocks, metadata included", fontsize=9)
    axis.set_ylabel("KL(dense || compressed), nats", fontsize=9)
    axis.set_title(f"{title}, {args.protocol} protocol", fontsize=10, loc="left")
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    for (_, x0, y0), (_, x1, y1) in zip(ours, ours[1:]):  # Labels keep off the line, too.
        markers += [(x0 + t / 20 * (x1 - x0), y0 * (y1 / y0) ** (t / 20)) for t in range(20)]
    spread_labels(axis, labels, markers)
    return figure


def prefill_reports(files):
    reports = []
    for path in files:
        report = read(path)
        need(report, "prompt_tokens", path)
        reports.append((path, report))
    return sorted(reports, key=lambda item: item[1]["prompt_tokens"])


def draw_memory(plt, args):
    reports = prefill_reports(args.files)
    tokens = [r["prompt_tokens"] for _, r in reports]
    figure, axes = styled_axes(plt, 2, 1, (9.2, 3.8))
    cache, process = axes.flat
    ours = [need(r, "kv_bytes", p) / 2**20 for p, r in reports]
    dense = [need(r, "kv_bytes_bf16", p) / 2**20 for p, r in reports]
    cache.plot(tokens, dense, "o-", color=DENSE, markersize=4)
    cache.plot(tokens, ours, "o-", color=OURS, markersize=4)
    cache.annotate("bf16", (tokens[-1], dense[-1]), xytext=(5, 0), textcoords="offset points",
                   color=DENSE, fontsize=9, va="center")
    cache.annotate(f"RillKV, {dense[-1] / ours[-1]:.2f}x smaller", (tokens[-1], ours[-1]),
                   xytext=(0, 8), textcoords="offset points", color=OURS, fontsize=9, ha="right")
    cache.set_title("KV cache, MiB", fontsize=10, loc="left")
    for name, key, colour in (("compressed", None, OURS), ("dense", "baseline", DENSE)):
        rows = [(t, (r.get(key) or {}) if key else r) for t, (_, r) in zip(tokens, reports)]
        rows = [(t, r["peak_rss_bytes"] / 2**20) for t, r in rows if r.get("peak_rss_bytes")]
        if rows:
            process.plot(*zip(*rows), "o-", color=colour, markersize=4, label=name)
    process.set_title("Peak memory of the process, MiB", fontsize=10, loc="left")
    if process.lines:
        process.legend(frameon=False, fontsize=8)
    for axis in (cache, process):
        axis.set_xlabel("prompt tokens", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.margins(x=0.08)
        axis.grid(True, color="#e4e4e4", linewidth=0.7)
    return figure


def draw_speed(plt, args):
    reports = prefill_reports(args.files)
    figure, axes = styled_axes(plt, 2, 1, (9.2, 3.8))
    kinds = (("Prefill, tokens/s", "prefill_tokens_per_s"),
             ("Decode, tokens/s", "decode_tokens_per_s"))
    for axis, (title, key) in zip(axes.flat, kinds):
        for name, side, colour in (("compressed", None, OURS), ("dense", "baseline", DENSE)):
            rows = [(r["prompt_tokens"], ((r.get(side) or {}) if side else r).get(key))
                    for _, r in reports]
            rows = [row for row in rows if row[1]]
            if rows:
                axis.plot(*zip(*rows), "o-", color=colour, markersize=4, label=name)
        if not axis.lines:
            raise PlotError(f"{args.files[0]}: expected the key {key}")
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("prompt tokens", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(True, color="#e4e4e4", linewidth=0.7)
        axis.legend(frameon=False, fontsize=8)
    return figure


def draw_layers(plt, args):
    path = args.files[0]
    report = task_of(read(path), path, "perplexity", "needle", "longbench")
    if isinstance(report, dict) and "layers" not in report and "performance" in report:
        report = need(report, "performance.compressed", path)
    layers = need(report, "layers", path)
    if not layers:
        raise PlotError(f"{path}: expected at least one layer")
    figure, axes = styled_axes(plt, 2, 2, (9.2, 5.6))
    figure.suptitle(f"What each layer's cache spends ({pathlib.Path(path).stem})", fontsize=10,
                    x=0.01, ha="left")
    for column, side in enumerate(("key", "value")):
        shares = []
        for number, layer in enumerate(layers):
            widths = need(layer, f"{side}_widths", f"{path}, layer {number}")
            total = sum(widths)
            shares.append([w / total if total else math.nan for w in widths[1:]])
        axis = axes[0][column]
        image = axis.imshow(list(zip(*shares)), origin="lower", aspect="auto", vmin=0,
                            cmap=WIDTH_COLOURS, extent=(-0.5, len(layers) - 0.5, 0.5, 8.5))
        axis.set_yticks(range(1, 9))
        axis.set_ylabel("bits of a channel" if side == "key" else "bits", fontsize=9)
        axis.set_title(f"{side}s: share of channels of each width", fontsize=9, loc="left")
        figure.colorbar(image, ax=axis)
        axis = axes[1][column]
        rates = [100 * (layer.get(f"{side}_outlier_rate") or 0) for layer in layers]
        axis.bar(range(len(layers)), rates, color=OURS, width=0.7)
        axis.set_title(f"{side}s: outlier rate, %", fontsize=9, loc="left")
        axis.set_xlim(-0.5, len(layers) - 0.5)
        if not any(rates):
            axis.set_ylim(0, 1)
            axis.text(0.5, 0.5, "none flagged", transform=axis.transAxes, ha="center",
                      color=OTHERS, fontsize=9)
        for bottom in axes[:, column]:
            bottom.set_xlabel("layer", fontsize=9)
    return figure


KINDS = {"needle": (draw_needle, 1), "pareto": (draw_pareto, None), "memory": (draw_memory, None),
         "speed": (draw_speed, None), "layers": (draw_layers, 1)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("files", nargs="+")
    parser.add_argument("-o", "--output", help="picture to write (default: KIND.png)")
    parser.add_argument("--protocol", choices=("stress", "prefill"), default="stress",
                        help="pareto: protocol of the results, so that others' figures match")
    parser.add_argument("--set", default="wikitext2",
                        help="pareto: model and text of the results, by competitors.json's name")
    parser.add_argument("--competitors", default=ROOT / "competitors.json", type=pathlib.Path)
    parser.add_argument("--dpi", type=int, default=150)
    args = parser.parse_args(argv)
    draw, most = KINDS[args.kind]
    output = pathlib.Path(args.output or f"{args.kind}.png")
    try:
        if most and len(args.files) > most:
            raise PlotError(f"{args.kind}: expected one file, got {len(args.files)}")
        try:
            import matplotlib
        except ImportError:
            raise PlotError("needs the package matplotlib: scripts/setup.sh installs it, "
                            ".venv-tools/bin/python has it") from None
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
        figure = draw(plt, args)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=args.dpi)
        plt.close(figure)
    except (PlotError, OSError) as error:
        print(f"plot: {error}", file=sys.stderr)
        return 1
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
