"""`/v1/completions`: shapes, streams, seeds, infilling."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.app import api
from serve.state import State
from tests.serve.asking import COMPLETE, refused
from tests.tiny import tiny_model_folder


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


def test_a_completion_has_the_shape_of_openai(client: TestClient, state: State) -> None:
    answer = completed(client, model="tiny")
    (choice,) = answer["choices"]
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
    assert answer["id"].startswith("cmpl-")
    assert (choice["index"], choice["logprobs"]) == (0, None)
    assert choice["finish_reason"] in {"stop", "length"}
    counts = answer["usage"]
    assert counts["prompt_tokens"] == len(state.engine()[1].prompt("def add("))
    assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]


def test_every_form_of_prompt_is_the_same_prompt(client: TestClient, state: State) -> None:
    ids = state.engine()[1].prompt("def add(")
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


def test_a_suffix_is_refused_by_a_model_that_cannot_infill(state: State, tmp_path: Path) -> None:
    from pipeline.model.engine import load

    other = State({"tiny": load(tiny_model_folder(tmp_path / "model", infill=False))}, state.judge)
    answer = TestClient(api(other)).post("/v1/completions", json=COMPLETE | {"suffix": ")"})
    assert refused(answer, 400)["param"] == "suffix"
