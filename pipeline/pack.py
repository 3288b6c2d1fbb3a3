"""Tokens -> training sequences: an index of pieces, in training order; no token is copied.

Phase 1 lays documents end to end grouped by language, then repository, files in random order inside
(SnowCoder 2409.02326 §2.1); other phases shuffle documents. The sequences are then shuffled, and
which pieces will be infilled is drawn here, with room for their sentinels. Sequence numbers are the
training order: batch t is sequences [t*B, (t+1)*B).
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.config import Share, Tokens, config
from pipeline.core.errors import StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.schema import END, FILE_SEP, digest
from pipeline.core.store import sha256_file
from pipeline.kernels.packing import Pieces, lay

VERSION = 1


@config
class Config:
    length: int = 8192
    """Tokens in a sequence (SnowCoder §2.1)."""
    group: tuple[Literal["language", "repo"], ...] = ()
    """Keep documents of one language, then of one repository, together; empty shuffles documents.
    With `repo`, the files of a repository are joined by <|file_sep|> into one document."""
    budget: Tokens | None = None
    """Tokens to train on in all; None is `epochs` times everything there is."""
    epochs: int | None = None
    """Passes over the documents; None is as many as the budget needs (at least one)."""
    infill: Share = 0.0
    """Share of pieces that are infilled (StarCoder2 and DeepSeek-Coder 0.5; SnowCoder none)."""
    seed: int = 0
    """Of all shuffles and draws."""

    def __post_init__(self) -> None:
        if self.length < 8 or (self.epochs is not None and self.epochs < 1):
            raise ValueError(
                f"length is {self.length} (8 or more), epochs {self.epochs} (1 or more)"
            )
        if not 0 <= self.infill <= 1:
            raise ValueError(f"infill is {self.infill}: a share, 0 to 1")


def run(files: Files, cfg: Config, job: Job) -> None:
    table = _documents(files, job)
    if not len(table):
        raise StageError(
            f"step {job.step}: no document is left to pack; loosen the steps before it"
        )
    epochs = _epochs(cfg, int(pc.sum(table["length"]).as_py()) + len(table))
    index = passes(table, cfg, epochs)
    sequences = _sequences(index)
    pq.write_table(
        index, job.folder / "index.parquet", compression="zstd", write_page_checksum=True
    )
    job.facts |= {
        "sequences": sequences,
        "length": cfg.length,
        "tokens": sequences * cfg.length,
        "epochs": epochs,
        "documents": len(pc.unique(index["uid"])),
        "infilled": int(pc.sum(index["infill"]).as_py() or 0),
        "sidecars": [s.sidecar for s in files.shards],
        "index": sha256_file(job.folder / "index.parquet"),
    }


def _documents(files: Files, job: Job) -> pa.Table:
    tables = job.collect(files, _slim, ["language", "repo", "start", "length"])
    numbered = [
        t.append_column("shard", pa.array([i] * len(t), pa.int32())) for i, t in enumerate(tables)
    ]
    return pa.concat_tables(numbered)


def _slim(table: pa.Table) -> pa.Table:
    return table.drop_columns(["row"])


def _epochs(cfg: Config, tokens: int) -> int:
    """Passes needed; StageError when the data times the allowed passes cannot fill the budget."""
    needed = -(-(cfg.budget or 0) // tokens) or 1
    if cfg.epochs is not None and needed > cfg.epochs:
        raise StageError(
            f"pack: the budget of {cfg.budget:,} tokens needs {needed} passes over {tokens:,} tokens, but "
            f"epochs is {cfg.epochs}; lower the budget or allow more epochs"
        )
    return cfg.epochs or needed


def _sequences(index: pa.Table) -> int:
    return int(pc.max(index["sequence"]).as_py()) + 1


def passes(table: pa.Table, cfg: Config, epochs: int) -> pa.Table:
    """The index of all passes, one after the other, cut to the budget."""
    parts: list[pa.Table] = []
    at = 0
    for epoch in range(epochs):
        part = one_epoch(table, cfg, epoch)
        parts.append(part.set_column(0, "sequence", pc.add(part["sequence"], at)))
        at += _sequences(part)
    index = pa.concat_tables(parts)
    if cfg.budget is None:
        return index
    return index.filter(pc.less(index["sequence"], max(1, cfg.budget // cfg.length)))


def one_epoch(table: pa.Table, cfg: Config, epoch: int) -> pa.Table:
    """The index of one pass: documents in their order, sequences shuffled and numbered from 0."""
    rng = np.random.Generator(np.random.Philox(key=[cfg.seed, epoch]))
    ordered = table.take(pa.array(order(table, cfg, epoch)))
    pieces = lay(ordered["length"].to_numpy(), cfg.length, cfg.infill, rng)
    shuffled = rng.permutation(int(pieces.sequence[-1]) + 1)
    return _index(ordered, pieces, shuffled, cfg, epoch)


def order(table: pa.Table, cfg: Config, epoch: int) -> NDArray[np.int64]:
    """Document order of a pass: by the hashed group names, then by hash of the document."""
    uids = [digest(str(cfg.seed), str(epoch), u) for u in table["uid"].to_pylist()]
    groups = {
        g: [digest(str(cfg.seed), str(epoch), x) for x in table[g].to_pylist()] for g in cfg.group
    }
    keyed = pa.table(groups | {"uid": uids})
    return np.asarray(
        pc.sort_indices(keyed, [(n, "ascending") for n in keyed.column_names]), np.int64
    )


def _index(
    table: pa.Table, pieces: Pieces, shuffled: NDArray[np.int64], cfg: Config, epoch: int
) -> pa.Table:
    at = pa.array(pieces.document)
    ends = np.where(pieces.last, _ends(table, cfg)[pieces.document], -1)
    index = pa.table(
        {
            "sequence": shuffled[pieces.sequence],
            "uid": table["uid"].take(at),
            "shard": table["shard"].take(at),
            "start": table["start"].to_numpy()[pieces.document] + pieces.offset,
            "length": pa.array(pieces.length, pa.int32()),
            "infill": pieces.infill,
            "end": pa.array(ends, pa.int32()),
            "epoch": pa.array(np.full(len(at), epoch), pa.int32()),
        }
    )
    return index.take(np.argsort(index["sequence"].to_numpy(), kind="stable"))


def _ends(table: pa.Table, cfg: Config) -> NDArray[np.int64]:
    """The token after each document: <|file_sep|> inside a repository, else <|endoftext|>."""
    ends = np.full(len(table), END)
    if "repo" in cfg.group:
        names = [table[g].to_numpy().astype(str) for g in cfg.group]
        same = np.logical_and.reduce([n[1:] == n[:-1] for n in names])
        ends[:-1][same] = FILE_SEP
    return ends
