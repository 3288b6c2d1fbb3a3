"""Documents of given lengths laid into sequences of a fixed length: concatenate and cut.

Numbers only: which piece of which document goes where, with room reserved for the sentinels of a
piece that will be infilled or corrupted, so that nothing is ever cut out of its middle.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.compiled import compiled
from pipeline.kernels.hashing import mixed

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

SENTINELS = 3
"""Places that an infilled piece needs beside its tokens."""
SHORTEST = 16
"""A piece of fewer tokens is neither infilled nor corrupted: nothing to learn from it (ours)."""
CORRUPTED = np.uint64(0x9E3779B97F4A7C15)
"""Tells the draw of what is corrupted from others of one seed."""
_RATIOS = np.uint64(0xD1B54A32D192ED03)


class Spans(NamedTuple):
    """How pieces are corrupted: the share of them, the least and largest share of a piece's tokens
    that is masked (evenly between), the longest span, and how many mask sentinels there are."""

    rate: float = 0.0
    low: float = 0.05
    high: float = 0.5
    longest: int = 32
    masks: int = 100


PLAIN = Spans()
"""Nothing is corrupted."""


@dataclass(frozen=True)
class Pieces:
    """Parallel arrays, one entry a piece: its sequence, document number, offset and length (in
    tokens) inside the document, how many of its tokens are masked and in how many spans (0: it is
    not corrupted), whether it is infilled, whether it ends its document."""

    sequence: I64
    document: I64
    offset: I64
    length: I64
    masked: I64
    spans: I64
    infill: NDArray[np.bool_]
    last: NDArray[np.bool_]


def lay(
    lengths: I64, length: int, infill: F64 | float, rng: np.random.Generator, spans: Spans = PLAIN
) -> Pieces:
    """Documents in the given order, end to end, cut into sequences of `length` tokens.

    Each document's last piece takes one more place for an end token. infill: the share of pieces
    that are infilled, of all or of each document's: a draw from one number of `rng`, the document
    and the offset, for every piece that is long enough. spans.rate: the share of sequences whose
    pieces are corrupted instead, likewise. Sequences are numbered from 0, without gaps; the last
    may be short.
    """
    seed = np.uint64(rng.integers(2**64, dtype=np.uint64))
    rates = np.ascontiguousarray(np.broadcast_to(infill, lengths.shape), np.float64).copy()
    most = most_pieces(lengths, length, spans)
    numbers, flags = np.empty((6, most), np.int64), np.empty((2, most), np.bool_)
    sizes = np.array(lengths, np.int64)  # a copy: the kernel is compiled for writable arrays
    count = _lay(sizes, length, rates, seed, typed(spans), numbers, flags)
    return Pieces(*numbers[:, :count], *flags[:, :count])


def starts(pieces: Pieces) -> I64:
    """The first piece of each sequence, and the number of pieces (sequences + 1)."""
    return starts_of(pieces.sequence)


def starts_of(sequence: I64) -> I64:
    """The first row of each run of equal numbers, none of them -1, and the number of rows."""
    return np.append(np.flatnonzero(np.diff(sequence, prepend=-1)), len(sequence))


def places(length: I64, infill: NDArray[np.bool_], spans: I64, ended: NDArray[np.bool_]) -> I64:
    """Places that pieces take in their sequences: text, sentinels and end tokens."""
    masks = spans.astype(np.int64)
    return length.astype(np.int64) + SENTINELS * infill + 3 * masks + (masks > 0) + ended


def typed(spans: Spans) -> Spans:
    """As the kernels are compiled for them, whatever numbers were given."""
    rate, low, high = map(float, spans[:3])
    return Spans(rate, low, high, int(spans.longest), int(spans.masks))


def most_pieces(lengths: I64, length: int, spans: Spans) -> int:
    """At least as many as there will be pieces: a piece that does not end its document ends its
    sequence, and sentinels stand beside SHORTEST tokens or more."""
    tokens = int(lengths.sum())
    ahead = 6 * spans.high / (1 + spans.longest) if spans.rate else 0.0
    used = len(lengths) + tokens * (1 + ahead) + (SENTINELS + 1) * (tokens // SHORTEST)
    return len(lengths) + int(used) // length + 2


@compiled
def _lay(lengths, length, rates, seed, spans, numbers, flags):  # type: ignore[no-untyped-def]
    count, sequence, room = 0, 0, length
    for document in range(len(lengths)):
        left, offset, last = lengths[document], 0, False
        while not last:
            corrupt = draw(seed ^ CORRUPTED, sequence, 0) < spans.rate
            size, used, last = piece(
                left, room, rates[document], corrupt, seed, document, offset, spans,
                numbers[:, count], flags[:, count],
            )  # fmt: skip
            numbers[0, count] = sequence
            count += 1
            offset, left, room = offset + size, left - size, room - used
            if room == 0:
                sequence, room = sequence + 1, length
    return count


@compiled
def piece(left, room, rate, corrupt, seed, document, offset, spans, numbers, flags):  # type: ignore[no-untyped-def]
    """Write one piece of a document's `left` tokens; (its tokens, the places it takes, whether it
    is the last)."""
    masked, count, infill = 0, 0, False
    if corrupt:
        masked, count = _masked(left, room, draw(seed ^ _RATIOS, document, offset), spans)
    elif min(left, room - SENTINELS) >= SHORTEST:
        infill = draw(seed, document, offset) < rate
    extra = SENTINELS * infill + 3 * count + (count > 0)
    size, last = min(left, room - extra), left < room - extra
    numbers[1], numbers[2], numbers[3] = document, offset, size
    numbers[4], numbers[5] = masked, count
    flags[0], flags[1] = infill, last
    return size, size + extra + last, last


@compiled
def _masked(left, room, drawn, spans):  # type: ignore[no-untyped-def]
    """(tokens to mask, spans) of a piece of `left` tokens in `room` places.

    The sentinels' room depends on the tokens masked, and those on what fits beside the sentinels:
    the second estimate has no more spans than the first, so it fits.
    """
    ratio = spans.low + (spans.high - spans.low) * drawn
    size = min(left, room - 4)
    if size < SHORTEST:
        return 0, 0
    masked, count = 0, 1
    for _ in range(2):
        size = min(left, room - 3 * count - 1)
        masked = max(1, int(ratio * size))
        count = max(1, min(spans.masks, (2 * masked + spans.longest) // (1 + spans.longest)))
    return masked, count


@compiled
def draw(seed, document, offset):  # type: ignore[no-untyped-def]
    """Evenly from [0, 1), in steps of 2**-53: the same for the same three numbers."""
    drawn = mixed(mixed(seed ^ np.uint64(document)) ^ np.uint64(offset))
    return np.float64(drawn >> np.uint64(11)) * 2.0**-53
