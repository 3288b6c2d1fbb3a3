"""How kernels are compiled: by numba, once per machine, without the interpreter's lock.

Machine code is kept beside the source, or in the user's cache where that is read-only, under a hash
of all kernels' sources: numba alone does not notice when a function that another file's kernel
calls has changed.
"""

import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numba


def _home() -> Path:
    here = Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    given = os.environ.get("NUMBA_CACHE_DIR")
    beside = here / "__pycache__"
    writable = os.access(beside if beside.exists() else here, os.W_OK)
    home = Path(given) if given else beside if writable else Path("~/.cache/icefloe").expanduser()
    return home / f"kernels-{blake2b(sources, digest_size=6).hexdigest()}"


numba.config.CACHE_DIR = str(_home())


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as machine code: types are taken from its first call."""
    kernel: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return kernel
