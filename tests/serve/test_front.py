"""What stands before Serve: its plain errors get the one shape, its list of routes is hidden."""

from collections.abc import AsyncIterator

import pytest
from fastapi.testclient import TestClient
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.front import middlewares
from tests.serve.asking import refused


async def breaks() -> AsyncIterator[str]:
    yield "some"
    raise RuntimeError("the actor died")


async def serve_itself(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers as Serve does: plain texts, and an id beside the one that is there."""
    path, answer = scope["path"], Response("success", media_type="text/plain")
    if path == "/full":
        answer = PlainTextResponse("Request dropped", 503, {"retry-after": "1"})
    if path == "/ours":
        answer = JSONResponse({"error": {}}, 404)
    if path == "/headers":
        answer = JSONResponse({k.decode(): v.decode() for k, v in scope["headers"]})
    if path == "/dies":
        raise RuntimeError("the actor died")
    if path == "/silent":
        return
    if path == "/breaks":
        answer = StreamingResponse(breaks())
    for _ in range(2):
        answer.raw_headers.append(
            (b"x-request-id", dict(scope["headers"]).get(b"x-request-id", b"-"))
        )
    await answer(scope, receive, send)


(outer,) = middlewares()
client = TestClient(outer.cls(serve_itself, *outer.args, **outer.kwargs))


def test_serves_own_errors_have_the_one_shape() -> None:
    answer = client.get("/full", headers={"x-request-id": "mine"})
    assert refused(answer, 503)["message"] == "Request dropped"
    assert (answer.headers["retry-after"], answer.headers["x-request-id"]) == ("1", "mine")


def test_a_replica_that_dies_is_an_answer_too() -> None:
    for path in ("/dies", "/silent"):
        answer = client.get(path, headers={"x-request-id": "mine"})
        assert "ask again" in refused(answer, 503)["message"]
        assert (answer.headers["retry-after"], answer.headers["x-request-id"]) == ("1", "mine")
    with pytest.raises(RuntimeError):  # an answer that is half out breaks off
        client.get("/breaks")


def test_the_rest_passes_as_it_is() -> None:
    assert client.get("/ours").json() == {"error": {}}
    assert client.get("/-/healthz").text == "success"
    assert client.get("/-/healthz", headers={"x-request-id": "a b"}).headers["x-request-id"] == "-"


def test_serve_does_not_see_how_long_a_client_waits() -> None:
    seen = client.get("/headers", headers={"x-request-timeout-seconds": "2"}).json()
    assert "x-request-timeout-seconds" not in seen
    assert seen["x-icefloe-timeout-seconds"] == "2"


def test_the_list_of_applications_is_hidden() -> None:
    refused(client.get("/-/routes"), 404)
