"""Labels a sample of the documents: by a model that is asked (phi-1, arXiv 2306.11644 §2.1), or a file.

The model is asked once for each text, in an order drawn by uid and spread over the languages; its
answers stay in the store, so no attempt pays for one again. What cannot be read as a label is
quarantined with the raw answer. Knows nothing of what is learnt from labels.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core import chat, labels, spread
from pipeline.core.config import Share, canonical, config
from pipeline.core.endpoint import Answer, Body, Endpoint, Reply, Spent, name, request
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.grading import PROMPT, Verdict, excerpt, judged, number, on_scale, question
from pipeline.core.job import Job
from pipeline.core.schema import digest
from pipeline.core.store import parquet_bytes, sha256_file

log = logging.getLogger(__name__)
VERSION = 1
ANSWERS = "label/answers"
"""Where in the store answers are, whichever step asked."""
FILES = 100_000
"""Documents that a model is asked about (phi-1: about 100k)."""
PATIENCE = 20
"""Replies before `max_failed` is looked at (ours)."""


@config
class Config(Endpoint):
    labels: str | None = field(default=None, metadata={"identity": False})
    """A file of labels in place of a model: JSON Lines or Parquet, a row with `label`, and `uid`,
    `content` (hash), or `repo` and `path`. Its content is part of the key, not its name."""
    prompt: str = PROMPT
    """What is asked, before the file; `{low}` and `{high}` stand for the scale."""
    scale: tuple[float, float] = (0, 5)
    """Lowest and highest label; others are quarantined (FineWeb-Edu: 0 to 5)."""
    sample: int | None = None
    """Documents to label, spread evenly over the languages as far as each has any; without a number
    100,000 (phi-1), or all that the file names."""
    max_chars: int = 8000
    """Of a longer text, its beginning, middle and end are shown, a third of this each (ours)."""
    max_failed: Share = field(default=0.05, metadata={"identity": False})
    """Share of replies that may be missing or no label before the step stops (ours)."""
    partial: bool = False
    """Go on with the labels there are where the budget ends, instead of stopping (ours)."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale[0] < self.scale[1] or not all(map(isfinite, self.scale)):
            raise ValueError(f"scale is {list(self.scale)}: the lowest label, then the highest")
        if self.max_chars < 3 or (self.sample is not None and self.sample < 1):
            raise ValueError(
                f"max_chars is {self.max_chars} (3 or more), sample {self.sample} (1 or more)"
            )
        if (self.labels is None) == (self.endpoint is None):
            raise ValueError("give one of `endpoint` (a model to ask) and `labels` (a file)")
        if self.endpoint is not None and not self.model:
            raise ValueError(f"model is {self.model!r}: the model's name at {self.endpoint}")
        unused = _set(self) - _OF_A_FILE
        if self.labels is not None and unused:
            raise ValueError(f"{min(unused)} is for a model that is asked, not for `labels`")


_OF_A_FILE = {"labels", "scale", "sample", "max_failed", "seed"}


def _set(cfg: Config) -> set[str]:
    """The settings that are not at their defaults."""
    made = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(cfg)
    }
    return {name for name, default in made.items() if getattr(cfg, name) != default}


def fingerprint(cfg: Config) -> str:
    """Of the file's content; or of the budget, where that decides which labels there are."""
    if cfg.labels is not None:
        if not Path(cfg.labels).is_file():
            raise RecipeError(f"label: no file {cfg.labels!r}; `labels` is the path of one")
        return sha256_file(Path(cfg.labels))
    budget = [cfg.max_requests, cfg.max_tokens, cfg.max_cost, cfg.price_in, cfg.price_out]
    return digest(canonical(budget if cfg.partial else None))


def run(files: Files, cfg: Config, job: Job) -> None:
    if cfg.labels is not None:
        chosen, found = from_file(Path(cfg.labels), files, cfg, job)
    else:
        chosen, found = from_model(files, cfg, job)
    _stop_if_hopeless(chosen, found, cfg, job)
    rows = _written(chosen, found, job)
    counts = Counter(v.label for v in found.values() if v.label is not None)
    job.facts |= {
        "rows": rows,
        "histogram": {f"{label:g}": counts[label] for label in sorted(counts)},
        "languages": dict(Counter(_at(chosen, found, "language"))),
    }
    log.info("%-10s %d labels for %d documents", job.step, rows["kept"], rows["in"])
    if not rows["kept"]:
        raise StageError(f"step {job.step}: no document got a label; see {_beside(job)}")


def from_file(
    path: Path, files: Files, cfg: Config, job: Job
) -> tuple[pa.Table, dict[int, Verdict]]:
    """The documents that a file of labels names, and what it says of them. StageError where it
    names none."""
    given = labels.read(path)
    columns = ["content", "repo", "path", "language"]
    table = pa.concat_tables(
        job.collect(files, partial(named, keys=frozenset(given), seed=cfg.seed), columns)
    )
    if not len(table):
        raise StageError(
            f"step {job.step}: {path} names none of the {sum(s.rows for s in files.shards)} documents; "
            "are its uids, hashes or repositories and paths of another corpus?"
        )
    there = Counter(table["language"].to_pylist())
    chosen = spread.first(table, spread.spread(there, cfg.sample or len(table)))
    told = [[g for k in keys if k in given for g in given[k]] for keys in _keys(chosen)]
    hit = {k for keys in _keys(table) for k in keys}
    job.facts |= {"named": len(given), "elsewhere": len(given.keys() - hit)}
    return chosen, {i: said(rows, cfg, path.name) for i, rows in enumerate(told)}


def named(table: pa.Table, keys: frozenset[labels.Key], seed: int) -> pa.Table:
    """The rows that a file of labels names, with their place in the draw."""
    hit = pa.array([not keys.isdisjoint(k) for k in _keys(table)], pa.bool_())
    return spread.placed(table.filter(hit), seed)


def _keys(table: pa.Table) -> list[tuple[labels.Key, ...]]:
    columns = (table[n].to_pylist() for n in ("uid", "content", "repo", "path"))
    return [labels.keys(*row) for row in zip(*columns, strict=True)]


def said(rows: list[labels.Given], cfg: Config, name: str) -> Verdict:
    """What the rows of a file say of one document; it has no label where they contradict."""
    raw = json.dumps(rows[0].label, default=str)
    told = {number(g.label) for g in rows}
    if len(told) > 1:
        where = ", ".join(f"{g.label!r} in row {g.row}" for g in rows)
        return Verdict(None, "two_labels", raw, f"{name}: {where}"[:500])
    label = told.pop()
    if label is None:
        return Verdict(None, "no_label", raw, f"{name}, row {rows[0].row}: not a number")
    return on_scale(label, cfg.scale, raw)


def from_model(files: Files, cfg: Config, job: Job) -> tuple[pa.Table, dict[int, Verdict]]:
    """The sample, and what the model's answers make of it. StageError where too many are no labels,
    or where the budget ends (unless `partial`); what was answered until then is kept."""
    show = partial(excerpt, most=cfg.max_chars)
    columns = ["content", "repo", "path"]
    chosen = spread.sample(files, job, cfg.sample or FILES, cfg.seed, columns, show)
    texts, chosen = chosen["text"], chosen.drop_columns(["text"])
    found: dict[int, Verdict] = {}
    bad, estimated = list[int](), set[int]()

    def body(row: int) -> Body:
        return request(cfg, question(cfg.prompt, texts[row].as_py(), cfg.scale))

    def seen(row: int, reply: Reply) -> None:
        found[row] = judged(reply, cfg.scale)
        if isinstance(reply, Answer) and reply.estimated:
            estimated.add(row)
        if found[row].rule:
            bad.append(row)
            if len(found) >= PATIENCE and len(bad) > cfg.max_failed * len(found):
                _stop_if_hopeless(chosen, found, cfg, job)

    names = [name(body(row)) for row in range(len(texts))]
    spent = chat.ask(body, names, cfg, job.store, ANSWERS, seen)
    job.facts |= {"judge": cfg.model, **_told(spent, cfg), "estimated": len(estimated)}
    if len(found) < len(names) and not cfg.partial:
        raise StageError(
            f"step {job.step}: the budget ends here: {_spelt(spent, cfg)}, and {len(found)} of "
            f"{len(names)} documents have a reply. All answers are kept: raise max_requests, max_tokens "
            f"or max_cost and run again, or go on with these: {job.step}.partial=true"
        )
    return chosen, found


def _stop_if_hopeless(
    chosen: pa.Table, found: Mapping[int, Verdict], cfg: Config, job: Job
) -> None:
    """StageError where more than `max_failed` of what was said so far is no label."""
    bad = [v for v in found.values() if v.rule]
    if len(bad) <= cfg.max_failed * len(found):
        return
    _written(chosen, found, job)
    shown = "; ".join(f"{v.rule}: {v.evidence} {(v.raw or '')[:120]!r}" for v in bad[:3])
    mend = "Mend the file" if cfg.labels else "Mend endpoint, model or prompt (a new one asks anew)"
    raise StageError(
        f"step {job.step}: {len(bad)} of {len(found)} replies are no labels, above max_failed "
        f"{cfg.max_failed:.1%}: {shown}. All of them: {_beside(job)}. {mend} and run again, or allow "
        f"more: {job.step}.max_failed=..."
    )


def _beside(job: Job) -> Path:
    return job.folder / "quarantine.parquet"


def _told(spent: Spent, cfg: Config) -> dict[str, Any]:
    return {
        "requests": spent.requests,
        "tokens_in": spent.tokens_in,
        "tokens_out": spent.tokens_out,
        "cost": round(spent.cost(cfg), 6),
    }


def _spelt(spent: Spent, cfg: Config) -> str:
    tokens = f"{spent.tokens_in} tokens read, {spent.tokens_out} written"
    return f"{spent.requests} answers are paid ({tokens}, cost {spent.cost(cfg):.4f})"


def _written(chosen: pa.Table, found: Mapping[int, Verdict], job: Job) -> dict[str, Any]:
    """labels.parquet and quarantine.parquet, by uid; the ledger of the sample's rows."""
    chosen = chosen.select(["uid", "content", "repo", "path", "language"])
    order = sorted(found, key=lambda row: str(chosen["uid"][row]))
    good = [row for row in order if found[row].rule is None]
    bad = [row for row in order if found[row].rule is not None]
    answers = [found[row].raw for row in good]
    table = chosen.take(pa.array(good, pa.int64()))
    table = table.append_column(
        "label", pa.array([found[row].label for row in good], pa.float64())
    ).append_column("answer", pa.array(answers, pa.string()))
    (job.folder / "labels.parquet").write_bytes(parquet_bytes(table))
    table = chosen.take(pa.array(bad, pa.int64()))
    for column in ("rule", "raw", "evidence"):
        values = [getattr(found[row], column) for row in bad]
        table = table.append_column(column, pa.array(values, pa.string()))
    _beside(job).write_bytes(parquet_bytes(table))
    return {
        "in": len(chosen),
        "kept": len(good),
        "dropped": {"over_budget": len(chosen) - len(found)} if len(found) < len(chosen) else {},
        "quarantined": len(bad),
        "rules": dict(sorted(Counter(str(found[row].rule) for row in bad).items())),
    }


def _at(chosen: pa.Table, found: Mapping[int, Verdict], column: str) -> list[str]:
    return sorted(str(chosen[column][row]) for row, v in found.items() if v.rule is None)
