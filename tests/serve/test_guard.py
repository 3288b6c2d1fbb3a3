"""Keys and limits before anything is parsed."""

import os
from hashlib import sha256
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from pipeline.core.errors import RecipeError
from serve.app import api
from serve.guard import MAX_BODY, read_keys
from serve.state import State
from tests.serve.asking import COMPLETE, KEY, refused


def test_every_route_but_health_needs_a_key(state: State) -> None:
    application = api(state, [sha256(KEY.encode()).hexdigest()])
    client = TestClient(application)
    paths = {(m, r.path) for r in application.routes for m in getattr(r, "methods", ["GET"])}
    assert sum(isinstance(r, APIRoute) for r in application.routes) == 4
    for method, path in paths | {("GET", "/nothing"), ("POST", "/health/"), ("GET", "//health")}:
        for sent in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
            answer = client.request(method, path, headers=sent)
            if path != "/health":
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert client.request(method, path, headers={"authorization": f"Bearer {KEY}"}) != 401
    assert refused(client.get("/v1/models"), 401)["code"] == "invalid_api_key"
    assert client.get("/health").status_code == 200
    open_to = {"headers": {"authorization": f"bearer {KEY}"}}
    assert client.post("/v1/completions", json=COMPLETE, **open_to).status_code == 200


def test_keys_come_from_a_private_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ICEFLOE_API_KEY", raising=False)
    assert read_keys(None) == ()
    file = tmp_path / "keys"
    with pytest.raises(RecipeError, match="no keys file"):
        read_keys(str(file))
    file.write_text("# ours\none\n\n two \n")
    os.chmod(file, 0o640)
    with pytest.raises(RecipeError, match=r"0640.*chmod 600"):
        read_keys(str(file))
    os.chmod(file, 0o600)
    monkeypatch.setenv("ICEFLOE_API_KEY", "three")
    assert read_keys(str(file)) == tuple(sha256(k).hexdigest() for k in (b"one", b"two", b"three"))
    file.write_text("# none yet\n")
    with pytest.raises(RecipeError, match="no key"):
        read_keys(str(file))
    monkeypatch.setenv("ICEFLOE_API_KEY", " ")
    with pytest.raises(RecipeError, match="empty"):
        read_keys(None)


def test_the_body_has_a_limit_declared_or_not(client: TestClient) -> None:
    text = "x" * (MAX_BODY + 1)
    refused(client.post("/v1/annotate", json={"files": [{"text": text}]}), 413)
    chunks = (b" " * 100_000 for _ in range(MAX_BODY // 100_000 + 1))
    refused(client.post("/v1/annotate", content=chunks), 413)
