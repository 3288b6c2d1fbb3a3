"""`serve deploy` on a cluster of its own, while clients ask without a pause: new settings, more and fewer
replicas, another model, a replica killed. `tests/bench/RESULTS/deploy.jsonl` has what was seen.

The config is k8s/serve.yaml with small models, loopback and shorter waits. Ray's own proxy carries the
requests: HAProxy would open two ports to every address.
"""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from cluster.demo import free_port
from serve.start import wait_ready
from tests.head import BIN, head_node
from tests.serve.asking import BIAS, shaped
from tests.serve.live import eventually
from tests.tiny import tiny_annotator_folder, tiny_model_folder

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests/bench/RESULTS/deploy.jsonl"
CLIENTS, TOKENS = 24, 128
BODY = {"prompt": "def add(", "max_tokens": TOKENS, "temperature": 1, "seed": 1, "logit_bias": BIAS}


class Cluster(NamedTuple):
    """A dashboard's address, the config that is deployed, and where it is written."""

    address: str
    config: dict[str, Any]
    file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config['http_options']['port']}"

    @property
    def application(self) -> dict[str, Any]:
        return self.config["applications"][0]

    def deploy(self) -> None:
        """As an operator does it."""
        self.file.write_text(yaml.safe_dump(self.config))
        self.serve("deploy", str(self.file))

    def serve(self, *words: str) -> str:
        here = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [str(BIN / "serve"), *words, "-a", self.address]
        done = subprocess.run(
            command, env=here, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    def replicas(self) -> dict[str, int]:
        """How many are in which state."""
        told = yaml.safe_load(self.serve("status"))["applications"]["icefloe"]
        return dict(told["deployments"]["Icefloe"]["replica_states"])


@pytest.fixture(scope="module")
def cluster(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    at = tmp_path_factory.mktemp("deployed")
    config = yaml.safe_load((ROOT / "k8s/serve.yaml").read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": free_port()}
    (application,) = config["applications"]
    application["args"] = {
        "models": [{"folder": str(tiny_model_folder(at / "one", context=1024))}],
        "annotator": str(tiny_annotator_folder(at / "judge")),
        "threads": 1,
    }
    (deployment,) = application["deployments"]
    deployment["user_config"] = {"timeout_s": 60}
    deployment["autoscaling_config"] |= {"max_replicas": 2, "upscale_delay_s": 2}
    deployment["autoscaling_config"] |= {"downscale_delay_s": 10}
    deployment["ray_actor_options"] = {"num_cpus": 1}
    with head_node(cpus=4) as address:
        made = Cluster(address, config, at / "serve.yaml")
        made.deploy()
        wait_ready(made.url, 120)
        yield made


class Load:
    """Clients that ask again and again, in one event loop, while a script runs in a thread beside them."""

    def __init__(self, url: str) -> None:
        self.url, self.going = url, True
        self.ends: list[tuple[int, float]] = []
        self.broken: list[str] = []

    async def run(self, script: Callable[[], None]) -> None:
        """Ask until the script, in a thread, has come to its end."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=self.url, timeout=90, limits=limits) as client:
            asking = [asyncio.create_task(self._ask(client)) for _ in range(CLIENTS)]
            try:
                await asyncio.to_thread(script)
            finally:
                self.going = False
                await asyncio.gather(*asking)

    async def _ask(self, client: httpx.AsyncClient) -> None:
        while self.going:
            start = time.monotonic()
            try:
                answer = await client.post("/v1/completions", json=BODY)
            except httpx.TransportError as e:
                self.broken.append(repr(e))
                continue
            self.ends.append((answer.status_code, time.monotonic() - start))
            if answer.status_code != 200:
                shaped(answer.json())
                await asyncio.sleep(float(answer.headers.get("retry-after", "1")))


def test_everything_changes_under_load(cluster: Cluster) -> None:
    load, told = Load(cluster.url), {"drill": "changes"}
    asyncio.run(load.run(lambda: changes(cluster, load, told)))
    eventually(lambda: cluster.replicas() == {"RUNNING": 1}, 120)
    tell(load, told)
    assert not load.broken
    assert set(told["ends"]) <= {"200", "429", "503"}, told


def test_a_replica_that_dies_is_replaced(cluster: Cluster) -> None:
    """What it was answering ends in an error of the one shape; what comes after is answered."""
    load, told = Load(cluster.url), {"drill": "a replica dies"}
    asyncio.run(load.run(lambda: dies(cluster, load, told)))
    tell(load, told)
    assert not load.broken
    assert load.ends[-1][0] == 200
    assert sum(status != 200 for status, _ in load.ends) <= CLIENTS, told


def test_the_end(cluster: Cluster) -> None:
    """Last: it takes the application down."""
    cluster.serve("shutdown", "-y")
    eventually(lambda: not answers(cluster.url), 60)


def tell(load: Load, told: dict[str, Any]) -> None:
    """Write down how all requests ended."""
    times = [seconds for status, seconds in load.ends if status == 200]
    told |= {"ends": dict(Counter(str(status) for status, _ in load.ends)), "broken": load.broken}
    told |= {"p50_s": statistics.median(times), "max_s": max(times)}
    with RESULTS.open("a") as f:
        f.write(json.dumps(told) + "\n")


def changes(cluster: Cluster, load: Load, told: dict[str, Any]) -> None:
    """Two replicas under load; other settings in both; a second model; each while clients are answered."""
    start = time.monotonic()
    eventually(lambda: cluster.replicas().get("RUNNING") == 2, 120)
    told["two_replicas_s"] = round(time.monotonic() - start, 1)
    (deployment,) = cluster.application["deployments"]
    deployment["user_config"] |= {"rate_per_minute": 1_000_000}
    cluster.deploy()
    start = time.monotonic()
    eventually(lambda: all(rated(cluster.url) for _ in range(10)), 60)
    told["settings_s"] = round(time.monotonic() - start, 1)
    models = cluster.application["args"]["models"]
    models.append(models[0] | {"name": "second"})
    before = len(load.ends)
    cluster.deploy()
    start = time.monotonic()
    eventually(lambda: all("second" in models_of(cluster.url) for _ in range(10)), 180)
    told["second_model_s"] = round(time.monotonic() - start, 1)
    told["answered_meanwhile"] = len(load.ends) - before


def dies(cluster: Cluster, load: Load, told: dict[str, Any]) -> None:
    """One of two replicas is killed under load."""
    eventually(lambda: cluster.replicas().get("RUNNING") == 2, 120)
    before = replicas()
    os.kill(min(before), signal.SIGKILL)
    start = time.monotonic()
    eventually(lambda: len(replicas() - {min(before)}) > len(before) - 1, 120)
    eventually(lambda: cluster.replicas() == {"RUNNING": 2}, 120)
    told["two_again_s"] = round(time.monotonic() - start, 1)
    after = len(load.ends)
    eventually(lambda: len(load.ends) > after + 2 * CLIENTS, 60)


def replicas() -> set[int]:
    """Processes of replicas that have this process's token: those of the head started here."""
    found, token = set(), os.environ["RAY_AUTH_TOKEN"].encode()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name = (place / "cmdline").read_bytes()
            if name.startswith(b"ray::ServeReplica:icefloe") and token in (
                (place / "environ").read_bytes()
            ):
                found.add(int(place.name))
    return found


def rated(url: str) -> bool:
    """Whether the replica that answers has the new settings."""
    return "x-ratelimit-limit-requests" in httpx.get(f"{url}/v1/models", timeout=30).headers


def models_of(url: str) -> set[str]:
    answer = httpx.get(f"{url}/v1/models", timeout=30)
    return {m["id"] for m in answer.json()["data"]} if answer.status_code == 200 else set()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
