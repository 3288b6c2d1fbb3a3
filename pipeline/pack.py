"""Tokens -> training sequences: an index of pieces, in training order; no token is copied.

Phase 1 lays documents end to end grouped by language, then repository, files in random order inside
(SnowCoder 2409.02326 §2.1); other phases shuffle documents. The sequences are then shuffled, and
which pieces will be infilled is drawn here, with room for their sentinels. Sequence numbers are the
training order: batch t is sequences [t*B, (t+1)*B).
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
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
from pipeline.core.schema import END, FILE_SEP
from pipeline.core.store import sha256_file

VERSION = 2
I64 = NDArray[np.int64]

INDEX = pa.schema(
    [
        ("sequence", pa.int64()),
        ("uid", pa.string()),
        ("shard", pa.int32()),
        ("start", pa.int64()),
        ("length", pa.int32()),
        ("infill", pa.bool_()),
        ("end", pa.int32()),
        ("epoch", pa.int32()),
    ]
)
"""One row a piece, sorted by sequence: `start` and `length` in tokens of the shard's token file;
`end` is the special token after the piece, -1 for none."""


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
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"budget is {self.budget} tokens: 1 or more")
        if not 0 <= self.infill <= 1:
            raise ValueError(f"infill is {self.infill}: a share, 0 to 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: 0 to 2**63 - 1")


def run(files: Files, cfg: Config, job: Job) -> None:
    _check_order(files, job)
    table = _documents(files, cfg, job)
    epochs = _epochs(cfg, int(pc.sum(table["length"]).as_py()) + len(table))
    path = job.folder / "index.parquet"
    written = _write(passes(table, cfg, epochs), path)
    job.facts |= written | {
        "length": cfg.length,
        "tokens": written["sequences"] * cfg.length,
        "epochs": epochs,
        "sidecars": [s.tokens for s in files.shards],
        "index": sha256_file(path),
    }


def _check_order(files: Files, job: Job) -> None:
    """Tokens are of the text as it was when they were made."""
    for kinds in ([layer.kind for layer in reversed(s.layers)] for s in files.shards):
        if "tokens" in kinds and "edits" in kinds[: kinds.index("tokens")]:
            raise StageError(
                f"step {job.step}: a text of `files` is redacted after it was tokenized, so its tokens "
                "still have what was taken out; put the tokenize step after the redact step"
            )


def _documents(files: Files, cfg: Config, job: Job) -> pa.Table:
    """One slim row a document: uid, start, length, shard, and what it is grouped by (numbered)."""
    tables = job.collect(files, partial(_slim, names=cfg.group), [*cfg.group, "start", "length"])
    if not any(map(len, tables)):
        raise StageError(
            f"step {job.step}: no document is left to pack; loosen the steps before it"
        )
    numbered = [
        t.append_column("shard", pa.array(np.full(len(t), i, np.int32)))
        for i, t in enumerate(tables)
    ]
    return pa.concat_tables(numbered).unify_dictionaries()


def _slim(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
    for name in names:
        codes = pc.dictionary_encode(pc.fill_null(table[name], ""))
        table = table.set_column(table.column_names.index(name), name, codes)
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


def _write(parts: Iterator[pa.Table], path: Path) -> dict[str, int]:
    """Write the passes one after the other, one in memory at a time; what is in them, as facts."""
    facts = {"sequences": 0, "documents": 0, "infilled": 0}
    with pq.ParquetWriter(path, INDEX, compression="zstd", write_page_checksum=True) as out:
        for part in parts:
            out.write_table(part)
            facts["sequences"] = part["sequence"][-1].as_py() + 1
            # a cut first pass is the only one; a whole one has every document
            facts["documents"] = facts["documents"] or pc.count_distinct(part["uid"]).as_py()
            facts["infilled"] += pc.sum(part["infill"]).as_py()
    return facts


def passes(table: pa.Table, cfg: Config, epochs: int) -> Iterator[pa.Table]:
    """The index of each pass, numbered on from the one before, cut to the budget."""
    at = 0
    limit = None if cfg.budget is None else max(1, cfg.budget // cfg.length)
    for epoch in range(epochs):
        part = one_epoch(table, cfg, epoch, at)
        numbers = part["sequence"].to_numpy()
        at = int(numbers[-1]) + 1
        yield part.slice(0, len(part) if limit is None else int(np.searchsorted(numbers, limit)))
        if limit is not None and at >= limit:
            return


def one_epoch(table: pa.Table, cfg: Config, epoch: int, first: int) -> pa.Table:
    """The index of one pass: documents in their order, sequences shuffled, numbered from `first`.

    Infilled pieces are drawn and sequences shuffled from (seed, epoch).
    """
    from pipeline.kernels.packing import lay, starts

    rng = np.random.Generator(np.random.Philox(key=[cfg.seed, epoch]))
    documents = order(table, cfg, epoch)
    pieces = lay(table["length"].to_numpy()[documents], cfg.length, cfg.infill, rng)
    begins = starts(pieces)
    sequence, rows = _shuffled(begins, rng.permutation(len(begins) - 1))
    ends = _ends(table, documents, cfg)
    at, document = documents[pieces.document[rows]], pieces.document[rows]
    columns = {
        "sequence": sequence + first,
        "uid": table["uid"].take(pa.array(at)),
        "shard": table["shard"].to_numpy()[at],
        "start": table["start"].to_numpy()[at] + pieces.offset[rows],
        "length": pieces.length[rows].astype(np.int32),
        "infill": pieces.infill[rows],
        "end": np.where(pieces.last[rows], ends[document], -1).astype(np.int32),
        "epoch": np.full(len(rows), epoch, np.int32),
    }
    return pa.table(columns, INDEX)


def order(table: pa.Table, cfg: Config, epoch: int) -> I64:
    """Document numbers in the order of a pass: by the hashed group names, then by the hash of the
    document, then (should two hashes clash) by uid."""
    from pipeline.kernels.hashing import places

    salt = f"{cfg.seed} {epoch}"
    keys = {name: _ranks(table[name], salt) for name in cfg.group}
    keyed = pa.table(keys | {"place": places(table["uid"], salt), "uid": table["uid"]})
    by = [(name, "ascending") for name in keyed.column_names]
    return np.asarray(pc.sort_indices(keyed, by), np.int64)


def _ranks(column: pa.ChunkedArray, salt: str) -> I64:
    """The rank of each row's name, names in the order of their hashes (a clash: of the names)."""
    from pipeline.kernels.hashing import places

    coded = column.combine_chunks()
    keyed = pa.table({"place": places(coded.dictionary, salt), "name": coded.dictionary})
    found = pc.sort_indices(keyed, [("place", "ascending"), ("name", "ascending")]).to_numpy()
    ranks = np.empty(len(found), np.int64)
    ranks[found] = np.arange(len(found))
    return np.asarray(ranks[coded.indices.to_numpy()])


def _ends(table: pa.Table, documents: I64, cfg: Config) -> I64:
    """The token after each document, in the given order: <|file_sep|> inside a repository, else
    <|endoftext|>."""
    ends = np.full(len(documents), END, np.int64)
    if "repo" in cfg.group:
        codes = [table[n].combine_chunks().indices.to_numpy()[documents] for n in cfg.group]
        same = np.logical_and.reduce([c[1:] == c[:-1] for c in codes])
        ends[:-1][same] = FILE_SEP
    return ends


def _shuffled(begins: I64, number: I64) -> tuple[I64, I64]:
    """(sequence, piece) of the pieces in training order, where sequence s becomes `number[s]`.

    begins: the first piece of each sequence, and the number of pieces.
    """
    old = np.empty_like(number)
    old[number] = np.arange(len(number))
    counts = np.diff(begins)[old]
    ahead = np.cumsum(counts) - counts
    sequence = np.repeat(np.arange(len(number)), counts)
    return sequence, np.arange(len(sequence)) + (begins[old] - ahead)[sequence]
