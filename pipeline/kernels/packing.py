"""Documents of given lengths laid into sequences of a fixed length: concatenate and cut.

Numbers only: which piece of which document goes where, with room reserved for the sentinels of a
piece that will be infilled, so that nothing is ever cut out of its middle.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.compiled import compiled
from pipeline.kernels.hashing import mixed

I64 = NDArray[np.int64]

SENTINELS = 3
"""Places that an infilled piece needs beside its tokens."""
SHORTEST = 16
"""A piece of fewer tokens is not infilled: nothing to learn from it (ours)."""


@dataclass(frozen=True)
class Pieces:
    """Parallel arrays, one entry a piece: its sequence, document number, offset and length (in
    tokens) inside the document, whether it is infilled, whether it ends its document."""

    sequence: I64
    document: I64
    offset: I64
    length: I64
    infill: NDArray[np.bool_]
    last: NDArray[np.bool_]


def lay(lengths: I64, length: int, rate: float, rng: np.random.Generator) -> Pieces:
    """Documents in the given order, end to end, cut into sequences of `length` tokens.

    Each document's last piece takes one more place for an end token. rate: the share of pieces that
    are infilled: a draw from one number of `rng`, the document and the offset, for every piece that
    is long enough. Sequences are numbered from 0, without gaps; the last may be short.
    """
    seed = np.uint64(rng.integers(2**64, dtype=np.uint64))
    most = _most(lengths, length)
    numbers, flags = np.empty((4, most), np.int64), np.empty((2, most), np.bool_)
    sizes = np.array(lengths, np.int64)  # a copy: the kernel is compiled for writable arrays
    count = _lay(sizes, length, float(rate), seed, numbers, flags)
    return Pieces(*numbers[:, :count], *flags[:, :count])


def starts(pieces: Pieces) -> I64:
    """The first piece of each sequence, and the number of pieces (sequences + 1)."""
    return np.append(np.flatnonzero(np.diff(pieces.sequence, prepend=-1)), len(pieces.sequence))


def _most(lengths: I64, length: int) -> int:
    """At least as many as there will be pieces: a piece that does not end its document ends its
    sequence, and sentinels stand beside SHORTEST tokens or more."""
    tokens = int(lengths.sum())
    places = tokens + len(lengths) + SENTINELS * (tokens // SHORTEST)
    return len(lengths) + places // length + 1


@compiled
def _lay(lengths, length, rate, seed, numbers, flags):  # type: ignore[no-untyped-def]
    count, sequence, room = 0, 0, length
    for document in range(len(lengths)):
        left, offset, last = lengths[document], 0, False
        while not last:
            infill = (
                min(left, room - SENTINELS) >= SHORTEST and _draw(seed, document, offset) < rate
            )
            space = room - SENTINELS if infill else room
            size, last = min(left, space), left < space
            numbers[0, count], numbers[1, count] = sequence, document
            numbers[2, count], numbers[3, count] = offset, size
            flags[0, count], flags[1, count] = infill, last
            count += 1
            offset, left, room = offset + size, left - size, space - size - last
            if room == 0:
                sequence, room = sequence + 1, length
    return count


@compiled
def _draw(seed, document, offset):  # type: ignore[no-untyped-def]
    """Evenly from [0, 1), in steps of 2**-53: the same for the same three numbers."""
    drawn = mixed(mixed(seed ^ np.uint64(document)) ^ np.uint64(offset))
    return np.float64(drawn >> np.uint64(11)) * 2.0**-53
