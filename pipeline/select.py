"""The best documents of each language: until a token budget or share is full, from a score on, or
between two percentiles.

Ranks inside a language, never globally, so that the language mix stays (SnowCoder 2409.02326 §2.2)
or becomes a given one (its phase 3). Each pass reads slim columns shard by shard and brings back
sums: nothing sorts or lists all documents. Repeating what is chosen is pack's `epochs` (SnowCoder:
4 x 12.5B). Knows nothing of where the scores came from.
"""

import logging
from collections.abc import Iterator
from functools import partial
from math import isfinite, isnan
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.arrays import halves
from pipeline.core.config import Share, Tokens, config
from pipeline.core.errors import StageError, did_you_mean
from pipeline.core.files import Files, read_shard, schema_of, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import VERDICT
from pipeline.core.shares import exact, parts
from pipeline.core.store import Store
from pipeline.kernels import cuts, ranks
from pipeline.kernels.cuts import Group, Look, Plan, Work, score
from pipeline.kernels.kept import Kept, facts
from pipeline.kernels.ranks import F64, I64, NO_CUT, U64

VERSION = 2
log = logging.getLogger(__name__)

DRAWN = ("random", "none")
"""What `by` can be beside columns."""


@config
class Config:
    by: str | dict[str, float] = "quality"
    """The column to rank by, highest first (`quality` is annotate's); or columns with weights, whose
    percentiles in the language are averaged (a negative weight: lowest first); or `random`, or `none`,
    the order of the uids: controls."""
    budget: Tokens | None = None
    """Tokens to choose in all (SnowCoder: 12.5B). Give this or `share` or `between` or `min`."""
    share: Share | None = None
    """Share of each language's tokens to choose (phi-1, 2306.11644: about 17%)."""
    between: tuple[Share, Share] | None = None
    """Keep what lies between two percentiles of its language's scored tokens, `[5%, 95%]` (CodeShell
    cuts by perplexity; that it is by percentile is ours, after CCNet)."""
    min: float | None = None
    """Keep scores from this on, however many tokens (a threshold for phi-1's forest)."""
    mix: dict[str, Share] | None = None
    """Share of the budget per language; the others divide the rest in their own proportions
    (SnowCoder phase 3: Python 50%). None keeps the corpus's mix (§2.2)."""
    seed: int = 0
    """Of `by: random`."""

    def __post_init__(self) -> None:
        ways = {n: getattr(self, n) for n in ("budget", "share", "between", "min")}
        given = {n: v for n, v in ways.items() if v is not None}
        if len(given) != 1:
            raise ValueError(
                f"give one of budget, share, between and min; given: {given or 'none'}"
            )
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"budget is {self.budget} tokens: 1 or more")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}: more than 0, at most 1")
        if self.between is not None and not 0 <= self.between[0] < self.between[1] <= 1:
            raise ValueError(f"between is {list(self.between)}: two shares, the lower one first")
        _check_by(self.by, self.min)
        _check_mix(self.mix, self.budget)
        if self.seed < 0 or (self.seed and self.by != "random"):
            raise ValueError(f"seed is {self.seed} (0 or more), by {self.by!r}: only random draws")


def _check_by(by: str | dict[str, float], least: float | None) -> None:
    if not by:
        raise ValueError("by is empty: name a column, random or none")
    for column, weight in by.items() if isinstance(by, dict) else ():
        if column in DRAWN or not weight or not isfinite(weight):
            raise ValueError(f"by gives {column!r} the weight {weight}: a column, a number but 0")
    if least is not None and (isinstance(by, dict) or by in DRAWN or not isfinite(least)):
        raise ValueError(f"min is {least} and by {by!r}: a finite score, of one column")


def _check_mix(mix: dict[str, float] | None, budget: int | None) -> None:
    if mix is None:
        return
    if budget is None:
        raise ValueError("mix divides a budget: give one, or leave mix out")
    if not mix or sum(map(exact, mix.values())) > 1:
        raise ValueError(f"mix is {mix}: at least one language, shares of at most 1 in all")


def run(files: Files, cfg: Config, job: Job) -> None:
    require(files, cfg)
    weights = tuple(cfg.by.values()) if isinstance(cfg.by, dict) else (1.0,)
    look: Look = partial(visit, files, cfg, job)
    plan = cuts.planned(look, weights, partial(quotas, cfg=cfg))
    job.layer(
        files,
        partial(decide, cfg=cfg, plan=plan),
        ["language", "length", *named(cfg)],
        identity={"settings": cfg, "plan": cuts.fingerprint(plan)},
    )
    stay = kept(look, cfg, plan)
    job.facts["languages"] = {n: facts(s, stay[n]) for n, s in sorted(plan.scales.items())}
    job.facts |= {k: sum(f[k] for f in job.facts["languages"].values()) for k in _SUMS}


_SUMS = ("files", "tokens", "of_files", "of_tokens", "unscored")


def named(cfg: Config) -> list[str]:
    """The columns to rank by."""
    if isinstance(cfg.by, dict):
        return list(cfg.by)
    return [] if cfg.by in DRAWN else [cfg.by]


def require(files: Files, cfg: Config) -> None:
    """StageError for a column that is not there or holds no numbers, and for files without tokens."""
    for shard in files.shards[:1]:
        if not any(layer.kind == "tokens" for layer in shard.layers):
            raise StageError("select counts tokens, and its files have none; tokenize them first")
        there = schema_of(files.store, shard)
        numbers = [n for n, t in there.items() if _is_number(t) and n not in VERDICT.names]
        for name in named(cfg):
            if name not in there:
                near = did_you_mean(name, [*numbers, *DRAWN])
                raise StageError(f"select: by is {name!r}, a column that no step above makes{near}")
            if name not in numbers:
                told = f"holds no scores ({there[name]}); there is: {', '.join(sorted(numbers))}"
                raise StageError(f"select: by is {name!r}, a column that {told}")


def _is_number(kind: pa.DataType) -> bool:
    """Also a column of nulls, which is what a writer makes of a shard without a score."""
    known = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in known)


def visit(files: Files, cfg: Config, job: Job, work: Work) -> Iterator[tuple[str, Any]]:
    """(language, what `work` makes of it) for each language of each shard, in shard order."""
    for found in job.shards(partial(_visit, files.store, cfg, work), files):
        yield from found["languages"]


def _visit(store: Store, cfg: Config, work: Work, item: dict[str, Any]) -> dict[str, Any]:
    table = read_shard(store, item["shard"], ["language", "length", *named(cfg)])
    return {"languages": [(name, work(name, group)) for name, _, group in groups(table, cfg)]}


def groups(table: pa.Table, cfg: Config) -> Iterator[tuple[str, I64, Group]]:
    """(language, its rows, what is known of them) for each language of a table."""
    coded = pc.fill_null(table["language"], "not stated").combine_chunks().dictionary_encode()
    codes, names = coded.indices.to_numpy(), coded.dictionary.to_pylist()
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    values, tokens, uids = measured(table, cfg), table["length"].to_numpy(), halves(table["uid"])
    for n, name in enumerate(names):
        rows = order[bounds[n] : bounds[n + 1]]
        yield name, rows, Group(values[rows], tokens[rows], uids[rows])


def measured(table: pa.Table, cfg: Config) -> F64:
    """(n, columns) what documents are ranked by; NaN for null."""
    if cfg.by == "none":
        return -_unit(halves(table["uid"])[:, :1])
    if cfg.by == "random":
        from pipeline.kernels.hashing import places

        return _unit(places(table["uid"], str(cfg.seed))[:, None])
    given = [pc.cast(table[name], pa.float64(), safe=False).to_numpy() for name in named(cfg)]
    return np.stack(given, axis=1)


def _unit(places: U64) -> F64:
    """Their first 53 bits as numbers from 0 to 1."""
    return (places >> np.uint64(11)).astype(np.float64) * 2.0**-53


def quotas(tokens: dict[str, int], cfg: Config) -> dict[str, int]:
    """Tokens each language may have; empty where it is not tokens that are limited."""
    if cfg.share is not None:
        return {name: int(n * exact(cfg.share)) for name, n in tokens.items()}
    if cfg.budget is None:
        return {}
    quota = {n: int(cfg.budget * part) for n, part in parts(tokens, cfg.mix or {}).items()}
    if short := [name for name in sorted(quota) if quota[name] > tokens[name]]:
        log.warning("select: all of %s is kept and is less than its quota", ", ".join(short))
    return quota


def decide(table: pa.Table, cfg: Config, plan: Plan) -> pa.Table:
    """The verdicts, with each document's `percentile`: the share of its language's scored tokens below
    it, 0 to 1 to a thousandth, null without a score. `value` is what its rule looks at: the score for
    `min`, else the percentile."""
    rules = np.full(len(table), None, object)
    scored, percentile = np.full((2, len(table)), np.nan)
    for name, rows, group in groups(table, cfg):
        scored[rows], percentile[rows], rules[rows] = judged(name, group, cfg, plan)
    percentile = np.round(percentile, 3)
    value = (percentile if cfg.min is None else scored).tolist()
    column = pa.array(percentile, pa.float32(), mask=np.isnan(percentile))
    told = [None if isnan(v) else v for v in value]
    return verdicts(table["uid"], rules.tolist(), told, percentile=column)


def judged(
    name: str, group: Group, cfg: Config, plan: Plan
) -> tuple[F64, F64, NDArray[np.object_]]:
    """Each document's score, its percentile, and why it goes (None where it stays)."""
    scored = score(name, group.values, plan.ranking)
    keys = ranks.keys(scored)
    percentile = ranks.percentiles(plan.scales[name], keys)
    after = ranks.from_cut(plan.cuts.get(name, NO_CUT), keys, group.uids)
    return scored, percentile, _rules(cfg, scored, percentile, after)


def _rules(cfg: Config, scored: F64, place: F64, after: NDArray[np.bool_]) -> NDArray[np.object_]:
    """after: the quota is full before it."""
    rules = np.full(len(scored), None, object)
    gone = after | (cfg.between is not None or cfg.min is not None)
    low, high = cfg.between or (0, 1)
    rules[place < low] = "low_tail"
    rules[place > high] = "high_tail"
    if cfg.min is not None:  # 0.7 is kept where the column holds it in 32 bits, as 0.69999999
        rules[scored < min(cfg.min, float(np.float32(cfg.min)))] = "below_min"
    rules[after] = "below_quota"
    rules[np.isnan(scored) & gone] = "unscored"
    return rules


def kept(look: Look, cfg: Config, plan: Plan) -> dict[str, Kept]:
    """What stays of each language. One pass."""
    out: dict[str, Kept] = {}
    for name, k in look(partial(_kept, cfg=cfg, plan=plan)):
        out[name] = out.get(name, Kept()).plus(k)
    return out


def _kept(name: str, group: Group, cfg: Config, plan: Plan) -> Kept:
    scored, _, rules = judged(name, group, cfg, plan)
    stay = np.asarray(rules == None)  # noqa: E711 - each one's
    return Kept.of(scored[stay], group.tokens[stay])
