"""Training batches gathered from token files by a pack index: a pure function of the step.

No iterator, no state: batch t is sequences [t*B, (t+1)*B) of the index for any number of processes,
so resuming at a step is asking for it. Infilled and corrupted pieces are rearranged here, drawn from
(seed, sequence, uid, start). Imports no torch.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.errors import StageError
from pipeline.core.schema import FILE_SEP, FIM_PAD
from pipeline.kernels.corruption import corrupt
from pipeline.kernels.infilling import rearrange
from pipeline.kernels.packing import places
from pipeline.model.bits import IGNORED

Ids = NDArray[np.int64]
Raw = NDArray[np.integer[Any]]

DTYPES: dict[str, np.dtype[Any]] = {".u16": np.dtype("<u2"), ".u32": np.dtype("<u4")}
"""Suffix of a token file -> what it holds, flat."""


class Batch(NamedTuple):
    """A step's sequences, or a rank's share of them; arrays (B, T).

    ids: int64, padding is <|fim_pad|>. labels: the ids, IGNORED at padding. documents: int32, the
    number of the document at each place within its sequence, from 0, padding -1; None unless asked
    for. An end token is its document's, and so is all that an objective moves or puts in.
    """

    ids: Ids
    labels: Ids
    documents: NDArray[np.int32] | None


class Batches:
    """The batches of one phase. `size` sequences of `length` tokens each, `steps` whole batches."""

    def __init__(
        self,
        index: pa.Table,
        files: Sequence[Path],
        length: int,
        batch: int,
        seed: int,
        spm_rate: float,
        documents: bool = False,
    ) -> None:
        """index: pieces sorted by (sequence, position). files: token files by shard number.
        documents: number the documents of each sequence, for attention that stays inside them.

        ValueError where the index has a gap or a sequence longer than `length`; StageError where a
        token file is missing or shorter than the index says.
        """
        self.index, self.files, self.length, self.size = index, tuple(files), length, batch
        self.seed, self.spm_rate = seed, spm_rate
        self.documents = documents
        self._column = {n: index[n].to_numpy() for n in index.column_names if n != "uid"}
        self._places = _places(self._column)
        self._first = _first(self._column["sequence"])
        self.steps = (len(self._first) - 1) // batch
        self._open = cache(self._map)
        self._check()

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """A step's sequences, or the run of B / ranks of them that is `rank`'s.

        ValueError if that is no whole number, or if there is no such step.
        """
        if not 0 <= step < self.steps or self.size % ranks:
            raise ValueError(f"step {step} of {self.steps}, {self.size} sequences / {ranks} ranks")
        share = self.size // ranks
        start = step * self.size + rank * share
        ids = np.full((share, self.length), FIM_PAD, np.int64)
        labels = np.full_like(ids, IGNORED)
        documents = np.full(ids.shape, -1, np.int32) if self.documents else None
        for row, sequence in enumerate(range(start, start + share)):
            found = np.concatenate(self._parts(sequence))
            ids[row, : len(found)] = labels[row, : len(found)] = found
            if documents is not None:
                documents[row, : len(found)] = self._numbers(sequence)
        return Batch(ids, labels, documents)

    def pieces(self, step: int) -> pa.Table:
        """The index rows that a step is made of, in order."""
        return self.index.slice(*self._span(step))

    def tokens(self, step: int) -> int:
        """Tokens in a step, sentinels and end tokens included, padding not."""
        start, count = self._span(step)
        return int(self._places[start : start + count].sum())

    def targets(self, step: int) -> int:
        """Tokens of a step that are predicted: all but the first of each sequence, or of each of its
        documents where those are numbered."""
        if not self.documents:
            return self.tokens(step) - self.size
        rows = range(step * self.size, (step + 1) * self.size)
        return self.tokens(step) - sum(int(self._numbers(row)[-1]) + 1 for row in rows)

    def _span(self, step: int) -> tuple[int, int]:
        start = int(self._first[step * self.size])
        return start, int(self._first[(step + 1) * self.size]) - start

    def _parts(self, sequence: int) -> list[Raw]:
        rows = range(self._first[sequence], self._first[sequence + 1])
        return [part for row in rows for part in self._piece(sequence, row)]

    def _numbers(self, sequence: int) -> NDArray[np.int32]:
        """The document at each place of a sequence.

        A piece goes on with the document before it if their texts are contiguous, or if only a
        <|file_sep|> stands between them: then the document is a repository.
        """
        rows = slice(self._first[sequence], self._first[sequence + 1])
        start, length, shard, end = (
            self._column[n][rows] for n in ("start", "length", "shard", "end")
        )
        contiguous = (
            (end[:-1] < 0) & (shard[1:] == shard[:-1]) & (start[1:] == (start + length)[:-1])
        )
        begins = ~(contiguous | (end[:-1] == FILE_SEP))
        return np.repeat(np.cumsum([0, *begins], dtype=np.int32), self._places[rows])

    def _piece(self, sequence: int, row: int) -> list[Raw]:
        names = ("start", "length", "end", "masked", "spans")
        start, length, end, masked, spans = (int(self._column[n][row]) for n in names)
        ids = self._open(int(self._column["shard"][row]))[start : start + length]
        if spans:
            return [corrupt(ids, masked, spans, end, self._rng(sequence, row))]
        if self._column["infill"][row]:
            ids = rearrange(ids, self._rng(sequence, row), self.spm_rate)
        return [ids] if end < 0 else [ids, np.array([end], ids.dtype)]

    def _rng(self, sequence: int, row: int) -> np.random.Generator:
        uid = int.from_bytes(str(self.index["uid"][row].as_py()).encode())
        return np.random.default_rng([self.seed, sequence, uid, int(self._column["start"][row])])

    def _map(self, shard: int) -> Raw:
        path = self.files[shard]
        if path.stat().st_size == 0:  # holds no tokens, yet a document's end may point at it
            return np.empty(0, DTYPES[path.suffix])
        return np.memmap(path, DTYPES[path.suffix], mode="r")

    def _check(self) -> None:
        starts = self._first[:-1]
        fullest = np.add.reduceat(self._places, starts).max() if len(starts) else 0
        if fullest > self.length:
            raise ValueError(f"a sequence of {fullest} tokens in an index of length {self.length}")
        ends = self._column["start"] + self._column["length"]
        for shard in np.unique(self._column["shard"]).tolist():
            path, need = self.files[shard], int(ends[self._column["shard"] == shard].max())
            have = path.stat().st_size // DTYPES[path.suffix].itemsize if path.exists() else 0
            if have < need:
                raise StageError(
                    f"{path} has {have:,} tokens, the index needs {need:,}: it is missing or cut; "
                    "delete the tokenize step's artifact and run again"
                )


def _places(column: dict[str, NDArray[np.int64]]) -> Ids:
    """Places that each piece takes in its sequence."""
    ended = column["end"] >= 0
    return places(column["length"], column["infill"].astype(bool), column["spans"], ended)


def _first(sequence: Ids) -> Ids:
    """The first row of each sequence, and the number of rows; ValueError unless 0, 1, 2... ."""
    starts = np.flatnonzero(np.diff(sequence, prepend=-1))
    if not np.array_equal(sequence[starts], np.arange(len(starts))):
        raise ValueError("the index is not sorted by sequence, or lacks one")
    return np.append(starts, len(sequence))
