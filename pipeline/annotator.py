"""Learns the quality annotator: files worth reading twice against a random sample of the corpus.

SnowCoder 2409.02326 §2.2: positives are good code from elsewhere (`positives`), negatives random
documents, balanced; an encoder with a linear head. Where no such collection can be reached, `rule`
takes as positives the corpus's own well-documented, typed or tested files (ours), found without any
model. Measured on repositories kept out of training.
"""

import math
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.core import readers, sources
from pipeline.core.config import Share, config
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.runner import Artifact
from pipeline.core.schema import digest
from pipeline.kernels.syntax import documented
from pipeline.model.settings import EncoderConfig

VERSION = 1
Sample = tuple[list[str], list[str]]
"""Texts, and the repository of each."""


@config
class Config(EncoderConfig):
    positives: tuple[str, ...] = ()
    """Paths of good files (a folder of repositories, Parquet or JSONL with a text column)."""
    rule: Share | None = None
    """Take as positives the corpus's files that are documented at least this far (see
    `signals.documented`); one in a few languages has such a rule, the rest rank by what they share."""
    files: int = 300_000
    """Files of each class at most (SnowCoder: 300k positives; negatives balanced, ours)."""
    min_auc: Share = 0.0
    """Stop when the held-out ROC-AUC is below this (ours; 0 only reports it)."""


def fingerprint(cfg: Config) -> str:
    if not cfg.positives and cfg.rule is None:
        raise RecipeError("annotator: name `positives` (paths) or give a `rule` (0..1)")
    repos = [r for p in cfg.positives for r in sources.repositories(sources.guess(p))]
    return digest(*sorted(r.fingerprint for r in repos))


def run(negatives: Files, tokenizer: Artifact, cfg: Config, job: Job) -> None:
    from pipeline.model.encoder import train_annotator

    good, corpus = classes(negatives, cfg, job)
    texts, groups = good[0] + corpus[0], good[1] + corpus[1]
    labels = [1] * len(good[0]) + [0] * len(corpus[0])
    vocabulary = tokenizer.folder / "tokenizer.json"
    job.facts |= train_annotator(texts, labels, groups, vocabulary, cfg, job.folder)
    job.facts |= {"positives": len(good[0]), "negatives": len(corpus[0])}
    if job.facts["auc"] < cfg.min_auc:
        raise StageError(
            f"step {job.step}: ROC-AUC {job.facts['auc']:.3f} on held-out repositories is below min_auc "
            f"{cfg.min_auc}; choose other positives, or lower min_auc to go on all the same"
        )


def classes(negatives: Files, cfg: Config, job: Job) -> tuple[Sample, Sample]:
    """(positives, negatives): as many of each, drawn by document hash, no file in both."""
    table = pa.concat_tables(job.collect(negatives, _judged(cfg), ["text", "language"]))
    order = np.argsort([digest(str(cfg.seed), u) for u in table["uid"].to_pylist()], kind="stable")
    uids, documented_far = table["uid"].to_numpy()[order], table["good"].to_numpy()[order]
    good_uids, rest = uids[documented_far][: cfg.files], uids[~documented_far]
    elsewhere = _elsewhere(cfg)
    size = min(len(good_uids) + len(elsewhere[0]), cfg.files)
    chosen = {"good": set(good_uids.tolist()), "corpus": set(rest[:size].tolist())}
    found = {
        k: _texts(job.collect(negatives, partial(_only, uids=v), ["text", "repo"]))
        for k, v in chosen.items()
    }
    return _joined(found["good"], elsewhere), found["corpus"]


def _joined(left: Sample, right: Sample) -> Sample:
    return left[0] + right[0], left[1] + right[1]


def _judged(cfg: Config) -> "partial[pa.Table]":
    return partial(judged, rule=math.inf if cfg.rule is None else cfg.rule)


def judged(table: pa.Table, rule: float) -> pa.Table:
    """Each document's uid, and whether the rule calls it good."""
    if math.isinf(rule):
        return pa.table({"uid": table["uid"], "good": np.zeros(len(table), bool)})
    pairs = zip(table["text"].to_pylist(), table["language"].to_pylist(), strict=True)
    good = np.array([documented(t, language) >= rule for t, language in pairs], bool)
    return pa.table({"uid": table["uid"], "good": good})


def _only(table: pa.Table, uids: set[str]) -> pa.Table:
    return table.filter(pa.array([u in uids for u in table["uid"].to_pylist()], pa.bool_()))


def _texts(tables: list[pa.Table]) -> Sample:
    return (
        [t for table in tables for t in table["text"].to_pylist()],
        [r for table in tables for r in table["repo"].to_pylist()],
    )


def _elsewhere(cfg: Config) -> Sample:
    """The files of `positives`, in hash order, up to `files`."""
    rows = [
        (text.decode(errors="replace"), raw.repo)
        for path in cfg.positives
        for repo in sources.repositories(sources.guess(path))
        for raw in readers.read(repo, 8_000_000, lambda *_: None)
        if (text := raw.data)
    ]
    rows = sorted(rows, key=lambda r: digest(str(cfg.seed), r[0]))[: cfg.files]
    return [r[0] for r in rows], [r[1] for r in rows]
