"""Clients that mean harm or are broken, on raw sockets against a real uvicorn: each is cut or gets the
one shape of an error, its slot is free again, and others are answered meanwhile."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from serve import wire
from serve.app import api
from serve.settings import Settings
from serve.state import State
from tests.serve.asking import COMPLETE, shaped
from tests.serve.live import eventually, idle, port_of, serving
from tests.serve.raw import answered, connect, head, sent, whole

PATH = "/v1/completions"
FAST = Settings(body_timeout_s=0.5, timeout_s=20)


@pytest.fixture(scope="module")
def served(state: State) -> State:
    """The same models under limits that a test can wait for."""
    return State(engines=state.engines, judge=state.judge, settings=FAST)


@pytest.fixture(scope="module")
def port(served: State) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "HEAD_S", 0.5)
        patch.setattr(wire, "UNREAD_S", 0.5)
        with serving(api(served)) as url:
            yield port_of(url)


@pytest.fixture(autouse=True)
def alive(port: int, served: State) -> Iterator[None]:
    """Whatever a test did, a plain request is answered and no slot is lost."""
    yield
    assert sent(port, whole(PATH, COMPLETE))[0] == 200
    engine = served.engine()[1]
    eventually(lambda: idle(engine))


def refused(found: tuple[int, dict[str, str], bytes], status: int) -> str:
    """The message of an answer, after checking that it is a refusal in the one shape."""
    assert found[0] == status, found
    return str(shaped(json.loads(found[2]))["message"])


def ended(sock: socket.socket) -> bool:
    """Whether the server has closed; waits for it."""
    sock.settimeout(5)
    try:
        while sock.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    return True


def drip(sock: socket.socket, piece: bytes, seconds: float) -> None:
    """Send the piece again and again, as long as the server lets us."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            sock.sendall(piece)
            time.sleep(0.05)
    except OSError:
        return


def test_dripping_head(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\n")
        drip(sock, b"X-A: b\r\n", 1)
        assert "did not come" in refused(answered(sock), 408)


def test_dripping_head_of_a_second_request(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(whole(PATH, COMPLETE))
        assert answered(sock)[0] == 200
        drip(sock, b"\r\n", 1)
        assert ended(sock)


def test_dripping_body(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(head(PATH, "Content-Length: 1000"))
        drip(sock, b" ", 1)
        assert "in time" in refused(answered(sock), 408)
        assert ended(sock)


def test_idle_connections(port: int) -> None:
    idle = [connect(port) for _ in range(200)]
    assert sent(port, whole(PATH, COMPLETE))[0] == 200
    assert all(map(ended, idle))
    for sock in idle:
        sock.close()


def test_a_reader_that_never_reads(port: int, served: State) -> None:
    body = COMPLETE | {"stream": True, "n": 16, "max_tokens": 100, "logprobs": 5}
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.sendall(whole(PATH, body))
        engine = served.engine()[1]
        eventually(lambda: engine.load().running > 0)
        assert sent(port, whole(PATH, COMPLETE))[0] == 200
        eventually(lambda: idle(engine))


@pytest.mark.parametrize("way", ["declared", "chunked", "longer than declared"])
def test_a_hundred_megabytes(port: int, way: str) -> None:
    piece, taken = b" " * 65_536, 0
    with connect(port) as sock:
        lines = {"declared": "Content-Length: 100000000", "chunked": "Transfer-Encoding: chunked"}
        sock.sendall(head(PATH, lines.get(way, "Content-Length: 2")))
        framed = b"10000\r\n" + piece + b"\r\n" if way == "chunked" else piece
        if way == "longer than declared":
            sock.sendall(b"{}")
        try:
            while taken < 100_000_000:
                sock.sendall(framed)
                taken += len(piece)
        except OSError:
            pass
        assert ended(sock)
    assert taken < 20_000_000  # what lies in the kernel's buffers on the way


def test_a_large_declared_body_is_refused_before_it_comes(port: int) -> None:
    found = sent(port, head(PATH, "Content-Length: 100000000"))
    assert "too large" in refused(found, 413)


def test_shorter_than_declared(port: int) -> None:
    refused(sent(port, head(PATH, "Content-Length: 100") + b'{"prompt": "x"}'), 408)


def test_endless_head(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\n")
        try:
            for _ in range(1000):
                sock.sendall(b"X-A: " + b"b" * 1000 + b"\r\n")
        except OSError:
            pass
        assert ended(sock)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9,  # a TLS hello
        b"GET\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_no_request(port: int, data: bytes) -> None:
    found = sent(port, data)
    assert 400 <= found[0] < 500
    refused(found, found[0])


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"prompt":"x","max_tokens":' + b"9" * 5_000 + b"}",
        b'{"prompt":"x","max_tokens":1e400}',
        b'{"prompt":"x","temperature":NaN}',
        b'{"prompt":"x","temperature":-Infinity}',
        b'{"prompt":"x","logit_bias":{"5":NaN}}',
        b'{"prompt":[99999999999999999999999999]}',
        b'{"prompt":"\\ud83e"}',
        b'{"prompt":"x","\\ud83e":1}',
        b'{"prompt":"x","model":"\\ud83e"}',
        b"\xff\xfe{}",
        b"\x00",
        b"",
    ],
)
def test_bodies_that_make_no_sense(port: int, body: bytes) -> None:
    found = sent(port, whole(PATH, body))
    assert found[0] in (400, 422)
    refused(found, found[0])


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    one, two = COMPLETE | {"max_tokens": 8}, COMPLETE | {"max_tokens": 1}
    with connect(port) as sock:
        sock.sendall(whole(PATH, one) + whole(PATH, two) + whole("/nowhere", {}))
        with sock.makefile("rb") as lines:
            found = [answered(sock, lines) for _ in range(3)]
    tokens = [json.loads(body)["usage"]["completion_tokens"] for _, _, body in found[:2]]
    assert tokens == [8, 1]
    refused(found[2], 404)
