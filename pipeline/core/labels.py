"""Labels of documents from a file: JSON Lines or Parquet, by uid, content hash, or repository and path.

Knows nothing of what a label means, nor of the scale that it should lie on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import RecipeError
from pipeline.core.streams import BROKEN, opened

Key = tuple[str, ...]
"""("uid", ...), ("content", ...) or ("path", repository, path)."""


@dataclass(frozen=True)
class Given:
    """One row of a file: the label as it stands there, and the row's number from 1."""

    label: Any
    row: int


def read(path: Path) -> dict[Key, tuple[Given, ...]]:
    """What the file says of each document. RecipeError naming the row that names no document."""
    found: dict[Key, tuple[Given, ...]] = {}
    for number, row in enumerate(_rows(path), 1):
        key = _key(row) if isinstance(row, dict) else None
        if key is None or "label" not in row:
            raise RecipeError(
                f"{path}, row {number}: {json.dumps(row, default=str)[:200]} needs `label`, and `uid`, "
                "`content`, or `repo` and `path`"
            )
        found[key] = (*found.get(key, ()), Given(row["label"], number))
    if not found:
        raise RecipeError(f"{path} has no rows")
    return found


def keys(uid: str, content: str, repo: str, path: str) -> tuple[Key, ...]:
    """The names by which a file of labels may call a document."""
    return ("uid", uid), ("content", content), ("path", repo, path)


def _key(row: dict[str, Any]) -> Key | None:
    for name in ("uid", "content"):
        if isinstance(found := row.get(name), str):
            return (name, found)
    repo, path = row.get("repo"), row.get("path")
    return ("path", repo, path) if isinstance(repo, str) and isinstance(path, str) else None


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        yield from _table(path)
        return
    read = 0
    try:
        with opened(str(path)) as file:
            for line in file:
                read += 1
                if line.strip():
                    yield json.loads(line)
    except (*BROKEN, RecursionError) as e:
        raise RecipeError(f"{path}, line {read}: not JSON Lines ({e})") from e


def _table(path: Path) -> Iterator[Any]:
    wanted = ("uid", "content", "repo", "path", "label")
    try:
        with pq.ParquetFile(path) as file:
            there = [name for name in wanted if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=there):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as e:
        raise RecipeError(f"{path}: not a Parquet file that can be read ({e})") from e
