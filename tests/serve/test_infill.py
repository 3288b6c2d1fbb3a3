"""`/infill`: llama.cpp's answer and events, what is cut, what is only read, how it ends in time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.engine import Engine, load
from serve.app import api
from serve.fitting import SLACK, fit
from serve.state import State
from tests.serve.asking import client_of, refused
from tests.serve.live import eventually, idle
from tests.tiny import tiny_model_folder

AROUND = {"input_prefix": "def add(a, b):\n", "prompt": "    ret", "input_suffix": "\nadd(1, 2)\n"}
INFILL = AROUND | {"n_predict": 8, "seed": 3}


def infilled(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/infill", json=INFILL | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_the_typed_text_stands_where_the_answer_begins(client: TestClient, state: State) -> None:
    engine = state.engine()[1]
    answer = infilled(client, temperature=0)
    laid = engine.prompt(AROUND["input_prefix"], AROUND["input_suffix"])
    ids = [*laid, *engine.tokenizer.encode(AROUND["prompt"]).ids]
    same = client.post("/v1/completions", json={"prompt": ids, "max_tokens": 8, "temperature": 0})
    assert answer["content"] == same.json()["choices"][0]["text"]
    assert answer["tokens_evaluated"] == len(ids)
    assert (answer["stop"], answer["truncated"], answer["model"]) == (True, False, "tiny")
    assert answer["tokens_predicted"] == answer["timings"]["predicted_n"] > 0
    assert answer["timings"]["prompt_n"] + answer["tokens_cached"] == len(ids)


def test_why_it_ended(client: TestClient) -> None:
    whole = infilled(client)
    assert (whole["stop_type"], whole["stopping_word"]) == ("limit", "")
    stop = whole["content"][3:5]
    stopped = infilled(client, stop=[stop])
    assert stopped["content"] == whole["content"][: whole["content"].find(stop)]
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", stop)


def test_only_the_asked_for_fields_come_back(client: TestClient) -> None:
    fields = ["content", "timings/prompt_n", "generation_settings/n_predict", "spam/eggs", ""]
    answer = infilled(client, response_fields=fields)
    assert list(answer) == fields[:3]
    assert answer["generation_settings/n_predict"] == 8
    assert infilled(client, response_fields=[""]) == {}


def test_a_stream_ends_with_the_facts(client: TestClient) -> None:
    whole = infilled(client)
    answer = client.post("/infill", json=INFILL | {"stream": True})
    *told, rest = answer.text.split("\n\n")
    *parts, last = [json.loads(event.removeprefix("data: ")) for event in told]
    assert rest == ""
    assert "".join(p["content"] for p in parts) == whole["content"]
    assert not any(p["stop"] for p in parts)
    assert (last["stop"], last["content"]) == (True, "")
    assert last["tokens_predicted"] == whole["tokens_predicted"]


def test_other_files_stand_before(client: TestClient) -> None:
    plain = infilled(client)
    extra = [{"filename": "a.py", "text": "x = 1\n", "time": 1.5}]
    answer = client.post("/infill", json=INFILL | {"input_extra": extra, "n_indent": 4})
    assert answer.json()["tokens_evaluated"] > plain["tokens_evaluated"]
    assert answer.headers["x-icefloe-ignored"] == "n_indent, input_extra.time"


def test_a_call_for_nothing_warms_the_cache(client: TestClient) -> None:
    answer = infilled(client, n_predict=0, response_fields=["content", "tokens_predicted", "stop"])
    assert answer == {"content": "", "tokens_predicted": 0, "stop": True}


def test_what_was_read_ahead_is_not_read_again(client: TestClient, state: State) -> None:
    engine = state.engine()[1]
    ahead = {"input_extra": [{"filename": "a.py", "text": "class Ahead:\n    z = 1, 2, 3, 4\n"}]}
    answer = client.post("/infill", json=ahead | {"n_predict": 0})
    eventually(lambda: idle(engine))
    found = infilled(client, **ahead)
    assert found["tokens_cached"] >= answer.json()["tokens_evaluated"] - 3
    assert found["timings"]["prompt_n"] == found["tokens_evaluated"] - found["tokens_cached"]


def test_time_ends_an_answer_that_is_not_an_error(client: TestClient) -> None:
    answer = infilled(client, n_predict=-1, t_max_predict_ms=1)
    assert answer["stop_type"] == "limit"
    assert answer["tokens_predicted"] < 60
    unread = infilled(client, t_max_prompt_ms=0.001)
    assert (unread["content"], unread["stop_type"]) == ("", "limit")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"n_predict": -2}, 400, "n_predict"),
        ({"top_p": 0}, 400, "top_p"),
        ({"seed": -2}, 400, "seed"),
        ({"t_max_predict_ms": 0}, 422, "t_max_predict_ms"),
        ({"input_extra": [{"filename": "a"}]}, 422, "input_extra"),
        ({"samplers": [], "strict": True}, 422, "samplers"),
    ],
)
def test_what_cannot_be_infilled_is_refused_by_name(
    client: TestClient, body: dict[str, Any], status: int, param: str
) -> None:
    answer = client.post("/infill", json=INFILL | body)
    assert refused(answer, status)["param"] == param


def test_long_text_is_cut_and_said_to_be(client: TestClient) -> None:
    answer = infilled(client, input_prefix="a = 1\n" * 300, input_suffix="b = 2\n" * 300)
    assert answer["truncated"]
    assert answer["tokens_evaluated"] <= 120
    extra = [{"filename": f"{k}.py", "text": "x = 1\n" * 3} for k in range(30)]
    assert infilled(client, input_extra=extra)["truncated"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = load(tiny_model_folder(tmp_path_factory.mktemp("model"), masks=3), threads=1)
    yield engine
    engine.close()


words = st.text(alphabet="ab\n é🧊", max_size=300)


@given(words, words, st.lists(words, max_size=4), words, st.integers(-1, 200))
def test_what_fits_is_the_text_around_the_cursor(
    engine: Engine, prefix: str, suffix: str, files: list[str], typed: str, answer: int
) -> None:
    extra = [(f"{k}.py", text) for k, text in enumerate(files)]
    fitted = fit(engine, prefix, suffix, extra, typed, answer)
    assert len(fitted.ids) <= engine.context - SLACK // 2
    literal = engine.tokenizer.encode(typed, add_special_tokens=False).ids
    whole = [*_laid(engine, prefix, suffix, extra), *literal]
    assert fitted.truncated or fitted.ids == whole
    if len(whole) + max(answer, engine.context // 4) + 40 * len(files) < engine.context:
        assert not fitted.truncated


def _laid(engine: Engine, prefix: str, suffix: str, extra: list[tuple[str, str]]) -> list[int]:
    try:
        return engine.prompt(prefix, suffix, extra)
    except ValueError:
        return [0] * 1000


def test_a_model_of_masks_infills_too(engine: Engine, tmp_path: Path) -> None:
    client = client_of(api(State({"tiny": engine})))
    assert infilled(client)["tokens_predicted"] > 0
