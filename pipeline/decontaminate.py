"""Documents that overlap evaluation tasks leave: shared 10-grams, or a whole solution inside.

Suites are files in HumanEval's or MBPP's format, named by path (or the shipped `icefloe`). The
evidence names suite, task and kind of hit. Knows nothing of where documents came from, so it serves
synthetic ones too.
"""

import gzip
import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.config import config
from pipeline.core.errors import RecipeError, did_you_mean
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import digest
from pipeline.core.store import sha256_file
from pipeline.kernels.overlap import Needles, needles, overlap

VERSION = 1
SUITES = Path(__file__).parent / "suites"
_TEXTS = (
    "prompt",
    "canonical_solution",
    "test",
    "text",
    "code",
    "instruct_prompt",
    "complete_prompt",
)


@config
class Config:
    suites: list[str]
    """Names of shipped suites, or paths of .jsonl, .jsonl.gz or .json files with one task a row."""


def fingerprint(cfg: Config) -> str:
    return digest(*(sha256_file(find(s)) for s in sorted(cfg.suites)))


def run(files: Files, cfg: Config, job: Job) -> None:
    paths = tuple(str(find(s)) for s in sorted(cfg.suites))
    identity = {"suites": fingerprint(cfg)}
    job.layer(files, partial(judge, suites=paths), ["text"], identity=identity)
    job.facts["tasks"] = len(index(paths).tasks)


def find(suite: str) -> Path:
    """The file of a suite; RecipeError when there is none."""
    for path in (Path(suite), SUITES / f"{suite}.jsonl"):
        if path.is_file():
            return path
    known = [p.stem for p in SUITES.glob("*.jsonl")]
    raise RecipeError(
        f"decontaminate: no suite {suite!r}{did_you_mean(suite, known)}; a path works too"
    )


def judge(table: pa.Table, suites: tuple[str, ...]) -> pa.Table:
    found = [overlap(text, index(suites)) for text in table["text"].to_pylist()]
    evidence = [f"{f[0]} ({f[1]})" if f else None for f in found]
    return verdicts(table["uid"], ["overlap" if f else None for f in found], evidence=evidence)


@cache
def index(suites: tuple[str, ...]) -> Needles:
    return needles((task, texts) for path in suites for task, texts in tasks(Path(path)))


def tasks(path: Path) -> list[tuple[str, list[str]]]:
    """(task name, its texts) of a suite file. Raises RecipeError where no row has a known column."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as f:
        text = f.read()
    rows = (
        json.loads(text)
        if text.lstrip().startswith("[")
        else [json.loads(x) for x in text.splitlines() if x.strip()]
    )
    out = [(f"{path.name}:{row.get('task_id', n)}", _texts(row)) for n, row in enumerate(rows)]
    if not any(texts for _, texts in out):
        raise RecipeError(f"{path}: no row has any of {', '.join(_TEXTS)}; is it a suite of tasks?")
    return out


def _texts(row: dict[str, Any]) -> list[str]:
    return [row[name] for name in _TEXTS if isinstance(row.get(name), str)]
