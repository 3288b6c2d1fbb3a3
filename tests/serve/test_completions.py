"""`/v1/completions`: shapes, streams, seeds, scores, infilling."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipeline.model.engine import Sampling, load
from serve.app import api
from serve.settings import Settings
from serve.state import State
from tests.serve.asking import COMPLETE, chunks, client_of, refused
from tests.tiny import tiny_model_folder


def completed(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json=COMPLETE | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def events(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    return chunks(client.post("/v1/completions", json=COMPLETE | body | {"stream": True}))


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


def test_choices_draw_from_the_seed_by_their_index(client: TestClient, state: State) -> None:
    answer = completed(client, prompt=["def a(", "def b("], n=3, echo=True, max_tokens=9)
    engine = state.engine()[1]
    rows = [engine.prompt(p) for p in ("def a(", "def b(") for _ in range(3)]
    expected = [c.text for c in engine.complete(rows, Sampling(max_tokens=9, seed=1))]
    texts = [c["text"] for c in answer["choices"]]
    assert [c["index"] for c in answer["choices"]] == list(range(6))
    assert texts == ["def a(" + t for t in expected[:3]] + ["def b(" + t for t in expected[3:]]
    assert len(set(texts[:3])) > 1
    once = completed(client, prompt=["def a(", "def b("])
    assert answer["usage"]["prompt_tokens"] == once["usage"]["prompt_tokens"]


def test_more_rows_than_the_queue_has_places_are_answered(tmp_path: Path) -> None:
    engine = load(tiny_model_folder(tmp_path), threads=1, slots=2, queue=1)
    client = client_of(api(State({"tiny": engine})))
    answer = completed(client, prompt=["a", "b", "c"], n=4, max_tokens=3)
    assert [c["index"] for c in answer["choices"]] == list(range(12))
    engine.close()


def test_a_stop_string_ends_and_a_bias_decides(client: TestClient) -> None:
    text = completed(client, max_tokens=24)["choices"][0]["text"]
    stopped = completed(client, max_tokens=24, stop=text[4:6])["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (text[: text.find(text[4:6])], "stop")
    token = client.post("/tokenize", json={"prompt": "("}).json()["tokens"][0]
    forced = completed(client, temperature=0, logit_bias={str(token): 100})
    assert forced["choices"][0]["text"] == "(" * 4


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"echo": True},
        {"suffix": "\n"},
        {"temperature": 0},
        {"n": 2, "prompt": ["a", "def b("], "echo": True, "logprobs": 2},
        {"logprobs": 0},
    ],
)
def test_a_stream_says_what_a_completion_says(client: TestClient, body: dict[str, Any]) -> None:
    whole = completed(client, max_tokens=20, **body)["choices"]
    told = events(client, max_tokens=20, **body)
    assert len({c["id"] for c in told}) == 1
    for k, choice in enumerate(whole):
        parts = [c["choices"][0] for c in told if c["choices"][0]["index"] == k]
        assert "".join(p["text"] for p in parts) == choice["text"]
        assert [p["finish_reason"] for p in parts[:-1]] == [None] * (len(parts) - 1)
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        for column in choice["logprobs"] or ():
            said = [x for p in parts for x in p["logprobs"][column]]
            if column in {"tokens", "text_offset"}:
                assert said == choice["logprobs"][column]


def test_a_stream_counts_tokens_when_asked(client: TestClient) -> None:
    *_, last, counts = events(client, stream_options={"include_usage": True})
    assert last["choices"][0]["finish_reason"] == "length"
    assert (last["usage"], counts["choices"]) == (None, [])
    told, whole = counts["usage"], completed(client)["usage"]
    assert [told.pop("prompt_tokens_details"), whole.pop("prompt_tokens_details")]
    assert told == whole


@pytest.mark.parametrize("most", [0, 1, 5])
def test_echo_with_logprobs_scores_the_prompt(client: TestClient, state: State, most: int) -> None:
    engine, prompt = state.engine()[1], "def greet(name: str):\n    return 'Grüße 🧊'"
    (choice,) = completed(client, prompt=prompt, echo=True, logprobs=3, max_tokens=most)["choices"]
    found = choice["logprobs"]
    ids = engine.prompt(prompt)
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    (expected,) = engine.logprobs([ids])
    assert found["token_logprobs"][1 : len(ids)] == pytest.approx(expected.tolist(), abs=1e-4)
    assert len(found["tokens"]) == len(ids) + most
    assert choice["text"].startswith(prompt)
    for token, at in zip(found["tokens"], found["text_offset"], strict=True):
        assert token.startswith("bytes:\\x") or choice["text"][at:].startswith(token)
    for token, logprob, top in list(zip(*list(found.values())[:3], strict=True))[1:]:
        assert 3 <= len(top) <= 4
        assert top[token] == logprob
        assert max(top.values()) == next(iter(top.values()))


def test_the_special_token_that_ends_an_answer_is_scored_last(client: TestClient) -> None:
    body = {"temperature": 0, "logit_bias": {"0": 100}, "max_tokens": 1, "logprobs": 1}
    (choice,) = completed(client, prompt="def add(", echo=True, **body)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("def add(", "stop")
    assert choice["logprobs"]["tokens"][-1] == "<|endoftext|>"
    assert choice["logprobs"]["token_logprobs"][-1] < 0


def test_a_prompt_is_cut_only_where_it_was_asked_for(client: TestClient) -> None:
    body = {"prompt": "x = 1\n" * 200, "echo": True, "max_tokens": 0}
    error = refused(client.post("/v1/completions", json=body), 400)
    assert error["code"] == "context_length_exceeded"
    assert "128" in error["message"]
    cut = completed(client, **body, truncate_prompt_tokens=12)
    assert cut["usage"]["prompt_tokens"] == 12
    assert body["prompt"].endswith(cut["choices"][0]["text"])


def test_an_infill_differs_and_its_prompt_holds_the_suffix(client: TestClient) -> None:
    plain, infill = completed(client), completed(client, suffix="    return a + b\n")
    assert infill["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 3
    beta = client.post("/beta/completions", json=COMPLETE | {"suffix": "    return a + b\n"})
    assert beta.json()["choices"] == infill["choices"]


def test_a_suffix_is_refused_by_a_model_that_cannot_infill(tmp_path: Path) -> None:
    engine = load(tiny_model_folder(tmp_path / "model", infill=False), threads=1)
    client = client_of(api(State({"tiny": engine})))
    for path in ("/v1/completions", "/v1/fim/completions"):
        answer = client.post(path, json=COMPLETE | {"suffix": ")"})
        assert refused(answer, 400)["param"] == "suffix"
    refused(client.post("/infill", json={"input_prefix": "x"}), 400)
    engine.close()


def test_a_sequence_numbers_its_samples_on(state: State) -> None:
    client = client_of(api(State(state.engines, settings=Settings(seed_scope="sequence"))))
    four = [c["text"] for c in completed(client, n=4, seed_scope="request")["choices"]]
    assert [completed(client)["choices"][0]["text"] for _ in range(2)] == four[:2]
    assert [c["text"] for c in completed(client, n=2)["choices"]] == four[2:]
    assert completed(client, seed=2)["choices"][0]["text"] not in four
