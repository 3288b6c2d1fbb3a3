"""Turns on a device: models side by side compute one at a time, in the order they asked.

With two at once on the same cores each takes more than twice as long. Knows nothing of models.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

_waiting: defaultdict[str, deque[threading.Event]] = defaultdict(deque)
_lock = threading.Lock()


@contextmanager
def turn(device: str) -> Iterator[None]:
    """Wait until those that asked earlier for `device` are done; the next one goes on afterwards.

    A plain lock would be fair to nobody: who gives it back and asks again at once gets it.
    """
    mine = threading.Event()
    with _lock:
        queue = _waiting[device]
        queue.append(mine)
        if queue[0] is mine:
            mine.set()
    try:
        mine.wait()
        yield
    finally:
        with _lock:
            queue.remove(mine)  # not always the first: Ctrl-C may end the wait
            if queue:
                queue[0].set()
