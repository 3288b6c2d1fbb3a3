"""What a box is handed to do its work: shards in, committed shards out, on however many workers.

A map-only box calls `layer`: each shard is read, judged and committed under (box identity, shard),
so that a restart, or a corpus that grew, remakes only what is missing. A row that makes the box
fail is quarantined with its error. Ray Data carries the shards to the workers; a handful of rows
is done in this process. Knows nothing of recipes.
"""

import json
import logging
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.config import canonical, plain
from pipeline.core.errors import IcefloeError, StageError
from pipeline.core.files import Files, Layer, Shard, read_shard, scatter, verdicts
from pipeline.core.log import progress
from pipeline.core.schema import QUARANTINE, digest
from pipeline.core.store import Store, parquet_bytes, read_parquet, sha256

log = logging.getLogger(__name__)
SMALL = 100
"""Up to this many rows, or one shard, are done in this process: starting workers costs more (ours)."""

Judge = Callable[[pa.Table], pa.Table]
"""A box's function on one shard: kept rows in, the same rows with verdict and own columns out."""
Make = Callable[[Any], Iterator[tuple[pa.Table, pa.Table]]]
"""A box's function on one item: its documents and ledger in parts, each of which becomes a shard."""


@dataclass
class Job:
    """One step at work. `identity` is what its shards' names depend on beside their input."""

    store: Store
    step: str
    stage: str
    version: int
    key: str
    identity: Any
    workers: int
    processes: int | tuple[int, int]
    connect: Callable[[], None]
    launch: Callable[..., Any]
    facts: dict[str, Any] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    base: list[dict[str, Any]] | None = None
    kept_shards: int = 0

    @property
    def folder(self) -> Path:
        """A folder of this artifact's own, for boxes that make other things than layers."""
        return self.store.folder(self.stage, self.key)

    def layer(
        self,
        files: Files,
        judge: Judge,
        columns: Sequence[str],
        *,
        kind: str = "verdict",
        identity: Any = None,
        sidecar: tuple[str, str] | None = None,
        own: bool = True,
    ) -> Files:
        """Lay `judge(kept rows with columns)` over every shard; returns the files with it on top.

        identity: what the layer depends on beside its input shard (the step's own by default).
        sidecar: (column, dtype): write that list column's values to a flat binary file and keep
        `start` and `length` (in values) in its place.
        own: False for a layer over another step's files, which is no part of this artifact.
        """
        what = digest(
            self.stage, str(self.version), kind, canonical(plain(self._identity(identity)))
        )
        names = {s.name: f"{s.name}-{digest(what, s.fingerprint)[:12]}" for s in files.shards}
        done = {s.name: self._done(names[s.name]) for s in files.shards}
        todo = [s for s in files.shards if done[s.name] is None]
        work = partial(_layer, self.store, self.stage, judge, list(columns), sidecar)
        items = [{"shard": s, "name": names[s.name]} for s in todo]
        for record in self._fan_out(work, items, sum(s.rows for s in todo)):
            done[record["shard"]] = record
        self.kept_shards += len(files.shards) - len(todo)
        return self._add(files, kind, [done[s.name] or {} for s in files.shards], own)

    def write(self, files: Files, tables: Iterable[pa.Table], kind: str = "verdict") -> Files:
        """Lay ready verdict tables (one a shard: the kept rows, with `row`) over the files."""
        records = []
        for shard, table in zip(files.shards, tables, strict=True):
            at, found = table["row"].to_numpy(), table.drop_columns(["row"])
            records.append(_commit_layer(self.store, self.stage, shard, None, found, at, None))
        return self._add(files, kind, records)

    def documents(self, items: Sequence[dict[str, Any]], make: Make) -> Files:
        """Make base shards: `make(item)` yields (documents, ledger of rows not taken), each a shard.

        An item needs `name` (readable) and `fingerprint` (what its rows depend on).
        """
        what = digest(self.stage, str(self.version), canonical(plain(self.identity)))
        names = {i["name"]: f"{i['name']}-{digest(what, i['fingerprint'])[:12]}" for i in items}
        assert len(names) == len(items), "two shards of one name"
        done = {n: self._done(f) for n, f in names.items()}
        todo = [i | {"file": names[i["name"]]} for i in items if done[i["name"]] is None]
        work = partial(_documents, self.store, self.stage, self.step, make)
        for made in self._fan_out(work, todo, sum(i.get("rows", SMALL + 1) for i in todo)):
            done[made["item"]] = made
        self.kept_shards += len(items) - len(todo)
        parts = [part for made in done.values() if made for part in made["parts"]]
        self.base = sorted(parts, key=lambda r: str(r["name"]))
        shards = [base_shard(self.step, record) for record in self.base if record["rows"]]
        return Files(self.store, self.step, tuple(shards))

    def collect(
        self,
        files: Files,
        measure: Judge | None,
        columns: Sequence[str],
        side: str | None = None,
    ) -> list[pa.Table]:
        """`measure(kept rows)` of every shard (None: the rows as they are), in shard order, in this
        process's memory. side: the rows dropped under this rule instead."""
        work = partial(_collect, self.store, measure, list(columns), side)
        rows = self.shards(work, files)
        return [pa.ipc.open_stream(row["table"]).read_all() for row in rows]

    def shards(
        self, work: Callable[[dict[str, Any]], dict[str, Any]], files: Files
    ) -> Iterator[dict[str, Any]]:
        """`work` on each shard of `files` (an item has `shard` and its `name`), results in their order."""
        items = [{"shard": s, "name": s.name} for s in files.shards]
        return self._fan_out(work, items, sum(s.rows for s in files.shards))

    def each(
        self,
        work: Callable[[dict[str, Any]], dict[str, Any]],
        items: Sequence[dict[str, Any]],
        rows: int,
    ) -> Iterator[dict[str, Any]]:
        """`work` on each item, results in their order. rows: about how much work it is in all."""
        return self._fan_out(work, list(items), rows)

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """The store folder of this attempt's working files; emptied when the block ends well.

        What a killed attempt left there is what the next one would write: it is used again.
        """
        folder = f"{self.stage}/scratch/{self.key}"
        yield folder
        self.store.remove(folder)

    @contextmanager
    def spill(self) -> Iterator[Path]:
        """A folder on this machine for what is too much for memory: empty, and removed at the end."""
        folder = self.folder / "spill"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
        shutil.rmtree(folder)

    def _done(self, name: str) -> dict[str, Any] | None:
        """The record of a shard made before, if every file it names is still there."""
        record = self.store.load(self.stage, "shards", f"{name}.json")
        parts = record.get("parts", [record]) if record else []
        files = [part[k] for part in parts for k in ("file", "sidecar", "ledger") if k in part]
        return record if record and all(map(self.store.exists, files)) else None

    def _identity(self, given: Any) -> Any:
        return self.identity if given is None else given

    def _add(
        self, files: Files, kind: str, records: Sequence[dict[str, Any]], own: bool = True
    ) -> Files:
        if own:
            self.layers.append({"kind": kind, "shards": list(records)})
        tops = [
            s.top(_as_layer(self.step, kind, r)) for s, r in zip(files.shards, records, strict=True)
        ]
        return Files(files.store, self.step, tuple(tops))

    def _fan_out(
        self,
        work: Callable[[dict[str, Any]], dict[str, Any]],
        items: list[dict[str, Any]],
        rows: int,
    ) -> Iterator[dict[str, Any]]:
        """`work` on each item, in order: here when it is little, else on Ray Data's workers."""
        with progress(self.step, len(items)) as advance:
            few = self.workers == 0 or len(items) < 2 or rows <= SMALL
            for result in map(work, items) if few else self._on_ray(work, items):
                advance(1)
                yield result

    def _on_ray(
        self, work: Callable[[dict[str, Any]], dict[str, Any]], items: list[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        self.connect()
        import ray.data

        rows = [{"at": i} for i in range(len(items))]
        listed = ray.put(items)
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            partial(_on_worker, work, [listed]),
            compute=ray.data.TaskPoolStrategy(size=self.workers),
        )
        try:
            for batch in dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for blob in batch["result"].to_pylist():
                    yield _unpack(blob)
        except Exception as e:
            raise _cause(e) from None


def _on_worker(
    work: Callable[[dict[str, Any]], dict[str, Any]], listed: list[Any], row: Any
) -> Any:
    import pickle

    import ray

    return {"result": pickle.dumps(work(ray.get(listed[0])[row["at"]]))}


def _unpack(blob: bytes) -> dict[str, Any]:
    import pickle

    return dict(pickle.loads(blob))  # made by our own worker one call ago, never read from disk


def _cause(error: BaseException | None) -> BaseException:
    """The user-facing error inside Ray's wrappers, or the outermost when there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, IcefloeError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    assert error is not None
    return error


def _layer(
    store: Store,
    stage: str,
    judge: Judge,
    columns: list[str],
    sidecar: tuple[str, str] | None,
    item: dict[str, Any],
) -> dict[str, Any]:
    shard: Shard = item["shard"]
    table = read_shard(store, shard, columns)
    found = quarantined(judge, table.drop_columns(["row"]))
    return _commit_layer(store, stage, shard, item["name"], found, table["row"].to_numpy(), sidecar)


def _commit_layer(
    store: Store,
    stage: str,
    shard: Shard,
    name: str | None,
    found: pa.Table,
    at: np.ndarray,
    sidecar: tuple[str, str] | None,
) -> dict[str, Any]:
    assert len(found) == len(at), f"{stage}: {len(found)} verdicts for {len(at)} rows"
    record: dict[str, Any] = {"shard": shard.name, "rows": shard.rows, "counts": count(found)}
    flat = b""
    if sidecar:
        found, flat = _flatten(found, *sidecar)
    uids = read_parquet(store.local(shard.layers[0].file), ["uid"])["uid"]
    data = parquet_bytes(scatter(found, at, uids))
    name = name or f"{shard.name}-{sha256(data)[:12]}"
    if sidecar:
        suffix = {"uint8": "u8", "uint16": "u16", "uint32": "u32"}[sidecar[1]]
        record |= {"sidecar": f"{stage}/shards/{name}.{suffix}", "sidecar_sha256": sha256(flat)}
        store.create(flat, record["sidecar"])
    record |= {"file": f"{stage}/shards/{name}.parquet", "sha256": sha256(data)}
    record["bytes"] = len(data) + len(flat)
    store.create(data, record["file"])
    store.create(json.dumps(record).encode(), stage, "shards", f"{name}.json")
    return record


def _flatten(found: pa.Table, column: str, dtype: str) -> tuple[pa.Table, bytes]:
    """Move a list column's values into one flat array; `start` and `length` stay behind."""
    if column in found.column_names:
        lists = found[column].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
        flat = lists.flatten().to_numpy(zero_copy_only=False)
    else:
        lengths, flat = np.zeros(len(found), np.int64), np.empty(0)
    rest = [name for name in found.column_names if name != column]
    out = found.select(rest).append_column("start", pa.array(np.cumsum(lengths) - lengths))
    return out.append_column("length", pa.array(lengths)), flat.astype(dtype, copy=False).tobytes()


def _documents(
    store: Store, stage: str, step: str, make: Make, item: dict[str, Any]
) -> dict[str, Any]:
    parts = []
    for number, (documents, ledger) in enumerate(make(item)):
        suffix = f".{number}" if number else ""
        base = f"{stage}/shards/{item['file']}{suffix}"
        parts.append(_commit_part(store, base, item["name"] + suffix, documents, ledger))
    record = {"item": item["name"], "parts": parts}
    store.create(json.dumps(record).encode(), stage, "shards", f"{item['file']}.json")
    return record


def _commit_part(
    store: Store, base: str, name: str, documents: pa.Table, ledger: pa.Table
) -> dict[str, Any]:
    data, missed = parquet_bytes(documents), parquet_bytes(ledger)
    record: dict[str, Any] = {
        "item": name,
        "name": f"{name}-{sha256(data)[:8]}",
        "rows": len(documents),
        "file": f"{base}.parquet",
        "sha256": sha256(data),
        "bytes": len(data) + len(missed),
        "text_bytes": int(np.sum(documents["bytes"].to_numpy())),
        "ledger": f"{base}.ledger.parquet",
        "ledger_sha256": sha256(missed),
        "counts": count(ledger, kept=len(documents)),
    }
    store.create(data, record["file"])
    store.create(missed, record["ledger"])
    return record


def _collect(
    store: Store, measure: Judge | None, columns: list[str], side: str | None, item: dict[str, Any]
) -> dict[str, Any]:
    table = read_shard(store, item["shard"], columns, side)
    table = measure(table) if measure else table
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return {"table": bytes(sink.getvalue())}


def quarantined(judge: Judge, table: pa.Table) -> pa.Table:
    """`judge(table)`; when it fails, row by row, each failing row dropped as `quarantine`."""
    try:
        return judge(table)
    except IcefloeError:
        raise
    except Exception:
        parts = [_judge_row(judge, table.slice(i, 1)) for i in range(len(table))]
        return pa.concat_tables([*_columns_of(judge, table), *parts], promote_options="permissive")


def _columns_of(judge: Judge, table: pa.Table) -> list[pa.Table]:
    """An empty answer, so that the box's columns are there even when every row fails."""
    try:
        return [judge(table.slice(0, 0))]
    except Exception:
        return []


def _judge_row(judge: Judge, row: pa.Table) -> pa.Table:
    try:
        return judge(row)
    except IcefloeError:
        raise
    except Exception as e:
        error = "".join(traceback.format_exception_only(e)).strip()[:500]
        return verdicts(row["uid"], [QUARANTINE], evidence=[error])


def count(found: pa.Table, kept: int = 0) -> dict[str, Any]:
    """The ledger of verdicts: rows in, kept, dropped by rule, quarantined."""
    rules = Counter(found["rule"].cast(pa.string()).to_pylist())
    kept += rules.pop(None, 0)
    bad = rules.pop(QUARANTINE, 0)
    rows_in = kept + bad + sum(rules.values())
    return {"in": rows_in, "kept": kept, "dropped": dict(sorted(rules.items())), "quarantined": bad}


def total(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sum of ledgers over shards."""
    out: dict[str, Any] = {"in": 0, "kept": 0, "dropped": Counter(), "quarantined": 0}
    for one in counts:
        for key in ("in", "kept", "quarantined"):
            out[key] += one[key]
        out["dropped"].update(one["dropped"])
    return out | {"dropped": dict(sorted(out["dropped"].items()))}


def base_shard(step: str, record: dict[str, Any]) -> Shard:
    """The base shard that a documents record describes."""
    layer = Layer(step, "documents", record["file"], record["sha256"])
    return Shard(record["name"], record["rows"], (layer,))


def _as_layer(step: str, kind: str, record: dict[str, Any]) -> Layer:
    return Layer(step, kind, record["file"], record["sha256"], record.get("sidecar"))


def stack(files: Files, step: str, layers: Sequence[dict[str, Any]]) -> Files:
    """`files` with a manifest's layers on top; StageError when a shard is missing from one."""
    for layer in layers:
        by_name = {record["shard"]: record for record in layer["shards"]}
        if missing := [s.name for s in files.shards if s.name not in by_name]:
            raise StageError(f"step {step}: no {layer['kind']} layer for shard {missing[0]}")
        tops = [s.top(_as_layer(step, layer["kind"], by_name[s.name])) for s in files.shards]
        files = Files(files.store, step, tuple(tops))
    return files
