"""Basic file filters: counts of every file once, then thresholds from a table over them.

Up to three layers of counts (signals; comments, strings and telling lines; repetition and Python's
syntax), made only where a rule in force reads them and re-made only when the code that counts
changes; then the verdict, so that another threshold never reads a text again. The rules and the
sources of their numbers are in kernels/rules.py; they know files one by one, not copies of each other.
"""

from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.arrays import flat
from pipeline.core.config import Before, config, share
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import digest
from pipeline.kernels import rules

VERSION = 2
Limit = Annotated[float, Before(share)] | None
"""A rule's number (a share may be written `5%`), or null: the rule is off."""

_GENERATED = (
    r"(^|/)(node_modules|Godeps|__generated__|\.yarn)/|(^|/)(package-lock\.json|npm-shrinkwrap\.json|"
    r"yarn\.lock|pnpm-lock\.yaml|composer\.lock|poetry\.lock|pdm\.lock|uv\.lock|Pipfile\.lock|Cargo\.lock|"
    r"Gopkg\.lock|go\.sum|flake\.lock|deno\.lock|bun\.lock|\.pnp\.(c|m)?js)$|[.-]min\.(js|css)$|"
    r"(_pb2(_grpc)?\.pyi?|\.pb\.(go|cc|h)|_pb\.(js|d\.ts)|\.designer\.(cs|vb)|\.g\.dart|\.freezed\.dart|"
    r"\.nib|\.xcworkspacedata|\.xcuserstate)$"
)
"""Paths of generated files: lock files, vendored packages, protocol buffers (after go-enry)."""
_TOLD = r"(?i)(^|/)([^/]*requirement[^/]*|(readme|notes|todo|description|cmakelists)(\.[^/]*)?)$"
"""Text files worth keeping by their names (StarCoder2, app. A)."""
_TEST, _HEADER = r"(?i)_test\.go$", r"(?i)\.(h|hh|hpp|hxx|h\+\+|cuh)$"


@config
class Config:
    rules: Literal["bigcode", "opencoder", "none"] = "bigcode"
    """Which set of rules: StarCoder2's and BigCode's, OpenCoder's (with Python's syntax), or none, which
    counts and keeps everything. Default: what The Stack v2 was made with."""
    limits: dict[str, Limit] = field(default_factory=dict)
    """Numbers of rules in place of the set's own: `{max_line: 2000, max_xml: null}`; null is off."""
    languages: dict[str, dict[str, Limit]] = field(default_factory=dict)
    """The same for one language: `{HTML: {max_line: 50000}}`; stronger than `limits`."""

    def __post_init__(self) -> None:
        rules.settled(self.rules, self.limits, self.languages)


def run(files: Files, cfg: Config, job: Job) -> None:
    in_force = rules.settled(cfg.rules, cfg.limits, cfg.languages)
    needed = rules.columns(in_force)
    for kind, (measure_layer, given) in LAYERS.items():
        made = [n for n in counted(kind) if n in needed]
        if made or kind == "signals":
            files = job.layer(files, measure_layer, given, kind=kind, identity={})
    job.layer(files, partial(judge, cfg=cfg), ["language", *sorted(needed)])


def counted(kind: str) -> tuple[str, ...]:
    """The columns of a layer of counts."""
    from pipeline.kernels import lexing, repeats, signals, syntax

    return {
        "signals": (*signals.NAMES, *_NAMED),
        "lexical": lexing.NAMES,
        "syntax": (*repeats.NAMES, *syntax.NAMES),
    }[kind]


def measure(table: pa.Table) -> pa.Table:
    """The layer `signals`: sizes, lines, characters, marks, encoded data, and what the path tells."""
    from pipeline.kernels import signals

    html = np.asarray(pc.fill_null(pc.equal(table["language"], "HTML"), False))
    counts = signals.measure(*flat(table["text"]), html)
    named = {n: pc.match_substring_regex(table["path"], form) for n, form in _NAMED.items()}
    told = {n: pc.fill_null(column, False).cast(pa.int64()) for n, column in named.items()}
    told["visible"] = pa.array(counts[:, signals.NAMES.index("visible")], mask=~html)
    return _layer(table, signals.NAMES, counts, told)


_NAMED = {"generated_name": _GENERATED, "told_name": _TOLD, "test_name": _TEST}
"""Columns that the path alone decides: 1 where it has this form."""


def lex(table: pa.Table) -> pa.Table:
    """The layer `lexical`: comments, strings and telling lines; headers may be all directives."""
    from pipeline.kernels import lexing

    languages = ["" if n is None else n for n in table["language"].to_pylist()]
    counts = lexing.measure(*flat(table["text"]), languages)
    header = np.asarray(pc.fill_null(pc.match_substring_regex(table["path"], _HEADER), False))
    counts[header, lexing.NAMES.index("directives")] = 0
    return _layer(table, lexing.NAMES, counts, {})


def parse(table: pa.Table) -> pa.Table:
    """The layer `syntax`: repetition, and statements of Python files (null for others)."""
    from pipeline.kernels import repeats, syntax

    python = pc.fill_null(pc.equal(table["language"], "Python"), False)
    counts = np.zeros((len(table), len(syntax.NAMES)), np.int64)
    at = np.asarray(python)
    counts[at] = syntax.measure(table["text"].filter(python).to_pylist())
    parsed = {n: pa.array(c, mask=~at) for n, c in zip(syntax.NAMES, counts.T, strict=True)}
    return _layer(table, repeats.NAMES, repeats.measure(*flat(table["text"])), parsed)


def _layer(
    table: pa.Table, names: tuple[str, ...], counts: NDArray[np.int64], more: dict[str, Any]
) -> pa.Table:
    columns = {n: pa.array(c) for n, c in zip(names, counts.T, strict=True)}
    return verdicts(table["uid"], [None] * len(table), **(columns | more))


LAYERS: dict[str, tuple[Callable[[pa.Table], pa.Table], list[str]]] = {
    "signals": (measure, ["text", "language", "path"]),
    "lexical": (lex, ["text", "language", "path"]),
    "syntax": (parse, ["text", "language"]),
}
"""The layers of counts, in their order: how each is made and from which columns."""


def judge(table: pa.Table, cfg: Config) -> pa.Table:
    """The verdict: the first rule that a file breaks, with the value it has; for a mark of generated
    files, the mark as evidence."""
    in_force = rules.settled(cfg.rules, cfg.limits, cfg.languages)
    coded = pc.dictionary_encode(table["language"].combine_chunks(), null_encoding="encode")
    languages = coded.dictionary.to_pylist(), np.asarray(coded.indices, np.int64)
    first, value = rules.judge(
        partial(_counts, table), languages, in_force, partial(_drawn, table["uid"])
    )
    names = [*in_force, None]
    broken = [names[i] for i in first.tolist()]
    values = [v if i >= 0 else None for i, v in zip(first.tolist(), value.tolist(), strict=True)]
    return verdicts(table["uid"], broken, values, _evidence(table, broken))


def _counts(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), np.float64)


def _drawn(uids: pa.ChunkedArray, rule: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """One draw in [0, 1) a document and rule, by hash: the same in every run and shard."""
    found = uids.take(pa.array(rows)).to_pylist()
    return np.array([int(digest(rule, u)[:8], 16) / 2**32 for u in found], np.float64)


def _evidence(table: pa.Table, broken: list[str | None]) -> list[str | None]:
    from pipeline.kernels import signals

    marks = {"max_generated": signals.MARKS, "max_announced": signals.ANNOUNCED}
    out: list[str | None] = [None] * len(broken)
    for i, rule in enumerate(broken):
        if rule in marks:
            out[i] = marks[rule][table[rule.removeprefix("max_")][i].as_py() - 1]
    return out
