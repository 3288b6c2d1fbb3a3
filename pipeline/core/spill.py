"""Records sorted on disk: what a process can work through in order without holding it in memory.

A record is a row of whole numbers of 64 bits, compared column by column; a run is a file of sorted
records. Runs are merged a range at a time: splitters drawn from all of them cut each into slices,
and the slices of one range are sorted together (ours; an external sample sort). What comes out does
not depend on how records were spread over runs. Knows nothing of what the numbers mean.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.arrays import I64, U64

MOST = 1 << 18
"""About how many records are held at a time (ours: 15 MB of the widest, some copies while sorted)."""
RANGES = 256
"""Of more than so many times MOST, larger parts are held: every range opens every run (ours)."""
_STEP = 256
"""Every so manieth record is looked at to find splitters."""


def ordered(records: U64) -> U64:
    """(n, width) records, sorted by their first column, ties by the second, and so on."""
    return np.ascontiguousarray(records[np.lexsort(records.T[::-1])])


def run(path: Path, records: U64) -> Path:
    """Write records as a run."""
    ordered(records).tofile(path)
    return path


def records(path: Path, width: int, dtype: Any = np.uint64) -> NDArray[Any]:
    """A file's (n, width) records, mapped read-only."""
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty((0, width), dtype)
    return np.asarray(np.memmap(path, dtype, "r")).reshape(-1, width)


def merged(runs: Sequence[Path], width: int, group: int, most: int | None = None) -> Iterator[U64]:
    """The records of all runs in order, about `most` at a time, at least one; those that agree in
    the first `group` columns are never parted."""
    runs = [run for run in runs if run.stat().st_size]
    total = sum(run.stat().st_size for run in runs) // (8 * width)
    marks = _marks(runs, width, group, most or max(MOST, total // RANGES))
    cuts = np.stack([_cuts(records(run, width), marks) for run in runs]) if runs else _NONE
    for first, last in zip(cuts.T[:-1], cuts.T[1:], strict=True):
        parts = [_slice(r, width, *at) for r, *at in zip(runs, first, last, strict=True)]
        whole = np.concatenate(parts)
        if len(whole):
            yield ordered(whole)


_NONE: I64 = np.empty((0, 0), np.int64)


def _marks(runs: Sequence[Path], width: int, group: int, most: int) -> U64:
    """Splitters: of every `_STEP`-th record of all runs, so many that ranges hold about `most`."""
    step, passed, drawn = min(_STEP, most), 0, [np.empty((0, width), np.uint64)]
    for run in runs:
        found = records(run, width)
        drawn.append(np.array(found[-passed % step :: step]))
        passed += len(found)
    every = max(1, most // step)
    marks = ordered(np.concatenate(drawn))[every::every]
    marks[:, group:] = 0
    return marks


def _cuts(run: U64, marks: U64) -> I64:
    """Where each range begins in a sorted run, and its end."""
    kind = np.dtype([(f"{n}", np.uint64) for n in range(run.shape[1])])
    at = np.searchsorted(run.view(kind)[:, 0], marks.view(kind)[:, 0])
    return np.concatenate([[0], at, [len(run)]])


def _slice(run: Path, width: int, first: int, last: int) -> U64:
    size = 8 * width
    found = np.fromfile(run, np.uint64, (last - first) * width, offset=first * size)
    return found.reshape(-1, width)


def between(path: Path, width: int, low: np.uint64, high: np.uint64) -> U64:
    """The records of a run whose first number is `low` or more and less than `high`."""
    marks = np.zeros((2, width), np.uint64)
    marks[:, 0] = low, high
    _, first, last, _ = _cuts(records(path, width), marks)
    return _slice(path, width, first, last)


def put(file: IO[bytes], numbers: NDArray[Any]) -> None:
    """Append numbers to an open file."""
    file.write(np.ascontiguousarray(numbers).tobytes())


def chunks(
    path: Path, width: int, most: int | None = None, dtype: Any = np.uint64
) -> Iterator[Any]:
    """A file's records from its beginning, `most` at a time, read into memory."""
    with open(path, "rb") as file:
        while len(found := np.fromfile(file, dtype, (most or MOST) * width)):
            yield found.reshape(-1, width)
