"""The files that `quality` learns from and looks among: good ones planted in repositories never learnt from.

The corpus goes through the project's own filter and dedup first. Repositories are dealt into two halves
by hash; of each repository the first files by hash are taken, so that no large one is the whole of a
language. Good is what `syntax.documented` says; knows nothing of annotators.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import dedup, filter
from pipeline.core.job import stack
from pipeline.core.languages import language_of
from pipeline.core.schema import digest
from pipeline.core.store import Store
from pipeline.kernels.syntax import documented
from pipeline.model import evidence
from pipeline.model.evidence import Doc
from pipeline.model.separation import pairs
from tests.bench import corpus
from tests.running import bare_job, stored

GOOD = 0.6
"""`syntax.documented` of what counts as good."""
LANGUAGES = ("Python", "JavaScript", "TypeScript", "C", "C++")
"""Those looked at: `documented` knows how they are documented."""
LIBRARY = "stdlib"
"""The repository of the standard library."""
VENDORED = re.compile(r"(^|/)(_?vendor(ed)?|_vendored_packages|extern(al|s)?|third_?party)/")
VERSION = re.compile(r"-\d[^-]*$")
TESTS = re.compile(r"(^|/)(idle_)?tests?/")
HEAD = 4096
Row = dict[str, Any]
"""repo, path, language, text; with `good` once it is told."""
Sides = tuple[list[Doc], list[Doc]]
"""Good and ordinary files."""


@dataclass(frozen=True)
class Dealt:
    """What is learnt from, what is looked among in other repositories; library and vendored files."""

    learn: list[Row]
    planted: Sides
    real: Sides


def dealt(table: pa.Table, folder: Path, each: int, seed: int) -> Dealt:
    """Deal the files of a corpus with the standard library in it; at most `each` of a repository's
    good and of its ordinary files in a language."""
    rows = [
        r | {"good": documented(r["text"], r["language"]) >= GOOD} for r in _clean(table, folder)
    ]
    vendored = [r for r in rows if VENDORED.search(r["path"])]
    library = [r for r in rows if r["repo"] == LIBRARY and not TESTS.search(r["path"])]
    own = [r for r in rows if r["repo"] != LIBRARY and not VENDORED.search(r["path"])]
    rest = few(own, each)
    other = _sides(r for r in rest if not _half(r["repo"], seed))
    real = [r for r in library if r["good"]], [r for r in vendored if r["language"] == "Python"]
    return Dealt(
        learn=[r for r in rest if _half(r["repo"], seed)],
        planted=(docs(other[0]), docs(other[1])),
        real=(docs(real[0]), docs(real[1])),
    )


def _clean(table: pa.Table, folder: Path) -> list[Row]:
    """The last version of each package, filtered and without near copies, as a recipe has them."""
    rows = [r | {"language": _language(r)} for r in _last(table.to_pylist())]
    store = Store(str(folder))
    files = stored([r for r in rows if r["language"] in LANGUAGES], store, 8)
    for stage in (filter, dedup):
        job = bare_job(store, stage.__name__.rpartition(".")[2])
        stage.run(files, stage.Config(), job)
        files = stack(files, job.step, job.layers)
    read = [files.read(shard, corpus.COLUMNS.names) for shard in files.shards]
    return pa.concat_tables(read).select(corpus.COLUMNS.names).to_pylist()


def _language(row: Row) -> str | None:
    """As ingest tells it: a header (.h) is C or C++ by what stands in it."""
    return language_of(row["path"], row["text"][:HEAD].encode())


def _last(rows: list[Row]) -> list[Row]:
    """The rows of one version of each package (`numpy-1.24.4`), the last by name."""
    last = {VERSION.sub("", name): name for name in sorted({r["repo"] for r in rows})}
    return [r for r in rows if r["repo"] in last.values()]


def few(rows: Iterable[Row], each: int) -> list[Row]:
    """The first rows by hash of each repository, language and class, in that order."""
    seen: Counter[Any] = Counter()
    out = []
    for row in sorted(rows, key=lambda r: digest(r["repo"], r["path"])):
        seen[kind := (row["repo"], row["language"], row["good"])] += 1
        out += [row] if seen[kind] <= each else []
    return out


def _half(repo: str, seed: int) -> bool:
    return int(digest(str(seed), VERSION.sub("", repo)), 16) % 2 == 0


def _sides(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    rows = list(rows)
    return [r for r in rows if r["good"]], [r for r in rows if not r["good"]]


def docs(rows: Iterable[Row]) -> list[Doc]:
    """The rows as the annotator's evidence takes them."""
    return [
        Doc(digest(r["repo"], r["path"]), r["text"], r["repo"], r["path"], r["language"])
        for r in rows
    ]


def to_learn(rows: list[Row], files: int, match: bool) -> list[Row]:
    """Of each language the first `files` good rows by hash and as many others, random ones; with
    match, for each good one the nearest in size and share of comments, and none without such."""
    out = []
    for mine in _by_language(rows).values():
        good, rest = _sides(sorted(mine, key=lambda r: digest("learn", r["repo"], r["path"])))
        out += alike(good[:files], rest) if match else [*good[:files], *rest[: len(good[:files])]]
    return out


def alike(good: list[Row], rest: list[Row]) -> list[Row]:
    """Pairs of a good and another row of the same language, size and share of comments."""
    sides = docs(good), docs(rest)
    zeros = dict.fromkeys((d.uid for side in sides for d in side), 0.0)
    both = [*good, *rest]
    return [both[k] for pair in pairs(evidence.judged(*sides, zeros)) for k in pair]


def _by_language(rows: Iterable[Row]) -> dict[str, list[Row]]:
    out = defaultdict(list)
    for row in rows:
        out[row["language"]].append(row)
    return dict(out)


def sampled(sides: Sides, limit: int) -> Sides:
    """Each side's first documents by hash, at most `limit` in a language, so that both keep their shares."""
    total = Counter(d.language for side in sides for d in side)
    return _drawn(sides[0], total, limit), _drawn(sides[1], total, limit)


def _drawn(side: list[Doc], total: Counter[str], limit: int) -> list[Doc]:
    out = []
    for language in sorted({d.language for d in side}):
        mine = sorted((d for d in side if d.language == language), key=lambda d: d.uid)
        keep = min(1.0, limit / total[language])
        out += mine[: max(1, round(keep * len(mine)))]
    return out
