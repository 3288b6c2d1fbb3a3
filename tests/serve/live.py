"""A real server on a free loopback port, in a thread, and waiting for what comes about in it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from cluster.demo import free_port
from pipeline.model.engine import Engine
from serve import wire


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The address that answers for `app`, until the block is left."""
    port = free_port()
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", http=wire.Wire)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = server.force_exit = True
    thread.join()


def port_of(url: str) -> int:
    """The port of an address."""
    return int(url.rpartition(":")[2])


def eventually(so: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until it is so; AssertionError where it does not become so."""
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.005)


def idle(engine: Engine) -> bool:
    """Whether no call has a slot or waits for one."""
    return engine.load()[:2] == (0, 0)
