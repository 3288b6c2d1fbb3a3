"""What the tests of the routes share: requests that work, and the one shape of a refusal."""

import json
from hashlib import sha256
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from serve.keys import Keyring

KEY = "an-open-secret"
HASH = sha256(KEY.encode()).hexdigest()
KEYS = Keyring([HASH])
JSON = {"content-type": "application/json"}
ANNOTATE = {"files": [{"text": "x = 1\n"}]}
COMPLETE = {"prompt": "def add(", "max_tokens": 4, "seed": 1}
BIAS = dict.fromkeys(range(7), -100.0)
"""Keeps special tokens away, so that only the asked-for length ends an answer."""


def client_of(app: FastAPI, host: str = "localhost", **how: Any) -> TestClient:
    """A client that names `host`."""
    return TestClient(app, base_url=f"http://{host}", **how)


def refused(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer, after checking that it has the one shape."""
    assert answer.status_code == status, answer.text
    return shaped(answer.json())


def shaped(body: dict[str, Any]) -> dict[str, Any]:
    """The error of a refusal's body, after checking that it has the one shape."""
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    return error


def chunks(answer: Any) -> list[dict[str, Any]]:
    """The events of a stream, after checking that it ends with [DONE]."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    *told, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in told]
