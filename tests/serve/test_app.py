"""The HTTP contract, on real tiny models, without Ray: shapes, refusals, keys, limits, queues."""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from pipeline.core.errors import RecipeError
from pipeline.model.forest import train_forest
from pipeline.model.settings import ForestConfig
from serve.app import Args, Models, api, load
from serve.desk import Desk
from serve.guard import MAX_BODY, Refusal, read_keys
from serve.start import _loopback
from tests.corpus import bare, documented
from tests.tiny import tiny_annotator_folder, tiny_model_folder

KEY = "an-open-secret"
JSON = {"content-type": "application/json"}
ANNOTATE = {"files": [{"text": "x = 1\n"}]}
COMPLETE = {"prompt": "def add(", "max_tokens": 4, "seed": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    at = tmp_path_factory.mktemp("models")
    model, annotator = tiny_model_folder(at / "model"), tiny_annotator_folder(at / "annotator")
    return load(Args(model=str(model), annotator=str(annotator), threads=1))


@pytest.fixture(scope="module")
def client(models: Models) -> Iterator[TestClient]:
    with TestClient(api(models), raise_server_exceptions=False) as client:
        yield client


def refused(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer, after checking that it has the one shape."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error: dict[str, Any] = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    return error


def completed(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json=COMPLETE | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def events(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, after checking that it ends with [DONE]."""
    answer = client.post("/v1/completions", json=COMPLETE | body | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    *chunks, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def test_a_completion_has_the_shape_of_openai(client: TestClient, models: Models) -> None:
    answer = completed(client, model="tiny")
    (choice,) = answer["choices"]
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
    assert answer["id"].startswith("cmpl-")
    assert (choice["index"], choice["logprobs"]) == (0, None)
    assert choice["finish_reason"] in {"stop", "length"}
    assert models.engine is not None
    counts = answer["usage"]
    assert counts["prompt_tokens"] == len(models.engine.prompt("def add("))
    assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]


def test_every_form_of_prompt_is_the_same_prompt(client: TestClient, models: Models) -> None:
    assert models.engine is not None
    ids = models.engine.prompt("def add(")
    texts = [
        completed(client, prompt=prompt)["choices"][0]["text"]
        for prompt in ("def add(", ["def add("], ids, [ids])
    ]
    assert len(set(texts)) == 1


def test_n_completions_of_each_prompt_in_order(client: TestClient) -> None:
    answer = completed(client, prompt=["def a(", "def b("], n=3, echo=True)
    texts = [c["text"] for c in answer["choices"]]
    assert [c["index"] for c in answer["choices"]] == list(range(6))
    assert [t[:6] for t in texts] == ["def a("] * 3 + ["def b("] * 3
    assert len({t[6:] for t in texts[:3]}) > 1
    once = completed(client, prompt=["def a(", "def b("])
    assert answer["usage"]["prompt_tokens"] == once["usage"]["prompt_tokens"]


def test_a_seed_repeats_and_a_stop_string_ends(client: TestClient) -> None:
    text = completed(client, max_tokens=24)["choices"][0]["text"]
    assert completed(client, max_tokens=24)["choices"][0]["text"] == text
    stopped = completed(client, max_tokens=24, stop=text[4:6])["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (text[: text.find(text[4:6])], "stop")


@pytest.mark.parametrize("body", [{}, {"echo": True}, {"suffix": "\n"}, {"temperature": 0}])
def test_a_stream_says_what_a_completion_says(client: TestClient, body: dict[str, Any]) -> None:
    whole = completed(client, max_tokens=20, **body)["choices"][0]
    chunks = events(client, max_tokens=20, **body)
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole["text"]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert len({c["id"] for c in chunks}) == 1


def test_a_stream_counts_tokens_when_asked(client: TestClient) -> None:
    *_, last, counts = events(client, stream_options={"include_usage": True})
    assert last["choices"][0]["finish_reason"] == "length"
    assert (last["usage"], counts["choices"]) == (None, [])
    assert counts["usage"] == completed(client)["usage"]


def test_an_infill_differs_and_its_prompt_holds_the_suffix(client: TestClient) -> None:
    plain, infill = completed(client), completed(client, suffix="    return a + b\n")
    assert infill["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 3


def test_a_suffix_is_refused_by_a_model_that_cannot_infill(models: Models, tmp_path: Path) -> None:
    from pipeline.model.engine import Engine

    other = Models(Engine(tiny_model_folder(tmp_path / "model", infill=False)), models.judge)
    answer = TestClient(api(other)).post("/v1/completions", json=COMPLETE | {"suffix": ")"})
    assert refused(answer, 400)["param"] == "suffix"


def test_unknown_fields_are_accepted_and_named(client: TestClient) -> None:
    more = {"best_of": 2, "user": None, "stream_options": {"eggs": 1}, "spam\r\nx": 1}
    for stream in (False, True):
        answer = client.post("/v1/completions", json=COMPLETE | more | {"stream": stream})
        assert answer.status_code == 200
        expected = "best_of, spam%0D%0Ax, stream_options.eggs"
        assert answer.headers["x-icefloe-ignored"] == expected
    files = {"files": [{"text": "a", "size": 1}, {"text": "b", "size": 1}], "truncate": True}
    answer = client.post("/v1/annotate", json=files)
    assert answer.headers["x-icefloe-ignored"] == "truncate, files.size"
    assert "x-icefloe-ignored" not in client.post("/v1/annotate", json=ANNOTATE).headers


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "gpt"}, 404, "model"),
        ({"prompt": "x" * 9000}, 400, "prompt"),
        ({"prompt": [5] * 128}, 400, "prompt"),
        ({"prompt": [5, 10**9]}, 400, "prompt"),
        ({"prompt": [5], "suffix": "x"}, 400, "suffix"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": float("nan")}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"seed": -1}, 400, "seed"),
        ({"stop": [""]}, 400, "stop"),
        ({"stream": True, "n": 2}, 400, "n"),
        ({"stream": True, "prompt": ["a", "b"]}, 400, "prompt"),
        ({"stream": True, "prompt": [5] * 128}, 400, "prompt"),
        ({"n": 17}, 422, "n"),
        ({"prompt": []}, 422, "prompt"),
        ({"prompt": ["a"] * 33}, 422, "prompt"),
        ({"prompt": ["a", 1]}, 422, "prompt"),
        ({"prompt": None}, 422, "prompt"),
        ({"max_tokens": "many"}, 422, "max_tokens"),
    ],
)
def test_what_cannot_be_completed_is_refused_by_name(
    client: TestClient, body: dict[str, Any], status: int, param: str
) -> None:
    answer = client.post("/v1/completions", content=json.dumps(COMPLETE | body), headers=JSON)
    assert refused(answer, status)["param"] == param


def test_other_refusals_have_the_same_shape(client: TestClient) -> None:
    broken = client.post("/v1/annotate", content="{", headers=JSON)
    assert "not JSON" in refused(broken, 400)["message"]
    refused(client.post("/v1/annotate", json=[]), 422)
    untyped = client.post("/v1/annotate", content=json.dumps(ANNOTATE))
    assert "content-type" in refused(untyped, 422)["message"]
    surrogate = '{"files": [{"text": "\\ud800"}]}'
    refused(client.post("/v1/annotate", content=surrogate, headers=JSON), 422)
    refused(client.get("/v1/nothing"), 404)
    assert client.get("/v1/annotate").headers["allow"] == "POST"
    refused(client.get("/v1/annotate"), 405)
    refused(client.post("/v1/annotate", json={"files": ANNOTATE["files"] * 65}), 422)


def test_annotations_come_in_order_with_what_was_sent(client: TestClient, models: Models) -> None:
    texts = ["x = 1\n", "", "y = [1, 2, 3]\n" * 200, *(f"n = {i}\n" for i in range(17))]
    files = [{"text": t, "path": f"{i}.py"} for i, t in enumerate(texts)]
    answer = client.post("/v1/annotate", json={"files": files}).json()
    assert answer["model"] == "tiny-annotator"
    assert [d["index"] for d in answer["data"]] == list(range(20))
    assert answer["data"][2]["path"] == "2.py"
    assert "language" not in answer["data"][2]
    assert (len(answer["data"][2]["windows"]), answer["data"][2]["truncated"]) == (3, True)
    assert models.judge is not None
    expected = [s.score for s in models.judge.score(texts)]
    assert [d["score"] for d in answer["data"]] == pytest.approx(expected, abs=1e-6)


def test_a_forest_answers_like_an_annotator(tmp_path: Path) -> None:
    model, rng = tiny_model_folder(tmp_path / "model"), random.Random(0)
    texts = [maker(rng) for maker in (documented, bare) for _ in range(12)]
    train_forest(
        texts,
        [5.0] * 12 + [0.0] * 12,
        [f"r{k % 4}" for k in range(24)],
        ["Python"] * 24,
        str(model),
        ForestConfig(trees=8, window=32, leaf=1, held_out=0.25, threads=1),
        tmp_path / "forest",
    )
    models = load(Args(model=str(model), annotator=str(tmp_path / "forest"), threads=1))
    assert models.judge is not None
    answer = TestClient(api(models)).post(
        "/v1/annotate", json={"files": [{"text": t} for t in texts]}
    )
    assert answer.json()["model"] == "forest-model"
    expected = [s.score for k in range(0, 24, 8) for s in models.judge.score(texts[k : k + 8])]
    assert [d["score"] for d in answer.json()["data"]] == expected
    assert [d["windows"] for d in answer.json()["data"]] == [[s] for s in expected]


def test_health_and_models_wait_for_both_models(models: Models) -> None:
    partly = Models()
    client = TestClient(api(partly))
    for answer in (
        client.get("/health"),
        client.get("/v1/models"),
        client.post("/v1/completions", json=COMPLETE),
        client.post("/v1/annotate", json=ANNOTATE),
    ):
        assert refused(answer, 503)["code"] == "loading"
        assert answer.headers["retry-after"] == "1"
    partly.engine = models.engine
    refused(client.get("/health"), 503)
    partly.judge = models.judge
    assert client.get("/health").json() == {"status": "ok"}
    (listed,) = client.get("/v1/models").json()["data"]
    assert (listed["id"], listed["object"], listed["max_model_len"]) == ("tiny", "model", 128)
    assert (listed["phase"], listed["step"], listed["infill"]) == ("phase1", 3, True)


def test_every_route_but_health_needs_a_key(models: Models) -> None:
    application = api(models, [sha256(KEY.encode()).hexdigest()])
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


def test_a_failure_of_ours_keeps_its_reason_to_itself(models: Models) -> None:
    broken = Models(models.engine, object())  # type: ignore[arg-type]
    client = TestClient(api(broken), raise_server_exceptions=False)
    error = refused(client.post("/v1/annotate", json=ANNOTATE), 500)
    assert "object" not in error["message"]


def test_a_full_queue_refuses_with_a_time_to_come_back(models: Models) -> None:
    client = TestClient(api(models, places=0))
    for path, body in (("annotate", ANNOTATE), ("completions", COMPLETE)):
        answer = client.post(f"/v1/{path}", json=body)
        assert refused(answer, 429)["type"] == "rate_limit_error"
        assert answer.headers["retry-after"] == "1"
    refused(client.post("/v1/completions", json=COMPLETE | {"stream": True}), 429)
    assert client.get("/health").status_code == 200


def test_calls_take_turns_and_leave_their_place() -> None:
    async def scene() -> None:
        desk, at_work, go = Desk(2), threading.Event(), threading.Event()
        running = desk.submit(lambda: (at_work.set(), go.wait()))
        waiting = desk.submit(lambda: "second")
        await asyncio.to_thread(at_work.wait)
        with pytest.raises(Refusal):
            desk.submit(lambda: "third")
        assert not waiting.done()
        go.set()
        await running
        assert await waiting == "second"
        assert await desk.submit(lambda: "later") == "later"

    asyncio.run(scene())


class Client:
    """A client that goes away after it was looked at a few times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    async def is_disconnected(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_a_client_that_goes_cancels_its_call() -> None:
    async def scene() -> None:
        desk, cancelled = Desk(1), threading.Event()

        def work(gone: Any) -> None:
            while not gone():
                time.sleep(0.01)
            cancelled.set()

        with pytest.raises(Refusal):
            await desk.answer(Client(2), work)  # type: ignore[arg-type]
        assert await asyncio.to_thread(cancelled.wait, 5)

    asyncio.run(scene())


def test_leaving_a_stream_cancels_its_call() -> None:
    async def scene() -> None:
        desk, cancelled = Desk(1), threading.Event()

        def work(gone: Any) -> Iterator[int]:
            n = 0
            while not gone():
                yield (n := n + 1)
                time.sleep(0.01)
            cancelled.set()

        async for piece in desk.stream(work):
            if piece == 3:
                break
        assert await asyncio.to_thread(cancelled.wait, 5)

    asyncio.run(scene())


def test_only_this_machine_is_loopback() -> None:
    hosts = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")
    assert [_loopback(h) for h in hosts] == [True, True, True, False, False]
