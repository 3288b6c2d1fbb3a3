"""The corpus of a benchmark: files of a folder, a table or this Python's packages, sampled by hash.

The same place, limit and seed give the same rows on every run. Knows nothing of what is measured.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.config import count
from pipeline.core.languages import language_of
from pipeline.core.schema import digest
from pipeline.core.store import Store

LARGEST = 8_000_000
"""Files above this many bytes are left out (OpenCoder's prefilter)."""
COLUMNS = pa.schema(
    [
        ("repo", pa.string()),
        ("path", pa.string()),
        ("language", pa.string()),
        ("text", pa.large_string()),
    ]
)
Found = tuple[str, str, Path, int]
"""Repository, path in it, the file, its bytes."""


def load(where: str | None, limit: int, seed: int = 0, each: bool = False) -> pa.Table:
    """Up to `limit` bytes of text (each: of every language) as rows of COLUMNS, sorted by (repo, path).

    where: a folder (each folder in it is a repository), a Parquet file or a folder of them with the
    columns repo, path, language and text; None: this Python's standard library and site-packages.
    Files are taken in the order of the hash of (seed, path), so that versions of a file stay together.
    ValueError when nothing is there.
    """
    tables = _tables(where)
    read = partial(_from_parquet, tables) if tables else partial(_from_files, where)
    table = read(limit, seed, each)
    if not len(table):
        raise ValueError(f"{where or 'this Python'}: no source file there")
    return table.sort_by([("repo", "ascending"), ("path", "ascending")])


def standard_library(limit: int, seed: int = 0) -> pa.Table:
    """This Python's standard library as rows of COLUMNS, up to `limit` bytes; its repo is `stdlib`."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = list(_walk("stdlib", root, frozenset(["site-packages", "dist-packages"])))
    keys = [digest(str(seed), path) for _, path, _, _ in found]
    rows = (_row(found[i]) for i in within(keys, [f[3] for f in found], limit))
    return pa.Table.from_pylist([r for r in rows if r], COLUMNS)


def versions(*names: str) -> dict[str, str]:
    """This Python's version, and that of each of these distributions that is installed."""
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def parser(doc: str | None, limit: str) -> argparse.ArgumentParser:
    """What every benchmark takes: --corpus, --limit, --json and --out."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--corpus", help="a folder of repositories, or Parquet: repo, path, text")
    made.add_argument("--limit", type=size, default=limit, help="bytes of text to take")
    made.add_argument("--json", action="store_true", help="end with one line of JSON")
    made.add_argument("--out", help="also write the table to this Markdown file")
    return made


def size(text: str) -> int:
    """`100M` in bytes."""
    return int(count(text))


def tell(data: dict[str, Any], lines: Iterable[str], args: argparse.Namespace) -> None:
    """Print the table, and write it or the data where the arguments ask for it."""
    report = "\n".join([heading(), "", *lines])
    print(report)
    if args.out:
        Path(args.out).write_text(report + "\n")
    if args.json:
        print(json.dumps(data))


def heading() -> str:
    """The command that is running, on what machine and when: the first line of a result."""
    name = (
        getattr(sys.modules["__main__"], "__spec__", None) or sys.modules[__name__].__spec__
    ).name
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    command = shlex.join(["python", "-m", name, *sys.argv[1:]])
    return f"`{command}`, {date.today()}, {os.cpu_count()} cores {model or platform.machine()}."


Measure = Callable[[pa.Table, Store, argparse.Namespace], dict[str, Any]]
"""(corpus, store, arguments) -> what was found."""
Shown = Callable[[dict[str, Any]], Iterable[str]]
"""Its lines."""


def measured(
    args: argparse.Namespace, measure: Measure, shown: Shown, libraries: Iterable[str]
) -> None:
    """Measure the corpus on one core in a store that goes away, and tell it."""
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    pa.set_cpu_count(1)
    table = load(args.corpus, args.limit)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        told = measure(table, Store(folder), args)
    told["corpus"] = described(table, args.corpus)
    told["versions"] = versions(*libraries)
    tell(told, shown(told), args)


def described(table: pa.Table, where: str | None) -> dict[str, object]:
    """What a benchmark says of its corpus: files, bytes and source."""
    python = f"this Python's ({sys.version.split()[0]}) standard library and site-packages"
    return {"files": len(table), "bytes": text_bytes(table), "source": where or python}


def text_bytes(table: pa.Table) -> int:
    """UTF-8 bytes of all texts."""
    return int(pc.sum(pc.binary_length(table["text"])).as_py() or 0)


def _tables(where: str | None) -> list[Path]:
    if where is None:
        return []
    path = Path(where).expanduser()
    if not path.exists():
        raise ValueError(f"{where}: no such file or folder")
    return [path] if path.is_file() else sorted(path.glob("*.parquet"))


def _from_parquet(paths: list[Path], limit: int, seed: int, each: bool) -> pa.Table:
    """Two readings: keys and sizes first, then only the chosen rows."""
    keys, size, kinds = [], [], []
    for table in (t for path in paths for t in _batches(path)):
        keys += [digest(str(seed), name) for _, name in _names(table)]
        size += pc.binary_length(table["text"]).to_pylist()
        kinds += table["language"].to_pylist()
    chosen = np.zeros(len(keys), bool)
    chosen[within(keys, size, limit, kinds if each else None)] = True
    out, at = [], 0
    for path in paths:
        for batch in _batches(path):
            out.append(batch.filter(pa.array(chosen[at : at + len(batch)])).cast(COLUMNS))
            at += len(batch)
    return pa.concat_tables(out)


def _batches(path: Path) -> Iterator[pa.Table]:
    file = pq.ParquetFile(path)
    if missing := [n for n in COLUMNS.names if n not in file.schema_arrow.names]:
        raise ValueError(f"{path}: no column {missing[0]!r}; it needs {', '.join(COLUMNS.names)}")
    for batch in file.iter_batches(8192, columns=COLUMNS.names):
        yield pa.Table.from_batches([batch])


def _names(table: pa.Table) -> Iterator[tuple[str, str]]:
    return zip(table["repo"].to_pylist(), table["path"].to_pylist(), strict=True)


def _from_files(where: str | None, limit: int, seed: int, each: bool) -> pa.Table:
    found = list(_installed() if where is None else _folder(Path(where).expanduser()))
    keys = [digest(str(seed), path) for _, path, _, _ in found]
    kinds = [str(language_of(path)) for _, path, _, _ in found] if each else None
    rows = (_row(found[i]) for i in within(keys, [f[3] for f in found], limit, kinds))
    return pa.Table.from_pylist([r for r in rows if r], COLUMNS)


def within(
    keys: list[str], size: list[int], limit: int, kinds: list[str] | None = None
) -> list[int]:
    """The first rows in key order whose sizes sum to no more than the limit; with kinds, of each."""
    kinds = [""] * len(keys) if kinds is None else kinds
    order = sorted(range(len(keys)), key=keys.__getitem__)
    taken: list[int] = []
    for kind in sorted(set(kinds)):
        mine = [i for i in order if kinds[i] == kind]
        total = np.cumsum([size[i] for i in mine])
        taken += mine[: int(np.searchsorted(total, limit, side="right"))]
    return taken


def _folder(root: Path) -> Iterator[Found]:
    for repo in sorted(p for p in root.iterdir() if p.is_dir()):
        yield from _walk(repo.name, repo, frozenset())


def _installed() -> Iterator[Found]:
    paths = sysconfig.get_paths()
    for root in sorted({paths["purelib"], paths["platlib"]}):
        yield from _folder(Path(root))
    yield from _walk("stdlib", Path(paths["stdlib"]), frozenset(["site-packages"]))


def _walk(repo: str, root: Path, without: frozenset[str]) -> Iterator[Found]:
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in without and f not in ("__pycache__", ".git")]
        for name in names:
            path = Path(folder, name)
            if language_of(name) and path.is_file() and 0 < path.stat().st_size <= LARGEST:
                yield repo, path.relative_to(root).as_posix(), path, path.stat().st_size


def _row(found: Found) -> dict[str, str] | None:
    """The file as a row; None when it is no UTF-8 text."""
    repo, path, file, _ = found
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeError:
        return None
    if "\0" in text:
        return None
    return {"repo": repo, "path": path, "language": str(language_of(path)), "text": text}
