"""One JSON line a request, with an id that the answer has too, and nothing of what was asked."""

import json
import logging

import pytest
from fastapi.testclient import TestClient

from serve.app import api
from serve.logs import Lines
from serve.state import State
from tests.serve.asking import COMPLETE, HASH, KEY, KEYS, client_of, refused


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    ours = [r for r in caplog.records if r.name.startswith("serve")]
    return [json.loads(Lines().format(record)) for record in ours]


def test_a_request_is_one_line_without_its_text(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(api(State(state.engines, state.judge), KEYS))
    headers = {"authorization": f"Bearer {KEY}", "x-request-id": "mine-1"}
    with caplog.at_level(logging.INFO, "serve"):
        body = COMPLETE | {"prompt": "a secret plan"}
        answer = client.post("/v1/completions", json=body, headers=headers)
    assert answer.headers["x-request-id"] == "mine-1"
    (line,) = lines(caplog)
    expected = {"request": "mine-1", "key": HASH[:8], "route": "/v1/completions", "status": 200}
    assert expected.items() <= line.items()
    assert float(str(line["ms"])) > 0
    assert KEY not in caplog.text
    assert "secret" not in json.dumps(line)


@pytest.mark.parametrize("sent", ["", "x y", "a\tb", "i" * 129, "ü".encode().decode("latin-1")])
def test_an_id_that_could_forge_a_line_is_replaced(client: TestClient, sent: str) -> None:
    answer = client.get("/health", headers={"x-request-id": sent.encode("latin-1")})  # type: ignore[dict-item]
    assert answer.headers["x-request-id"] not in ("", sent)


def test_refusals_have_an_id_and_a_line(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "serve"):
        answer = client.get("/nothing", headers={"x-request-id": "n-1"})
    refused(answer, 404)
    assert answer.headers["x-request-id"] == "n-1"
    (line,) = lines(caplog)
    assert (line["status"], line["route"]) == (404, "none")


def test_a_failure_of_ours_keeps_its_reason_to_the_log(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    application = api(State(state.engines))

    @application.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a private detail")

    answer = client_of(application).get("/broken", headers={"x-request-id": "b-1"})
    assert "private" not in refused(answer, 500)["message"]
    assert answer.headers["x-request-id"] == "b-1"
    failure = lines(caplog)[0]
    assert failure["request"] == "b-1"
    assert "a private detail" in str(failure["trace"])
