"""How kernels are compiled: by numba, once per machine, without the interpreter's lock.

The compiled code is kept beside the source (or in NUMBA_CACHE_DIR, or the user's cache where the
source is read-only), so that only the first process of a machine ever waits for it.
"""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as machine code: types are taken from its first call."""
    kernel: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return kernel
