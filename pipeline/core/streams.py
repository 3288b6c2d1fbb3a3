"""Compressed files as streams of plain bytes, never more unpacked than a cap allows.

Knows nothing of what is in them.
"""

import bz2
import gzip
import io
import lzma
import os
import zlib
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException)
"""What damaged, truncated or lying data raises."""
RATIO, FLOOR = 200, 100_000_000
"""An archive may unpack to RATIO times its size plus FLOOR bytes (ours: source text packs to a tenth,
gzip ends at a thousandth)."""
_PIECE = 1 << 20
_BZ2 = (b"1AY&SY", b"\x17rE8P\x90")
"""What follows `BZh9`: a block, or the end of an empty stream. Three letters alone may be text."""


def opened(where: str) -> IO[bytes]:
    """A file's plain bytes: gzip, bzip2, xz and zstd are known by how they begin."""
    with open(where, "rb") as f:
        head = f.read(10)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        native: Any = pa.CompressedInputStream(pa.OSFile(where), "zstd")
        return io.BufferedReader(native, _PIECE)
    if head.startswith(b"\x1f\x8b"):
        return io.BufferedReader(gzip.open(where), _PIECE)  # type: ignore[type-var]
    if head.startswith(b"BZh") and head[4:] in _BZ2:
        return bz2.open(where)
    return lzma.open(where) if head.startswith(b"\xfd7zXZ\0") else open(where, "rb")


def cap(where: str) -> int:
    """How many bytes an archive may unpack to."""
    return FLOOR + RATIO * os.path.getsize(where)


@dataclass
class Capped:
    """A stream that ends with an error where it has given `left` bytes."""

    file: IO[bytes]
    left: int

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes; EOFError where there are fewer."""
        self._count(size)
        data = self.file.read(size)
        if len(data) < size:
            raise EOFError("cut off")
        return data

    def skip(self, size: int) -> None:
        """Pass over `size` bytes in pieces; EOFError where there are fewer."""
        self._count(size)
        while size > 0:
            size -= len(piece := self.file.read(min(size, _PIECE)))
            if not piece:
                raise EOFError("cut off")

    def _count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError(f"unpacks to more than {RATIO} times its size")
