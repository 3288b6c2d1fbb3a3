"""Tokens -> training sequences: an index of pieces, in training order; no token is copied.

Phase 1 lays documents end to end grouped by language, then repository, files in random order inside
(SnowCoder 2409.02326 §2.1); other phases shuffle documents. The sequences are then shuffled, and
which pieces will be infilled or corrupted is drawn here, with room for their sentinels. Several
sources are packed each by itself and interleaved, so that every batch has their shares. Sequence
numbers are the training order: batch t is sequences [t*B, (t+1)*B).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.config import Share, Tokens, config
from pipeline.core.errors import RecipeError, StageError, did_you_mean
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.store import sha256_file
from pipeline.kernels.mixing import apportioned, largest

if TYPE_CHECKING:
    from pipeline.kernels.indexing import Layout, Source

VERSION = 3


@config
class Corruption:
    ratio: tuple[Share, Share] = (0.05, 0.5)
    """Least and largest share of a piece's tokens that is masked, drawn evenly between (CodeGen2
    2305.02309 §3 draws it evenly; the bounds are ours)."""
    longest: int = 32
    """Longest span, about; lengths are drawn evenly from 1 on (even: CodeGen2; the bound is ours)."""
    masks: int = 100
    """Most spans of a piece; the tokenizer needs as many `masks` (CodeGen2's has 899)."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio[0] <= self.ratio[1] <= 0.9:
            raise ValueError(f"ratio is {self.ratio}: two shares, the first the less, at most 0.9")
        if self.longest < 8 or not 1 <= self.masks < 2**15:
            raise ValueError(
                f"longest is {self.longest} (8 or more), masks {self.masks} (1 to 32767)"
            )


@config
class Config:
    length: int = 8192
    """Tokens in a sequence (SnowCoder §2.1)."""
    fit: Literal["cut", "best"] = "cut"
    """cut: documents end to end, cut where a sequence is full (SnowCoder §2.1). best: each document
    whole where the least room is left that holds it (2404.10830); what stays empty is padding."""
    group: tuple[Literal["language", "repo"], ...] = ()
    """Keep documents of one language, then of one repository, together; empty shuffles documents.
    With `repo`, the files of a repository are joined by <|file_sep|> into one document."""
    mix: dict[str, Share] | None = None
    """Share of the sequences that each of `files` gives, where it is a mapping (Crystal 2411.04156
    has such tables); None: in proportion to its tokens times its epochs."""
    budget: Tokens | None = None
    """Tokens to train on in all; None is `epochs` times everything there is, as far as `mix` allows."""
    epochs: int | dict[str, int] | None = None
    """Passes over the documents, of all sources or by name; None is as many as the budget needs (at
    least one). With a budget, the most that it may take."""
    infill: Share | dict[str, Share] = 0.0
    """Share of pieces that are infilled, of all sources or by name (StarCoder2 and DeepSeek-Coder
    0.5, Crystal 0.9, then 0.3; SnowCoder none)."""
    infill_repos: Share = 1.0
    """Share of repositories whose files may be infilled, drawn in each pass; with `group: repo`
    (StarCoder2 2402.19173 §5.3: 0.5)."""
    corrupt: Share = 0.0
    """Share of sequences whose documents are corrupted instead, each by itself (CodeGen2 0.5); with
    `fit: best` of documents."""
    spans: Corruption = Corruption()
    """How they are corrupted."""
    seed: int = 0
    """Of all shuffles and draws."""

    def __post_init__(self) -> None:
        epochs = list(self.epochs.values()) if isinstance(self.epochs, dict) else [self.epochs]
        if self.length < 8 or any(n is not None and n < 1 for n in epochs):
            raise ValueError(
                f"length is {self.length} (8 or more), epochs {self.epochs} (1 or more)"
            )
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"budget is {self.budget} tokens: 1 or more")
        for name in ("infill", "infill_repos", "corrupt"):
            given = getattr(self, name)
            if not all(
                0 <= s <= 1 for s in (given.values() if isinstance(given, dict) else [given])
            ):
                raise ValueError(f"{name} is {given}: a share, 0 to 1")
        if self.mix is not None and (
            abs(sum(self.mix.values()) - 1) > 1e-6 or 0 in self.mix.values()
        ):
            raise ValueError(
                f"mix is {self.mix}: shares above 0 whose sum is 1, not {sum(self.mix.values()):.6g}"
            )
        if self.fit == "best" and self.group:
            raise ValueError("fit is best, which keeps no documents together: leave group out")
        if self.infill_repos < 1 and "repo" not in self.group:
            raise ValueError(f"infill_repos is {self.infill_repos}: it needs `repo` in group")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: 0 to 2**63 - 1")


def check(cfg: Config, inputs: dict[str, Any], at: str) -> None:
    """RecipeError, before anything runs, where settings by name and the names of `files` differ."""
    files = inputs["files"]
    for key in ("mix", "epochs", "infill"):
        given = getattr(cfg, key)
        if not isinstance(given, dict):
            continue
        if not isinstance(files, dict):
            raise RecipeError(f"{at}: {key} is by name, but files is one step; {{name: {files}}}?")
        for name in given:
            if name not in files:
                raise RecipeError(
                    f"{at}: {key} names {name!r}, which is not among files{did_you_mean(name, files)}"
                )
        if key == "mix" and (left := [name for name in files if name not in given]):
            raise RecipeError(
                f"{at}: mix gives {left[0]!r} no share; give one, or take it out of files"
            )


def run(files: Files | dict[str, Files], cfg: Config, job: Job) -> None:
    given = dict(sorted(files.items())) if isinstance(files, dict) else {"files": files}
    bounds = np.cumsum([0, *(len(f.shards) for f in given.values())])
    for of_source in given.values():
        _check_order(of_source, job)
    sources = [
        _source(name, of_source, first, cfg, job)
        for (name, of_source), first in zip(given.items(), bounds.tolist(), strict=False)
    ]
    path = job.folder / "index.parquet"
    written = _written(_packed(sources, cfg, f"step {job.step}"), path, sources, bounds)
    room = written["sequences"] * cfg.length
    job.facts |= written | {
        "length": cfg.length,
        "tokens": room,
        "padding": 1 - written["places"] / room,
        "sidecars": [s.tokens for f in given.values() for s in f.shards],
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


def _source(name: str, files: Files, first: int, cfg: Config, job: Job) -> "Source":
    """first: the number of its first shard."""
    from pipeline.kernels.indexing import Source

    tables = job.collect(files, partial(_slim, names=cfg.group), [*cfg.group, "start", "length"])
    if not any(map(len, tables)):
        raise StageError(
            f"step {job.step}: no document is left to pack in {name}; loosen the steps before it"
        )
    numbered = [
        t.append_column("shard", pa.array(np.full(len(t), first + i, np.int32)))
        for i, t in enumerate(tables)
    ]
    infill = cfg.infill.get(name, 0.0) if isinstance(cfg.infill, dict) else cfg.infill
    epochs = cfg.epochs.get(name) if isinstance(cfg.epochs, dict) else cfg.epochs
    return Source(name, pa.concat_tables(numbered).unify_dictionaries(), infill, epochs)


def _slim(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
    for name in names:
        codes = pc.dictionary_encode(pc.fill_null(table[name], ""))
        table = table.set_column(table.column_names.index(name), name, codes)
    return table.drop_columns(["row"])


def _packed(sources: Sequence["Source"], cfg: Config, at: str) -> Iterator[pa.Table]:
    """The index in parts: the passes of one source, or several interleaved."""
    from pipeline.kernels.indexing import mixed, passes

    layout = _layout(cfg)
    if len(sources) == 1 and cfg.budget is None:
        return passes(sources[0], layout)
    totals = _totals(sources, cfg, layout, at)
    if len(sources) == 1:
        return passes(sources[0], layout, totals[0])
    return mixed(sources, layout, np.array(totals))


def _layout(cfg: Config) -> "Layout":
    from pipeline.kernels.indexing import Layout
    from pipeline.kernels.packing import Spans

    spans = Spans(cfg.corrupt, *cfg.spans.ratio, cfg.spans.longest, cfg.spans.masks)
    return Layout(cfg.length, cfg.fit == "best", cfg.group, cfg.infill_repos, spans, cfg.seed)


def _totals(sources: Sequence["Source"], cfg: Config, layout: "Layout", at: str) -> list[int]:
    """How many sequences each source gives.

    RecipeError naming the source that cannot give what the budget needs of it in its epochs.
    """
    from pipeline.kernels.indexing import sequences

    parts = {s.name: s.tokens * (s.epochs or 1) for s in sources}
    shares = cfg.mix or {name: n / sum(parts.values()) for name, n in parts.items()}
    if cfg.budget is None:
        wanted = {s.name: sequences(s, layout) for s in sources}
        wanted = apportioned(shares, largest(wanted, shares)) if cfg.mix else wanted
        return [wanted[s.name] for s in sources]
    wanted = apportioned(shares, max(1, cfg.budget // cfg.length))
    for s in sources:
        short = wanted[s.name] * cfg.length - parts[s.name]
        if s.epochs is not None and short > 0:
            raise RecipeError(
                f"{at}: the budget needs {wanted[s.name] * cfg.length:,} tokens of {s.name}, which has "
                f"{s.tokens:,} and epochs {s.epochs}: {short:,} are short; lower the budget"
                f"{' or its share' if cfg.mix else ''}, or allow more epochs"
            )
    return [wanted[s.name] for s in sources]


def _written(
    parts: Iterator[pa.Table], path: Path, sources: Sequence["Source"], bounds: NDArray[np.int64]
) -> dict[str, Any]:
    """Write the parts one after the other, one in memory at a time; what is in them, as facts.

    bounds: the first shard of each source, and the number of shards.
    """
    from pipeline.kernels.indexing import INDEX

    facts = {"documents": 0, "infilled": 0, "corrupted": 0, "masks": 0, "places": 0, "epochs": 0}
    told = np.zeros((3, len(sources)), np.int64)
    last = 0
    with pq.ParquetWriter(path, INDEX, compression="zstd", write_page_checksum=True) as out:
        for part in parts:
            out.write_table(part)
            found, by_source = _counted(part, bounds)
            facts = {k: max(v, found[k]) if k in _MOST else v + found[k] for k, v in facts.items()}
            told, last = told + by_source, part["sequence"][-1].as_py() + 1
    return (
        {"sequences": last}
        | facts
        | {
            "sources": {
                s.name: {
                    "sequences": int(n),
                    "tokens": int(tokens),
                    "epochs": round(int(text) / max(1, s.tokens - len(s.documents)), 4),
                    "shards": [int(x) for x in bounds[i : i + 2]],
                }
                for i, (s, (n, tokens, text)) in enumerate(zip(sources, told.T, strict=True))
            }
        }
    )


_MOST = ("masks", "epochs")
"""Facts of which the largest counts, not the sum."""


def _counted(part: pa.Table, bounds: NDArray[np.int64]) -> tuple[dict[str, int], NDArray[np.int64]]:
    """(facts of a part; its sequences, places and tokens of text by source)"""
    from pipeline.kernels.packing import places, starts_of

    names = ("sequence", "shard", "length", "infill", "spans", "end", "epoch")
    sequence, shard, length, infill, spans, end, epoch = (part[n].to_numpy() for n in names)
    used = places(length, infill, spans, end >= 0)
    source, begins = np.searchsorted(bounds, shard, "right") - 1, starts_of(sequence)[:-1]
    facts = {
        "documents": int(((end >= 0) & (epoch == 0)).sum()),  # those that end in a first pass
        "infilled": int(infill.sum()),
        "corrupted": int((spans > 0).sum()),
        "masks": int(spans.max(initial=0)),
        "places": int(used.sum()),
        "epochs": int(epoch.max(initial=-1)) + 1,
    }
    sums = [
        np.bincount(source[begins], minlength=len(bounds) - 1),
        np.bincount(source, used, minlength=len(bounds) - 1),
        np.bincount(source, length, minlength=len(bounds) - 1),
    ]
    return facts, np.array(sums).astype(np.int64)
