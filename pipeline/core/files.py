"""Documents and the layers over them: what every curation box reads.

A FILES value is a base (documents in shards) plus a chain of layers. A layer has one file per base
shard, with the same rows in the same order; each of its rows is a verdict (see schema.VERDICT) and
whatever columns the box adds (`score`, `edits`, `start`...). The documents of a step are the base
rows that every verdict in its chain keeps. Text is stored once, in the base; edits are applied
when it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import StageError, did_you_mean
from pipeline.core.schema import VERDICT, digest
from pipeline.core.store import Store, read_columns, schema


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
    def tokens(self) -> str | None:
        """The store path of the newest token file."""
        found = [layer.sidecar for layer in self.layers if layer.kind == "tokens"]
        return found[-1] if found else None

    def token_ids(self, store: Store) -> np.ndarray:
        """All tokens of the shard, mapped into memory: a document's are ids[start : start + length]."""
        assert self.tokens, f"{self.name} has no tokens"
        path = store.local(self.tokens)
        kind = np.uint16 if path.suffix == ".u16" else np.uint32
        return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)

    def top(self, layer: Layer) -> "Shard":
        return replace(self, layers=(*self.layers, layer))


@dataclass(frozen=True)
class Files:
    """A set of documents, as the step `step` left it. Shards are sorted by name."""

    store: Store
    step: str
    shards: tuple[Shard, ...]

    def read(self, shard: Shard, columns: Sequence[str], side: str | None = None) -> pa.Table:
        """The kept rows of a shard: `row` (its number in the shard), `uid`, then `columns`. The
        column `ids` is a document's tokens, from the shard's file of them.

        side: instead, the rows that a verdict of the chain dropped under this rule
        (`heldout` for the held-out repositories).
        """
        return read_shard(self.store, shard, columns, side)


def schema_of(store: Store, shard: Shard) -> dict[str, pa.DataType]:
    """The columns that a shard's base and layers have, by name, and what they hold."""
    tables = [schema(store.local(layer.file)) for layer in shard.layers]
    return {field.name: field.type for table in tables for field in table}


def read_shard(
    store: Store, shard: Shard, columns: Sequence[str], side: str | None = None
) -> pa.Table:
    """See `Files.read`."""
    if "ids" in columns:
        return _with_ids(store, shard, columns, side)
    read, found = [], dict[str, pa.ChunkedArray]()
    told = ["keep"] if side is None else ["keep", "rule"]
    for number, layer in reversed(list(enumerate(shard.layers))):
        ours = [c for c in columns if c not in found and _may_have(layer.kind, number, c)]
        more = (told + ["edits"] * ("text" in columns)) if number else ["uid"]
        read.append(read_columns(store.local(layer.file), [*more, *ours]))
        found |= {c: read[-1][c] for c in ours if c in read[-1].column_names}
    if missing := [c for c in columns if c not in found]:
        near = did_you_mean(missing[0], schema_of(store, shard))
        raise StageError(f"no step above makes a column {missing[0]!r}{near}")
    base, layers = read[-1], read[-2::-1]
    rows = np.flatnonzero(mask(shard.rows, layers, side))
    edits = [table["edits"] for table in layers if "edits" in table.column_names]
    whole = pa.table(
        {"uid": base["uid"], **found, **{f"edits {n}": e for n, e in enumerate(edits)}}
    )
    taken = whole if len(rows) == shard.rows else whole.take(pa.array(rows))
    for n in range(len(edits) if "text" in columns else 0):
        at = taken.column_names.index("text")
        taken = taken.set_column(at, "text", edited(taken["text"], taken[f"edits {n}"]))
    names = list(dict.fromkeys(["uid", *columns]))
    return taken.select(names).add_column(0, "row", pa.array(rows, pa.int64()))


def _with_ids(store: Store, shard: Shard, columns: Sequence[str], side: str | None) -> pa.Table:
    """The rows with their tokens as lists; StageError where no step above makes tokens."""
    if shard.tokens is None:
        raise StageError(
            f"shard {shard.name} has no tokens: put a `tokenize` step above this one, and name it in `files`"
        )
    others = [c for c in columns if c != "ids"]
    table = read_shard(store, shard, list(dict.fromkeys([*others, "start", "length"])), side)
    ids = shard.token_ids(store)
    starts, lengths = table["start"].to_numpy(), table["length"].to_numpy()
    bounds = np.cumsum([0, *lengths])
    if bounds[-1] < len(ids):
        ids = ids[np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])]
    lists = pa.LargeListArray.from_arrays(bounds, ids)
    return table.append_column("ids", lists).select(["row", *dict.fromkeys(["uid", *columns])])


def _may_have(kind: str, number: int, column: str) -> bool:
    """Sketches have places in a flat file as tokens do; without this, who reads tokens reads them."""
    return (number == 0 or column not in _BASE) and (kind != "sketch" or column not in _PLACES)


_BASE = ("uid", "text")
"""Columns that only the base has, whatever a layer is called."""
_PLACES = ("start", "length")
"""Where a document's tokens lie, and how many they are."""


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
