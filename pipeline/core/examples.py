"""Examples of good code as texts: source files, rows with a text, instruction data, suites' tasks.

A row becomes a text in the one way that `rendered` says: hqcode's rows and tables of files as they
are, instruction data as question, blank line, answer; a function to complete with its completion.
Knows nothing of what the examples are for.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import readers, sources
from pipeline.core.errors import StageError
from pipeline.core.language_table import EXTENSIONS, NAMES
from pipeline.core.languages import language_of
from pipeline.core.repos import Entry, Repo
from pipeline.core.streams import BROKEN, opened
from pipeline.core.tables import COLUMNS

LARGEST = 8_000_000
"""Files and texts of more bytes are left out (OpenCoder's prefilter)."""
QUESTIONS = ("instruction", "problem", "question", "query", "prompt")
ANSWERS = ("response", "output", "solution", "solutions", "completion", "answer")
CHATS = ("messages", "conversations", "conversation")
CODE = ("code", "reference_code", "canonical_solution", "content", "text", "solution", "solutions")
_PROMPTS = ("prompt", "complete_prompt")
_FENCE = re.compile(r"^```(\w[\w+#-]*)", re.M)
_UNSAID = {"system", "tool", "function"}
_HEAD = 4096


class Example(NamedTuple):
    """One good file or row. `repo` is what the row says it is of, or the row itself."""

    text: str
    repo: str
    path: str
    language: str | None


def repositories(path: str) -> list[Repo]:
    """What a path of examples holds, unread. RecipeError when it is not there."""
    if path.endswith(".json") and os.path.isfile(path):  # a suite: ingest takes none for a table
        info, name = os.stat(path), os.path.basename(path)
        entry = Entry(name, info.st_size, info.st_mtime_ns)
        return [Repo(name, name, "table", path, (entry,))]
    return sources.repositories(sources.guess(path))


def read(path: str, missed: Counter[str]) -> Iterator[Example]:
    """Every example at `path`: a folder of repositories, an archive, or tables.

    `missed` counts what is no example, by reason. StageError, with the columns it has and those it
    could have, for a table none of whose rows has a text.
    """
    for repo in repositories(path):
        yield from _of_table(repo, missed) if repo.kind == "table" else _of_files(repo, missed)


def rendered(row: dict[str, Any]) -> str | None:
    """A row as a text, or None where no column that is known has one.

    In this order: a chat's turns but the system's, by blank lines; a function's prompt with its
    `canonical_solution` straight after; a question (and its `input`), a blank line, the answer; the
    text of a column that holds code. A list of solutions gives its first.
    """
    for name in CHATS:
        if isinstance(row.get(name), list):
            return _joined(_turns(row[name]))
    prompt, body = _first(row, _PROMPTS), _first(row, ("canonical_solution",))
    if prompt and body:
        return prompt + body
    question, answer = _first(row, QUESTIONS), _first(row, ANSWERS)
    if question and answer:
        return _joined([question, _first(row, ("input",)), answer])
    return _first(row, CODE)


def _turns(chat: Sequence[Any]) -> list[str | None]:
    said = [turn for turn in chat if isinstance(turn, dict)]
    spoken = [t for t in said if (t.get("role") or t.get("from")) not in _UNSAID]
    return [_first(turn, ("content", "value")) for turn in spoken]


def _joined(parts: Sequence[str | None]) -> str | None:
    said = [p.strip("\n") for p in parts if p]
    return "\n\n".join(said) + "\n" if said else None  # files end in a line's end, so must these


def _first(row: dict[str, Any], names: Sequence[str]) -> str | None:
    """The first of these columns that has a text; of a list, also one written as JSON, its first."""
    return next((text for name in names if (text := _text(row.get(name)))), None)


def _text(value: Any) -> str | None:
    if isinstance(value, str) and value.startswith('["'):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) and value.strip() else None


def _of_files(repo: Repo, missed: Counter[str]) -> Iterator[Example]:
    for raw in readers.read(repo, LARGEST, lambda *_: None):
        if raw.data is None:
            missed["unreadable"] += 1
            continue
        language = language_of(raw.path, raw.data[:_HEAD])
        try:
            text = raw.data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = ""
        if language is None or not text.strip() or "\0" in text:
            missed["not_source"] += 1
        else:
            yield Example(text, raw.repo, raw.path, language)


def _of_table(repo: Repo, missed: Counter[str]) -> Iterator[Example]:
    """The rows of a table file. StageError when not one of them has a text."""
    columns: dict[str, None] = {}
    found = 0
    try:
        for number, row in enumerate(_rows(repo.root)):
            text = rendered(row) if isinstance(row, dict) else None
            columns |= dict.fromkeys(row if isinstance(row, dict) else ())
            if text is None or len(text) > LARGEST:
                missed["without_text" if text is None else "too_large"] += 1
                continue
            found += 1
            yield _example(text, row, f"{repo.entries[0].path}#{number}")
    except BROKEN as e:
        raise StageError(f"{repo.root}: cannot be read ({e}); give a whole file") from e
    if not found:
        raise StageError(
            f"{repo.root}: no row has a text; its columns are {', '.join(columns) or 'none'}. It "
            f"takes one of {', '.join(CODE)}, or one of {', '.join(QUESTIONS)} with one of "
            f"{', '.join(ANSWERS)}, or {' or '.join(CHATS)}: rename a column"
        )


def _example(text: str, row: dict[str, Any], where: str) -> Example:
    told = {ours: _first(row, COLUMNS[ours]) for ours in ("repo", "path")}
    said = _first(row, (*COLUMNS["language"], "programming_language"))
    language = _known(said or "") or _fenced(text) or language_of(told["path"] or "")
    return Example(text, told["repo"] or where, told["path"] or where, language)


def _fenced(text: str) -> str | None:
    match = _FENCE.search(text)
    return _known(match[1]) if match else None


@cache
def _known(name: str) -> str | None:
    """A language by our name for it, from a name or an extension in any case."""
    ours = {k.casefold(): k for k in (*EXTENSIONS, *NAMES)}
    return ours.get(name.casefold()) or language_of(f"x.{name.casefold()}")


def _rows(path: str) -> Iterator[Any]:
    """A table's rows, as dicts where they are objects; null for a line that is no JSON."""
    if path.endswith(".parquet"):
        yield from _parquet(path)
        return
    with opened(path) as f:
        if f.read(1) == b"[":  # a list of objects, as some suites are
            yield from _json(b"[" + f.read()) or []
            return
    with opened(path) as f:
        for line in f:
            if not line.isspace():
                yield _json(line)


def _parquet(path: str) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        there = file.schema_arrow.names
        read = {*QUESTIONS, *ANSWERS, *CHATS, *CODE, *_PROMPTS, "input", "programming_language"}
        read |= {n for ours in ("repo", "path", "language") for n in COLUMNS[ours]}
        names = [n for n in there if n in read]
        if not names:
            yield dict.fromkeys(there)
        for batch in file.iter_batches(1024, columns=names) if names else ():
            yield from _plain(batch)


def _plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:  # a row of it; the others are worth having
        return [row for k in range(len(batch)) for row in _one(batch.slice(k, 1))]


def _one(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [dict.fromkeys(batch.schema.names)]


def _json(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
