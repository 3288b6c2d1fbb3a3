"""Who may ask: accepted keys from a private file and the environment, kept as SHA-256.

The file is read again when it changes. Knows nothing of requests.
"""

import hmac
import logging
import math
import os
import stat
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from pipeline.core.errors import RecipeError

log = logging.getLogger(__name__)

KEY = "ICEFLOE_API_KEY"
EVERY = 1.0
"""Seconds between two looks at the file (ours)."""


def env_keys() -> tuple[str, ...]:
    """SHA-256 of ICEFLOE_API_KEY; none where it is not set. RecipeError where it is empty."""
    if KEY not in os.environ:
        return ()
    if not (key := os.environ[KEY].strip()):
        raise RecipeError(f"{KEY} is set but empty: give it a key, or unset it to serve anyone")
    return (_hash(key),)


def file_keys(path: str | None) -> tuple[str, ...]:
    """SHA-256 of each line of the file `path` that is no comment; none for no path.

    RecipeError for a file that is missing, that others may read, or that has no key.
    """
    if path is None:
        return ()
    if not (file := Path(path)).is_file():
        raise RecipeError(f"no keys file {path}")
    _check_mode(file)
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is no text: write one key a line, in UTF-8") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise RecipeError(f"{path} has no key: write one a line")
    return tuple(map(_hash, keys))


def _check_mode(file: Path) -> None:
    found = file.stat()
    mode = stat.S_IMODE(found.st_mode)
    # Kubernetes mounts a secret as root's, for the pod's group to read.
    private = 0o077 if found.st_uid == os.getuid() else 0o037
    if mode & private:
        raise RecipeError(f"{file} has mode {mode:04o}: others may read it; chmod 600 {file}")


def _hash(key: str) -> str:
    return sha256(key.encode()).hexdigest()


class Keyring:
    """The keys that are accepted now; none admits anyone.

    fixed: hashes that always count. from_file: those that `file` held when they were read, which a later
    replica gets too; one that cannot see the file keeps them, one that can goes by the file from its first
    request on. A file that has become wrong changes nothing but the log.
    """

    def __init__(
        self, fixed: Sequence[str] = (), from_file: Sequence[str] = (), file: str | None = None
    ) -> None:
        self._fixed, self._file = tuple(fixed), file
        self._keys = (*fixed, *from_file)
        self._looked = -math.inf
        self._seen: tuple[int, ...] | None = None

    def __bool__(self) -> bool:
        return bool(self._keys)

    def who(self, key: str) -> str | None:
        """The hash of this key if it is known; takes as long for any wrong one."""
        self._follow()
        sent = _hash(key)
        found = [hmac.compare_digest(sent, known) for known in self._keys]
        return sent if any(found) else None

    def _follow(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._looked < EVERY:
            return
        self._looked, mark = now, _mark(self._file)
        if mark is None or mark == self._seen:
            return
        self._seen = mark
        try:
            before, self._keys = self._keys, (*self._fixed, *file_keys(self._file))
            if before != self._keys:
                log.warning("%s has changed: %s keys now", self._file, len(self._keys))
        except (RecipeError, OSError) as e:
            log.error("the keys stay as they were: %s", e)


def _mark(file: str) -> tuple[int, ...] | None:
    """What changes when a file does; None while it cannot be seen."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode
