"""Tables of source files, row by row: Parquet by batches, JSON Lines by lines; bad rows say why.

The Stack v1 and v2 (flat, or a list of files a repository), StarCoderData and common exports.
Knows nothing of languages, and of licences only how several are written as one.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa

from pipeline.core import licences
from pipeline.core.repos import Raw, Repo, Skip, left_out, quarantine, shown
from pipeline.core.streams import BROKEN, opened

COLUMNS = {
    "text": ("text", "content", "code"),
    "repo": ("repo", "repo_name", "max_stars_repo_name", "repository", "repository_name"),
    "path": ("path", "file_path", "max_stars_repo_path", "filename"),
    "language": ("language", "lang", "programming_language"),
    "licence": (
        *("licence", "license", "licenses", "max_stars_repo_licenses"),
        *("detected_licenses", "gha_license_id"),
    ),
    "stars": ("stars", "star_count", "max_stars_count", "star_events_count"),
    "encoding": ("src_encoding",),
    "files": ("files",),
}
"""Our column -> the names it goes by in The Stack v1 and v2, StarCoderData and common exports.
`files` is a list of rows, one a file, inside a repository's row."""
BATCH_BYTES = 16_000_000
"""About how much of a Parquet file is unpacked at a time (ours)."""
_ENCODINGS = re.compile(
    r"(utf|iso|latin|ascii|us.ascii|cp|windows|koi8|mac|big5|gb|euc|shift|tis)", re.I
)
Rows = Iterator[tuple[int, dict[str, Any] | str]]
"""(number from 0, row by our names, or what is wrong with it)."""


def read(repo: Repo, limit: int, skip: Skip) -> Iterator[Raw]:
    """Every row of a table file, one at a time; a repository's list of files counts as rows."""
    entry, given = repo.entries[0], dict(repo.columns)
    rows = _parquet(repo, given) if entry.path.endswith(".parquet") else _lines(repo, given, limit)
    number = -1
    try:
        for number, row in rows:
            for one in _files(row, given):
                yield _row(entry.path, number, one, limit, skip)
    except BROKEN as e:
        kind = "Parquet" if entry.path.endswith(".parquet") else "JSON Lines"
        said = (str(e).splitlines() or [type(e).__name__])[0]
        yield quarantine(".", entry.path, f"unreadable {kind} from row {number + 1}: {said}")


def _files(row: dict[str, Any] | str, given: dict[str, str]) -> Iterator[dict[str, Any] | str]:
    """A row, or each file of a repository's row."""
    if isinstance(row, str) or not isinstance(row.get("files"), list):
        yield row
        return
    if not row["files"]:
        yield "a repository without files"
    for file in row["files"]:
        own = _ours(file, given) if isinstance(file, dict) else f"a file is {_kind(file)}"
        told = {k: v for k, v in row.items() if k != "files"}
        yield (
            own if isinstance(own, str) else told | {k: v for k, v in own.items() if v is not None}
        )


def _row(name: str, number: int, row: dict[str, Any] | str, limit: int, skip: Skip) -> Raw:
    where = f"{name}#{number}"
    if isinstance(row, str):
        rule = "too_large" if row is TOO_LONG else None
        return (
            left_out(".", where, (rule, row))
            if rule
            else quarantine(".", where, f"row {number}: {row}")
        )
    repo, path = _word(row.get("repo") or "."), _word(row.get("path") or where)
    language = row.get("language")
    language = _word(language) if isinstance(language, str | bytes) and language else None
    if why := skip(repo, path, (), language):
        return left_out(repo, path, why)
    try:
        data = _bytes(row.get("text"), row.get("encoding"))
    except (ValueError, LookupError) as e:
        return quarantine(repo, path, f"{name} row {number}: {e}")
    if len(data) > limit:
        return left_out(repo, path, ("too_large", f"{len(data)} bytes"))
    licence = _licence(row.get("licence"))
    return Raw(repo, path, data, None, None, language, licence, _stars(row.get("stars")))


def _word(value: Any) -> str:
    """A name as text; some writers leave Parquet's texts as plain bytes."""
    return shown(
        value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    )


def _kind(value: Any) -> str:
    """What a value is, not what is in it: that may be a secret."""
    return "null" if value is None else f"of type {type(value).__name__}"


def _bytes(text: Any, encoding: Any) -> bytes:
    """A text as UTF-8; ValueError or LookupError where it is none."""
    if isinstance(text, str):
        return text.encode()
    if not isinstance(text, bytes):
        raise ValueError(f"text is {_kind(text)}")
    encoding = _word(encoding) if isinstance(encoding, bytes) else encoding
    if not isinstance(encoding, str) or not encoding or codecs.lookup(encoding).name == "utf-8":
        return text
    if not _ENCODINGS.match(encoding):
        raise LookupError(f"encoding {encoding!r} is none of text")
    return text.decode(encoding).encode()


def _licence(value: Any) -> str | None:
    """A column's licence, or list of licences that hold together, as SPDX."""
    names = value if isinstance(value, list) else [value]
    return _all_of(tuple(_word(name) for name in names if name))


@lru_cache(maxsize=1 << 14)
def _all_of(names: tuple[str, ...]) -> str | None:
    known = sorted({licences.normalise(name) or licences.UNKNOWN for name in names})
    parts = [f"({k})" if " OR " in k and len(known) > 1 else k for k in known]
    return " AND ".join(parts) or None


def _stars(value: Any) -> int | None:
    fits = isinstance(value, int | float) and abs(value) < 2**31  # not for nan or infinity either
    return int(value) if fits else None


def _named(columns: Iterable[str], given: dict[str, str]) -> dict[str, str]:
    """Our column names -> theirs, of those that are there."""
    there = set(columns)
    wanted = {ours: (given[ours],) if ours in given else names for ours, names in COLUMNS.items()}
    found = {o: next((t for t in names if t in there), None) for o, names in wanted.items()}
    return {ours: theirs for ours, theirs in found.items() if theirs is not None}


def _ours(row: dict[str, Any], given: dict[str, str]) -> dict[str, Any] | str:
    """A row by our names, or what is wrong with it."""
    names = _named(row, given)
    if "text" not in names and "files" not in names:
        return _no_text(row, given)
    return {ours: row[theirs] for ours, theirs in names.items()}


def _no_text(columns: Iterable[str], given: dict[str, str]) -> str:
    there = ", ".join(columns)
    if "text" in given:
        return f"no column {given['text']!r}, which `columns` says is the text; it has {there}"
    return (
        f"no text column; it has {there}; name one of them {' or '.join(COLUMNS['text'])}, "
        "or say which it is: columns: {text: ...}"
    )


def _parquet(repo: Repo, given: dict[str, str]) -> Rows:
    import pyarrow.parquet as pq

    with pq.ParquetFile(
        repo.root, page_checksum_verification=True, pre_buffer=False, buffer_size=1 << 20
    ) as file:
        names = _named(file.schema_arrow.names, given)
        if wrong := _unfit(file.schema_arrow.names, names, given):
            yield 0, wrong
            return
        number = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group)
            rows = max(1, min(10_000, size.num_rows * BATCH_BYTES // max(1, size.total_byte_size)))
            for batch in file.iter_batches(rows, [group], list(names.values())):
                yield from enumerate(_rows(batch, names), number)
                number += batch.num_rows


def _unfit(columns: list[str], names: dict[str, str], given: dict[str, str]) -> str | None:
    """Why a table with these columns cannot be read, if so. A list of files has columns of its own."""
    if "files" not in names:
        if "text" not in names:
            return _no_text(columns, given)
        if lost := [theirs for theirs in given.values() if theirs not in columns]:
            return f"no column {lost[0]!r}, which `columns` names; it has {', '.join(columns)}"
    twice = _twice(n for n in columns if n in names.values())
    return f"two columns are called {twice}" if twice else None


def _rows(batch: pa.RecordBatch, names: dict[str, str]) -> Iterator[dict[str, Any]]:
    columns = [_values(batch.column(theirs)) for theirs in names.values()]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values; texts as bytes, since Parquet's need not be valid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return [None if v is None else _text(v) for v in column.cast(_BINARY).to_pylist()]
        return list(column.to_pylist())
    except UnicodeDecodeError:  # inside a list or struct: nothing there tells which row
        return [_value(column, i) for i in range(len(column))]


_BINARY = pa.large_binary()


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _value(column: pa.Array, at: int) -> Any:
    try:
        return column[at].as_py()
    except UnicodeDecodeError as e:
        return f"invalid UTF-8: {e}"


TOO_LONG = "a longer line than max_bytes allows"


def _lines(repo: Repo, given: dict[str, str], limit: int) -> Rows:
    with opened(repo.root) as f:
        # an escaped character may take twice its bytes
        for number, line in enumerate(_split(f, 2 * limit + 65_536)):
            if line is None or not line.isspace():
                yield number, TOO_LONG if line is None else _json(line, given)


def _split(f: Any, limit: int) -> Iterator[bytes | None]:
    """Lines of at most `limit` bytes; a longer one is skipped in pieces and given as None."""
    while line := f.readline(limit):
        if len(line) < limit or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = f.readline(1 << 16)
        yield None


def _json(line: bytes, given: dict[str, str]) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as e:
        return f"{e}"[:300]
    return _ours(row, given) if isinstance(row, dict) else f"{type(row).__name__}, no JSON object"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"key {_twice(k for k, _ in pairs)!r} is there twice")
    return made


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((n for n in names if n in seen or seen.add(n)), None)  # type: ignore[func-returns-value]
