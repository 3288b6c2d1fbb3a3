"""Hashed words and word pairs of a file's regions, and linear models over them (ours).

A region is as many bytes as an encoder's window is tokens long: top, middle and bottom, as many as
the encoder would read. A word is a run of [A-Za-z0-9] or bytes >= 0x80, ASCII lower-cased; every
other byte but white space is a word of its own, as in BERT's first split. A region's row has the
square root of the count of each hash, scaled to length 1. Knows nothing of what is predicted.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.core.arrays import I64, U8
from pipeline.kernels.compiled import compiled
from pipeline.kernels.hashing import mixed

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

_SPACE, _ALONE = 0, 1
_CLASS = np.full(256, _ALONE, np.uint8)
for _byte in b"abcdefghijklmnopqrstuvwxyz0123456789" + bytes(range(128, 256)):
    _CLASS[_byte] = _byte
for _byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
    _CLASS[_byte] = _byte + 32
for _byte in bytes(range(33)) + b"\x7f":
    _CLASS[_byte] = _SPACE
_PRIME, _BASE = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)
_START = np.uint64(0xCBF29CE484222325)


def regions(offsets: I64, size: int) -> tuple[I64, I64]:
    """(spans, bounds): text i's regions are the byte ranges spans[bounds[i]:bounds[i + 1]].

    spans is (regions, 2). A text of at most `size` bytes is one region, of at most twice as many
    top and bottom, else top, middle and bottom: as `scorer.windows`, in bytes.
    """
    starts, lengths = offsets[:-1], np.diff(offsets)
    counts = np.where(lengths <= size, 1, np.where(lengths <= 2 * size, 2, 3))
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    place = np.arange(bounds[-1]) - np.repeat(bounds[:-1], counts)
    start, length, many = (np.repeat(x, counts) for x in (starts, lengths, counts))
    room = np.maximum(length - size, 0)
    begin = start + room * place // np.maximum(many - 1, 1)
    return np.stack([begin, np.minimum(begin + size, start + length)], 1), bounds


def rows(data: U8, spans: I64, bits: int) -> tuple[I32, F32, I64]:
    """Each span's row over 2**bits hashes in CSR: (columns, values, bounds). Columns of a row are in
    the order of their first word; a span without words is an empty row."""
    room = int((spans[:, 1] - spans[:, 0]).sum()) * 2
    columns, values = np.empty(room, np.int32), np.empty(room, np.float32)
    bounds = np.zeros(len(spans) + 1, np.int64)
    _rows(data, spans, bits, columns, values, bounds)
    return columns[: bounds[-1]].copy(), values[: bounds[-1]].copy(), bounds


def products(data: U8, spans: I64, weights: F32) -> F64:
    """Each span's row times `weights` (2**bits), without making the row."""
    out = np.zeros(len(spans))
    bits = len(weights).bit_length() - 1
    if len(weights) != 1 << bits:
        raise ValueError(f"{len(weights)} weights: a power of two")
    _products(data, spans, bits, weights, out)
    return out


def ridge(
    columns: I32, values: F32, bounds: I64, target: F64, penalty: float, bits: int, steps: int
) -> F32:
    """The weights w (2**bits) of least |X w - target|^2 + penalty |w|^2, by `steps` of conjugate
    gradients from 0 (stopping early is a penalty too). One thread: the same bytes every time."""
    w = np.zeros(1 << bits)
    _descend(columns, values, bounds, target, penalty, steps, w)
    return w.astype(np.float32)


@compiled
def _count(data, begin, end, mask, counts, touched):  # type: ignore[no-untyped-def]
    """Count the hashes of words and pairs of neighbours; how many different ones were `touched`."""
    many, at = 0, begin
    before, word = np.uint64(0), _START
    while at <= end:
        kind = _CLASS[data[at]] if at < end else _SPACE
        if kind > _ALONE:
            word = (word ^ np.uint64(kind)) * _PRIME
            at += 1
            continue
        if word == _START:
            if kind == _ALONE:
                word = (word ^ np.uint64(data[at])) * _PRIME
            at += 1
            if kind == _SPACE:
                continue
        one = mixed(word)
        two = mixed(before * _BASE + one)
        for place in (one & mask, two & mask):
            if counts[place] == 0:
                touched[many] = place
                many += 1
            counts[place] += 1
        before, word = one, _START
    return many


@compiled
def _rows(data, spans, bits, columns, values, bounds):  # type: ignore[no-untyped-def]
    counts = np.zeros(1 << bits, np.int32)
    touched = np.empty(2 * _widest(spans) + 2, np.int64)
    mask, at = np.uint64((1 << bits) - 1), 0
    for s in range(len(spans)):
        many = _count(data, spans[s, 0], spans[s, 1], mask, counts, touched)
        total = 0
        for k in range(many):
            total += counts[touched[k]]
        for k in range(many):
            columns[at] = touched[k]
            values[at] = np.sqrt(counts[touched[k]] / total)
            counts[touched[k]] = 0
            at += 1
        bounds[s + 1] = at


@compiled
def _products(data, spans, bits, weights, out):  # type: ignore[no-untyped-def]
    counts = np.zeros(1 << bits, np.int32)
    touched = np.empty(2 * _widest(spans) + 2, np.int64)
    mask = np.uint64((1 << bits) - 1)
    for s in range(len(spans)):
        many = _count(data, spans[s, 0], spans[s, 1], mask, counts, touched)
        total, found = 0, 0.0
        for k in range(many):
            place = touched[k]
            total += counts[place]
            found += np.sqrt(np.float64(counts[place])) * weights[place]
            counts[place] = 0
        if total:
            out[s] = found / np.sqrt(np.float64(total))


@compiled
def _widest(spans):  # type: ignore[no-untyped-def]
    most = 0
    for s in range(len(spans)):
        most = max(most, spans[s, 1] - spans[s, 0])
    return most


@compiled
def _descend(columns, values, bounds, target, penalty, steps, w):  # type: ignore[no-untyped-def]
    """Conjugate gradients on the normal equations: r is the gradient's residual, p the direction."""
    n = len(bounds) - 1
    r = np.zeros(len(w))
    for i in range(n):
        for k in range(bounds[i], bounds[i + 1]):
            r[columns[k]] += values[k] * target[i]
    p, q, size = r.copy(), np.empty(len(w)), (r * r).sum()
    for _ in range(steps):
        if size <= 0:
            break
        q[:] = penalty * p
        for i in range(n):
            dot = 0.0
            for k in range(bounds[i], bounds[i + 1]):
                dot += values[k] * p[columns[k]]
            for k in range(bounds[i], bounds[i + 1]):
                q[columns[k]] += values[k] * dot
        step = size / (p * q).sum()
        w += step * p
        r -= step * q
        new = (r * r).sum()
        p = r + (new / size) * p
        size = new
