"""Where artifacts live: content-addressed folders on any fsspec filesystem, committed by a manifest.

    <store>/<stage>/<key12>/manifest.json     written last: its presence is the commit
    <store>/<stage>/shards/<name>-<key12>.*   outputs of map-only boxes, shared by all artifacts
    <store>/runs/<run>/<step>.json            readable pointers to artifacts

Every file is written under a temporary name, synced, and then created exclusively: whoever comes
second loses quietly, so a paused writer that wakes up spoils nothing. Knows nothing of boxes.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import Busy, RecipeError, StageError


@dataclass(frozen=True)
class Store:
    """A store by its URI (`./store`, `/data/store`, `s3://bucket/store`, `gs://...`)."""

    uri: str

    def __post_init__(self) -> None:
        if not self.uri:
            raise RecipeError("the store's place is empty; name a folder or a URI after --store")

    @cached_property
    def _fs(self) -> tuple[Any, str]:
        try:
            fs, path = fsspec.core.url_to_fs(self.uri)
        except (ImportError, ValueError) as e:
            raise StageError(
                f"store {self.uri}: {e}; install that filesystem's fsspec driver"
            ) from e
        return fs, path

    @property
    def is_local(self) -> bool:
        return "file" in self._fs[0].protocol

    def path(self, *parts: str) -> str:
        """The full path of a name in the store."""
        return "/".join((self._fs[1], *parts))

    def exists(self, *parts: str) -> bool:
        return bool(self._fs[0].exists(self.path(*parts)))

    def read(self, *parts: str) -> bytes:
        return bytes(self._fs[0].cat_file(self.path(*parts)))

    def load(self, *parts: str) -> Any | None:
        """A JSON file's content, or None when it is not there."""
        try:
            return json.loads(self.read(*parts))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise StageError(f"{self.path(*parts)}: {e.strerror}; choose another --store") from e
        except ValueError as e:
            damaged = self.path(*parts)
            raise StageError(f"{damaged} is damaged ({e}); delete it and run again") from e

    def list(self, *parts: str) -> list[str]:
        """Sorted names in a folder; empty when there is none."""
        if not self.exists(*parts):
            return []
        return sorted(p.rsplit("/", 1)[-1] for p in self._fs[0].ls(self.path(*parts), detail=False))

    def create(self, data: bytes, *parts: str) -> bool:
        """Write a file that must not exist yet, all or nothing; False when somebody was first."""
        if self.is_local:
            return _create_local(Path(self.path(*parts)), data)
        try:
            self._fs[0].pipe_file(self.path(*parts), data, mode="create")
        except FileExistsError:
            return False
        return True

    def gather(self, chunks: Iterable[bytes], *parts: str) -> None:
        """Write a file from pieces, all or nothing, never holding more than one of them."""
        if self.is_local:
            target = Path(self.path(*parts))
            os.replace(_temporary(target, chunks), target)
            return
        with self._fs[0].open(self.path(*parts), "wb") as f:
            f.writelines(chunks)

    def remove(self, *parts: str) -> None:
        """Delete a folder and what is in it; nothing happens when there is none."""
        if self.exists(*parts):
            self._fs[0].rm(self.path(*parts), recursive=True)

    def replace(self, data: bytes, *parts: str) -> None:
        """Write a pointer: the new content or the old one is there at any moment."""
        if not self.is_local:
            self._fs[0].pipe_file(self.path(*parts), data)
            return
        target = Path(self.path(*parts))
        os.replace(_temporary(target, [data]), target)

    def local(self, *parts: str) -> Path:
        """A path on this machine with the file's (or folder's) content; remote ones are cached."""
        if self.is_local:
            return Path(self.path(*parts))
        mine = (
            Path.home()
            / ".cache/icefloe"
            / hashlib.sha256(self.path(*parts).encode()).hexdigest()[:24]
        )
        if not mine.exists():
            half = mine.with_name(f"{mine.name}.{os.getpid()}")
            self._fs[0].get(self.path(*parts), str(half), recursive=True)
            os.replace(half, mine)
        return mine

    def folder(self, stage: str, key: str) -> Path:
        """A local folder in which a box builds artifact `key`; `upload` brings it to the store."""
        if self.is_local:
            made = Path(self.path(stage, key))
        else:
            made = Path.home() / ".cache/icefloe/building" / stage / key
        made.mkdir(parents=True, exist_ok=True)
        return made

    def upload(self, stage: str, key: str) -> None:
        """Bring a built folder to a remote store (nothing to do for a local one)."""
        if not self.is_local:
            self._fs[0].put(str(self.folder(stage, key)), self.path(stage, key), recursive=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a local store for this process; the kernel lets go of it even after kill -9.

        Raises Busy, naming the holder. Remote stores rely on exclusive creation alone.
        """
        if not self.is_local:
            yield
            return
        path = Path(self.path("lock"))
        with guard(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise Busy(
                f"store {self.uri} is in use by {holder}; wait for it or use --store"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.close(handle)


_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR),
    *(errno.EEXIST, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG),  # no folder can be made there
)


@contextmanager
def guard(path: Path | str) -> Iterator[None]:
    """Turn a full disk or a refused path into a StageError that says what to do."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StageError(
                f"{path}: {e.strerror}; free some space and run the same command again "
                "(finished shards are kept)"
            ) from e
        if e.errno in _REFUSED:
            raise StageError(f"{path}: {e.strerror}; choose another --store") from e
        raise


def _temporary(target: Path, chunks: Iterable[bytes]) -> Path:
    half = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with guard(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(half, "wb") as f:
                f.writelines(chunks)
                f.flush()
                os.fsync(f.fileno())
        except OSError:
            half.unlink(missing_ok=True)
            raise
    return half


def _create_local(target: Path, data: bytes) -> bool:
    half = _temporary(target, [data])
    try:
        os.link(half, target)
    except FileExistsError:
        return False
    finally:
        half.unlink()
    return True


ROW_GROUP = 16_000_000
"""Bytes of a table in one row group: what a streaming reader has to hold at once (ours)."""


def parquet_bytes(table: pa.Table) -> bytes:
    """`table` as Parquet: zstd, page checksums (a flipped bit is an error, not other data)."""
    sink = pa.BufferOutputStream()
    rows = max(1, len(table) * ROW_GROUP // max(table.nbytes, ROW_GROUP))
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, row_group_size=rows)
    return bytes(sink.getvalue())


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file of the store, with its page checksums verified."""
    with _intact(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


def read_columns(path: Path, wanted: list[str]) -> pa.Table:
    """Those of the wanted columns that a Parquet file of the store has, in one opening."""
    with _intact(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        there = set(file.schema_arrow.names)
        return file.read([name for name in dict.fromkeys(wanted) if name in there])


def schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file of the store."""
    return pq.read_schema(path)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """A file that is gone or damaged is a StageError that says how to have it made again."""
    try:
        yield
    except (OSError, pa.ArrowException) as e:
        what = (
            "missing"
            if isinstance(e, FileNotFoundError)
            else f"damaged ({str(e).split(chr(10))[0]})"
        )
        raise StageError(
            f"{path} is {what}; `icefloe verify` names the steps that have it: delete it and those "
            "steps' folders, and run again"
        ) from e


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def clear(folder: Path) -> None:
    """Empty a folder that holds an abandoned attempt."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
