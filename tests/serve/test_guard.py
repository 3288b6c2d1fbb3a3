"""Before anything is parsed: keys on every route, limits, deadlines, a drain; one shape for refusals."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from serve.app import api
from serve.guard import OPEN
from serve.settings import Settings
from serve.state import State
from tests.serve.asking import ANNOTATE, COMPLETE, KEY, KEYS, client_of, refused

MINE = {"authorization": f"Bearer {KEY}"}


def routes(application: FastAPI) -> set[tuple[str, str]]:
    """Every method and path of an application, its own document's too."""
    return {(m, r.path) for r in application.routes for m in getattr(r, "methods", ["GET"])}  # type: ignore[attr-defined]


def fresh(state: State, **settings: Any) -> State:
    """The same models behind settings and meters of their own."""
    return State(state.engines, state.judge, Settings(**settings), facts=state.facts)


def test_every_route_but_two_needs_a_key(state: State) -> None:
    application = api(fresh(state), KEYS)
    client = client_of(application)
    known = routes(application)
    assert {("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/v1/models")} <= known
    more = {("GET", "/nothing"), ("POST", "/health/"), ("GET", "//health"), ("GET", "/ready/x")}
    for method, path in known | more | {("OPTIONS", "/v1/models"), ("HEAD", "/")}:
        for sent in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
            answer = client.request(method, path, headers=sent)
            if path not in OPEN:
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert client.request(method, path, headers=MINE).status_code != 401
    assert refused(client.get("/v1/models"), 401)["code"] == "invalid_api_key"
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.post("/v1/completions", json=COMPLETE, headers=MINE).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:8000", None, 200),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("[::1]:8000", None, 200),
        ("192.168.1.5", None, 200),
        ("icefloe.localhost", None, 200),
        ("LOCALHOST.:8000", None, 200),
        ("evil.example", None, 403),
        ("evil.example:8000", "http://evil.example:8000", 403),
        ("localhost.evil.example", None, 403),
        ("127.0.0.1.evil.example", None, 403),
        ("127.0.0.1@evil.example", None, 403),
        ("", None, 403),
        ("[::1", None, 403),
        ("localhost:8000", "http://evil.example", 403),
        ("localhost:8000", "http://localhost:3000", 403),
        ("localhost:8000", "null", 403),
        ("localhost:8000", "http://[", 403),
    ],
)
def test_other_sites_pages_cannot_ask_where_there_is_no_key(
    state: State, host: str, origin: str | None, status: int
) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    served = fresh(state)
    for method, path in (("GET", "/v1/models"), ("GET", "/"), ("POST", "/v1/completions")):
        answer = client_of(api(served)).request(method, path, headers=headers, json=COMPLETE)
        assert answer.status_code == status, path
        if status == 403:
            assert refused(answer, 403)["code"] == "host_not_allowed"
    assert client_of(api(served)).get("/ready", headers=headers).status_code == 200
    keyed = client_of(api(served, KEYS)).get("/v1/models", headers=headers | MINE)
    assert keyed.status_code == 200


def test_a_proxy_may_rewrite_the_host(state: State) -> None:
    headers = {"host": "localhost:8000", "origin": "https://x.example"}
    client = client_of(api(fresh(state)))
    refused(client.get("/v1/models", headers=headers | {"sec-fetch-site": "cross-site"}), 403)
    told = headers | {"sec-fetch-site": "same-origin"}
    assert client.get("/v1/models", headers=told).status_code == 200
    refused(client.get("/v1/models", headers=told | {"host": "evil.example"}), 403)


def test_the_body_has_a_limit_declared_or_not(state: State) -> None:
    client = client_of(api(fresh(state, max_body=200_000)))
    text = "x" * 200_001
    answer = client.post("/v1/annotate", json={"files": [{"text": text}]})
    assert refused(answer, 413)
    assert answer.headers["connection"] == "close"
    refused(client.post("/v1/annotate", content=(b" " * 50_000 for _ in range(5))), 413)


def test_headers_have_a_limit(state: State) -> None:
    client = client_of(api(fresh(state, max_header=1000)))
    assert client.get("/v1/models").status_code == 200
    refused(client.get("/v1/models", headers={"x": "y" * 1000}), 431)


def test_a_key_has_a_rate_and_is_told_of_it(state: State) -> None:
    served = fresh(state, rate_per_minute=2)
    client = client_of(api(served, KEYS))
    first = client.get("/v1/models", headers=MINE)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    client.post("/v1/annotate", json=ANNOTATE, headers=MINE)
    third = client.get("/v1/models", headers=MINE)
    assert refused(third, 429)["code"] == "rate_limit_exceeded"
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert client.get("/ready").status_code == 200
    served.settings = Settings(rate_per_minute=None)
    assert "x-ratelimit-limit-requests" not in client.get("/v1/models", headers=MINE).headers


def test_a_server_that_goes_refuses_what_is_new(state: State) -> None:
    client = client_of(api(fresh(state, draining=True)))
    answer = client.post("/v1/completions", json=COMPLETE)
    assert refused(answer, 503)["code"] == "draining"
    assert answer.headers["retry-after"]
    assert "going away" in refused(client.get("/ready"), 503)["message"]
    assert client.get("/health").status_code == 200


@pytest.fixture
def slow(state: State) -> TestClient:
    """The routes beside two that take a second: one says nothing, one has begun to stream."""
    application = api(fresh(state, timeout_s=0.05))

    async def drip() -> Any:
        yield 'data: {"n": 1}\n\n'
        await asyncio.sleep(1)

    @application.get("/silent")
    async def silent() -> None:
        await asyncio.sleep(1)

    @application.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(drip(), media_type="text/event-stream")

    return client_of(application)


def test_a_deadline_ends_an_answer_or_a_stream(slow: TestClient) -> None:
    assert refused(slow.get("/silent"), 504)["code"] == "timeout"
    first, last, done = slow.get("/stream").text.strip().split("\n\n")
    assert first == 'data: {"n": 1}'
    assert '"code":"timeout"' in last
    assert done == "data: [DONE]"
