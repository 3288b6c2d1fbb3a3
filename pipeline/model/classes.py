"""The files that an annotator learns from and is measured on, drawn from a corpus and from elsewhere.

Both classes by the hash of the documents, balanced, split by repository and cleared of the proof
(Arctic-SnowCoder 2409.02326 §2.2; the rule and the split are ours). Knows nothing of the model that
reads them.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import examples
from pipeline.core.arrays import flat
from pipeline.core.config import Share, config
from pipeline.core.draws import key, near, share
from pipeline.core.errors import StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.schema import digest
from pipeline.core.suites import find
from pipeline.kernels.syntax import documented, parsed
from pipeline.model.evidence import Chosen, Doc
from pipeline.model.settings import EncoderConfig

LOOKED = 20
"""Documents that `rule` looks at for each file wanted: what bounds its work and memory (ours)."""
UNSAID = "not stated"
"""The language of a row that does not say it."""


@config
class ClassesConfig(EncoderConfig):
    positives: tuple[str, ...] = ()
    """Paths of good files: a folder of repositories, an archive, Parquet or JSONL with a text column or
    with instructions and answers (see `examples.rendered`)."""
    rule: Share | None = None
    """Take as positives the corpus's files that are documented at least this far (see
    `syntax.documented`): Python by its parser, languages with braces by their pieces, others never."""
    files: int = 300_000
    """Files of each class at most (SnowCoder: 300k positives; negatives balanced, ours)."""
    proof: tuple[str, ...] = ()
    """Good code to measure with, kept out of all training: names of shipped suites, or paths as for
    `positives` (SnowCoder: the benchmarks' solutions). None: held-out positives alone."""
    unseen: int = 2000
    """Random documents to measure against, of repositories that no training file is of (ours: the
    interval of the ROC-AUC is then that of the good code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("files", "unseen"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: 1 or more")


def classes(negatives: Files, positives_from: Files | None, cfg: ClassesConfig, job: Job) -> Chosen:
    """Draw both classes by document hash, split them by repository, clear them of the proof.

    In memory are the chosen files and the names of some more, however large the corpus is.
    """
    counts: Counter[str] = Counter()
    proof = list(_distinct(_found(map(proof_path, cfg.proof), counts), counts))
    apart = {d.repo for d in proof}
    good = [d for d in elsewhere(positives_from, cfg, counts, job) if d.repo not in apart]
    rows = candidates(negatives, len(good), cfg, job)
    mine = {d.uid for d in good}
    rows = [r for r in rows if r["repo"] not in apart and r["uid"] not in mine]
    sides = assigned(good, rows, cfg)
    docs = {d.uid: d for d in good}
    docs |= _read(negatives, {u for side in sides.values() for u in side} - docs.keys(), job)
    good_uids = {*sides["good"], *sides["held_good"]}
    taken = cleared(docs, good_uids, proof, counts)
    job.facts |= {"counts": dict(sorted(counts.items()))}
    kept = {name: [docs[u] for u in side if u in taken] for name, side in sides.items()}
    for name in ("good", "corpus"):
        if not kept[name]:
            raise StageError(
                f"step {job.step}: no {name} file is left to train on: {len(sides[name])} were taken "
                f"out ({dict(counts)}). Give more, or a `proof` that is not among them"
            )
    return Chosen(**kept, proof=proof)


def elsewhere(step: Files | None, cfg: ClassesConfig, counts: Counter[str], job: Job) -> list[Doc]:
    """The good files of `positives` and of the step, each text once, in hash order, up to `files`."""
    found = _found(cfg.positives, counts)
    docs = chain(found, drawn(step, cfg, job) if step else ())
    first = heapq.nsmallest(cfg.files, _distinct(docs, counts), key=lambda d: key(d.uid, cfg.seed))
    counts["from_paths_and_steps"] = len(first)
    return first


def _found(paths: Iterable[str], counts: Counter[str]) -> Iterator[Doc]:
    for path in paths:
        for e in examples.read(path, counts):
            language = e.language or ("Python" if parsed(e.text) else UNSAID)
            yield Doc(digest(e.repo, e.path, e.text), e.text, e.repo, e.path, language)


def _distinct(docs: Iterable[Doc], counts: Counter[str]) -> Iterator[Doc]:
    """The first of each text, white space apart."""
    seen: set[str] = set()
    for doc in docs:
        if (same := _bare(doc.text)) in seen:
            counts["repeated"] += 1
        else:
            seen.add(same)
            yield doc


def _bare(text: str) -> str:
    return digest("".join(text.split()))


def drawn(files: Files, cfg: ClassesConfig, job: Job) -> list[Doc]:
    """About the first `files` of a step's documents in the draw, a few more at most."""
    below = share(cfg.files, files, job)
    return _as_docs(job.collect(files, partial(near, seed=cfg.seed, below=below), _DOC))


_DOC = ("text", "repo", "path", "language")


def candidates(files: Files, good: int, cfg: ClassesConfig, job: Job) -> list[dict[str, Any]]:
    """Documents that could be taken, in the order of the draw: uid, repo, whether the rule calls them
    `good`, and whether they are in the `random` sample (the others are there for being good)."""
    ruled = cfg.rule is not None
    aside = math.ceil(cfg.unseen / cfg.held_out)
    below = share((cfg.files if ruled else min(good, cfg.files)) + aside, files, job)
    looked = max(below, share(LOOKED * cfg.files, files, job)) if ruled else below
    measure = partial(judged, seed=cfg.seed, below=below, looked=looked, rule=cfg.rule)
    columns = ["repo", "text", "language"] if ruled else ["repo"]
    rows = pa.concat_tables(job.collect(files, measure, columns)).to_pylist()
    return sorted(rows, key=lambda r: (r["key"], r["uid"]))


def judged(table: pa.Table, seed: int, below: float, looked: float, rule: float | None) -> pa.Table:
    """The candidates among the documents of one shard."""
    table = near(table, seed, looked)
    uids = table["uid"].to_pylist()
    keys = np.array([key(u, seed) for u in uids], np.uint64)
    good = np.zeros(len(uids), bool)
    if rule is not None:
        pairs = zip(table["text"].to_pylist(), table["language"].to_pylist(), strict=True)
        good = np.array([documented(t, language) >= rule for t, language in pairs], bool)
    random = keys < below * 2.0**64
    found = pa.table(
        {"uid": table["uid"], "repo": table["repo"], "key": keys, "good": good, "random": random}
    )
    return found.filter(pa.array(good | random, pa.bool_()))


def assigned(
    good: Sequence[Doc], rows: Sequence[dict[str, Any]], cfg: ClassesConfig
) -> dict[str, list[str]]:
    """The uids of each list of a Chosen but `proof`."""
    from pipeline.model.separation import split

    ruled = [r for r in rows if r["good"]][: max(0, cfg.files - len(good))]
    size = len(good) + len(ruled)
    if not size:
        raise StageError(
            f"the annotator has no good file: {len(rows):,} documents were looked at and `rule` "
            f"{cfg.rule} is met by none. Lower it, or name `positives`"
        )
    plain = [r for r in rows if r["random"] and not r["good"]][:size]
    uids = [d.uid for d in good] + [r["uid"] for r in ruled + plain]
    groups = [d.repo for d in good] + [r["repo"] for r in ruled + plain]
    labels = [1] * size + [0] * len(plain)
    held = split(labels, groups, cfg)
    side = {
        name: [u for u, *of in zip(uids, labels, held, strict=True) if of == [label, out]]
        for name, (label, out) in _SIDES.items()
    }
    learnt = {g for g, out in zip(groups, held, strict=True) if not out}
    unseen = [r for r in rows if r["random"] and r["repo"] not in learnt][: cfg.unseen]
    ordinary = [r["uid"] for r in unseen if not r["good"]]
    side["held_corpus"] = list(dict.fromkeys([*side["held_corpus"], *ordinary]))
    return side | {"unseen": [r["uid"] for r in unseen]}


_SIDES = {
    "good": (1, False),
    "corpus": (0, False),
    "held_good": (1, True),
    "held_corpus": (0, True),
}


def _read(files: Files, uids: set[str], job: Job) -> dict[str, Doc]:
    found = _as_docs(job.collect(files, partial(_only, uids=uids), _DOC))
    return {d.uid: d for d in found}


def _only(table: pa.Table, uids: set[str]) -> pa.Table:
    return table.filter(pa.array([u in uids for u in table["uid"].to_pylist()], pa.bool_()))


def _as_docs(tables: Iterable[pa.Table]) -> list[Doc]:
    return [Doc(**r) for t in tables for r in t.select(["uid", *_DOC]).to_pylist()]


def cleared(
    docs: dict[str, Doc], good: set[str], proof: Sequence[Doc], counts: Counter[str]
) -> set[str]:
    """The uids of what may be used: nothing that has a proof's text in it, case and white space apart,
    no document of the corpus whose text is a good one's."""
    from pipeline.kernels.overlap import Text, needles, overlaps

    texts = [Text("proof", d.uid, d.uid, "solution", d.text) for d in proof]
    what = needles(texts, words=None, tokens=None)
    goods = {_bare(docs[u].text) for u in good}
    taken = set()
    every = list(docs.values())
    for some in (every[k : k + _AT_ONCE] for k in range(0, len(every), _AT_ONCE)):
        hits = overlaps(*flat(pa.array([d.text for d in some], pa.large_string())), what)
        for doc, hit in zip(some, hits, strict=True):
            also = doc.uid not in good and _bare(doc.text) in goods
            why = "have_a_proof" if hit else "corpus_also_good" if also else ""
            counts[why] += 1
            taken |= set() if why else {doc.uid}
    del counts[""]
    return taken


_AT_ONCE = 1024


def proof_path(name: str) -> str:
    """Where the proof of this name is: a path, or a shipped suite."""
    return name if Path(name).exists() else str(find(name, "annotator: proof"))
