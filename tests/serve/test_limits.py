"""Rates let through what a minute allows and no more; bodies are cut by size and by time, also where a
real server listens."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from serve.app import api
from serve.limits import Rates, _duration
from serve.settings import Settings
from serve.state import State
from serve.wire import Wire


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0, 30), max_size=80), st.integers(1, 20))
def test_a_window_holds_no_more_than_its_rate(steps: list[float], per_minute: int) -> None:
    clock = Clock()
    rates, passed = Rates(clock), []
    for step in steps:
        clock.now += step
        allowance = rates.take("a", per_minute)
        assert 0 <= allowance.remaining < per_minute or allowance.wait
        if not allowance.wait:
            passed.append(clock.now)
    for first in passed:
        within = [t for t in passed if first <= t <= first + 60]
        assert len(within) <= 2 * per_minute


def test_clients_wait_as_long_as_they_are_told() -> None:
    clock = Clock()
    rates = Rates(clock)
    assert [rates.take("a", 2).remaining for _ in range(2)] == [1, 0]
    wait = rates.take("a", 2).wait
    assert wait == pytest.approx(30)
    assert rates.take("b", 2).wait == 0
    clock.now += wait
    assert rates.take("a", 2).wait == 0
    assert rates.take("a", 2).wait == pytest.approx(30)


def test_durations_are_as_openais() -> None:
    assert [_duration(s) for s in (0.25, 12, 90)] == ["250ms", "12s", "1m30s"]


@pytest.fixture(scope="module")
def port(state: State) -> Iterator[int]:
    """The routes on a real uvicorn, with half a second for a body."""
    settings = Settings(body_timeout_s=0.5, max_body=100_000)
    served = api(State(state.engines, state.judge, settings))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(served, http=Wire, log_level="warning"))
        run = asyncio.new_event_loop().run_until_complete
        thread = threading.Thread(target=lambda: run(server.serve([listening])))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def said(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """What the server answers to these bytes until it closes the connection."""
    head = b"POST /v1/annotate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(head)
        for part in parts:
            try:
                line.sendall(part)
            except OSError:  # cut while we were speaking
                break
            time.sleep(pause)
        found = b""
        try:
            while chunk := line.recv(65536):
                found += chunk
        except ConnectionResetError:
            pass
    return found


def test_a_body_that_drips_is_cut(port: int) -> None:
    drip = [b"content-length: 1000\r\n\r\n", *[b'{"'] * 20]
    answer = said(port, *drip, pause=0.1)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"type":"timeout_error"' in answer


def test_a_huge_body_is_cut_before_it_is_read(port: int) -> None:
    answer = said(port, b"content-length: 100000000\r\n\r\n", b"x" * 10_000)
    assert answer.startswith(b"HTTP/1.1 413")
    chunks = [b"transfer-encoding: chunked\r\n\r\n", *[b"8000\r\n" + b" " * 0x8000 + b"\r\n"] * 40]
    assert said(port, *chunks).startswith(b"HTTP/1.1 413")
