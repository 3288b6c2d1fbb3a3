"""What to keep of each language, found in passes over documents that nobody holds at once.

A pass gives one language's documents of one shard at a time, and takes back sums over bins. A sample
sets the edges of each language's histogram; the bin in which its quota is full is narrowed until it
holds few documents, and these alone are put in order: the cut is exact. Ours, after sample sort and
radix selection. Knows nothing of shards, columns' names or verdicts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.core.schema import digest
from pipeline.kernels import ranks
from pipeline.kernels.ranks import F64, I64, U64, Cut, Scale, Span

SAMPLE = 1024
"""Documents of a language that give its histogram's edges; a smaller language is told exactly (ours)."""
EXACT = 4096
"""Documents about a language's cut that are put in order one by one (ours)."""


@dataclass(frozen=True)
class Group:
    """Some documents of one language: what they are ranked by (n, columns; NaN for none), their
    tokens (n), and their uids as two halves (n, 2)."""

    values: F64
    tokens: I64
    uids: U64


@dataclass(frozen=True)
class Survey:
    """A language at large: its tokens, and the values of up to SAMPLE scored documents, those that
    come first in an order of chance, with their places in it."""

    tokens: int
    places: U64
    values: F64


@dataclass(frozen=True)
class Ranking:
    """How values become one score: a weight a column, and, where there are several columns, the
    scale of each by language."""

    weights: tuple[float, ...]
    scales: tuple[dict[str, Scale], ...] = ()


Work = Callable[[str, Group], Any]
"""What a pass makes of one language's documents in one shard: something small."""
Look = Callable[[Work], Iterator[tuple[str, Any]]]
"""A pass: (language, what the work made of it) for each language of each shard."""


@dataclass(frozen=True)
class Plan:
    """All that a verdict depends on: the score, its scale in each language, and the cuts of those
    languages that do not fit into their quotas."""

    ranking: Ranking
    scales: dict[str, Scale]
    cuts: dict[str, Cut]


def planned(
    look: Look, weights: tuple[float, ...], quotas: Callable[[dict[str, int]], dict[str, int]]
) -> Plan:
    """Scales of every language, and cuts where it has more tokens than its quota.

    weights: of the columns. quotas: the tokens of each language there is -> the most it may have; a
    language that is left out has no limit. Three passes for one column, one more for several, and one
    for each narrowing (most often none below four million documents of a language).
    """
    found = surveyed(look)
    quota = quotas({name: s.tokens for name, s in found.items()})
    ranking = combined(look, found, weights)
    edges = {n: ranks.edges(ranks.keys(score(n, s.values, ranking))) for n, s in found.items()}
    scales = weighed(look, [edges], partial(whole, ranking=ranking))[0]
    return Plan(ranking, scales, settled(look, scales, quota, ranking))


def surveyed(look: Look) -> dict[str, Survey]:
    """Every language at large. One pass."""
    out: dict[str, Survey] = {}
    for name, found in look(survey):
        out[name] = _joined(out[name], found) if name in out else found
    return out


def survey(_: str, group: Group) -> Survey:
    """One shard's part of a language. The second half of a uid is a chance order of its own."""
    scored = np.flatnonzero(~np.isnan(group.values).any(axis=1))
    first = scored[np.argsort(group.uids[scored, 1], kind="stable")[:SAMPLE]]
    tokens = int(group.tokens.sum())
    return Survey(tokens, group.uids[first, 1], group.values[first])


def _joined(a: Survey, b: Survey) -> Survey:
    places = np.concatenate([a.places, b.places])
    first = np.argsort(places, kind="stable")[:SAMPLE]
    values = np.concatenate([a.values, b.values])[first]
    return Survey(a.tokens + b.tokens, places[first], values)


def combined(look: Look, found: dict[str, Survey], weights: tuple[float, ...]) -> Ranking:
    """How columns make one score; several are put on scales first, which takes a pass."""
    if len(weights) == 1:
        return Ranking(weights)
    edges = [
        {name: ranks.edges(ranks.keys(s.values[:, n])) for name, s in found.items()}
        for n in range(len(weights))
    ]
    return Ranking(weights, tuple(weighed(look, edges, apart)))


def apart(_: str, group: Group) -> list[U64]:
    """The keys of each column."""
    return [ranks.keys(column) for column in group.values.T]


def whole(name: str, group: Group, ranking: Ranking) -> list[U64]:
    """The keys of the one score."""
    return [ranks.keys(score(name, group.values, ranking))]


def score(name: str, values: F64, ranking: Ranking) -> F64:
    """(n) what ranks a language's documents: the column itself, or the mean of several percentiles."""
    if ranking.scales:
        return ranks.mean(values, ranking.weights, [scale[name] for scale in ranking.scales])
    return values[:, 0] * float(np.sign(ranking.weights[0]))


def weighed(
    look: Look, edges: list[dict[str, U64]], keyed: Callable[[str, Group], list[U64]]
) -> list[dict[str, Scale]]:
    """Scales over these edges by language, one for each array of keys that `keyed` gives. One pass."""
    scales = [{name: ranks.blank(e) for name, e in every.items()} for every in edges]
    for name, found in look(partial(_weigh, edges=edges, keyed=keyed)):
        for scale, (at, weight, count) in zip(scales, found, strict=True):
            scale[name].weight[at] += weight
            scale[name].count[at] += count
    return scales


def _weigh(
    name: str,
    group: Group,
    edges: list[dict[str, U64]],
    keyed: Callable[[str, Group], list[U64]],
) -> list[tuple[I64, I64, I64]]:
    pairs = zip(edges, keyed(name, group), strict=True)
    return [ranks.sums(ranks.bins(e[name], keys), group.tokens) for e, keys in pairs]


def settled(
    look: Look, scales: dict[str, Scale], quota: dict[str, int], ranking: Ranking
) -> dict[str, Cut]:
    """Where each language's quota is full; a language that fits into it has no cut.

    A pass narrows the spans of all languages at once; a last one brings the documents in them.
    """
    found = {name: ranks.crossing(scales[name], most) for name, most in quota.items()}
    spans = {name: span for name, span in found.items() if span is not None}
    while wide := {n: s for n, s in spans.items() if s.count > EXACT and not s.single}:
        spans |= _narrowed(look, wide, quota, ranking)
    rows: dict[str, list[U64]] = {name: [] for name in spans}
    for name, some in look(partial(_inside, spans=spans, ranking=ranking)) if spans else ():
        rows.get(name, []).append(some)
    return {n: ranks.cut(np.concatenate(rows[n]), s.ahead, quota[n]) for n, s in spans.items()}


def _narrowed(
    look: Look, wide: dict[str, Span], quota: dict[str, int], ranking: Ranking
) -> dict[str, Span]:
    weight = {name: np.zeros(1 << ranks.SLOTS, np.int64) for name in wide}
    count = {name: np.zeros(1 << ranks.SLOTS, np.int64) for name in wide}
    for name, found in look(partial(_slots, spans=wide, ranking=ranking)):
        for at, more, number in [found] if found else []:
            weight[name][at] += more
            count[name][at] += number
    return {n: ranks.narrowed(s, weight[n], count[n], quota[n]) for n, s in wide.items()}


def _slots(
    name: str, group: Group, spans: dict[str, Span], ranking: Ranking
) -> tuple[I64, I64, I64] | None:
    if name not in spans:
        return None
    rows = _inside(name, group, spans, ranking)
    at = ranks.slots(spans[name], rows[:, 0], rows[:, 1])
    return ranks.sums(at, rows[:, 3].astype(np.int64))


def _inside(name: str, group: Group, spans: dict[str, Span], ranking: Ranking) -> U64:
    """(n, 4) key, uid in halves and tokens of each document in its language's span."""
    if name not in spans:
        return np.empty((0, 4), np.uint64)
    keys = whole(name, group, ranking)[0]
    there = ranks.within(spans[name], keys, group.uids[:, 0])
    return np.column_stack([keys, group.uids, group.tokens.astype(np.uint64)])[there]


def fingerprint(plan: Plan) -> str:
    """Changes when a verdict may."""
    tables = [*plan.ranking.scales, plan.scales]
    scales = [(name, scale) for table in tables for name, scale in sorted(table.items())]
    told = [x for name, s in scales for x in (name, s.edges.tobytes(), s.weight.tobytes())]
    return digest(repr(sorted(plan.cuts.items())), *told)
