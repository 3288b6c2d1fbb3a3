"""How calls end before their time: clients that leave, deadlines, full queues, an engine that stops."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from pipeline.model.engine import Engine, Full, Load, Piece, Sampling, load
from serve.app import api
from serve.calls import Calls, Row
from serve.guard import Refusal
from serve.metrics import Meters, Watch
from serve.settings import Settings
from serve.state import State
from tests.serve.asking import BIAS, chunks, refused
from tests.serve.live import eventually, idle, serving
from tests.serve.raw import connect, whole
from tests.tiny import tiny_model_folder

LONG = {"prompt": "def add(", "max_tokens": 4000, "logit_bias": BIAS}
PATH = "/v1/completions"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), context=8192)
    engine = load(folder, threads=1, slots=1, queue=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def asked(engine: Engine) -> Iterator[httpx.Client]:
    with serving(api(State({"tiny": engine}))) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize("path", [PATH, "/v1/fim/completions", "/infill"])
def test_a_client_that_leaves_a_stream_frees_its_slot(
    asked: httpx.Client, engine: Engine, path: str
) -> None:
    with asked.stream("POST", path, json=LONG | {"stream": True, "n_predict": 4000}) as answer:
        next(answer.iter_lines())
        assert engine.load().running == 1
    eventually(lambda: idle(engine))
    assert f'route="{path}",status="499"' in asked.get("/metrics").text


def test_a_client_that_no_longer_waits_frees_its_slot(asked: httpx.Client, engine: Engine) -> None:
    with pytest.raises(httpx.ReadTimeout):
        asked.post(PATH, json=LONG | {"n": 3}, timeout=0.3)
    eventually(lambda: idle(engine))


def test_a_deadline_ends_a_request(asked: httpx.Client, engine: Engine) -> None:
    soon = {"x-request-timeout-seconds": "0.2"}
    error = refused(asked.post(PATH, json=LONG, headers=soon), 504)
    assert (error["code"], "0.2 s" in error["message"]) == ("timeout", True)
    eventually(lambda: idle(engine))
    *_, last = chunks(asked.post(PATH, json=LONG | {"stream": True}, headers=soon))
    assert last["error"]["code"] == "timeout"
    eventually(lambda: idle(engine))
    for wrong in ("soon", "0", "nan", "-1"):
        answer = asked.post(PATH, json=LONG, headers={"x-request-timeout-seconds": wrong})
        assert refused(answer, 400)["param"] == "x-request-timeout-seconds"


@pytest.mark.parametrize("path", [PATH, "/v1/fim/completions", "/infill"])
def test_a_deadline_frees_the_slot_of_one_who_does_not_read(engine: Engine, path: str) -> None:
    body = json.dumps(LONG | {"stream": True, "n_predict": 8000}).encode()
    sent = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        return next(sent, None) or await asyncio.sleep(60)

    async def ask() -> None:
        read, told = asyncio.Event(), 0

        async def send(_: Any) -> None:
            nonlocal told
            told += 1
            if told > 3:
                await read.wait()

        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        scope |= {"query_string": b"", "asgi": {"version": "3.0"}}
        served = api(State({"tiny": engine}, settings=Settings(timeout_s=0.3)))
        answer = asyncio.create_task(served(scope, receive, send))
        while told < 5:  # the deadline's own event
            await asyncio.sleep(0.01)
        for _ in range(50):
            await asyncio.sleep(0.01)
        free = engine.load().running == 0
        read.set()
        await answer
        assert free

    asyncio.run(ask())


@contextmanager
def filled(engine: Engine) -> Iterator[None]:
    """Every slot and place taken."""
    calls = []
    how = Sampling(max_tokens=8000, logit_bias=BIAS)
    while True:
        try:
            calls.append(engine.submit(engine.prompt("x"), how, lambda _: None))
        except Full:
            if engine.load().running:
                break
            time.sleep(0.01)
    yield
    for call in calls:
        call.cancel()
    eventually(lambda: idle(engine))


def test_a_full_queue_refuses_with_a_time_to_come_back(asked: httpx.Client, engine: Engine) -> None:
    bodies: list[dict[str, Any]] = [{}, {"stream": True}, {"n_predict": 0}]
    with filled(engine):
        for path in (PATH, "/v1/fim/completions", "/infill"):
            for body in bodies:
                answer = asked.post(path, json={"prompt": "def add(", "max_tokens": 3} | body)
                assert refused(answer, 429)["code"] == "queue_full"
                assert answer.headers["retry-after"] == "1"
    assert asked.post(PATH, json={"prompt": "x"}).status_code == 200


def test_rows_wait_while_others_have_the_queue(asked: httpx.Client, engine: Engine) -> None:
    def crowd() -> None:
        with filled(engine):
            time.sleep(0.3)

    body = {"prompt": ["a", "b", "c"], "max_tokens": 300, "logit_bias": BIAS, "stream": True}
    with asked.stream("POST", PATH, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        other = threading.Thread(target=crowd)
        other.start()
        told = list(lines)
    other.join()
    assert sum('"finish_reason":"length"' in line for line in told) == 3


def test_a_head_without_an_end_behind_a_stream_is_cut(asked: httpx.Client, engine: Engine) -> None:
    def send_on(sock: socket.socket) -> None:
        for _ in range(3000):
            sock.sendall(b"X-A: " + b"b" * 1000 + b"\r\n")

    with connect(asked.base_url.port or 0) as sock:
        sock.sendall(whole(PATH, LONG | {"stream": True}))
        sock.recv(1000)
        sock.sendall(b"POST / HTTP/1.1\r\n")
        with pytest.raises(OSError, match=r"reset|pipe"):
            send_on(sock)
    eventually(lambda: idle(engine))


def test_an_engine_that_stops_says_so(tmp_path: Path) -> None:
    engine = load(tiny_model_folder(tmp_path, context=8192), threads=1)
    with serving(api(State({"tiny": engine}))) as url, httpx.Client(base_url=url) as client:
        with client.stream("POST", PATH, json=LONG | {"stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            engine.close()
            *_, error, _, done, _ = lines
        assert '"code":"stopping"' in error
        assert done == "data: [DONE]"


class Picky:
    """An engine with one slot that takes a first call, and then does as it is told."""

    def __init__(self, then: Exception, slots: int = 1) -> None:
        self.then, self.slots, self.asked, self.cancelled = then, slots, 0, 0
        self.tell: Any = None

    def load(self) -> Load:
        return Load(0, 0, self.slots, 0)

    def submit(self, ids: Any, sampling: Any, tell: Any, sample: int = 0) -> "Picky":
        self.asked += 1
        if self.asked > 1:
            raise self.then
        self.tell = tell
        return self

    def cancel(self) -> None:
        self.cancelled += 1


class Listening:
    """A request whose client stays."""

    state = SimpleNamespace(began=0.0)

    async def receive(self) -> dict[str, str]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}


def called(engine: Any) -> Calls:
    request: Any = Listening()
    rows = [Row([9], k) for k in range(2)]
    return Calls(engine, rows, Sampling(), request, Watch(Meters(), request, "picky"))


def test_what_an_engine_refuses_is_the_clients_mistake_and_leaks_nothing() -> None:
    async def ask() -> None:
        engine = Picky(ValueError("temperature is 3: 0 to 2 with vLLM"), slots=2)
        with pytest.raises(Refusal, match="0 to 2") as found:
            called(engine)
        assert (found.value.status_code, found.value.param) == (400, "temperature")
        assert engine.cancelled == 1

    asyncio.run(ask())


def test_a_row_that_waits_asks_no_oftener_the_more_the_others_tell() -> None:
    async def ask() -> int:
        engine = Picky(Full("full"), slots=2)
        calls = called(engine)
        pieces = aiter(calls)
        for _ in range(50):
            engine.tell(Piece("x", [1], [0.0]))
            await anext(pieces)
        engine.asked = 1
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(pieces)
        return engine.asked

    assert asyncio.run(ask()) < 10
