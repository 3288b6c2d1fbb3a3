"""`make demo`: run the laptop recipe, serve what came out, ask it two things, print the answers."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

COMMAND = [sys.executable, "-m", "cluster.cli"]
PREFIX = (
    'def mean(values: list[float]) -> float:\n    """Return the arithmetic mean of the values."""\n'
)
SUFFIX = "\n    return total / len(values)\n"
BARE = (
    "def f(a,b):\n  t=0\n  for i in a:\n    if i>b:\n      t=t+i*2\n    else: t=t-1\n  return t\n"
)
WAIT = 90
"""Seconds that serving may take to come up."""


def main() -> int:
    """Run, serve, ask, stop. Returns the exit code of the first thing that fails."""
    began = time.monotonic()
    ran = subprocess.run(
        [*COMMAND, "run", "snowcoder", "--with", "laptop", *sys.argv[1:]], check=False
    )
    if ran.returncode:
        return ran.returncode
    port = free_port()
    server = subprocess.Popen([*COMMAND, "serve", "snowcoder", "--port", str(port)])
    try:
        wait(f"http://127.0.0.1:{port}/ready", server)
        ask(port)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    print(
        f"\nThe report: store/runs/snowcoder/report.html   ({time.monotonic() - began:.0f} s in all)"
    )
    print("Serve it again: .venv/bin/icefloe serve snowcoder --port 8000")
    return 0


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Until `url` answers 200; an error when the server ends or WAIT passes."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"the server did not answer {url} within {WAIT} s")


def ask(port: int) -> None:
    """One infilling completion and one annotation, printed as they come."""
    asked = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 24, "temperature": 0}
    print("\nPOST /v1/completions (prompt and suffix of a small function)")
    print(json.dumps(post(port, "/v1/completions", asked), indent=1))
    files = [
        {
            "path": "mean.py",
            "language": "Python",
            "text": PREFIX + "    total = sum(values)" + SUFFIX,
        },
        {"path": "bare.py", "language": "Python", "text": BARE},
    ]
    print("\nPOST /v1/annotate (a documented function, and a bare one)")
    print(json.dumps(post(port, "/v1/annotate", {"files": files}), indent=1))


def post(port: int, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
