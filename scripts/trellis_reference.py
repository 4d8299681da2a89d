"""How policy "trellis" codes channels, for quality_reference.py: Ungerboeck's code of eight states
(Marcellin & Fischer 1990) along the tokens of a channel, ranges of eight bits. No bits are packed:
everything returns what a reader of the block sees.

Ranges follow the format to the letter (a step more or less is a different error); sums may differ
from the library's in their last bit, and so may what of two equally good choices is taken.
"""

import numpy as np

# Squared error of a unit Gaussian, trellis coded at widths 0..7: it drives the choice of widths.
LEFT = [1, 0.3255, 0.094, 0.0267, 0.00713, 0.00185, 4.7e-4, 1.2e-4]
# By width: how many ranges of a key channel are tried, each 2^(-1/8) of the one before, and how
# many eighths of an octave from the best scalar step to the trellis's of twice the levels.
RANGES = np.array([0, 15, 5, 5, 2, 2, 2, 2])
SHIFT = np.array([0, -3, -9, -8, -8, -8, -7, -7])
# Numbers are divided by what comes back of them on average: attention's sums average noise away, but
# not a factor.
SHRINKAGE = 1 - np.array(LEFT)
PARTS = ("feedback", "trellis", "clipping", "gain")  # what leave_out may name
left_out = set()
WIDE_GAIN = np.float32(2 ** (-7 / 8))  # of value channels a bit wider, against a token's scale
# Transitions from state s = 4 a + b by the path bit u to state 2 b + u, as [a, b, u]: which quarter
# of the levels they take (every fourth, from that one on).
STATE = np.arange(8).reshape(2, 4, 1)
SUBSET = 2 * (np.arange(2) ^ STATE & 1 ^ STATE >> 2 & 1) + (STATE >> 1 & 1)


def leave_out(parts):
    """Does without some of PARTS, to see what each of them brings."""
    left_out.update(parts)
    if left_out & {"gain", "trellis"}:  # a scalar quantiser's range is not narrowed to its best
        SHRINKAGE[:] = 1
        SHIFT[1:3] = -10
    if "clipping" in left_out:
        RANGES[1:] = 1


def step8(index):
    return np.exp2((index - 136) / 8).astype(np.float32)


def inverse8(index):
    return np.exp2((136 - index) / 8).astype(np.float32)


def nearest8(x):
    """The index of the step nearest to x by its logarithm."""
    index = np.floor(8 * np.log2(np.maximum(x, 1e-30, dtype=np.float64)) + 0.5) + 136
    return np.clip(index, 0, 255).astype(np.int64)


def search(v, width, weight):
    """The levels 0 .. 2^(width + 1) - 1 of the path nearest to v. v, weight: [rows, tokens];
    width: [rows]."""
    rows, tokens = v.shape
    quarter = np.arange(4, dtype=np.float32)[:, None]
    v = v.T[:, None]  # [tokens, 1, rows]
    part = np.clip(np.rint((v - quarter) * np.float32(0.25)), 0, np.exp2(width - 1) - 1)
    part = part.astype(np.float32)  # [tokens, quarters, rows]
    cost = (v - (4 * part + quarter)) ** 2 * weight.T[:, None]
    cost = cost[:, SUBSET]  # [tokens, 2, 4, 2, rows]
    metric = np.full((8, rows), 1e30, dtype=np.float32)
    metric[0] = 0
    before, after = metric.reshape(2, 4, 1, rows), metric.reshape(4, 2, rows)
    paths = np.empty((2, 4, 2, rows), dtype=np.float32)
    second = np.empty((tokens, 4, 2, rows), dtype=bool)
    for t in range(tokens):
        np.add(before, cost[t], out=paths)
        np.less(paths[1], paths[0], out=second[t])
        np.minimum(paths[0], paths[1], out=after)

    # Flat indices into [states, rows], from the last token's state back to the first's.
    previous = np.arange(8)[:, None] // 2 + 4 * second.reshape(tokens, 8, rows)
    previous = (previous * rows + np.arange(rows)).reshape(tokens, 8 * rows)
    flat = np.empty((tokens + 1, rows), dtype=np.int64)
    flat[tokens] = metric.argmin(0) * rows + np.arange(rows)
    for t in range(tokens - 1, -1, -1):
        previous[t].take(flat[t + 1], out=flat[t], mode="clip")
    states = flat // rows
    subset = SUBSET.reshape(8, 2)[states[:-1], states[1:] & 1]
    chosen = np.take_along_axis(part, subset[:, None], 1)[:, 0]
    return (4 * chosen + subset).astype(np.float32).T


def key_rows(x, width):
    """x: [rows, tokens], a channel a row; width: [rows]."""
    lo, hi, mean = x.min(1, keepdims=True), x.max(1, keepdims=True), x.mean(1, keepdims=True)
    middle, reach = (lo + hi) * np.float32(0.5), (hi - lo) * np.float32(0.5)
    top = (np.exp2(width) - 1).astype(np.float32)[:, None]
    # No finer step: its zero would not fit 16 bits.
    least = nearest8(np.maximum(np.abs(lo), np.abs(hi)) * 2.0**-15) + 1

    tried = np.arange(RANGES.max())
    step = np.clip(np.maximum(nearest8(2 * reach / top) - tried, least), 0, 255)
    shrunk = np.exp2(-tried / 8).astype(np.float32)
    centre = np.where(tried <= 1, middle, middle * shrunk + mean * (1 - shrunk))
    zero = np.rint(centre * inverse8(step) - top / 2)[..., None]
    v = x[:, None] * inverse8(step)[..., None] - zero
    error = ((v - np.clip(np.rint(v), 0, top[..., None])) ** 2).sum(-1) * step8(step) ** 2
    error[tried >= RANGES[width][:, None]] = np.inf
    best = error.argmin(1)[:, None]

    if "trellis" in left_out:
        step = np.take_along_axis(step, best, 1)
        zero = np.rint(np.take_along_axis(centre, best, 1) * inverse8(step) - top / 2)
        code = np.clip(np.rint(x * inverse8(step) - zero), 0, top)
        return (step8(step) * (zero + code)).astype(np.float32)
    step = np.take_along_axis(step, best, 1) + SHIFT[width][:, None]
    step = np.clip(np.maximum(step, least), 0, 255)
    zero = np.rint(np.take_along_axis(centre, best, 1) * inverse8(step) - (2 * top + 1) / 2)
    zero = np.clip(zero, 256 - 32767, 32767 - 256)
    v = (mean + (x - mean) / SHRINKAGE[width][:, None]) * inverse8(step) - zero
    v = v.astype(np.float32)
    return step8(step) * (zero + search(v, width, np.ones_like(v))).astype(np.float32)


def value_blocks(x, width, wide_pairs):
    """x: [blocks, tokens, channels]; the first pairs of channels are a bit wider."""
    blocks, tokens, dim = x.shape
    wide = np.arange(dim) % (dim // 2) < wide_pairs
    widths, gain = width + wide, np.where(wide, WIDE_GAIN, np.float32(1))
    top = np.exp2(widths + 1) - 1  # the outermost level, in (gained) steps

    # The scale of a token: what lies beyond the levels, squared, and 1/12 of the square of as many
    # steps as codes have values, as long as their sum gets smaller.
    reach = gain * SHRINKAGE[widths] * top
    granular = ((reach / np.exp2(widths - 1)) ** 2).sum() / 12
    widest = nearest8(np.abs(x).max(-1) / (SHRINKAGE[width] * (2.0 ** (width + 1) - 1)))
    scale, falls, error = widest, np.ones(widest.shape, bool), None
    for smaller in range(1 if "clipping" in left_out else 9):
        index = np.maximum(widest - smaller, 0)
        beyond = np.maximum(np.abs(x) - step8(index)[..., None] * reach, 0)
        before, error = error, (beyond**2).sum(-1) + granular * step8(index) ** 2
        if smaller:
            falls &= error < before
            scale = np.where(falls, index, scale)

    if "trellis" in left_out:
        half = np.exp2(widths - 1)
        unit = step8(scale)[..., None] * reach / half
        code = np.clip(np.rint(x / unit - 0.5), -half, half - 1)
        return (unit * (code + 0.5)).astype(np.float32)
    v = x * inverse8(scale)[..., None] / (2 * gain * SHRINKAGE[widths]) + top / 2
    rows = v.astype(np.float32).transpose(0, 2, 1).reshape(blocks * dim, tokens)
    weight = np.repeat(step8(scale) ** 2, dim, axis=0)
    level = search(rows, np.tile(widths, blocks), weight).reshape(blocks, dim, tokens)
    y = step8(scale)[..., None] * (gain * (2 * level.transpose(0, 2, 1) - top))
    return y.astype(np.float32)
