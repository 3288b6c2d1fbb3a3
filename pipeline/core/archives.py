"""Archives member by member: tar (plain or compressed), zip and wheels; nothing is extracted.

At most one member is in memory. Python's tarfile keeps every member's name, reads headers of any
length and ends quietly at a damaged one; hence a reader of our own around its header parser.
"""

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from json import JSONDecodeError, loads

from pipeline.core import notices
from pipeline.core.repos import Raw, Repo, Skip, leaves, left_out, quarantine, shown
from pipeline.core.streams import BROKEN, RATIO, Capped, cap, opened

_HEADER = 1_000_000
"""Bytes of a tar's extended header above which it is taken for an attack (ours)."""
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, RuntimeError, NotImplementedError, *BROKEN)
"""What reading a damaged, encrypted or hostile archive raises."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: `load(n)` reads its first n bytes, before the next member is asked for."""

    name: str
    size: int
    regular: bool
    load: Callable[[int], bytes]


def read(repo: Repo, limit: int, skip: Skip) -> Iterator[Raw]:
    """Every member, one at a time; where the archive breaks, one quarantined row says so."""
    licence = notices.nearest(_stated(repo), repo.licence)
    package = _package(repo)
    try:
        for member in members(repo.root):
            yield _read(member, licence, package, limit, skip)
    except DAMAGED as e:
        yield quarantine(repo.name, repo.entries[0].path, f"damaged archive: {e}")


def members(where: str) -> Iterator[Member]:
    """The files of an archive in its order; raises one of DAMAGED where it cannot go on."""
    return _zip(where) if where.endswith((".zip", ".whl")) else _tar(where)


def _read(
    member: Member,
    licence: Callable[[str], str | None],
    package: Callable[[str], tuple[str, str]],
    limit: int,
    skip: Skip,
) -> Raw:
    repo, path = package(shown(member.name))
    if leaves(member.name):
        return quarantine(repo, shown(member.name), "a path that leaves the archive")
    if why := skip(repo, path, (), None):
        return left_out(repo, path, why)
    if not member.regular:
        return left_out(repo, path, ("not_regular", "a link, pipe or device"))
    if member.size > limit:
        return left_out(repo, path, ("too_large", f"{member.size} bytes"))
    try:
        data = member.load(limit + 1)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as e:
        return quarantine(repo, path, f"damaged member: {e}")
    if len(data) > limit:
        return left_out(repo, path, ("too_large", "more bytes than its header says"))
    return Raw(repo, path, data, licence=licence(shown(member.name)))


def _stated(repo: Repo) -> dict[str, str]:
    """The licences in an archive, which may stand behind what they speak of: a pass of their own."""
    return notices.stated(_found(repo.root, notices.speaks), repo.root.endswith(".whl"))


def _found(where: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with suppress(*DAMAGED):  # told by the pass that reads the files
        for member in members(where):
            if member.regular and wanted(member.name):
                yield shown(member.name), member.load(notices.LIMIT)


def _package(repo: Repo) -> Callable[[str], tuple[str, str]]:
    """(repository, path in it) of a member: by its top folder, or by what the package is called."""
    file = repo.entries[0].path
    if file.endswith(".whl"):
        return partial(_in_wheel, file.split("-")[0])
    if file.endswith(".tgz"):
        for _, data in _found(repo.root, lambda name: name == "package/package.json"):
            with suppress(
                JSONDecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError
            ):
                return partial(_in_folder, shown(str(loads(data)["name"])))
    return partial(_in_folder, None)


def _in_wheel(name: str, path: str) -> tuple[str, str]:
    return name, path


def _in_folder(name: str | None, path: str) -> tuple[str, str]:
    folder, _, rest = path.removeprefix("./").partition("/")
    return (name or folder, rest) if rest else (name or ".", folder)


def _zip(where: str) -> Iterator[Member]:
    """The list of members is in memory (about 0.6 kB each)."""
    left = cap(where)
    with zipfile.ZipFile(where) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if left < 0:  # members may share their bytes, so the sum is bounded too
                raise ValueError(f"unpacks to more than {RATIO} times its size")
            read: list[int] = []
            regular = info.external_attr >> 28 in (0, 8)
            load = partial(_inflated, archive, info, read)
            yield Member(info.filename, info.file_size, regular, load)
            left -= sum(read)


def _inflated(archive: zipfile.ZipFile, info: zipfile.ZipInfo, read: list[int], size: int) -> bytes:
    try:
        with archive.open(info) as f:
            data = f.read(size)
    except BROKEN as e:
        raise zipfile.BadZipFile(str(e)) from e
    read.append(len(data))
    return data


def _tar(where: str) -> Iterator[Member]:
    with opened(where) as file:
        stream = Capped(file, cap(where))
        told: dict[str, str] = {}
        while (header := _header(block := stream.take(512))) is not None:
            if header.type in _TELLING:
                told |= _told(stream, header)
            elif header.type in _ABOUT:
                stream.skip(_padded(header.size))
            else:
                yield from _member(stream, header, told, block)
                told = {}


_TELLING = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
"""Headers that tell the next member's name or size."""
_ABOUT = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)
"""Headers that tell nothing that is used here."""
_EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
"""Members without bytes, whatever their size says."""
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


def _header(block: bytes) -> tarfile.TarInfo | None:
    """A header; None for the end mark."""
    if not any(block):
        return None
    header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if header.size < 0:
        raise ValueError(f"a member of {header.size} bytes")
    return header


def _told(stream: Capped, header: tarfile.TarInfo) -> dict[str, str]:
    if header.size > _HEADER:
        raise ValueError(f"an extended header of {header.size} bytes")
    data = stream.take(header.size)
    stream.skip(_padded(header.size) - header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    return dict(_records(data))


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    """The `length key=value` records of a pax header."""
    at = 0
    while at < len(data) and data[at]:
        space = data.index(b" ", at)
        end = at + int(data[at:space])
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space:
            raise ValueError("a pax record without a length")
        yield key.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")
        at = end


def _member(
    stream: Capped, header: tarfile.TarInfo, told: dict[str, str], block: bytes
) -> Iterator[Member]:
    size = 0 if header.type in _EMPTY else int(told.get("size", header.size))
    name = told.get("GNU.sparse.name") or told.get("path") or header.name
    if size < 0:
        raise ValueError(f"a member of {size} bytes")
    more = header.type == tarfile.GNUTYPE_SPARSE and block[482]
    while more:  # its map goes on in blocks that no size counts
        more = stream.take(512)[504]
    before = stream.left
    if header.type != tarfile.DIRTYPE:
        sparse = any(key.startswith("GNU.sparse") for key in told)
        regular = header.type in _REGULAR and not sparse
        yield Member(name, size, regular, lambda n: stream.take(min(n, size)))
    stream.skip(_padded(size) - (before - stream.left))


def _padded(size: int) -> int:
    return -(-size // 512) * 512
