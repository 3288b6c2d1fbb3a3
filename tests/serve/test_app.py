"""The HTTP contract on real tiny models, without Ray: refusals, what is loaded, full queues."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.app import api
from serve.start import _loopback
from serve.state import State
from tests.serve.asking import ANNOTATE, COMPLETE, JSON, client_of, refused


def test_unknown_fields_are_accepted_and_named(client: TestClient) -> None:
    more = {"suffixes": 2, "user": None, "stream_options": {"eggs": 1}, "spam\r\nx": 1}
    for stream in (False, True):
        answer = client.post("/v1/completions", json=COMPLETE | more | {"stream": stream})
        assert answer.status_code == 200
        expected = "suffixes, spam%0D%0Ax, stream_options.eggs"
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
        ({"n": 2, "best_of": 3}, 400, "best_of"),
        ({"min_p": 1.5}, 400, "min_p"),
        ({"presence_penalty": 3}, 400, "presence_penalty"),
        ({"logit_bias": {"5": 101}}, 400, "logit_bias"),
        ({"logit_bias": {"999": 1}}, 400, "logit_bias"),
        ({"echo": True, "logprobs": 1, "suffix": "x"}, 400, "echo"),
        ({"truncate_prompt_tokens": 3, "suffix": "x"}, 400, "suffix"),
        ({"spam": 1, "strict": True}, 422, "spam"),
        ({"stream_options": {"eggs": 1}, "strict": True}, 422, "stream_options.eggs"),
        ({"logprobs": 6}, 422, "logprobs"),
        ({"logit_bias": {"a": 1}}, 422, "logit_bias"),
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


def test_a_failure_of_ours_keeps_its_reason_to_itself(state: State) -> None:
    broken = State(state.engines, object())  # type: ignore[arg-type]
    client = client_of(api(broken), raise_server_exceptions=False)
    error = refused(client.post("/v1/annotate", json=ANNOTATE), 500)
    assert "object" not in error["message"]


def test_a_full_queue_refuses_with_a_time_to_come_back(state: State) -> None:
    client = client_of(api(State(state.engines, state.judge, places=0)))
    answer = client.post("/v1/annotate", json=ANNOTATE)
    assert refused(answer, 429)["type"] == "rate_limit_error"
    assert answer.headers["retry-after"] == "1"
    assert client.get("/health").status_code == 200


def test_only_this_machine_is_loopback() -> None:
    hosts = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")
    assert [_loopback(h) for h in hosts] == [True, True, True, False, False]
