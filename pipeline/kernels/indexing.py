"""The index of pieces in training order, one source's passes or several interleaved.

Documents in their order, laid into sequences, sequences shuffled: each pass is a function of (seed,
epoch) and its documents. Knows nothing of files; what a source gives in all is told to it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.schema import END, FILE_SEP
from pipeline.kernels import ordering
from pipeline.kernels.fitting import fit
from pipeline.kernels.mixing import interleaved, portions
from pipeline.kernels.packing import Pieces, Spans, lay, starts

I64 = NDArray[np.int64]
STRETCH = 2**18
"""About so many sequences of a mixture are in memory at once, beside a pass of each source (ours)."""

INDEX = pa.schema(
    [
        ("sequence", pa.int64()),
        ("uid", pa.string()),
        ("shard", pa.int32()),
        ("start", pa.int64()),
        ("length", pa.int32()),
        ("infill", pa.bool_()),
        ("masked", pa.int32()),
        ("spans", pa.int16()),
        ("end", pa.int32()),
        ("epoch", pa.int32()),
    ]
)
"""One row a piece, sorted by sequence: `start` and `length` in tokens of the shard's token file;
`masked` tokens are taken out of it in `spans` spans (0: it is not corrupted); `end` is the special
token after the piece, -1 for none; `epoch` the pass over its source, from 0."""


@dataclass(frozen=True)
class Layout:
    """How documents become sequences of `length`: see the settings of `pack`."""

    length: int
    whole: bool
    group: tuple[str, ...]
    repos: float
    spans: Spans
    seed: int


@dataclass(frozen=True)
class Source:
    """Documents to pack: one slim row each (uid, shard, start, length, and the names they are grouped
    by, as dictionaries), the share of pieces to infill, and the passes (None: as many as needed)."""

    name: str
    documents: pa.Table
    infill: float
    epochs: int | None

    @property
    def tokens(self) -> int:
        """Tokens in a pass, end tokens included."""
        return int(pc.sum(self.documents["length"]).as_py()) + len(self.documents)


def passes(source: Source, layout: Layout, limit: int | None = None) -> Iterator[pa.Table]:
    """The index of each pass, numbered on from the one before.

    limit: as many sequences, in the source's epochs at most; without it, every one of its epochs.
    """
    at = 0
    some = source.epochs or (1 if limit is None else None)
    for epoch in count() if some is None else range(some):
        part = one_pass(source, layout, epoch, at)
        numbers = part["sequence"].to_numpy()
        at = int(numbers[-1]) + 1
        yield part.slice(0, len(part) if limit is None else int(np.searchsorted(numbers, limit)))
        if limit is not None and at >= limit:
            return


def mixed(sources: Sequence[Source], layout: Layout, totals: I64) -> Iterator[pa.Table]:
    """The index of `totals[i]` sequences of each source, interleaved evenly, stretch by stretch."""
    counts = portions(totals, STRETCH)
    feeds = [
        _cut(passes(s, layout, total), counts[:, i].tolist())
        for i, (s, total) in enumerate(zip(sources, totals.tolist(), strict=True))
    ]
    before = np.zeros_like(totals)
    for taken, *parts in zip(counts, *feeds, strict=True):
        numbers = interleaved(before, taken, totals)
        renumbered = [
            _numbered(part, at + int(before.sum())) for part, at in zip(parts, numbers, strict=True)
        ]
        table = pa.concat_tables(renumbered)
        yield table.take(pa.array(np.argsort(table["sequence"].to_numpy(), kind="stable")))
        before = before + taken


def sequences(source: Source, layout: Layout) -> int:
    """How many sequences a source's epochs make (one, where it names none)."""
    epochs = range(source.epochs or 1)
    return sum(int(_laid(source, layout, e)[1].sequence.max()) + 1 for e in epochs)


def one_pass(source: Source, layout: Layout, epoch: int, first: int) -> pa.Table:
    """The index of one pass: documents in their order, sequences shuffled, numbered from `first`."""
    table = source.documents
    documents, pieces, rng = _laid(source, layout, epoch)
    begins = starts(pieces)
    sequence, rows = ordering.shuffled(begins, rng.permutation(len(begins) - 1))
    ends = _ends(table, documents, layout.group)
    at, document = documents[pieces.document[rows]], pieces.document[rows]
    columns = {
        "sequence": sequence + first,
        "uid": table["uid"].take(pa.array(at)),
        "shard": table["shard"].to_numpy()[at],
        "start": table["start"].to_numpy()[at] + pieces.offset[rows],
        "length": pieces.length[rows].astype(np.int32),
        "infill": pieces.infill[rows],
        "masked": pieces.masked[rows].astype(np.int32),
        "spans": pieces.spans[rows].astype(np.int16),
        "end": np.where(pieces.last[rows], ends[document], -1).astype(np.int32),
        "epoch": np.full(len(rows), epoch, np.int32),
    }
    return pa.table(columns, INDEX)


def _laid(source: Source, layout: Layout, epoch: int) -> tuple[I64, Pieces, np.random.Generator]:
    """(documents in order, their pieces, what the sequences are to be shuffled with)"""
    rng = np.random.Generator(np.random.Philox(key=[layout.seed, epoch]))
    table, salt = source.documents, f"{layout.seed} {epoch}"
    documents = ordering.order(table, layout.group, salt)
    lengths, infill = table["length"].to_numpy()[documents], np.full(len(table), source.infill)
    if layout.repos < 1:
        infill *= ordering.chosen(table["repo"], layout.repos, f"{salt} infill")[documents]
    make = fit if layout.whole else lay
    return documents, make(lengths, layout.length, infill, rng, layout.spans), rng


def _ends(table: pa.Table, documents: I64, group: Sequence[str]) -> I64:
    """The token after each document, in the given order: <|file_sep|> inside a repository, else
    <|endoftext|>."""
    ends = np.full(len(documents), END, np.int64)
    if "repo" in group:
        codes = [table[n].combine_chunks().indices.to_numpy()[documents] for n in group]
        same = np.logical_and.reduce([c[1:] == c[:-1] for c in codes])
        ends[:-1][same] = FILE_SEP
    return ends


def _cut(parts: Iterator[pa.Table], counts: Sequence[int]) -> Iterator[pa.Table]:
    """Parts of consecutive sequences, given again in portions of `counts` sequences."""
    held, at = INDEX.empty_table(), 0
    for number in counts:
        at += number
        while (held["sequence"][-1].as_py() + 1 if len(held) else 0) < at:
            more = next(parts, None)
            assert more is not None, "a source with fewer sequences than were counted"
            held = pa.concat_tables([held, more])
        rows = int(np.searchsorted(held["sequence"].to_numpy(), at))
        yield held.slice(0, rows)
        held = held.slice(rows)


def _numbered(part: pa.Table, numbers: I64) -> pa.Table:
    """The rows with their sequences, which are consecutive, numbered anew."""
    old = part["sequence"].to_numpy()
    new = numbers[old - old[0]] if len(old) else old
    return part.set_column(0, INDEX.field("sequence"), pa.array(new))
