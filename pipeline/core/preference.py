"""Which of several like documents is wanted most: all of a corpus ranked, exact copies found.

Documents are sorted on disk by what makes a keeper, ties by content, then uid, so that neither the
order nor the choice depends on shards. A document's place is its shard's number and its own among
the shard's kept rows; its rank counts from the most wanted. Nothing here grows with the corpus but
one byte a document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core import spill
from pipeline.core.arrays import I64, U64, halves
from pipeline.core.licences import permissive

Preference = Literal["licence", "stars", "longest", "shortest"]
WIDTH = 7
"""Numbers in a document's record: preferences (2), content (2), uid (2), place."""
COLUMNS = ("content", "licence", "stars", "bytes", "words")
"""What `wanted` reads of a document."""
_LOW = np.uint64(0xFFFFFFFF)


def places(shard: int, count: int) -> U64:
    """The places of a shard's documents: the shard above, the document below (31 bits each)."""
    return (np.uint64(shard) << np.uint64(32)) | np.arange(count, dtype=np.uint64)


def split(place: U64) -> tuple[I64, I64]:
    """(shard, document in it) of places."""
    return (place >> np.uint64(32)).astype(np.int64), (place & _LOW).astype(np.int64)


def wanted(table: pa.Table, keep: Sequence[Preference], shard: int, own: bool) -> U64:
    """(n, WIDTH) sorted records of a shard's documents; those that are not `own` come before all.

    keep: at most three preferences, the most important first. The lowest bit of the place tells
    whether the document has words.
    """
    values = _values(table)
    zero = np.zeros(len(table), np.uint64)
    first, second, third = [*(values[k] for k in keep), zero, zero, zero][:3]
    high = np.uint64(32)
    keys = np.stack([(np.uint64(own) << high) | first, (second << high) | third], axis=1)
    words = np.asarray(table["words"]).astype(np.uint64)
    place = (places(shard, len(table)) << np.uint64(1)) | words
    hashes = [halves(table["content"]), halves(table["uid"])]
    return spill.ordered(np.hstack([keys, *hashes, place[:, None]]))


def _values(table: pa.Table) -> dict[str, U64]:
    """Each preference as numbers of 32 bits, smaller ones wanted more."""
    rank = {True: 0, None: 1, False: 2}
    free = [rank[None if x is None else permissive(x)] for x in table["licence"].to_pylist()]
    size = np.asarray(table["bytes"]).astype(np.int64)
    stars = np.asarray(table["stars"].fill_null(0)).astype(np.int64)
    found = {"licence": np.array(free, np.int64), "stars": 2**31 - stars}
    found |= {"longest": int(_LOW) - size, "shortest": size}
    return {name: value.astype(np.uint64) for name, value in found.items()}


@dataclass(frozen=True)
class Ranked:
    """All documents, most wanted first: place and words, uid; `alive`: no exact copy of another.

    copies: runs of (place, rank of the document it is a copy of).
    """

    place: Path
    uid: Path
    alive: NDArray[np.bool_]
    copies: list[Path]


def ranked(runs: Sequence[Path], count: int, folder: Path) -> Ranked:
    """Merge the shards' records into one order, and find who is a copy of a more wanted one."""
    place, uid, rank = folder / "place", folder / "uid", 0
    contents = []
    with open(place, "wb") as places_, open(uid, "wb") as uids:
        for part in spill.merged(runs, WIDTH, WIDTH):
            ranks = np.arange(rank, rank + len(part), dtype=np.uint64)
            spill.put(places_, part[:, 6])
            spill.put(uids, part[:, 4:6])
            content = np.column_stack([part[:, 2:4], ranks, part[:, 6] >> np.uint64(1)])
            contents.append(spill.run(folder / f"content-{rank}", content))
            rank += len(part)
    alive = np.ones(count, bool)
    copies = list(_copies(contents, alive, folder))
    return Ranked(place, uid, alive, copies)


def _copies(contents: Sequence[Path], alive: NDArray[np.bool_], folder: Path) -> Iterator[Path]:
    for number, part in enumerate(spill.merged(contents, 4, 2)):
        new = np.ones(len(part), bool)
        new[1:] = (part[1:, :2] != part[:-1, :2]).any(axis=1)
        original = part[new, 2][np.cumsum(new) - 1]
        alive[part[~new, 2].astype(np.int64)] = False
        yield spill.run(folder / f"copies-{number}", np.column_stack([part[:, 3], original])[~new])


def live(known: Ranked) -> Iterator[tuple[U64, I64]]:
    """(places, ranks) of the documents that are alive and have words, most wanted first."""
    rank = 0
    for part in spill.chunks(known.place, 1):
        some = (part[:, 0] & np.uint64(1)).astype(bool) & known.alive[rank : rank + len(part)]
        yield part[some, 0] >> np.uint64(1), rank + np.flatnonzero(some)
        rank += len(part)
