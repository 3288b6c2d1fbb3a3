"""A real server on a free loopback port, in a thread: what clients of other makers are tried on."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from serve import wire


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The address that answers for `app`, until the block is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", http=wire.Wire)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = server.force_exit = True
    thread.join()
