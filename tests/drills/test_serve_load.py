"""The server under more than it can do, clients that leave, and clients that mean harm: as `icefloe
serve` starts it, and bare under uvicorn.

ICEFLOE_DRILL_SECONDS says how long the overload lasts (60). A result is written as soon as there is
one, so a drill that is cut short goes on where it was; `tests/bench/RESULTS/serve_load.jsonl` holds them.
"""

import asyncio
import json
import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.bench.servers import Running, ours, started
from tests.serve.asking import BIAS
from tests.serve.live import eventually, port_of
from tests.serve.raw import answered, connect, head, sent, whole
from tests.tiny import tiny_annotator_folder, tiny_model_folder

RESULTS = Path(__file__).parents[1] / "bench/RESULTS/serve_load.jsonl"
SECONDS = float(os.environ.get("ICEFLOE_DRILL_SECONDS", "60"))
SLOTS, DEADLINE, GONE, IDLE = 16, 10, 200, 1000
"""Slots of the model; the seconds that a request allows; clients that leave; connections that ask nothing."""
TOKENS = 256
"""New tokens of a request: so many that the server, not the client beside it, is what has too much to do."""
PATH = "/v1/completions"
BODY = {"prompt": "def add(", "temperature": 1, "seed": 1, "logit_bias": BIAS}


class End(NamedTuple):
    """How a request ended: its status (0: the connection broke), seconds, whether it says when to come back."""

    status: int
    seconds: float
    says: bool


@pytest.fixture(scope="module", params=["serve", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    at = tmp_path_factory.mktemp(request.param)
    model, judge = tiny_model_folder(at / "tiny", context=4096), tiny_annotator_folder(at / "judge")
    command = ["--model", str(model), "--annotator", str(judge), "--slots", str(SLOTS)]
    command += ["--threads", "1", *(["--bare"] if request.param == "uvicorn" else [])]
    with started(ours(*command, name=request.param), at) as running:
        yield running


@pytest.fixture
def tell(request: pytest.FixtureRequest, server: Running) -> Iterator[dict[str, Any]]:
    """What a test fills in; written when it has passed. Skips what has its result."""
    name = str(request.node.originalname).removeprefix("test_")
    key = {"drill": name, "way": server.server.name}
    done = [json.loads(line) for line in RESULTS.open()] if RESULTS.exists() else []
    if any(key.items() <= line.items() for line in done):
        pytest.skip("has its result")
    before = memory(server)
    told: dict[str, Any] = {}
    yield told
    settled(server)
    assert told, "it did not come to its end"
    with RESULTS.open("a") as f:
        f.write(json.dumps(key | told | {"mb_before": before, "mb_after": memory(server)}) + "\n")


def port(server: Running) -> int:
    return port_of(server.url)


def load(server: Running) -> tuple[int, int]:
    """Running and waiting completions, as /metrics has them."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("icefloe_"))
    names = ("icefloe_running", "icefloe_waiting")
    return tuple(int(float(values[f'{n}{{model="tiny"}}'])) for n in names)  # type: ignore[return-value]


def settled(server: Running, seconds: float = 10) -> None:
    eventually(lambda: load(server) == (0, 0), seconds)


def memory(server: Running) -> int:
    """Resident megabytes of the process that holds the models."""
    found = [p for p in map(int, filter(str.isdigit, os.listdir("/proc"))) if serves(p, server)]
    return sum(rss(pid) for pid in found)


def serves(pid: int, server: Running) -> bool:
    """The replica under Ray, whose command names it, else the process itself."""
    if server.server.name == "uvicorn":
        return pid == server.process.pid
    try:
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
        return name.startswith(b"ray::ServeReplica:icefloe") and _descends(pid, server.process.pid)
    except OSError:
        return False


def _descends(pid: int, root: int) -> bool:
    while pid > 1 and pid != root:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return pid == root


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def test_overload(server: Running, tell: dict[str, Any]) -> None:
    """Twice the requests a second that it was found to answer, whatever becomes of them."""
    rate, warm, found = asyncio.run(overload(server))
    ends = Counter(end.status for end in found)
    times = [end.seconds for end in found if end.status == 200]
    tell |= {"seconds": SECONDS, "sustained_per_s": round(rate, 1), "asked": len(found)}
    tell |= {"ends": {str(k): n for k, n in sorted(ends.items())}}
    tell |= {
        "mb_warm": warm,
        "accepted_p50_s": statistics.median(times),
        "accepted_max_s": max(times),
    }
    assert {200} < set(ends) <= {200, 429, 503}, ends
    assert all(end.says for end in found if end.status != 200)
    assert max(times) < DEADLINE


async def overload(server: Running) -> tuple[float, int, list[End]]:
    """Sustained requests a second, megabytes after that, and how all of twice as many ended."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        await sustained(client, 2)
        rate, warm = await sustained(client, 6), memory(server)
        tasks, start = [], time.monotonic()
        while (at := time.monotonic() - start) < SECONDS:
            due = int(2 * rate * at) - len(tasks)
            tasks += [asyncio.create_task(ask(client)) for _ in range(due)]
            await asyncio.sleep(0.005)
        return rate, warm, list(await asyncio.gather(*tasks))


async def sustained(client: httpx.AsyncClient, seconds: float) -> float:
    """Requests a second with twice as many clients as there are slots."""
    start, done = time.monotonic(), 0

    async def work() -> None:
        nonlocal done
        while time.monotonic() - start < seconds:
            end = await ask(client)  # not in one with the sum, which is read before it waits
            done += end.status == 200

    await asyncio.gather(*(work() for _ in range(2 * SLOTS)))
    return done / (time.monotonic() - start)


async def ask(client: httpx.AsyncClient) -> End:
    start = time.monotonic()
    try:
        headers = {"x-request-timeout-seconds": str(DEADLINE)}
        answer = await client.post(PATH, json=BODY | {"max_tokens": TOKENS}, headers=headers)
    except httpx.TransportError:
        return End(0, time.monotonic() - start, False)
    return End(answer.status_code, time.monotonic() - start, "retry-after" in answer.headers)


def test_two_hundred_leave(server: Running, tell: dict[str, Any]) -> None:
    """In waves of as many as have a slot, each closed in the middle of its stream."""
    took, left = [], 0
    while left < GONE:
        clients = [connect(port(server)) for _ in range(SLOTS)]
        for sock in clients:
            sock.sendall(whole(PATH, BODY | {"max_tokens": 4000, "stream": True}))
        assert all(sock.recv(65_536).startswith(b"HTTP/1.1 200") for sock in clients)
        assert sum(load(server)) > 0
        for sock in clients:
            sock.close()
        start = time.monotonic()
        settled(server)
        took.append(time.monotonic() - start)
        left += len(clients)
    tell |= {
        "clients": left,
        "slots_free_s_max": max(took),
        "slots_free_s_p50": statistics.median(took),
    }
    assert max(took) < 1


def cut(sock: socket.socket, piece: bytes, wait: float, most: float) -> tuple[str, float]:
    """Send the piece until the server ends it: what it said, and after how many seconds."""
    start = time.monotonic()
    try:
        while time.monotonic() - start < most:
            sock.sendall(piece)
            time.sleep(wait)
    except OSError:
        pass
    took = time.monotonic() - start
    try:
        return str(answered(sock)[0]), took
    except (OSError, ValueError, IndexError):
        return "cut", took


ATTACKS = {
    "dripping head": (b"POST / HTTP/1.1\r\n", b"X-A: b\r\n", 0.2, 30.0),
    "endless head": (b"POST / HTTP/1.1\r\n", b"X-A: " + b"b" * 60_000 + b"\r\n", 0.0, 30.0),
    "dripping body": (head(PATH, "Content-Length: 1000"), b" ", 0.2, 30.0),
    "100 MB declared": (head(PATH, "Content-Length: 100000000"), b" " * 65_536, 0.0, 30.0),
    "100 MB chunked": (
        head(PATH, "Transfer-Encoding: chunked"),
        b"10000\r\n" + b" " * 65_536 + b"\r\n",
        0.0,
        30.0,
    ),
}
"""First bytes, then a piece that is sent again and again with so much time between, so long at most."""


def test_attacks(server: Running, tell: dict[str, Any]) -> None:
    for name, (first, piece, wait, most) in ATTACKS.items():
        with connect(port(server)) as sock:
            sock.sendall(first)
            said, took = cut(sock, piece, wait, most)
        tell[name] = {"said": said, "after_s": round(took, 2)}
        assert took < most, name
        assert sent(port(server), whole(PATH, BODY))[0] == 200


def test_idle_connections(server: Running, tell: dict[str, Any]) -> None:
    """A thousand that ask nothing, while others are answered."""
    idle = [connect(port(server)) for _ in range(IDLE)]
    start = time.monotonic()
    assert sent(port(server), whole(PATH, BODY))[0] == 200
    tell["answered_meanwhile_s"] = time.monotonic() - start
    for sock in idle:
        sock.settimeout(30)
        assert sock.recv(1) == b""
        sock.close()
    tell["all_cut_s"] = time.monotonic() - start


def test_a_reader_that_never_reads(server: Running, tell: dict[str, Any]) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port(server)))
        sock.sendall(whole(PATH, BODY | {"max_tokens": 500, "stream": True, "n": 8, "logprobs": 5}))
        start = time.monotonic()
        eventually(lambda: sum(load(server)) > 0)
        assert sent(port(server), whole(PATH, BODY))[0] == 200
        settled(server, 120)
        tell["slots_free_s"] = time.monotonic() - start
