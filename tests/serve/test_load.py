"""More than it can do, and clients that leave: on a real uvicorn every request ends in an answer or a
refusal that says when to come back, and no slot is lost."""

import asyncio
import json
import struct
import time
from collections import Counter
from collections.abc import Iterator
from socket import SO_LINGER, SOL_SOCKET

import httpx
import pytest

from pipeline.model import engine as engines
from serve.app import api
from serve.state import State
from tests.serve.asking import BIAS
from tests.serve.live import eventually, idle, port_of, serving
from tests.serve.raw import connect, whole
from tests.tiny import tiny_model_folder

STREAM = {"prompt": "def add(", "max_tokens": 4000, "temperature": 1, "seed": 1, "stream": True}
SLOTS, QUEUE = 4, 8


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    """A model with few slots and room for a completion that takes a while."""
    folder = tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny", context=4096)
    engine = engines.load(folder, kind="icefloe", threads=1, slots=SLOTS, queue=QUEUE)
    yield State(engines={"tiny": engine})
    engine.close()


@pytest.fixture(scope="module")
def port(served: State) -> Iterator[int]:
    with serving(api(served)) as url:
        yield port_of(url)


@pytest.mark.parametrize("abrupt", [False, True])
def test_clients_that_leave_free_their_slots(port: int, served: State, abrupt: bool) -> None:
    engine = served.engine()[1]
    body = STREAM | {"logit_bias": BIAS}
    for _ in range(20 // SLOTS):
        clients = [connect(port) for _ in range(SLOTS)]
        for sock in clients:
            sock.sendall(whole("/v1/completions", body))
        assert all(sock.recv(4096).startswith(b"HTTP/1.1 200") for sock in clients)
        assert sum(engine.load()[:2]) == SLOTS
        for sock in clients:
            if abrupt:
                sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
            sock.close()
        eventually(lambda: idle(engine), 5)


def test_twice_what_it_can_do(port: int, served: State) -> None:
    """Twice as many requests a second as were found to be answered, for three seconds."""
    found = asyncio.run(overload(f"http://127.0.0.1:{port}", 3))
    assert set(found) == {200, 429}
    engine = served.engine()[1]
    eventually(lambda: idle(engine))


async def overload(url: str, seconds: float) -> Counter[int]:
    """How requests ended, by status; AssertionError for a refusal that does not say when to come back."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        rate = await sustained(client)
        tasks, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            tasks.append(asyncio.create_task(ask(client)))
            await asyncio.sleep(1 / (2 * rate))
        return Counter(await asyncio.gather(*tasks))


async def sustained(client: httpx.AsyncClient) -> float:
    """Requests a second with as many clients as there are slots."""
    start = time.monotonic()
    for _ in range(3):
        await asyncio.gather(*(ask(client) for _ in range(SLOTS)))
    return 3 * SLOTS / (time.monotonic() - start)


async def ask(client: httpx.AsyncClient) -> int:
    body = STREAM | {"stream": False, "max_tokens": 40}
    answer = await client.post("/v1/completions", json=body)
    if answer.status_code == 200:
        assert json.loads(answer.text)["choices"][0]["finish_reason"]
    else:
        assert int(answer.headers["retry-after"]) > 0
    return answer.status_code
