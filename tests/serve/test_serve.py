"""The application on a real Ray Serve over HTTP, from a config: every route's key, a stream, new settings
under a running stream, a drain that lets it end; and what stops a start."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

from cluster.demo import free_port
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.schema import SPECIALS
from serve.app import Args, Model, api
from serve.guard import OPEN
from serve.start import NAME, finish, start, stop, wait_ready
from serve.state import State
from tests.serve.asking import ANNOTATE, COMPLETE, refused
from tests.serve.live import eventually, port_of
from tests.serve.raw import answered, connect, head
from tests.serve.test_guard import routes
from tests.tiny import tiny_annotator_folder, tiny_model_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
KEY = {"authorization": "Bearer open-sesame"}
LONG = COMPLETE | {"max_tokens": 1500, "stream": True, "model": "long", "temperature": 0}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `serve deploy` would be given: two models, the second with a long context."""
    at = tmp_path_factory.mktemp("served")
    keys = at / "keys"
    keys.write_text("open-sesame\n")
    os.chmod(keys, 0o600)
    short, long = tiny_model_folder(at / "m"), endless(tiny_model_folder(at / "l", context=2048))
    models = [{"folder": str(short)}, {"name": "long", "folder": str(long)}]
    annotator = str(tiny_annotator_folder(at / "annotator"))
    args = {"models": models, "annotator": annotator, "keys": str(keys), "threads": 1}
    application = {"name": NAME, "route_prefix": "/", "import_path": "serve.app:app", "args": args}
    deployment = {"name": "Icefloe", "user_config": {"rate_per_minute": 1000}}
    return {
        "http_options": {"host": "127.0.0.1", "port": free_port()},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [application | {"deployments": [deployment]}],
    }


def endless(folder: Path) -> Path:
    """The same model, which greedily never takes a sentinel."""
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][: len(SPECIALS)] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def deploy(config: dict[str, Any], **settings: Any) -> None:
    """Hand the config to Serve as its REST API does; returns once it is taken."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    config["applications"][0]["deployments"][0]["user_config"].update(settings)
    client = _get_global_client()
    assert client
    client.deploy_apps(ServeDeploySchema.model_validate(config), _blocking=True)


@pytest.fixture(scope="module")
def url(ray_local: None, config: dict[str, Any]) -> Iterator[str]:
    from ray import serve

    serve.start(http_options=config["http_options"], logging_config=config["logging_config"])
    deploy(config)
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    wait_ready(url, 60)
    yield url
    stop()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=KEY, timeout=30) as client:
        yield client


class Reading:
    """A stream that is read in a thread, after its first event has come."""

    def __init__(self, url: str) -> None:
        self.events: list[str] = []
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(url,))
        self._thread.start()
        assert self._first.wait(30)

    def _read(self, url: str) -> None:
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG, headers=KEY) as answer:
            for line in answer.iter_lines():
                self.events += [line] if line else []
                self._first.set()

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def whole(self) -> bool:
        """Whether it came to its proper end."""
        self._thread.join(60)
        return self.events[-1] == "data: [DONE]" and '"length"' in self.events[-2]


def test_every_route_but_two_needs_a_key(client: httpx.Client) -> None:
    for method, path in routes(api(State())) | {("GET", "/nothing"), ("GET", "/-/routes")}:
        answer = client.request(method, path, headers={"authorization": "Bearer wrong"})
        if path not in OPEN:
            assert answer.status_code == (404 if path == "/-/routes" else 401), (method, path)
            assert method == "HEAD" or list(answer.json()) == ["error"]
    for path in ("/health", "/ready", "/-/healthz"):
        assert client.get(path, headers={"authorization": ""}).status_code == 200


def test_models_and_annotator_answer(client: httpx.Client) -> None:
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["tiny", "long"]
    answer = client.post("/v1/completions", json=COMPLETE, headers={"x-request-id": "mine"})
    assert answer.json()["choices"][0]["text"]
    assert answer.headers["x-request-id"] == "mine"
    assert client.post("/v1/annotate", json=ANNOTATE).json()["data"][0]["index"] == 0
    refused(client.post("/v1/completions", json=COMPLETE | {"model": "gpt"}), 404)
    assert 'icefloe_request_seconds_count{method="POST"' in client.get("/metrics").text


def test_a_stream_arrives_and_may_be_left(client: httpx.Client) -> None:
    whole = client.post("/v1/completions", json=COMPLETE).json()["choices"][0]["text"]
    with client.stream("POST", "/v1/completions", json=COMPLETE | {"stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == whole
    with client.stream("POST", "/v1/completions", json=LONG) as answer:
        next(answer.iter_lines())
    assert client.post("/v1/completions", json=COMPLETE).status_code == 200


def test_a_client_may_allow_less_time(client: httpx.Client) -> None:
    hurried = {"x-request-timeout-seconds": "0.2"}
    answer = client.post("/v1/completions", json=LONG | {"stream": False}, headers=hurried)
    assert refused(answer, 504)["code"] == "timeout"


def test_new_settings_reach_a_running_replica(
    url: str, client: httpx.Client, config: dict[str, Any]
) -> None:
    served = client.get("/metrics").text.count("icefloe_request_seconds_count")
    stream = Reading(url)
    deploy(config, max_body=1000)
    too_long = COMPLETE | {"prompt": "x" * 2000}
    eventually(lambda: client.post("/v1/completions", json=too_long).status_code == 413)
    assert stream.goes_on
    assert stream.whole()
    assert client.get("/metrics").text.count("icefloe_request_seconds_count") >= served
    deploy(config, max_body=-1)  # refused; what runs stays as it was
    time.sleep(1)
    refused(client.post("/v1/completions", json=too_long), 413)


def test_a_body_that_drips_is_cut(url: str, config: dict[str, Any]) -> None:
    deploy(config, body_timeout_s=0.5)
    length = "Content-Length: 1000"
    port = port_of(url)

    def cut() -> bool:
        with connect(port) as line:
            line.sendall(head("/v1/annotate", "Authorization: Bearer open-sesame", length) + b"{")
            return answered(line)[0] == 408

    eventually(cut, 60)


def test_an_open_address_needs_a_key(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ICEFLOE_API_KEY", raising=False)
    args = config["applications"][0]["args"]
    with pytest.raises(RecipeError, match="ICEFLOE_API_KEY"):
        start(Args.model_validate(args | {"keys": None}), host="0.0.0.0")


def test_what_stops_a_start_is_named(url: str, tmp_path: Path) -> None:
    nothing = Args(models=[Model(folder=str(tmp_path))])
    with pytest.raises(RecipeError, match="no model folder"):
        start(nothing)
    model = Args(models=[Model(folder=str(tiny_model_folder(tmp_path / "m")))])
    with pytest.raises(RecipeError, match="name another --port"):
        start(model, port=port_of(url))
    with pytest.raises(RecipeError, match="no annotator folder"):
        start(model.model_copy(update={"annotator": str(tmp_path)}))
    with open(tmp_path / "m" / "more.safetensors", "wb") as huge:
        huge.truncate(1 << 42)
    with pytest.raises(RecipeError, match="GiB are free"):
        start(model)


def test_waiting_ends_with_the_last_answer() -> None:
    with pytest.raises(StageError, match="refused"):
        wait_ready("http://127.0.0.1:9", 0.1)


def test_what_runs_ends_before_it_stops(url: str, client: httpx.Client) -> None:
    """Last: it takes the application down."""
    stream = Reading(url)
    going = threading.Thread(target=finish)
    going.start()
    eventually(lambda: client.get("/ready").status_code == 503)
    answer = client.post("/v1/completions", json=COMPLETE)
    assert refused(answer, 503)["code"] == "draining"
    assert answer.headers["retry-after"]
    assert stream.whole()
    going.join(60)
    refused(client.get("/ready"), 404)
