"""`icefloe serve` as it is typed: what it prints, where it listens, and that Ctrl-C lets a stream end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from cluster.demo import free_port
from serve.app import Args
from serve.start import wait_ready
from tests.cluster.test_k8s import serve_faults
from tests.serve.asking import refused
from tests.serve.live import eventually
from tests.serve.test_serve import KEY, Reading, endless
from tests.tiny import tiny_model_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cluster.cli", "serve"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command with one model of a long context and a key."""
    at = tmp_path_factory.mktemp("typed")
    (at / "keys").write_text("open-sesame\n")
    os.chmod(at / "keys", 0o600)
    long = endless(tiny_model_folder(at / "long", context=2048))
    port = str(free_port())
    return [*COMMAND, "--model", f"long={long}", "--keys", str(at / "keys"), "--port", port]


@pytest.fixture(scope="module")
def server(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=here)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest.fixture
def url(command: list[str], server: "subprocess.Popen[str]") -> str:
    url = f"http://127.0.0.1:{command[-1]}"
    wait_ready(url, 180)
    return url


def test_it_says_what_it_serves(url: str, server: "subprocess.Popen[str]") -> None:
    assert server.stdout
    said = [server.stdout.readline() for _ in range(6)]
    assert said[0] == f"Serving on {url} (Ctrl-C to stop)\n"
    assert "long; no annotator" in said[1]
    assert '"model": "long"' in said[5]
    assert "Bearer $KEY" in said[5]


def test_the_same_as_a_config(command: list[str]) -> None:
    """That Serve reads whole, and that gives the application what the command would."""
    asked = [*command, "--threads", "2", "--config"]
    told = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert list(serve_faults(told)) == []
    config = yaml.safe_load(told)
    (application,) = config["applications"]
    args = Args.model_validate(application["args"])
    model, keys = command[command.index("--model") + 1], command[command.index("--keys") + 1]
    assert f"{args.models[0].name}={args.models[0].folder}" == model
    assert (args.keys, args.threads) == (keys, 2)
    assert config["http_options"]["port"] == int(command[-1])
    open_ = subprocess.run(
        [*COMMAND, "--model", model, "--config", "--host", "0.0.0.0"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert open_.returncode == 2


def test_it_listens_on_loopback_alone(url: str) -> None:
    port = f"{int(url.rpartition(':')[2]):04X}"
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    listening = [row.split()[1] for table in tables for row in table if row.split()[3] == "0A"]
    assert [place for place in listening if place.endswith(f":{port}")] == [f"0100007F:{port}"]


def test_serves_routes_are_closed(url: str) -> None:
    refused(httpx.get(f"{url}/v1/models"), 401)
    refused(httpx.get(f"{url}/-/routes"), 404)
    assert httpx.get(f"{url}/v1/models", headers=KEY).json()["data"][0]["id"] == "long"


def test_a_port_that_is_taken_is_named(url: str, command: list[str]) -> None:
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert told.returncode == 2
    assert "name another --port" in told.stderr


def test_ctrl_c_lets_a_stream_end(url: str, server: "subprocess.Popen[str]") -> None:
    """Last: it ends the server."""
    stream = Reading(url)
    server.send_signal(signal.SIGINT)
    eventually(lambda: httpx.get(f"{url}/ready").status_code == 503)
    assert refused(httpx.get(f"{url}/v1/models", headers=KEY), 503)["code"] == "draining"
    assert stream.whole()
    assert server.wait(60) == 0
