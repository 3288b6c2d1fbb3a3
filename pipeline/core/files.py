"""Documents and the layers over them: what every curation box reads.

A FILES value is a base (documents in shards) plus a chain of layers. A layer has one file per base
shard, with the same rows in the same order; each of its rows is a verdict (see schema.VERDICT) and
whatever columns the box adds (`score`, `edits`, `start`...). The documents of a step are the base
rows that every verdict in its chain keeps. Text is stored once, in the base; edits are applied
when it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import StageError
from pipeline.core.schema import VERDICT, digest
from pipeline.core.store import Store, read_parquet


@dataclass(frozen=True)
class Layer:
    """One shard's file of one layer (or of the base, whose `step` made the documents)."""

    step: str
    kind: str
    file: str
    sha256: str
    sidecar: str | None = None


@dataclass(frozen=True)
class Shard:
    """One base shard with its chain of layers; `layers[0]` is the base itself."""

    name: str
    rows: int
    layers: tuple[Layer, ...]

    @property
    def fingerprint(self) -> str:
        """Changes when any byte that a reader of this shard could see changes."""
        return digest(*(layer.sha256 for layer in self.layers))

    @property
    def sidecar(self) -> str | None:
        """The store path of the newest layer's flat binary file (tokens)."""
        found = [layer.sidecar for layer in self.layers if layer.sidecar]
        return found[-1] if found else None

    def top(self, layer: Layer) -> "Shard":
        return replace(self, layers=(*self.layers, layer))


@dataclass(frozen=True)
class Files:
    """A set of documents, as the step `step` left it. Shards are sorted by name."""

    store: Store
    step: str
    shards: tuple[Shard, ...]

    def read(self, shard: Shard, columns: Sequence[str], side: str | None = None) -> pa.Table:
        """The kept rows of a shard: `row` (its number in the shard), `uid`, then `columns`.

        side: instead, the rows that a verdict of the chain dropped under this rule
        (`heldout` for the held-out repositories).
        """
        return read_shard(self.store, shard, columns, side)


def read_shard(
    store: Store, shard: Shard, columns: Sequence[str], side: str | None = None
) -> pa.Table:
    """See `Files.read`."""
    paths = [store.local(layer.file) for layer in shard.layers]
    needed = ["keep"] if side is None else ["keep", "rule"]
    rows = np.flatnonzero(mask(shard.rows, [read_parquet(p, needed) for p in paths[1:]], side))
    homes = {name: _home(paths, name) for name in ("uid", *columns)}
    out = {"row": pa.array(rows, pa.int64())}
    for path in dict.fromkeys(homes.values()):
        names = [name for name, home in homes.items() if home == path]
        read = read_parquet(path, names)
        read = read if len(rows) == shard.rows else read.take(pa.array(rows))
        out |= {name: read[name] for name in names}
    if "text" in columns:
        out["text"] = _with_edits(out["text"], paths, rows)
    return pa.table({name: out[name] for name in ("row", "uid", *columns)})


def mask(rows: int, verdicts: Sequence[pa.Table], side: str | None = None) -> np.ndarray:
    """Which rows the verdicts keep, or which one of them dropped under the rule `side`."""
    alive = np.ones(rows, bool)
    dropped = np.zeros(rows, bool)
    for verdict in verdicts:
        keep = verdict["keep"].combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
        if side is not None:
            dropped |= (
                alive & ~keep & np.asarray(pc.equal(_words(verdict["rule"]), side).fill_null(False))
            )
        alive &= keep
    return alive if side is None else dropped


def _words(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.string())


def _home(paths: Sequence[Path], name: str) -> Path:
    """The newest layer's file that has a column; `uid` and `text` are the base's."""
    if name in ("uid", "text"):
        return paths[0]
    for path in reversed(paths):
        if name in pq.read_schema(path).names:
            return path
    raise StageError(f"no step above makes a column {name!r}; check `files` and `by`")


def _with_edits(text: pa.ChunkedArray, paths: Sequence[Path], rows: np.ndarray) -> pa.ChunkedArray:
    for path in paths[1:]:
        if "edits" in pq.read_schema(path).names:
            text = edited(text, read_parquet(path, ["edits"])["edits"].take(pa.array(rows)))
    return text


def edited(text: pa.ChunkedArray, edits: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    """Apply each row's edits (byte offsets, ascending) to its text."""
    there = pc.fill_null(pc.greater(pc.list_value_length(edits), 0), False)
    pairs = zip(text.filter(there).to_pylist(), edits.filter(there).to_pylist(), strict=True)
    changed = [apply_edits(t, e) for t, e in pairs]
    if not changed:
        return text
    if isinstance(there, pa.ChunkedArray):
        there = there.combine_chunks()
    return pc.replace_with_mask(text, there, pa.array(changed, text.type))


def apply_edits(text: str, edits: Sequence[dict[str, Any]] | None) -> str:
    """`text` with each edit's UTF-8 byte range replaced."""
    if not edits:
        return text
    raw, out, at = text.encode(), [], 0
    for edit in edits:
        out += [raw[at : edit["start"]], edit["text"].encode()]
        at = edit["end"]
    return b"".join([*out, raw[at:]]).decode()


def scatter(found: pa.Table, at: np.ndarray, uids: pa.ChunkedArray) -> pa.Table:
    """Spread a verdict table over the whole shard: rows not in `at` get nulls (not judged)."""
    columns = {name: found[name] for name in found.column_names if name != "uid"}
    if len(at) < len(uids):
        where = np.full(len(uids), -1, np.int64)
        where[at] = np.arange(len(at))
        index = pa.array(where, pa.int64(), mask=where < 0)
        columns = {name: column.take(index) for name, column in columns.items()}
    return pa.table({"uid": uids.combine_chunks(), **columns})


def verdicts(
    uids: pa.Array | pa.ChunkedArray,
    rule: Sequence[str | None],
    value: Sequence[float | None] | None = None,
    evidence: Sequence[str | None] | None = None,
    **columns: Any,
) -> pa.Table:
    """A verdict table: a row is kept where its `rule` is None. `columns` are the box's own."""
    n = len(rule)
    table = {
        "uid": uids,
        "keep": pa.array([r is None for r in rule], pa.bool_()),
        "rule": pa.array(rule, pa.string()).dictionary_encode().cast(VERDICT.field("rule").type),
        "value": pa.array(value if value is not None else [None] * n, pa.float64()),
        "evidence": pa.array(evidence if evidence is not None else [None] * n, pa.string()),
    }
    return pa.table({**table, **columns})
