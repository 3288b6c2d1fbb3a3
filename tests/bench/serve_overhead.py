"""What Ray Serve adds to a request, by the way it is reached, over the same routes on plain uvicorn.

    python -m tests.bench.serve_overhead --json     # overhead_ms: the larger of `direct`'s medians

For each way: a server of it and a plain one side by side, asked in turn, one keep-alive connection each,
so that what else the machine does meets both. `direct` is what `icefloe serve` does, `proxy` Serve's own
proxy, `haproxy` HAProxy with the throughput settings.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.demo import free_port

ROOT = Path(__file__).parents[2]
WAYS = ("direct", "proxy", "haproxy")
KEY = "an-open-secret"
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
ASKED = {
    "models": ("GET", "/v1/models", None),
    "complete": (
        "POST",
        "/v1/completions",
        json.dumps({"prompt": "def add(", "max_tokens": 1, "temperature": 0}),
    ),
}
ROUNDS, EACH = 20, 25
"""Turns, and requests of a kind in each."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--serve", nargs=3, metavar=("WAY", "PORT", "FOLDER"), help="(internal)")
    given = parser.parse_args()
    if given.serve:
        return serve(*given.serve)
    found = measure(given.ways)
    for way, by_kind in found.items():
        for kind, numbers in by_kind.items():
            print(f"{way:8} {kind:9} " + "  ".join(f"{k} {v:.2f}" for k, v in numbers.items()))
    if given.json:
        worst = max((n["overhead_ms"] for n in found.get("direct", {}).values()), default=None)
        print(json.dumps({"overhead_ms": worst, "ways": found}))


def measure(ways: Any = WAYS) -> dict[str, dict[str, dict[str, float]]]:
    """Way -> request -> milliseconds: p50 and p99 of the way and of plain uvicorn, and their p50s'
    difference as `overhead_ms`."""
    from tests.tiny import tiny_model_folder

    with tempfile.TemporaryDirectory() as at:
        folder = str(tiny_model_folder(Path(at)))
        return {way: compare(way, folder) for way in ways}


def compare(way: str, folder: str) -> dict[str, dict[str, float]]:
    ports = {name: free_port() for name in (way, "plain")}
    servers = [spawn(name, port, folder) for name, port in ports.items()]
    try:
        for port in ports.values():
            wait(port)
        return timed(way, {n: http.client.HTTPConnection("127.0.0.1", p) for n, p in ports.items()})
    finally:
        for server in servers:
            server.stdin.close()
            server.wait(60)


def timed(way: str, lines: dict[str, http.client.HTTPConnection]) -> dict[str, dict[str, float]]:
    taken: dict[tuple[str, str], list[float]] = {(n, k): [] for n in lines for k in ASKED}
    for turn in range(ROUNDS + 1):
        for (name, kind), times in taken.items():
            found = [ask(lines[name], *ASKED[kind]) for _ in range(EACH)]
            times += found if turn else []  # the first turn warms up
    return {kind: numbers(taken[way, kind], taken["plain", kind]) for kind in ASKED}


def numbers(ours: list[float], plain: list[float]) -> dict[str, float]:
    told = {"p50": at(ours, 0.5), "p99": at(ours, 0.99)}
    told |= {"plain_p50": at(plain, 0.5), "plain_p99": at(plain, 0.99)}
    told["overhead_ms"] = told["p50"] - told["plain_p50"]
    return {name: round(value, 3) for name, value in told.items()}


def at(times: list[float], share: float) -> float:
    return 1000 * sorted(times)[int(share * len(times))]


def ask(line: http.client.HTTPConnection, method: str, path: str, body: str | None) -> float:
    began = time.perf_counter()
    line.request(method, path, body, HEADERS)
    answer = line.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    return time.perf_counter() - began


def spawn(way: str, port: int, folder: str) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable,
        "-m",
        "tests.bench.serve_overhead",
        "--serve",
        way,
        str(port),
        folder,
    ]
    environment = {**os.environ, "ICEFLOE_API_KEY": KEY}
    return subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=environment)


def wait(port: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return (
                ask(http.client.HTTPConnection("127.0.0.1", port), "GET", "/ready", None) and None
            )
        except (OSError, AssertionError, http.client.HTTPException):
            time.sleep(0.2)
    raise SystemExit(f"nothing on port {port} after {seconds:g} s")


def serve(way: str, port: str, folder: str) -> None:
    """Serve until stdin ends: the child's part."""
    if way == "plain":
        return plain(int(port), folder)
    from serve.direct import environment

    if way == "direct":
        os.environ |= environment(int(port))
    if way == "haproxy":
        os.environ |= haproxy(tempfile.mkdtemp())
    from cluster.start import connect
    from serve.app import Args, Model
    from serve.start import finish, start

    start(Args(models=[Model(folder=folder)], threads=1), port=int(port), connect=connect)
    sys.stdin.read()
    finish()


def plain(port: int, folder: str) -> None:
    import threading

    import uvicorn

    from serve.app import Args, Model, api, load
    from serve.keys import Keyring, env_keys

    served = api(load(Args(models=[Model(folder=folder)], threads=1)), Keyring(env_keys()))
    config = uvicorn.Config(served, port=port, access_log=False, log_level="warning")
    server = uvicorn.Server(config)

    def until_told() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=until_told, daemon=True).start()
    server.run()


def haproxy(folder: str) -> dict[str, str]:
    """HAProxy as Ray recommends it, with files and ports of its own."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",  # the driver's handle needs it
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    }


if __name__ == "__main__":
    main()
