"""Turns on a device: in the order of asking, also where a wait is broken off."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.model.turns import turn


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whoever runs the tests may have turned Ctrl-C off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_wait_that_is_broken_off_blocks_nobody(interruptible: None) -> None:
    inside, go, after = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        with turn("test"):
            inside.set()
            time.sleep(0.05)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            go.wait(10)

    def follow() -> None:
        with turn("test"):
            after.set()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(10)
    with pytest.raises(KeyboardInterrupt), turn("test"):
        pass
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    assert not after.wait(0.05)
    go.set()
    assert after.wait(10)
    holder.join()
