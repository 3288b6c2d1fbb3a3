"""The corpus of the results: source files of pinned wheels of PyPI, several versions of each, as Parquet.

    python -m tests.bench.wheels FOLDER

Downloads what `wheels.txt` lists (about 0.7 GB) and writes FOLDER/corpus/*.parquet: repo (name-version),
path, language, text. 94,211 files, 1,052 MB; near copies abound, as in a crawl.
"""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

LIST = Path(__file__).with_suffix(".txt")
LANGUAGES = {
    **dict.fromkeys(("py", "pyi", "pyx", "pxd"), "Python"),
    **dict.fromkeys(("c", "h"), "C"),
    **dict.fromkeys(("cpp", "hpp"), "C++"),
    **dict.fromkeys(("f", "f90"), "Fortran"),
    "js": "JavaScript",
    "ts": "TypeScript",
    "css": "CSS",
}
PART = 32_000_000
"""Bytes of text in a Parquet file."""


def main(folder: Path) -> None:
    """Download what is not there yet, then write the Parquet files anew."""
    for pin in LIST.read_text().split():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "-d", str(folder / "wheels"), pin], check=True)
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    size = number = 0
    for row in _rows(folder / "wheels"):
        rows.append(row)
        size += len(row["text"])
        if size > PART:
            _write(rows, folder / f"corpus/{number:03d}.parquet")
            rows, size, number = [], 0, number + 1
    _write(rows, folder / f"corpus/{number:03d}.parquet")


def _rows(wheels: Path) -> Iterator[dict[str, str]]:
    """Files in a language above, with text in UTF-8, 1 byte to 2 MB."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in sorted(archive.infolist(), key=lambda m: m.filename):
                language = LANGUAGES.get(member.filename.rpartition(".")[2])
                if language and 0 < member.file_size <= 2_000_000:
                    yield from _row(wheel, member.filename, language, archive.read(member))


def _row(wheel: Path, path: str, language: str, data: bytes) -> Iterator[dict[str, str]]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if "\0" not in text:
        repo = "-".join(wheel.name.split("-")[:2])
        yield {"repo": repo, "path": path, "language": language, "text": text}


def _write(rows: list[dict[str, str]], path: Path) -> None:
    texts = pa.schema([(c, pa.string()) for c in ("repo", "path", "language")])
    schema = texts.append(pa.field("text", pa.large_string()))
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
