"""How fast files become filtered documents: ingest, licence, redact and the filter's rules.

    python -m tests.bench.filter --corpus DIR_OR_PARQUET --json

The real boxes run as a recipe in this one process, each reading and writing its Parquet and its
manifest; the corpus is first written out as one table (`--as folders`: as a folder a repository,
whose small shards show what a shard costs). Rates are bytes of text by the CPU seconds of this
process, all its threads together. `kernel` is the counting alone, on arrays in memory.
detect-secrets, where its command is found, scans a few megabytes of the same files.
"""

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import filter
from pipeline.core.schema import digest
from tests.bench import corpus
from tests.running import recipe_file, run

STEPS = {"raw": "ingest + licence", "private": "redact", "clean": "filter, bigcode"}
RIVAL_BYTES = 3_000_000
"""detect-secrets reads 0.13 MB/s: this much takes it half a minute."""


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    table = corpus.load(given.corpus, given.limit)
    with tempfile.TemporaryDirectory() as folder:
        write = folders if given.layout == "folders" else one_table
        result = measured(table, Path(folder), write)
        result["rivals"] = rivals(table, Path(folder), given.detect_secrets)
    result["corpus"] = corpus.described(table, given.corpus)
    result["versions"] = corpus.versions("pyarrow", "numba", "numpy", "detect-secrets")
    corpus.tell(result, [shown(result)], given)


def _parser() -> argparse.ArgumentParser:
    made = corpus.parser(__doc__, "100M")
    made.add_argument("--as", dest="layout", choices=["table", "folders"], default="table")
    made.add_argument("--detect-secrets", default="detect-secrets", help="its command")
    return made


def measured(table: pa.Table, folder: Path, write: Callable[[pa.Table, Path], int]) -> Any:
    """Rates of our steps, each alone and together, and of counting alone."""
    size = write(table, folder / "source")
    write(table.slice(0, 20), folder / "few")
    warm = cpu(lambda: list(steps(folder, "few", "opencoder")))
    spent = dict(steps(folder, "source", "bigcode"))
    shutil.rmtree(folder / "source-store/filter")
    opencoder = sum(s for _, s in steps(folder, "source", "opencoder"))
    parts = {STEPS[step]: rate(size, seconds) for step, seconds in spent.items()}
    parts["filter, opencoder (apart)"] = rate(size, opencoder)
    parts |= {f"kernel, {kind}": rate(size, s) for kind, s in kernels(table)}
    together = rate(size, sum(spent.values()))
    return {"ours": together | {"first_use_s": round(warm, 1), "parts": parts}}


def kernels(table: pa.Table) -> Iterator[tuple[str, float]]:
    """CPU seconds of each layer of counts, without reading or writing."""
    table = table.append_column("uid", pa.array([""] * len(table)))
    for kind, (count, given) in filter.LAYERS.items():
        chosen = table.select(["uid", *given])
        yield kind, min(cpu(partial(count, chosen)) for _ in range(2))


def one_table(table: pa.Table, root: Path) -> int:
    """The corpus as one Parquet file; returns the bytes of its texts."""
    root.mkdir(parents=True)
    names = {"repo": "repo_name", "path": "path", "language": "language", "text": "content"}
    pq.write_table(table.rename_columns(names), root / "files.parquet")
    return corpus.text_bytes(table)


def folders(table: pa.Table, root: Path) -> int:
    """The texts as files, a folder a repository; returns their bytes. Unsafe paths are left out."""
    size = 0
    for row in table.select(["repo", "path", "text"]).to_pylist():
        path = root / row["repo"].replace("/", "__") / row["path"]
        if ".." in PurePosixPath(row["path"]).parts or path.is_dir() or path.parent.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        size += path.write_bytes(row["text"].encode())
    return size


def steps(folder: Path, source: str, rules: str) -> Iterator[tuple[str, float]]:
    """CPU seconds of each step that is not made yet, in a store of the source's own."""
    recipe = {
        "raw": {"use": "ingest", "source": str(folder / source)},
        "private": {"use": "redact", "files": "raw"},
        "clean": {"use": "filter", "files": "private", "rules": rules},
    }
    name = recipe_file(folder / f"{source}-{rules}.yaml", recipe)
    for step in recipe:
        yield step, cpu(partial(run, name, folder / f"{source}-store", until=step))


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of this process, all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def rate(size: int, seconds: float) -> dict[str, float]:
    return {"mb_per_s_core": round(size / max(seconds, 1e-9) / 1e6, 3)}


def rivals(table: pa.Table, folder: Path, command: str) -> dict[str, Any]:
    """detect-secrets with its default plugins, over a sample of the files."""
    found = shutil.which(command)
    if found is None:
        return {}
    size = folders(sample(table), folder / "rival")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [found, "scan", "--all-files", "."],
        cwd=folder / "rival",
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"detect-secrets": rate(size, seconds) | {"bytes": size}}


def sample(table: pa.Table) -> pa.Table:
    """Files of the table by the hash of their names, up to RIVAL_BYTES."""
    keys = [digest(r, p) for r, p in zip(*_names(table), strict=True)]
    sizes = pc.binary_length(table["text"]).to_pylist()
    return table.take(corpus.within(keys, sizes, RIVAL_BYTES))


def _names(table: pa.Table) -> tuple[list[str], list[str]]:
    return table["repo"].to_pylist(), table["path"].to_pylist()


def shown(result: dict[str, Any]) -> str:
    """The table: what, MB/s per core."""
    source, ours = result["corpus"], result["ours"]
    told = {"ingest + licence + redact + bigcode": ours, **ours["parts"], **result["rivals"]}
    rows = [f"| {name} | {found['mb_per_s_core']:.2f} |" for name, found in told.items()]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join(
        [
            f"{source['files']:,} files, {source['bytes'] / 1e6:.1f} MB: {source['source']}; {versions}",
            f"First use of every kernel (compiled, or loaded from the cache): {ours['first_use_s']} s",
            "",
            "| | MB/s per core |",
            "|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
