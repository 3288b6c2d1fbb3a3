"""Servers to measure, ours and others', each a process of its own that is started and asked over HTTP.

A rival that is not installed is named with the reason. Knows nothing of what is measured.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cluster.demo import free_port

STARTS = 180
"""Seconds a server may take to answer its first request."""
TWO_CORES = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Server:
    """How one is started and asked."""

    name: str
    command: list[str]
    more: Mapping[str, Any] = field(default_factory=dict)
    """Fields that its requests need beside OpenAI's."""
    pauses: bool = True
    """Whether it may be stopped and continued while others are measured."""
    path: str = "/v1/completions"
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    server: Server
    url: str
    process: "subprocess.Popen[bytes]"


@contextmanager
def started(server: Server, logs: Path) -> Iterator[Running]:
    """The server once it has answered; SystemExit with the end of its log if it does not."""
    port = free_port()
    log = logs / f"{server.name.replace(' ', '-')}.log"
    command = [part.replace("{port}", str(port)) for part in server.command]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **TWO_CORES, **server.env},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    running = Running(server, f"http://127.0.0.1:{port}", process)
    try:
        _await(running, log)
        yield running
    finally:
        _end(process)


def pause(running: Running) -> None:
    """Stop the server's processes, so that they take nothing from another that is measured."""
    if running.server.pauses:
        os.killpg(running.process.pid, signal.SIGSTOP)


def go_on(running: Running) -> None:
    if running.server.pauses:
        os.killpg(running.process.pid, signal.SIGCONT)


def transformers_serve(
    python: Path, model: Path, *options: str, name: str = "transformers serve"
) -> Server:
    """`transformers serve` on a local folder, by the interpreter of an environment that has it."""
    start = "from transformers.cli.transformers import main; main()"
    place = ["--host", "127.0.0.1", "--port", "{port}", "--device", "cpu"]
    command = [str(python), "-c", start, "serve", str(model), *place, *options]
    return Server(name, command, {"model": str(model)})


def has_serving(python: Path) -> bool:
    """Whether this interpreter has what `transformers serve` needs."""
    probe = "import openai, fastapi, uvicorn, transformers.cli.serve"
    return python.exists() and not subprocess.call(
        [str(python), "-c", probe], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def ours(*arguments: str, name: str = "ours") -> Server:
    """The app as `icefloe serve` starts it (`tests.bench.ours`)."""
    command = [sys.executable, "-m", "tests.bench.ours", "--port", "{port}", *arguments]
    return Server(name, command, pauses=False)  # Ray takes a stopped process for a dead one


def _await(running: Running, log: Path) -> None:
    body = {"prompt": "def add(a, b):", "max_tokens": 2, "temperature": 0, **running.server.more}
    end = time.monotonic() + STARTS
    while time.monotonic() < end and running.process.poll() is None:
        try:
            found = httpx.post(running.url + running.server.path, json=body, timeout=STARTS)
            if found.status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    tail = log.read_text(errors="replace")[-2000:]
    raise SystemExit(f"{running.server.name} does not answer:\n{tail}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGCONT, signal.SIGINT):
        if process.poll() is None:
            os.killpg(process.pid, number)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
