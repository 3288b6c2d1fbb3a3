"""The application on a real Ray Serve over HTTP: both models, the key, a stream, its shutdown."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.core.errors import RecipeError, StageError
from serve.app import Args
from serve.start import start, stop, wait_ready
from tests.tiny import tiny_annotator_folder, tiny_model_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
COMPLETE = {"prompt": "def add(", "max_tokens": 8, "seed": 1}


@pytest.fixture(scope="module")
def args(tmp_path_factory: pytest.TempPathFactory) -> Args:
    at = tmp_path_factory.mktemp("served")
    keys = at / "keys"
    keys.write_text("open-sesame\n")
    os.chmod(keys, 0o600)
    model, annotator = tiny_model_folder(at / "model"), tiny_annotator_folder(at / "annotator")
    return Args(model=str(model), annotator=str(annotator), keys=str(keys), threads=1)


@pytest.fixture(scope="module")
def url(ray_local: None, args: Args) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start(args, port=port)
    url = f"http://127.0.0.1:{port}"
    wait_ready(url, 10)
    yield url
    stop()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer open-sesame"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        yield client


def test_both_models_answer_to_the_key_alone(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json=COMPLETE)
    assert answer.json()["choices"][0]["text"]
    files = {"files": [{"text": "x = 1\n"}, {"text": "y = 2\n"}]}
    data = client.post("/v1/annotate", json=files).json()["data"]
    assert [d["index"] for d in data] == [0, 1]
    for sent in ("", "Bearer wrong"):
        answer = client.post("/v1/completions", json=COMPLETE, headers={"authorization": sent})
        assert answer.status_code == 401
    assert client.get("/health", headers={"authorization": ""}).json() == {"status": "ok"}


def test_a_stream_arrives_and_may_be_left(client: httpx.Client) -> None:
    whole = client.post("/v1/completions", json=COMPLETE).json()["choices"][0]["text"]
    body = COMPLETE | {"stream": True}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == whole
    with client.stream("POST", "/v1/completions", json=body | {"max_tokens": 100}) as answer:
        next(answer.iter_lines())
    assert client.post("/v1/completions", json=COMPLETE).status_code == 200


def test_an_open_address_needs_a_key(args: Args, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ICEFLOE_API_KEY", raising=False)
    with pytest.raises(RecipeError, match="ICEFLOE_API_KEY"):
        start(args.model_copy(update={"keys": None}), host="0.0.0.0")


def test_waiting_ends_with_the_last_answer(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="refused"):
        wait_ready("http://127.0.0.1:9", 0.1)


def test_a_folder_that_is_no_model_is_named(url: str, args: Args, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no model folder"):
        start(args.model_copy(update={"model": str(tmp_path)}))
