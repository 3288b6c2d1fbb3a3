"""Basic file filters: the signals of every file once, then thresholds from a table over them.

Two layers: `signals` (re-made only when the code that measures changes) and the verdict, so that
another threshold never reads a text again. Rules and numbers: BigCode and StarCoder2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from pipeline.core.config import Bytes, config
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.kernels.signals import NAMES, signals

VERSION = 1
_LONG_LINES_ALLOWED = frozenset(
    ["HTML", "JSON", "Markdown", "Roff", "SMT", "TeX", "Text", "XML", "reStructuredText"]
)
_ASSEMBLY = frozenset(["Assembly"])
_DATA = frozenset(["JSON", "YAML", "XML", "TOML"])

Row = dict[str, Any]
Rule = Callable[[Row, "Config"], tuple[float, bool]]


@config
class Config:
    rules: Literal["bigcode", "none"] = "bigcode"
    """Which set of rules; `none` measures the signals and keeps everything."""
    max_lines: int = 100_000
    """More lines than this: dropped (StarCoder2, app. A)."""
    max_line: int = 1000
    """A line longer than this many characters: dropped, markup and data languages exempt (BigCode)."""
    max_mean_line: float = 100.0
    """Mean line length in characters above this: dropped, the same exempt (BigCode)."""
    min_alphabetic: float = 0.25
    """Share of letters below this: dropped; of letters and digits for assembly (StarCoder2)."""
    max_encoded: float = 0.5
    """Share in base64, hex or \\u runs above this, or one run over 1,024: dropped (StarCoder2)."""
    max_data_lines: int = 512
    """Data languages with more lines than this: dropped (StarCoder2)."""
    data_bytes: tuple[Bytes, Bytes] = (50, 5000)
    """JSON and YAML outside this size: dropped (DeepSeek-Coder §2.2)."""
    generated: bool = True
    """Files that say in their first 5 lines that they were generated: dropped (StarCoder2)."""


def run(files: Files, cfg: Config, job: Job) -> None:
    measured = job.layer(files, measure, ["text"], kind="signals", identity={})
    job.layer(measured, partial(judge, cfg=cfg), ["language", "bytes", *NAMES])


def measure(table: pa.Table) -> pa.Table:
    """The signals layer: every document kept, one column a signal."""
    rows = [signals(text) for text in table["text"].to_pylist()]
    columns = {name: pa.array([r[name] for r in rows], pa.float32()) for name in NAMES}
    return verdicts(table["uid"], [None] * len(rows), **columns)


def judge(table: pa.Table, cfg: Config) -> pa.Table:
    """The verdict: the first rule that a file breaks, with the value it has."""
    found = [broken(row, cfg) for row in table.to_pylist()]
    return verdicts(table["uid"], [f[0] for f in found], [f[1] for f in found])


def broken(row: Row, cfg: Config) -> tuple[str | None, float | None]:
    """(rule, value) of the first rule broken by a row of signals, or (None, None)."""
    if cfg.rules == "bigcode":
        for name, rule in RULES.items():
            value, bad = rule(row, cfg)
            if bad:
                return name, value
    return None, None


def _prose(row: Row) -> bool:
    return row["language"] in _LONG_LINES_ALLOWED


def _letters(row: Row) -> float:
    return float(row["alphanumeric" if row["language"] in _ASSEMBLY else "alphabetic"])


RULES: dict[str, Rule] = {
    "many_lines": lambda r, c: (r["lines"], r["lines"] > c.max_lines),
    "long_line": lambda r, c: (
        r["max_line"],
        r["max_line"] > (100_000 if _prose(r) else c.max_line),
    ),
    "long_lines": lambda r, c: (r["mean_line"], not _prose(r) and r["mean_line"] > c.max_mean_line),
    "few_letters": lambda r, c: (_letters(r), _letters(r) < c.min_alphabetic),
    "generated": lambda r, c: (r["generated"], c.generated and r["generated"] > 0),
    "encoded": lambda r, c: (r["encoded"], r["encoded"] > c.max_encoded),
    "data": lambda r, c: (r["lines"], r["language"] in _DATA and r["lines"] > c.max_data_lines),
    "data_size": lambda r, c: (
        r["bytes"],
        r["language"] in ("JSON", "YAML") and not c.data_bytes[0] <= r["bytes"] <= c.data_bytes[1],
    ),
}
"""Rule -> (value, whether it is broken), tried in this order."""
