"""The best documents of each language until its share of a token budget is full.

Ranks inside a language, never globally, so that the language mix stays (SnowCoder 2409.02326 §2.2);
a mix can also be given. Knows nothing of where the scores came from.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.config import Share, Tokens, config
from pipeline.core.errors import StageError, did_you_mean
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job

VERSION = 1


@config
class Config:
    budget: Tokens
    """Tokens to choose in all (SnowCoder: 12.5B, to be repeated 4 times)."""
    by: str = "quality"
    """The column to rank by, highest first (`quality` is annotate's), or `random`: a control."""
    mix: dict[str, Share] | None = None
    """Share of the budget per language; None keeps the corpus's own mix (SnowCoder §2.2)."""
    seed: int = 0
    """Of `by: random`."""


def run(files: Files, cfg: Config, job: Job) -> None:
    names = ["language", "length"] + ([cfg.by] if cfg.by != "random" else [])
    tables = job.collect(files, None, names)
    table = pa.concat_tables(tables)
    languages = table["language"].to_numpy().astype(str)
    ranked = rank(table, cfg)
    place, kept = choose(languages, table["length"].to_numpy(), ranked, quotas(table, cfg))
    starts = np.cumsum([0, *map(len, tables)])
    job.write(
        files, [_decide(t, kept[s:], place[s:]) for t, s in zip(tables, starts, strict=False)]
    )
    job.facts["languages"] = _mix(languages[kept], table["length"].to_numpy()[kept])
    job.facts["tokens"] = int(table["length"].to_numpy()[kept].sum())


def rank(table: pa.Table, cfg: Config) -> NDArray[np.int64]:
    """Row numbers, best first; ties by uid."""
    uids = table["uid"].to_numpy().astype(str)
    if cfg.by == "random":
        from pipeline.core.schema import digest

        return np.argsort([digest(str(cfg.seed), u) for u in uids], kind="stable")
    return np.lexsort((uids, -table[cfg.by].to_numpy()))


def quotas(table: pa.Table, cfg: Config) -> dict[str, float]:
    """Tokens each language may have; StageError for a mix that names a language that is not there."""
    sums = {
        r["language"]: r["length_sum"]
        for r in table.group_by("language").aggregate([("length", "sum")]).to_pylist()
    }
    if cfg.mix is None:
        whole = sum(sums.values()) or 1
        return {name: cfg.budget * n / whole for name, n in sums.items()}
    if missing := [name for name in cfg.mix if name not in sums]:
        raise StageError(
            f"select: mix names {missing[0]!r}, a language without documents{did_you_mean(missing[0], sums)}"
        )
    return {name: cfg.budget * cfg.mix.get(name, 0.0) for name in sums}


def choose(
    languages: NDArray[np.str_],
    lengths: NDArray[np.int64],
    ranked: NDArray[np.int64],
    quota: dict[str, float],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(rank inside its language, whether it is kept) of every row: in rank order, a document is
    kept while its language's tokens stay within the quota."""
    place, kept = np.zeros(len(ranked), np.int64), np.zeros(len(ranked), bool)
    for language, most in quota.items():
        rows = ranked[languages[ranked] == language]
        place[rows] = np.arange(1, len(rows) + 1)
        fits = np.cumsum(lengths[rows]) <= most
        kept[rows] = fits
    return place, kept


def _decide(table: pa.Table, kept: NDArray[np.bool_], place: NDArray[np.int64]) -> pa.Table:
    n = len(table)
    rules = [None if k else "below_quota" for k in kept[:n]]
    ranks = pa.array(place[:n], pa.int32())
    return verdicts(
        table["uid"], rules, place[:n].astype(float).tolist(), rank=ranks
    ).append_column("row", table["row"])


def _mix(languages: NDArray[np.str_], lengths: NDArray[np.int64]) -> dict[str, int]:
    return {str(name): int(lengths[languages == name].sum()) for name in np.unique(languages)}
