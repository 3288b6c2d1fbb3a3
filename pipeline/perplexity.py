"""How surprising each document's tokens are to an n-gram model of its language, per token.

CodeShell (2403.15747) filters by KenLM's perplexity without its numbers; 5-grams over BPE pieces, one
model per language, are ours. Each language has two models, on halves by uid, and a document is
scored by the one that cannot have seen it. Cuts nothing: `select` does, by percentile. Knows
nothing of what good code is.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.config import Tokens, config
from pipeline.core.errors import StageError
from pipeline.core.files import Files, Shard, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import digest
from pipeline.core.store import Store

VERSION = 1
EVERY = "all languages"
"""The model of languages with too few tokens for one of their own."""
_SALT = "perplexity"
I64 = NDArray[np.int64]


@config
class Config:
    order: int = 5
    """Words in the longest n-gram, 1 to 8 (lmplz's usual 5)."""
    sample: Tokens = 20_000_000
    """Tokens each language's two models learn from, half of them each (ours: each takes its worker
    1.3 GB while it is learnt, up to 125 bytes a token, and 0.3 GB on disk, 24 bytes an n-gram)."""
    prune: int = 0
    """Leave out n-grams of 3 words and more that occur at most so often (lmplz: none)."""
    least: Tokens = 300_000
    """A language that has not half of so many tokens for each model is scored by models of all
    languages (ours, measured on C and JavaScript: from 100,000 to 370,000 a model on, a language's
    own model expects its files better)."""
    shortest: int = 30
    """Tokens below which a document gets no score: null (ours)."""

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 8:
            raise ValueError(f"order is {self.order}: words, 1 to 8")
        if not 1000 <= self.sample <= 10**9:
            raise ValueError(f"sample is {self.sample} tokens: 1,000 to 1,000,000,000")
        if self.prune < 0 or self.least < 0 or self.shortest < 0:
            raise ValueError(
                f"prune is {self.prune}, least {self.least}, shortest {self.shortest}: 0 or more"
            )


def run(files: Files, cfg: Config, job: Job, reference: Files | None = None) -> None:
    corpus = files if reference is None else reference
    _require_tokens(job.step, files)
    _require_tokens(job.step, corpus)
    found = job.collect(corpus, slim, ["language", "start", "length", "ids"])
    samples = drawn(found, cfg, every=reference is not None)
    with job.scratch() as scratch:
        work = partial(learn, job.store, scratch, cfg, corpus.shards, _vocabulary(found))
        models = list(job.each(work, samples, sum(map(len, found))))
        used = {(m["name"], m["half"]): m["file"] for m in models}
        judge = partial(score, store=job.store, models=used, shortest=cfg.shortest)
        identity = [job.identity, sorted([m["name"], m["half"], m["digest"]] for m in models)]
        out = job.layer(files, judge, ["language", "ids"], kind="scores", identity=identity)
    job.facts |= told(job.collect(out, found_of, ["language", "perplexity"]), models)


def _require_tokens(step: str, files: Files) -> None:
    if any(shard.tokens is None for shard in files.shards):
        raise StageError(
            f"step {step}: the documents of {files.step} have no tokens; put a step above it, "
            f"tokens: {{use: tokenize, files: {files.step}, tokenizer: ...}}, and name that instead"
        )


def slim(table: pa.Table) -> pa.Table:
    """What is held of every document: its place in the draw, its language, where its tokens are, and
    the largest id of the shard."""
    from pipeline.kernels.hashing import places

    most = pc.max(table["ids"].combine_chunks().flatten()).as_py() or 0
    columns = {
        "place": places(table["uid"], _SALT),
        "language": _languages(table),
        "start": table["start"],
        "length": table["length"].cast(pa.int32()),
        "most": np.full(len(table), most, np.uint32),
    }
    return pa.table(columns)


def _languages(table: pa.Table) -> pa.ChunkedArray:
    return pc.dictionary_encode(pc.fill_null(table["language"], ""))


def _coded(column: pa.ChunkedArray) -> tuple[list[str], I64]:
    """(names, the number of each row's) of a column of languages."""
    whole = column.unify_dictionaries().combine_chunks()
    return whole.dictionary.to_pylist(), np.asarray(whole.indices, np.int64)


def _vocabulary(found: Sequence[pa.Table]) -> int:
    """One more than the largest token id."""
    return 1 + max((int(pc.max(t["most"]).as_py()) for t in found if len(t)), default=0)


def drawn(found: Sequence[pa.Table], cfg: Config, every: bool) -> list[dict[str, Any]]:
    """The documents that each model learns from: `name` of its language, `half`, and the `shard`,
    `start` and `length` of each, in the order of their places.

    A language with too little for two models has none; then, or if `every`, there are two of EVERY.
    """
    if not any(map(len, found)):
        return []
    shard = np.repeat(np.arange(len(found), dtype=np.int32), [*map(len, found)])
    table = pa.concat_tables(found).append_column("shard", pa.array(shard))
    table = table.unify_dictionaries().sort_by("place")
    names, code = _coded(table["language"])
    pairs = [(n, _halves(table, code == c, cfg.sample)) for c, n in enumerate(names)]
    own = [(n, pair) for n, pair in pairs if all(_size(p) >= cfg.least / 2 for p in pair)]
    if every or len(own) < len(pairs):
        own.append((EVERY, _halves(table, np.ones(len(table), bool), cfg.sample)))
    return [
        {
            "name": name,
            "half": half,
            **{k: part[k].to_numpy() for k in ("shard", "start", "length")},
        }
        for name, pair in sorted(own)
        for half, part in enumerate(pair)
        if len(part)
    ]


def _halves(table: pa.Table, wanted: NDArray[np.bool_], sample: int) -> list[pa.Table]:
    """The first documents, until they have half of the sample, of each of the two halves."""
    place, length = table["place"].to_numpy(), table["length"].to_numpy()
    out = []
    for half in (0, 1):
        rows = np.flatnonzero(wanted & (_half(place) == half))
        ahead = np.cumsum(length[rows]) - length[rows]
        out.append(table.take(pa.array(rows[ahead < sample / 2])))
    return out


def _half(place: NDArray[np.uint64]) -> I64:
    """The half that a document is in: a bit that says little of its place."""
    return (place & np.uint64(1)).astype(np.int64)


def _size(part: pa.Table) -> int:
    return int(pc.sum(part["length"]).as_py() or 0)


def learn(
    store: Store,
    scratch: str,
    cfg: Config,
    shards: Sequence[Shard],
    vocabulary: int,
    sample: dict[str, Any],
) -> dict[str, Any]:
    """Learn one model and leave it in `scratch`; what it was learnt from."""
    from pipeline.kernels import ngrams

    ids, bounds = _tokens(store, shards, sample)
    drawn_from = digest(ids.tobytes(), bounds.tobytes(), str(vocabulary))
    model = ngrams.learn(ids, bounds, vocabulary, cfg.order, cfg.prune)
    name = f"{drawn_from}.model"
    store.gather(model.packed, scratch, name)
    told = {"file": f"{scratch}/{name}", "digest": drawn_from, "grams": model.grams}
    counts = {"documents": len(bounds) - 1, "tokens": len(ids)}
    return {"name": sample["name"], "half": sample["half"]} | told | counts


def _tokens(
    store: Store, shards: Sequence[Shard], sample: dict[str, Any]
) -> tuple[NDArray[np.uint32], I64]:
    """(ids, bounds) of a sample's documents, in its order."""
    bounds = np.cumsum([0, *sample["length"]])
    ids = np.empty(bounds[-1], np.uint32)
    for number in np.unique(sample["shard"]).tolist():
        flat = shards[number].token_ids(store)
        for row in np.flatnonzero(sample["shard"] == number).tolist():
            start = sample["start"][row]
            ids[bounds[row] : bounds[row + 1]] = flat[start : start + sample["length"][row]]
    return ids, bounds


def score(
    table: pa.Table, store: Store, models: dict[tuple[str, int], str], shortest: int
) -> pa.Table:
    """Every document kept, with its `perplexity`: exp of minus the mean log probability of its tokens
    and its end. Null where it is too short, or no model is there that has not seen it."""
    from pipeline.kernels.hashing import places

    lists = table["ids"].combine_chunks()
    bounds, ids = np.asarray(lists.offsets), np.asarray(lists.values)
    names, code = _coded(_languages(table))
    other = 1 - _half(places(table["uid"], _SALT))
    out = np.full(len(table), np.nan, np.float32)
    long = np.diff(bounds) >= shortest
    for number, language in enumerate(names):
        for half in (0, 1):
            model = models.get((language, half)) or models.get((EVERY, half))
            rows = np.flatnonzero(long & (code == number) & (other == half))
            if model and len(rows):
                out[rows] = _perplexities(store, model, ids, bounds[rows], bounds[rows + 1])
    column = pa.array(out, mask=np.isnan(out))
    return verdicts(table["uid"], [None] * len(table), perplexity=column)


def _perplexities(
    store: Store, name: str, ids: NDArray[np.unsignedinteger], starts: I64, stops: I64
) -> NDArray[np.float64]:
    from pipeline.kernels import ngrams

    model = ngrams.unpacked(np.memmap(store.local(name), np.uint64, "r"))
    found = ngrams.log_probabilities(model, ids, starts, stops)
    return np.exp(-found / (stops - starts + 1))


def found_of(table: pa.Table) -> pa.Table:
    """What the facts are taken from."""
    return pa.table({"language": _languages(table), "perplexity": table["perplexity"]})


def told(found: Sequence[pa.Table], models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Facts: of each language, what its models are and the percentiles of its perplexities; of each
    model, both halves together, what it was learnt from."""
    if not found:
        return {"languages": {}, "models": {}}
    table = pa.concat_tables(found)
    own = {m["name"] for m in models}
    names, code = _coded(table["language"])
    values = np.asarray(table["perplexity"].to_numpy(), np.float64)
    return {
        "languages": {
            name: {"model": name if name in own else EVERY} | _percentiles(values[code == number])
            for name, number in sorted(zip(names, range(len(names)), strict=True))
        },
        "models": {
            name: {
                k: sum(m[k] for m in models if m["name"] == name)
                for k in ("documents", "tokens", "grams")
            }
            for name in sorted(own)
        },
    }


def _percentiles(values: NDArray[np.float64]) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    counts = {"scored": len(known), "null": len(values) - len(known)}
    if not len(known):
        return counts
    places = np.percentile(known, (5, 50, 95)).round(3).tolist()
    return counts | dict(zip(("p5", "p50", "p95"), places, strict=True))
