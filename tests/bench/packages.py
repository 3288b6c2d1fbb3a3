"""The corpora of the results: source files of pinned packages of PyPI and npm, as Parquet.

    python -m tests.bench.packages FOLDER             # CORPUS: wheels.txt
    python -m tests.bench.packages FOLDER mixed.txt   # of `quality`: one version each, several languages

Downloads what the list names, by pip (`name==version`) and npm (`name@version`), and writes
FOLDER/corpus/*.parquet: repo (name-version), path, language, text. wheels.txt: 0.7 GB of several
versions of each, so near copies abound, as in a crawl; 94,211 files, 1,052 MB.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.archives import Member, members

LANGUAGES = {
    **dict.fromkeys(("py", "pyi", "pyx", "pxd"), "Python"),
    **dict.fromkeys(("c", "h"), "C"),
    **dict.fromkeys(("cpp", "hpp"), "C++"),
    **dict.fromkeys(("f", "f90"), "Fortran"),
    "js": "JavaScript",
    "ts": "TypeScript",
    "css": "CSS",
}
OF_NPM = LANGUAGES | {
    **dict.fromkeys(("mjs", "cjs", "jsx"), "JavaScript"),
    **dict.fromkeys(("tsx", "mts"), "TypeScript"),
    **dict.fromkeys(("cc", "cxx", "hh"), "C++"),
}
BUILT = re.compile(
    r"/(dist|build|umd|es|esm|cjs|_esm|_cjs|lib[-.](esm|commonjs|amd))/|\.d\.[cm]?ts$|\.min\.\w+$"
)
"""What npm packages hold beside their sources and repositories do not."""
PART = 32_000_000
"""Bytes of text in a Parquet file."""


def main(folder: Path, listed: str = "wheels.txt") -> None:
    """Download what is not there yet, then write the Parquet files anew."""
    (folder / "packages").mkdir(parents=True, exist_ok=True)
    for pin in Path(__file__).with_name(listed).read_text().split():
        download(pin, folder / "packages")
    (folder / "corpus").mkdir(exist_ok=True)
    rows: list[dict[str, str]] = []
    size = number = 0
    for row in _rows(folder / "packages"):
        rows.append(row)
        size += len(row["text"])
        if size > PART:
            _write(rows, folder / f"corpus/{number:03d}.parquet")
            rows, size, number = [], 0, number + 1
    _write(rows, folder / f"corpus/{number:03d}.parquet")


def download(pin: str, folder: Path) -> None:
    """Get one package by its registry's own client, which checks what it gets."""
    if "==" in pin:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "-d", str(folder), pin], check=True)
    elif not (folder / tarball(pin)).exists():
        npm = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
        subprocess.run([*npm, pin], check=True, stdout=subprocess.DEVNULL)


def tarball(pin: str) -> str:
    """The file that `npm pack` writes: `@scope/name@1.0.0` is in `scope-name-1.0.0.tgz`."""
    name, _, version = pin.rpartition("@")
    return f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"


def _rows(packages: Path) -> Iterator[dict[str, str]]:
    """Files in a language above, with text in UTF-8, 1 byte to 2 MB."""
    for package in sorted((*packages.glob("*.whl"), *packages.glob("*.tgz"))):
        found = (row for member in members(str(package)) for row in _row(package, member))
        yield from sorted(found, key=lambda row: row["path"])


def _row(package: Path, member: Member) -> Iterator[dict[str, str]]:
    """One file of a package. `repo`: its name and version; an npm tarball's one folder is no path."""
    npm = package.suffix == ".tgz"
    language = (OF_NPM if npm else LANGUAGES).get(member.name.rpartition(".")[2])
    built = npm and BUILT.search(member.name)
    if not language or built or not (member.regular and 0 < member.size <= 2_000_000):
        return
    try:
        text = member.load(member.size).decode()
    except UnicodeDecodeError:
        return
    if "\0" not in text:
        repo = package.stem if npm else "-".join(package.name.split("-")[:2])
        path = member.name.partition("/")[2] if npm else member.name
        yield {"repo": repo, "path": path, "language": language, "text": text}


def _write(rows: list[dict[str, str]], path: Path) -> None:
    texts = pa.schema([(c, pa.string()) for c in ("repo", "path", "language")])
    schema = texts.append(pa.field("text", pa.large_string()))
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
