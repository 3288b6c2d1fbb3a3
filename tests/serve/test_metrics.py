"""What is counted: requests by route and status, tokens and times of a watched request, engines' load."""

import re

from fastapi import Request

from serve.app import api
from serve.metrics import Meters
from serve.state import State
from tests.serve.asking import ANNOTATE, COMPLETE, client_of
from tests.serve.live import eventually


def values(text: str) -> dict[str, float]:
    """Name with labels -> value."""
    rows = re.findall(r"^(icefloe_\S+) (\S+)$", text, re.M)
    return {name: float(value) for name, value in rows}


def watched(meters: Meters) -> tuple[dict[str, float], dict[str, object]]:
    """One request of two rows, told as it goes."""
    request = Request({"type": "http", "state": {}})
    watch = meters.watch(request, "m")
    watch.prompt(10, cached=4)
    for tokens, row in ((0, 0), (1, 0), (1, 1), (3, 0)):
        watch.piece(tokens, row)
    watch.files(2, 5)
    return values(meters.text().decode()), request.state.told


def test_a_watch_counts_tokens_and_times() -> None:
    found, told = watched(Meters())
    expected = {
        'icefloe_prompt_tokens_total{model="m"}': 10,
        'icefloe_cached_prompt_tokens_total{model="m"}': 4,
        'icefloe_completion_tokens_total{model="m"}': 5,
        'icefloe_first_token_seconds_count{model="m"}': 1,
        'icefloe_token_seconds_count{model="m"}': 1,
        'icefloe_annotated_files_total{model="m"}': 2,
        'icefloe_annotated_windows_total{model="m"}': 5,
    }
    assert expected.items() <= found.items()
    assert {"model": "m", "prompt_tokens": 10, "completion_tokens": 5, "files": 2}.items() <= (
        told.items()
    )
    assert "ttft_ms" in told


def test_two_applications_share_nothing() -> None:
    one, other = Meters(), Meters()
    one.batch("m", 3)
    assert 'icefloe_batch_items_sum{model="m"} 3.0' in one.text().decode()
    assert "icefloe_batch_items_sum" not in other.text().decode()


def test_requests_and_errors_are_counted_by_route(state: State) -> None:
    client = client_of(api(State(state.engines, state.judge)))
    client.post("/v1/annotate", json=ANNOTATE)
    client.post("/v1/completions", json=COMPLETE | {"model": "gpt"})
    client.get("/v1/models/no/such")
    client.get("/a/path/of/nobody")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = values(answer.text)
    counted = {
        re.sub(r"icefloe_request_seconds_count", "", k): v
        for k, v in found.items()
        if "_count{" in k
    }
    assert counted['{method="POST",route="/v1/annotate",status="200"}'] == 1
    assert counted['{method="POST",route="/v1/completions",status="404"}'] == 1
    assert counted['{method="GET",route="/v1/models/{name:path}",status="404"}'] == 1
    assert counted['{method="GET",route="none",status="404"}'] == 1
    assert found['icefloe_errors_total{code="model_not_found"}'] == 2
    assert found['icefloe_errors_total{code="404"}'] == 1
    assert found['icefloe_slots{model="tiny"}'] >= 1
    assert found['icefloe_model_loaded{model="tiny"}'] == 1
    assert found["icefloe_ready"] == 1


def test_nothing_runs_once_all_is_answered(state: State) -> None:
    client = client_of(api(State(state.engines)))
    assert client.post("/v1/completions", json=COMPLETE).status_code == 200
    names = ('icefloe_running{model="tiny"}', 'icefloe_waiting{model="tiny"}')

    def calm() -> bool:  # an engine gives a slot back after the last piece is told
        found = values(client.get("/metrics").text)
        return [found[name] for name in names] == [0, 0]

    eventually(calm)


def test_made_up_methods_are_counted_as_one(state: State) -> None:
    served = State(state.engines)
    client = client_of(api(served))
    for k in range(3):
        client.request(f"SPAM{k}", "/v1/models")
    text = served.meters.text().decode()
    assert 'method="other"' in text
    assert "SPAM" not in text
