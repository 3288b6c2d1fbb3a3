"""Documents that overlap evaluation tasks leave: whole texts, word n-grams, solutions renamed.

Suites are files with one task a row, in the columns of HumanEval, MBPP, EvalPlus, EvoEval,
BigCodeBench, LiveCodeBench, APPS or DS-1000, named by path (or the shipped `icefloe`). The evidence
names suite, task, kind of hit and lines. Knows nothing of where documents came from, so it serves
synthetic ones too.
"""

import ast
import gzip
import json
import warnings
import zlib
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.arrays import flat
from pipeline.core.config import Share, config
from pipeline.core.errors import RecipeError
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import digest
from pipeline.core.store import sha256_file
from pipeline.core.suites import find

if TYPE_CHECKING:
    from pipeline.kernels.overlap import Needles, Overlap, Part, Text

VERSION = 2
PARTS: "dict[str, Part]" = {
    "prompt": "prompt",
    "complete_prompt": "prompt",
    "instruct_prompt": "prompt",
    "instruction": "prompt",
    "question": "prompt",
    "question_content": "prompt",
    "problem": "prompt",
    "text": "prompt",
    "docstring": "docstring",
    "canonical_solution": "solution",
    "reference_code": "solution",
    "code": "solution",
    "solution": "solution",
    "solutions": "solution",
    "buggy_solution": "solution",
    "answer": "solution",
    "test": "test",
    "tests": "test",
    "test_list": "test",
    "challenge_test_list": "test",
    "assertion": "test",
}
"""The columns of a suite that are read, as text or lists of text, and what they hold. Inputs and
outputs in data form are not: their numbers are in ordinary files too."""
_NAMES = ("task_id", "question_id", "problem_id", "id", "name")


@config
class Config:
    suites: tuple[str, ...]
    """Names of shipped suites, or paths of .jsonl, .json (both also .gz) or .parquet files with one
    task a row."""
    substring: bool = True
    """Drop what has a task's docstring, solution, question or test in it, letter case and white space
    apart (StarCoder2, 2402.19173)."""
    shortest: int = 30
    """Characters without white space of the shortest such text, 8 to 1,000 (ours: at 20, ordinary
    files go for `while b: a, b = b, a % b`)."""
    ngram: bool = True
    """Drop what shares a run of words with a task (DeepSeek-Coder, 2401.14196 §2.3)."""
    words: int = 10
    """Words in a run, 4 to 100 (DeepSeek-Coder §2.3; Qwen2.5-Coder 2409.12186)."""
    fewest_words: int = 3
    """Texts from this many words to fewer than `words` are looked for whole; 2 or more
    (DeepSeek-Coder §2.3)."""
    renamed: bool = True
    """Drop what has a solution with other names, numbers, strings, comments or layout (ours)."""
    tokens: int = 20
    """Code tokens in a run, 8 to 200 (ours: 20 find 86 % of HumanEval's and MBPP's solutions renamed,
    nearly all that have 20, at 0.06 files per MB of installed packages; 16 find 93 % at 0.6)."""
    share: Share = 0.6
    """The share of a solution's runs that makes a renamed copy (ours: also with one operator changed,
    75 % of them are found; 71 % at 0.75, with a third fewer ordinary files)."""
    common: int = 10
    """A run in more problems of a suite than this is the suite's template and is not looked for; 1 or
    more (ours)."""

    def __post_init__(self) -> None:
        if not self.suites:
            raise ValueError("suites is empty: name at least one")
        if not (self.substring or self.ngram or self.renamed):
            raise ValueError("substring, ngram and renamed are all off: leave the step out instead")
        _within("shortest", self.shortest, 8, 1000)
        _within("words", self.words, 4, 100)
        _within("fewest_words", self.fewest_words, 2, self.words - 1)
        _within("tokens", self.tokens, 8, 200)
        _within("common", self.common, 1, 10**9)
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}: above 0, to 1")


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}: {low:,} to {high:,}")


def fingerprint(cfg: Config) -> str:
    return digest(*(sha for _, sha in _found(cfg)))


def run(files: Files, cfg: Config, job: Job) -> None:
    found = _found(cfg)
    texts = [text for path, _ in found for text in tasks(Path(path))]
    settings = {k: v for k, v in vars(cfg).items() if k != "suites"}
    identity = settings | {"suites": [[Path(path).name, sha] for path, sha in found]}
    job.layer(files, partial(judge, cfg=cfg, found=found), ["text"], identity=identity)
    job.facts |= {"tasks": len({(t.suite, t.task) for t in texts}), "texts": len(texts)}


def judge(table: pa.Table, cfg: Config, found: tuple[tuple[str, str], ...]) -> pa.Table:
    """The verdicts on a table with `uid` and `text`. found: (path, sha256) of each suite."""
    from pipeline.kernels.overlap import overlaps

    data, offsets = flat(table["text"])
    hits = overlaps(data, offsets, index(cfg, found))
    return verdicts(
        table["uid"],
        [hit.kind if hit else None for hit in hits],
        value=[hit.share if hit else None for hit in hits],
        evidence=[
            _evidence(hit, data[start:end].tobytes()) if hit else None
            for hit, start, end in zip(hits, offsets[:-1], offsets[1:], strict=True)
        ],
    )


@cache
def index(cfg: Config, found: tuple[tuple[str, str], ...]) -> "Needles":
    """What to look for; kept for a worker's life, under the suites' hashes."""
    from pipeline.kernels.overlap import needles

    return needles(
        [text for path, _ in found for text in tasks(Path(path))],
        shortest=cfg.shortest if cfg.substring else None,
        words=cfg.words if cfg.ngram else None,
        fewest_words=cfg.fewest_words,
        tokens=cfg.tokens if cfg.renamed else None,
        share=cfg.share,
        common=cfg.common,
    )


def tasks(path: Path) -> "list[Text]":
    """The texts of a suite file's tasks. RecipeError, with file and row, for what is no suite."""
    rows = _rows(path)
    if not rows:
        raise RecipeError(f"{path}: no task in it")
    return [text for number, row in enumerate(rows, 1) for text in _texts(path, number, row)]


def _found(cfg: Config) -> tuple[tuple[str, str], ...]:
    """(path, sha256) of each suite; in an order that does not depend on the folders they are in."""
    found = {(str(path), sha256_file(path)) for path in _paths(cfg)}
    return tuple(sorted(found, key=lambda f: (Path(f[0]).name, f[1])))


def _evidence(hit: "Overlap", raw: bytes) -> str:
    first, last = (raw.count(b"\n", 0, at) + 1 for at in (hit.first, hit.last))
    lines = f"line {first}" if first == last else f"lines {first}-{last}"
    return f"{hit.text.suite}:{hit.text.task} {hit.text.part} {hit.how} {lines}"


def _paths(cfg: Config) -> Iterator[Path]:
    return (find(suite, "decontaminate") for suite in cfg.suites)


def _rows(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        try:
            return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
        except (pa.ArrowException, OSError) as e:
            raise RecipeError(f"{path}: not a Parquet file that can be read ({e})") from e
    text = _text(path)
    if text.lstrip().startswith("["):
        listed: list[Any] = _json(text, f"{path}")
        return listed
    lines = enumerate(text.split("\n"), 1)
    return [_json(line, f"{path}, line {n}") for n, line in lines if line.strip()]


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as e:
        raise RecipeError(f"{path}: not a gzip file that can be read ({e})") from e
    except UnicodeDecodeError as e:
        raise RecipeError(f"{path}: not UTF-8 ({e})") from e


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise RecipeError(
            f"{where}: not JSON ({e}); a suite is one JSON object a line, or a list of them"
        ) from e


def _texts(path: Path, number: int, row: Any) -> "Iterator[Text]":
    from pipeline.kernels.overlap import Text

    if not isinstance(row, dict):
        raise RecipeError(f"{path}, row {number}: {str(row)[:40]!r} is no task; it takes an object")
    whole = _program(row)
    parts = [(part, text) for name, part in PARTS.items() for text in _strings(whole.get(name))]
    if not parts:
        raise RecipeError(f"{path}, row {number}: none of the columns {', '.join(PARTS)} has text")
    names = [row[name] for name in _NAMES if row.get(name) is not None]
    task = str(names[0] if names else number)
    problem = next((text for part, text in parts if part == "test"), task)
    for part, text in parts:
        yield Text(path.name, task, problem, part, text)
        for docstring in _docstrings(text) if part in ("prompt", "solution") else ():
            yield Text(path.name, task, problem, "docstring", docstring)


def _program(row: dict[str, Any]) -> dict[str, Any]:
    """An infilling task (prompt, middle, `suffix`) as the one program it is cut from: a single line
    or half a docstring is nothing to look for. Other rows as they are."""
    cut = [row.get(name) for name in ("prompt", "canonical_solution", "suffix")]
    if not all(isinstance(text, str) for text in cut):
        return row
    return row | {"prompt": None, "canonical_solution": "".join(map(str, cut))}


def _strings(value: Any) -> list[str]:
    """The texts of a cell: itself, those of a list, or those of a list written as JSON (APPS)."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]
    listed = value if isinstance(value, list) else [value]
    return [text for text in listed if isinstance(text, str) and text.strip()]


def _docstrings(code: str) -> list[str]:
    """The docstrings of Python code, of a signature with nothing after it too; none of other text."""
    for whole in (code, code + "\n    pass\n"):
        try:
            with warnings.catch_warnings(action="ignore"):
                nodes = list(ast.walk(ast.parse(whole)))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, kinds)]
        return [text for text in found if text and text.strip()]
    return []
